// out = x * wT on tensor cores: one meaning, one order of additions, two shapes of kernel.
//
// The inner length is walked in steps of 32 and cut in SLICES runs of steps, by its own length alone. Each slice is
// summed from zero, and the slices are added in order. `thin` gives each warp a slice, which reads weights as fast as
// memory allows for few rows; `tiled` walks the slices one after the other, for many rows. Their bits are the same, so
// a row's result never depends on how many rows it is computed with.
//
// Within a step lane t of a quad takes the inner elements 8t .. 8t + 7 of a row with one 16-byte load, for x and w
// alike; the two products of 16 then see them in a permuted, but common order.
#pragma once

#include "fp8.cuh"

// Rows that a block computes, all of one group (an expert).
struct Tile {
    int32_t group;
    int32_t first;
    int32_t count;
    int32_t unused;
};

struct GemmArgs {
    const bf16* x;       // rows of k
    const void* w;       // (groups, rows per group, k): n rows, or n gate rows and then n up rows
    const float* scales; // of fp8 weights: (groups, parts, ceil(n / block_rows), ceil(k / block_columns))
    void* out;
    const Tile* tiles;        // by blockIdx.y; without them rows are tiled in order and blockIdx.z is the group
    const int32_t* x_rows;    // row of x by row, or none for the row itself
    const int32_t* out_rows;  // row of out by row, or none
    const float* row_weights; // by that row, or none
    int64_t x_stride;         // elements from a row of x to the next
    int64_t x_group_stride;
    int64_t out_stride;
    int64_t out_group_stride;
    int32_t m;
    int32_t n; // columns of out
    int32_t k; // a multiple of 8
    int32_t block_rows;
    int32_t block_columns; // a power of two from 8 on
    int32_t slots;         // row i of out_rows goes to row i / slots * out_slots + i % slots of out
    int32_t out_slots;
    int32_t unused;
};

constexpr int STEP = 32;
constexpr int SLICES = 8;

// A row of weights, with the scales of its elements.
template <class W> struct WeightRow {
    const W* values;
    const float* scales;

    // 8 elements from k on as they lie in memory, and their scale.
    struct Raw {
        Vec4 bits;
        float scale;
    };

    DEVICE_MEMBER Raw load(const GemmArgs& args, int k) const {
        if constexpr (sizeof(W) == 2) return Raw{load16_once(values + k), 0.0f};
        const Vec2 pair = load8(values + k);
        return Raw{Vec4{pair.x, pair.y, 0, 0}, scales[k >> (31 - __clz(args.block_columns))]};
    }

    // The same as bf16.
    static DEVICE_MEMBER Vec4 widened(const Raw& raw) {
        if constexpr (sizeof(W) == 2) return raw.bits;
        const uint32_t x = raw.bits.x, y = raw.bits.y;
        return Vec4{widen_pair(x, raw.scale), widen_pair(x >> 16, raw.scale), widen_pair(y, raw.scale),
                    widen_pair(y >> 16, raw.scale)};
    }
};

// The weights of a group: of each part (plain; or gate, then up) n rows.
template <class W> struct GroupWeights {
    const W* rows;
    const float* scales;
    const GemmArgs& args;

    DEVICE_MEMBER GroupWeights(const GemmArgs& args, int group, int num_parts) : args(args) {
        const int64_t parts_before = int64_t(group) * num_parts;
        rows = static_cast<const W*>(args.w) + parts_before * args.n * args.k;
        scales = sizeof(W) == 1 ? args.scales + parts_before * scale_rows() * scale_columns() : nullptr;
    }

    DEVICE_MEMBER int scale_rows() const { return (args.n + args.block_rows - 1) / args.block_rows; }
    DEVICE_MEMBER int scale_columns() const { return (args.k + args.block_columns - 1) / args.block_columns; }

    DEVICE_MEMBER const W* at(int part, int row, int k) const { return rows + (int64_t(part) * args.n + row) * args.k + k; }

    // The last row, where there is no such one: what is computed with it nobody reads.
    DEVICE_MEMBER WeightRow<W> row(int part, int row) const {
        const int there = min(row, args.n - 1);
        if constexpr (sizeof(W) == 2) return {at(part, there, 0), nullptr};
        return {at(part, there, 0), scales + (part * scale_rows() + there / args.block_rows) * scale_columns()};
    }
};

DEVICE Vec4 only_if(bool is_there, const Vec4& value) {
    return Vec4{is_there ? value.x : 0, is_there ? value.y : 0, is_there ? value.z : 0, is_there ? value.w : 0};
}

// One step of 32 inner elements: `x0`, `x1` of rows g and g + 8, `w` of column g.
DEVICE void multiply_step(float (&c)[4], const Vec4& x0, const Vec4& x1, const Vec4& w) {
    mma_bf16(c, {x0.x, x1.x, x0.y, x1.y}, {w.x, w.y});
    mma_bf16(c, {x0.z, x1.z, x0.w, x1.w}, {w.z, w.w});
}

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

DEVICE Tile tile_of(const GemmArgs& args, int rows) {
    if (args.tiles) return args.tiles[blockIdx.y];
    const int first = blockIdx.y * rows;
    return Tile{int32_t(blockIdx.z), first, min(rows, args.m - first), 0};
}

DEVICE const bf16* x_row(const GemmArgs& args, const Tile& tile, int row) {
    const int64_t index = args.x_rows ? args.x_rows[tile.first + row] : tile.first + row;
    return args.x + tile.group * args.x_group_stride + index * args.x_stride;
}

// Where the results of a row go, and what they are multiplied with.
template <class OUT> struct OutRow {
    OUT* values;
    float weight;

    DEVICE_MEMBER OutRow(const GemmArgs& args, const Tile& tile, int row) {
        const int index = args.out_rows ? args.out_rows[tile.first + row] : tile.first + row;
        const int64_t place = args.out_rows ? int64_t(index / args.slots) * args.out_slots + index % args.slots : index;
        values = static_cast<OUT*>(args.out) + tile.group * args.out_group_stride + place * args.out_stride;
        weight = args.row_weights ? args.row_weights[index] : 1.0f;
    }
};

DEVICE void store_pair(bf16* to, const bf16 (&pair)[2]) {
    *reinterpret_cast<uint32_t*>(to) = pair[0].bits | uint32_t(pair[1].bits) << 16;
}
DEVICE void store_pair(float* to, const float (&pair)[2]) {
    *reinterpret_cast<Vec2*>(to) = Vec2{float_to_bits(pair[0]), float_to_bits(pair[1])};
}

struct Slices {
    int num_steps;
    int steps_per_slice;

    DEVICE_MEMBER explicit Slices(int k)
        : num_steps((k + STEP - 1) / STEP), steps_per_slice((num_steps + SLICES - 1) / SLICES) {}
    DEVICE_MEMBER int begin(int slice) const { return min(slice * steps_per_slice, num_steps); }
};

// ---- few rows: 16 * MT rows by 16 columns (8 pairs of gate and up), a slice per warp

constexpr int THIN_THREADS = SLICES * WARP;
constexpr int THIN_COLUMNS = 16;
constexpr int LOADS_AHEAD = 4; // steps

constexpr int thin_shared_bytes(int mt) { return SLICES * 16 * mt * THIN_COLUMNS * 4; }

// Adds `COUNT` steps; all loads of weights come first, so that many are under way.
template <int COUNT, int MT, class W>
DEVICE void thin_steps(const GemmArgs& args, const WeightRow<W> (&rows)[2], const bf16* const (&x)[MT][2], int step,
                       float (&acc)[MT][2][4]) {
    const int quad_k = step * STEP + threadIdx.x % 4 * 8;
    typename WeightRow<W>::Raw raw[COUNT][2];
    UNROLL
    for (int i = 0; i < COUNT * 2; i++) raw[i / 2][i % 2] = rows[i % 2].load(args, min(quad_k + i / 2 * STEP, args.k - 8));
    UNROLL
    for (int i = 0; i < COUNT; i++) {
        const int k = quad_k + i * STEP, there = min(k, args.k - 8);
        const bool inside = k < args.k;
        const Vec4 w[2] = {only_if(inside, WeightRow<W>::widened(raw[i][0])), only_if(inside, WeightRow<W>::widened(raw[i][1]))};
        UNROLL
        for (int j = 0; j < MT; j++) {
            const Vec4 x0 = only_if(inside, load16(x[j][0] + there)), x1 = only_if(inside, load16(x[j][1] + there));
            multiply_step(acc[j][0], x0, x1, w[0]);
            multiply_step(acc[j][1], x0, x1, w[1]);
        }
    }
}

template <int MT, bool GATED, class OUT, class W> DEVICE void thin(const GemmArgs& args) {
    const Tile tile = tile_of(args, 16 * MT);
    if (tile.count <= 0) return;
    const int slice = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int first_column = blockIdx.x * (GATED ? 8 : 16);

    // Of rows and columns that are not there, others are read: their results go nowhere.
    const bf16* x[MT][2];
    UNROLL
    for (int half = 0; half < 2 * MT; half++) x[half / 2][half % 2] = x_row(args, tile, min(half * 8 + g, tile.count - 1));
    const GroupWeights<W> weights(args, tile.group, GATED ? 2 : 1);
    const WeightRow<W> rows[2] = {weights.row(0, first_column + g), weights.row(GATED, first_column + (GATED ? 0 : 8) + g)};

    float acc[MT][2][4] = {};
    const Slices slices(args.k);
    const int end = slices.begin(slice + 1);
    int step = slices.begin(slice);
    for (; step + LOADS_AHEAD <= end; step += LOADS_AHEAD) thin_steps<LOADS_AHEAD>(args, rows, x, step, acc);
    for (; step + 2 <= end; step += 2) thin_steps<2>(args, rows, x, step, acc);
    for (; step < end; step++) thin_steps<1>(args, rows, x, step, acc);

    // (slices, rows, columns)
    float* sums = reinterpret_cast<float*>(shared_memory());
    UNROLL
    for (int i = 0; i < MT; i++) {
        UNROLL
        for (int j = 0; j < 2; j++) {
            UNROLL
            for (int c = 0; c < 4; c++) {
                const int row = i * 16 + (c / 2) * 8 + g, column = j * 8 + t * 2 + c % 2;
                sums[(slice * 16 * MT + row) * THIN_COLUMNS + column] = acc[i][j][c];
            }
        }
    }
    __syncthreads();
    constexpr int OUT_COLUMNS = GATED ? 8 : 16;
    for (int index = threadIdx.x; index < tile.count * OUT_COLUMNS; index += THIN_THREADS) {
        const int row = index / OUT_COLUMNS, column = index % OUT_COLUMNS;
        if (first_column + column >= args.n) continue;
        float value = 0.0f, up = 0.0f;
        for (int s = 0; s < SLICES; s++) {
            const float* of_row = sums + (s * 16 * MT + row) * THIN_COLUMNS;
            value += of_row[column];
            if (GATED) up += of_row[column + 8];
        }
        const OutRow<OUT> out(args, tile, row);
        out.values[first_column + column] = narrow<OUT>(GATED ? silu(value) * up : value * out.weight);
    }
}

// ---- many rows: BM by BN, both through shared memory

constexpr int STAGES = 4;

template <int BM, int BN, int WARPS_M, int WARPS_N> struct TiledShape {
    static constexpr int THREADS = WARPS_M * WARPS_N * WARP;
    static constexpr int MT = BM / WARPS_M / 16;     // products per warp, down
    static constexpr int WARP_COLUMNS = BN / WARPS_N;
    static constexpr int NT = WARP_COLUMNS / 8;      // and across
    static constexpr int CHUNKS = 4;                 // of 8 elements per row and step
    static constexpr int X_PER_THREAD = BM * CHUNKS / THREADS;
    static constexpr int W_PER_THREAD = BN * CHUNKS / THREADS;
    static constexpr int STAGE_ELEMENTS = (BM + BN) * STEP;
    static constexpr int SHARED_BYTES = STAGES * STAGE_ELEMENTS * 2;
};

// Which weights stand in a row of the tile: a warp's columns are half gate, half up, so that they meet in a thread.
template <class SHAPE, bool GATED> struct TileColumn {
    int column;
    int part;

    DEVICE_MEMBER TileColumn(int first_column, int row) {
        constexpr int HALF = SHAPE::WARP_COLUMNS / 2;
        const int warp = row / SHAPE::WARP_COLUMNS, within = row % SHAPE::WARP_COLUMNS;
        part = GATED ? within / HALF : 0;
        column = first_column + (GATED ? warp * HALF + within % HALF : row);
    }
};

template <int BM, int BN, int WARPS_M, int WARPS_N, bool GATED, class OUT, class W>
DEVICE void tiled(const GemmArgs& args) {
    using S = TiledShape<BM, BN, WARPS_M, WARPS_N>;
    constexpr bool DIRECT = sizeof(W) == 2; // from memory to shared memory as they are
    const Tile tile = tile_of(args, BM);
    if (tile.count <= 0) return;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    const int first_column = blockIdx.x * (GATED ? BN / 2 : BN);
    bf16* const shared = reinterpret_cast<bf16*>(shared_memory()); // (stages, BM rows of x then BN of w, STEP)

    const GroupWeights<W> weights(args, tile.group, GATED ? 2 : 1);
    const bf16* x[S::X_PER_THREAD];
    UNROLL
    for (int i = 0; i < S::X_PER_THREAD; i++) {
        const int row = (threadIdx.x + i * S::THREADS) / S::CHUNKS;
        x[i] = row < tile.count ? x_row(args, tile, row) : nullptr;
    }
    const int chunk = threadIdx.x % S::CHUNKS; // the same for all i

    auto start_copies = [&](int step) {
        const int k = step * STEP + chunk * 8;
        bf16* const stage = shared + step % STAGES * S::STAGE_ELEMENTS;
        UNROLL
        for (int i = 0; i < S::X_PER_THREAD; i++) {
            const int index = threadIdx.x + i * S::THREADS;
            const bool is_there = k < args.k && x[i];
            copy16_async(stage + index * 8, is_there ? x[i] + k : args.x, is_there);
        }
        if constexpr (DIRECT) {
            UNROLL
            for (int i = 0; i < S::W_PER_THREAD; i++) {
                const int index = threadIdx.x + i * S::THREADS;
                const TileColumn<S, GATED> place(first_column, index / S::CHUNKS);
                const bool is_there = k < args.k && place.column < args.n;
                copy16_async(stage + BM * STEP + index * 8, is_there ? weights.at(place.part, place.column, k) : weights.rows, is_there);
            }
        }
    };
    WeightRow<W> rows_of_w[S::W_PER_THREAD];
    typename WeightRow<W>::Raw raw[S::W_PER_THREAD];
    UNROLL
    for (int i = 0; i < S::W_PER_THREAD && !DIRECT; i++) {
        const TileColumn<S, GATED> place(first_column, (threadIdx.x + i * S::THREADS) / S::CHUNKS);
        rows_of_w[i] = weights.row(place.part, place.column);
    }
    auto load_weights = [&](int step) {
        const int k = min(step * STEP + chunk * 8, args.k - 8);
        UNROLL
        for (int i = 0; i < S::W_PER_THREAD; i++) raw[i] = rows_of_w[i].load(args, k);
    };
    auto store_weights = [&](int step) {
        const bool inside = step * STEP + chunk * 8 < args.k;
        bf16* const stage = shared + step % STAGES * S::STAGE_ELEMENTS + BM * STEP;
        UNROLL
        for (int i = 0; i < S::W_PER_THREAD; i++) {
            store16(stage + (threadIdx.x + i * S::THREADS) * 8, only_if(inside, WeightRow<W>::widened(raw[i])));
        }
    };

    const Slices slices(args.k);
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < slices.num_steps) {
            start_copies(step);
            if constexpr (!DIRECT) {
                load_weights(step);
                store_weights(step);
            }
        }
        commit_copies();
    }

    float acc[S::MT][S::NT][4] = {}, total[S::MT][S::NT][4] = {};
    int slice_end = slices.steps_per_slice;
    for (int step = 0; step < slices.num_steps; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        const int ahead = step + STAGES - 1;
        if (ahead < slices.num_steps) {
            start_copies(ahead);
            if constexpr (!DIRECT) load_weights(ahead);
        }
        commit_copies();

        const bf16* const stage = shared + step % STAGES * S::STAGE_ELEMENTS;
        Vec4 rows[S::MT][2];
        UNROLL
        for (int half = 0; half < 2 * S::MT; half++) {
            const int row = warp_m * S::MT * 16 + half * 8 + g;
            rows[half / 2][half % 2] = load16(stage + row * STEP + t * 8);
        }
        UNROLL
        for (int j = 0; j < S::NT; j++) {
            const Vec4 w = load16(stage + (BM + warp_n * S::WARP_COLUMNS + j * 8 + g) * STEP + t * 8);
            UNROLL
            for (int i = 0; i < S::MT; i++) multiply_step(acc[i][j], rows[i][0], rows[i][1], w);
        }
        if constexpr (!DIRECT) {
            if (ahead < slices.num_steps) store_weights(ahead);
        }
        if (step + 1 == slice_end || step + 1 == slices.num_steps) {
            slice_end += slices.steps_per_slice;
            UNROLL
            for (int i = 0; i < S::MT * S::NT * 4; i++) {
                (&total[0][0][0])[i] += (&acc[0][0][0])[i];
                (&acc[0][0][0])[i] = 0.0f;
            }
        }
    }

    const uint64_t strides = args.out_stride | args.out_group_stride | args.n;
    const bool in_pairs = strides % 2 == 0 && reinterpret_cast<uintptr_t>(args.out) % (2 * sizeof(OUT)) == 0;
    UNROLL
    for (int half = 0; half < 2 * S::MT; half++) {
        const int row = warp_m * S::MT * 16 + half * 8 + g, c = half % 2 * 2;
        if (row >= tile.count) continue;
        const OutRow<OUT> out(args, tile, row);
        UNROLL
        for (int j = 0; j < (GATED ? S::NT / 2 : S::NT); j++) {
            const int column = first_column + warp_n * (GATED ? S::WARP_COLUMNS / 2 : S::WARP_COLUMNS) + j * 8 + t * 2;
            OUT results[2];
            UNROLL
            for (int i = 0; i < 2; i++) {
                const float value = total[half / 2][j][c + i];
                results[i] = narrow<OUT>(GATED ? silu(value) * total[half / 2][(j + S::NT / 2) % S::NT][c + i] : value * out.weight);
            }
            if (in_pairs) {
                if (column < args.n) store_pair(out.values + column, results);
            } else {
                UNROLL
                for (int i = 0; i < 2; i++) {
                    if (column + i < args.n) out.values[column + i] = results[i];
                }
            }
        }
    }
}
