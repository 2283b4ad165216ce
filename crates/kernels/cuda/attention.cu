// Multi-head latent attention in its absorbed form over the paged cache: every head reads the same latents.
//
// A row at position p sees keys 0 .. p, cut into at most MAX_SPLITS splits whose length depends on p alone; a block
// takes one split for 16 * MT heads of one row, or for all heads of a few neighbouring rows of one sequence, which then
// share what is read; `merge_splits` puts the splits together in order. So the bits of a row depend on its position and
// its keys, not on the batch or on where a chunk began.
#include "fp8.cuh"

constexpr int ATTENTION_THREADS = 256;
constexpr int ATTENTION_WARPS = ATTENTION_THREADS / WARP;
constexpr int MAX_SPLITS = 64;
constexpr int MIN_SPLIT = 256;
constexpr int KEYS = 32; // per tile
constexpr int KEY_THREADS = ATTENTION_THREADS / KEYS; // that copy a key together
constexpr int PAD = 8;   // elements behind a row in shared memory, so that eight rows lie in different banks
constexpr int MAX_LATENT = 512;
constexpr int PRODUCTS = MAX_LATENT / 16 / ATTENTION_WARPS; // pairs of 8 output columns per warp

struct AttentionArgs {
    const bf16* q;     // (rows, heads, latent + rope)
    const void* cache; // (slots, latent + rope), bf16, or entries in 8 bits
    const uint32_t* tables; // (sequences, max_blocks)
    const uint32_t* row_sequences;
    const uint32_t* positions;
    float* parts;          // (rows, num_splits, heads, latent): softmax-weighted latents of a split
    float* log_sum_exps;   // (rows, num_splits, heads)
    bf16* out;             // (rows, heads, latent)
    int32_t num_heads;
    int32_t latent; // a multiple of 16
    int32_t rope;   // latent + rope is a multiple of 16
    int32_t max_blocks;
    int32_t block_size;
    int32_t num_splits; // that any row has
    int32_t num_rows;
    int32_t rows_per_block; // a power of two; with more than one a block has all heads
    int32_t unused;
    float scale;
};

DEVICE int split_length(int num_keys) {
    const int even = (num_keys + MAX_SPLITS - 1) / MAX_SPLITS;
    return max(MIN_SPLIT, (even + KEYS - 1) / KEYS * KEYS);
}

template <int MT, int NUM_STAGES, bool FP8> struct AttentionShared {
    static constexpr int HEADS = 16 * MT;
    static constexpr int STAGES = NUM_STAGES;
    static constexpr bool IS_FP8 = FP8;
    static constexpr int NUM_TILES = FP8 ? 1 : STAGES; // in 8 bits the stages hold entries as they are cached
    int pitch; // elements from a row of q or of a tile to the next
    int entry_bytes;
    bf16* q;
    bf16* tiles;
    char* entries; // (STAGES, KEYS, entry_bytes)
    float* logits;  // (2 halves of the inner length, HEADS, KEYS + PAD)
    bf16* weights;  // (HEADS, KEYS + PAD)
    float* rescale; // (HEADS)
    float* sums;    // (HEADS)

    DEVICE_MEMBER AttentionShared(char* memory, const AttentionArgs& args) : pitch(args.latent + args.rope + PAD) {
        entry_bytes = FP8 ? Fp8Entry{args.latent, args.rope}.num_bytes() : 0;
        q = reinterpret_cast<bf16*>(memory);
        tiles = q + HEADS * pitch;
        entries = reinterpret_cast<char*>(tiles + NUM_TILES * KEYS * pitch);
        logits = reinterpret_cast<float*>(entries + STAGES * KEYS * entry_bytes);
        weights = reinterpret_cast<bf16*>(logits + 2 * HEADS * (KEYS + PAD));
        rescale = reinterpret_cast<float*>(weights + HEADS * (KEYS + PAD));
        sums = rescale + HEADS;
    }

    DEVICE_MEMBER bf16* tile(int stage) const { return tiles + (FP8 ? 0 : stage * KEYS * pitch); }
};

// Starts to copy the tile of keys from `first` on; what lies behind `end` becomes zeros.
template <class SHARED>
DEVICE void copy_tile(const AttentionArgs& args, const SHARED& shared, const uint32_t* table, int first, int end, int stage) {
    const int bytes = SHARED::IS_FP8 ? shared.entry_bytes : (args.latent + args.rope) * 2, chunks = bytes / 16;
    char* const to = SHARED::IS_FP8 ? shared.entries + stage * KEYS * bytes : reinterpret_cast<char*>(shared.tile(stage));
    const int to_pitch = SHARED::IS_FP8 ? bytes : shared.pitch * 2;
    const int key = threadIdx.x / KEY_THREADS, position = first + key;
    const bool is_there = position < end;
    int64_t slot = 0;
    if (is_there) slot = int64_t(table[position / args.block_size]) * args.block_size + position % args.block_size;
    const char* const from = static_cast<const char*>(args.cache) + slot * bytes;
    for (int chunk = threadIdx.x % KEY_THREADS; chunk < chunks; chunk += KEY_THREADS) {
        copy16_async(to + key * to_pitch + chunk * 16, from + chunk * 16, is_there);
    }
    commit_copies();
}

// Makes the one tile of entries in 8 bits.
template <class SHARED> DEVICE void widen_tile(const AttentionArgs& args, const SHARED& shared, int stage) {
    const Fp8Entry entry{args.latent, args.rope};
    const int latent_chunks = args.latent / 16, chunks = latent_chunks + args.rope / 8;
    const int key = threadIdx.x / KEY_THREADS;
    const char* const from = shared.entries + (stage * KEYS + key) * shared.entry_bytes;
    bf16* const to = shared.tiles + key * shared.pitch;
    for (int chunk = threadIdx.x % KEY_THREADS; chunk < chunks; chunk += KEY_THREADS) {
        if (chunk < latent_chunks) {
            const float scale = reinterpret_cast<const float*>(from + entry.scales_at())[chunk * 16 / SCALE_GROUP];
            widen16(to + chunk * 16, load16(from + chunk * 16), scale);
        } else {
            const int of_rope = chunk - latent_chunks;
            store16(to + args.latent + of_rope * 8, load16(from + entry.rope_at() + of_rope * 16));
        }
    }
}

// Logits of all heads and keys of a tile: a warp takes 8 keys and one half of the inner length.
template <int MT, class SHARED> DEVICE void tile_logits(const SHARED& shared, const bf16* tile, int width) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int keys = warp % 4 * 8, half = warp / 4;
    const int steps = width / 16, middle = (steps + 1) / 2;
    const int begin = half ? middle : 0, end = half ? steps : middle;
    float acc[MT][4] = {};
    for (int step = begin; step < end; step += 2) {
        // Two steps of 16 elements at once; of the second only what is there.
        const bool both = step + 1 < end;
        const int column = step * 16 + lane / 8 * 8;
        uint32_t b[4];
        load_matrices(b, tile + (keys + lane % 8) * shared.pitch + (both || lane < 16 ? column : step * 16));
        UNROLL
        for (int i = 0; i < MT; i++) {
            const bf16* const row = shared.q + (i * 16 + lane % 16) * shared.pitch + step * 16 + lane / 16 * 8;
            uint32_t a[4];
            load_matrices(a, row);
            mma_bf16(acc[i], a, {b[0], b[1]});
            if (both) {
                load_matrices(a, row + 16);
                mma_bf16(acc[i], a, {b[2], b[3]});
            }
        }
    }
    UNROLL
    for (int i = 0; i < MT; i++) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            const int head = i * 16 + c / 2 * 8 + lane / 4, key = keys + lane % 4 * 2 + c % 2;
            shared.logits[(half * SHARED::HEADS + head) * (KEYS + PAD) + key] = acc[i][c];
        }
    }
}

// The running softmax: a lane per key, a warp per head in turn. `num_keys`: of this tile, that each of them sees.
template <class SHARED, int OWN>
DEVICE void tile_weights(const AttentionArgs& args, const SHARED& shared, int tile, const int (&num_keys)[OWN], float (&max)[OWN],
                         float (&sum)[OWN]) {
    const int warp = threadIdx.x / WARP, key = threadIdx.x % WARP;
    UNROLL
    for (int i = 0; i < OWN; i++) {
        const int head = i * ATTENTION_WARPS + warp;
        const float* const logits = shared.logits + head * (KEYS + PAD) + key;
        const bool is_seen = key < num_keys[i] - tile * KEYS;
        const float logit = is_seen ? (logits[0] + logits[SHARED::HEADS * (KEYS + PAD)]) * args.scale : NEG_INF;
        const float new_max = fmaxf(max[i], warp_max(logit));
        const float base = new_max == NEG_INF ? 0.0f : new_max; // a row that has no keys in this split
        const float weight = expf(logit - base), factor = expf(max[i] - base);
        sum[i] = sum[i] * factor + warp_sum(weight);
        max[i] = new_max;
        shared.weights[head * (KEYS + PAD) + key] = round_bf16(weight);
        if (key == 0) shared.rescale[head] = factor;
    }
}

// acc = acc * rescale + weights * latents: a warp takes pairs of 8 columns, every ATTENTION_WARPS-th.
template <int MT, class SHARED>
DEVICE void add_latents(const SHARED& shared, const bf16* tile, int latent, float (&acc)[MT][PRODUCTS][2][4]) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t a[MT][KEYS / 16][4];
    UNROLL
    for (int i = 0; i < MT; i++) {
        const float low = shared.rescale[i * 16 + lane / 4], high = shared.rescale[i * 16 + 8 + lane / 4];
        UNROLL
        for (int step = 0; step < KEYS / 16; step++) {
            load_matrices(a[i][step], shared.weights + (i * 16 + lane % 16) * (KEYS + PAD) + step * 16 + lane / 16 * 8);
        }
        UNROLL
        for (int j = 0; j < PRODUCTS; j++) {
            UNROLL
            for (int c = 0; c < 8; c++) acc[i][j][c / 4][c % 4] *= c % 4 < 2 ? low : high;
        }
    }
    UNROLL
    for (int j = 0; j < PRODUCTS; j++) {
        const int column = (j * ATTENTION_WARPS + warp) * 16;
        if (column >= latent) continue;
        UNROLL
        for (int step = 0; step < KEYS / 16; step++) {
            uint32_t b[4];
            load_matrices_transposed(b, tile + (step * 16 + lane % 16) * shared.pitch + column + lane / 16 * 8);
            UNROLL
            for (int i = 0; i < MT; i++) {
                mma_bf16(acc[i][j][0], a[i][step], {b[0], b[1]});
                mma_bf16(acc[i][j][1], a[i][step], {b[2], b[3]});
            }
        }
    }
}

// Which row and head stands at a place of a block.
struct Place {
    int64_t row;
    int head;
    bool is_there;

    DEVICE_MEMBER Place(const AttentionArgs& args, int heads, int64_t first_row, int num_rows, int place) {
        const int per_row = heads / args.rows_per_block, row_of_run = place / per_row;
        row = first_row + row_of_run;
        head = blockIdx.x * heads + place % per_row;
        is_there = row_of_run < num_rows && head < args.num_heads;
    }
};

// Rows `first_row` and the following of one sequence, whose splits are of one length.
template <int MT, class SHARED>
DEVICE void attend_rows(const AttentionArgs& args, const SHARED& shared, int64_t first_row, int num_rows) {
    constexpr int STAGES = SHARED::STAGES, HEADS = SHARED::HEADS, OWN_HEADS = HEADS / ATTENTION_WARPS;
    int most_keys = 0;
    for (int i = 0; i < num_rows; i++) most_keys = max(most_keys, int(args.positions[first_row + i]) + 1);
    const int length = split_length(most_keys), begin = blockIdx.y * length, end = min(begin + length, most_keys);
    if (begin >= end) return;
    const int width = args.latent + args.rope, chunks = width / 8, num_tiles = (end - begin + KEYS - 1) / KEYS;
    const uint32_t* const table = args.tables + int64_t(args.row_sequences[first_row]) * args.max_blocks;

    for (int i = threadIdx.x; i < HEADS * chunks; i += ATTENTION_THREADS) {
        const Place place(args, HEADS, first_row, num_rows, i / chunks);
        const bf16* const from = args.q + (place.row * args.num_heads + place.head) * width + i % chunks * 8;
        copy16_async(shared.q + i / chunks * shared.pitch + i % chunks * 8, place.is_there ? from : args.q, place.is_there);
    }
    for (int tile = 0; tile < STAGES - 1; tile++) {
        if (tile < num_tiles) copy_tile(args, shared, table, begin + tile * KEYS, end, tile);
        else commit_copies();
    }

    // Of the heads whose softmax this warp runs.
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float max[OWN_HEADS], sum[OWN_HEADS] = {};
    int num_keys[OWN_HEADS];
    UNROLL
    for (int i = 0; i < OWN_HEADS; i++) {
        const Place place(args, HEADS, first_row, num_rows, i * ATTENTION_WARPS + warp);
        max[i] = NEG_INF;
        num_keys[i] = place.is_there ? min(end, int(args.positions[place.row]) + 1) - begin : 0;
    }
    float acc[MT][PRODUCTS][2][4] = {};
    for (int tile = 0; tile < num_tiles; tile++) {
        const bf16* const keys = shared.tile(tile % STAGES);
        wait_copies<STAGES - 2>();
        __syncthreads(); // this tile is there, and the one before it is used up
        const int ahead = tile + STAGES - 1;
        if (ahead < num_tiles) copy_tile(args, shared, table, begin + ahead * KEYS, end, ahead % STAGES);
        else commit_copies();
        if constexpr (SHARED::IS_FP8) {
            widen_tile(args, shared, tile % STAGES);
            __syncthreads();
        }
        tile_logits<MT>(shared, keys, width);
        __syncthreads();
        tile_weights(args, shared, tile, num_keys, max, sum);
        __syncthreads();
        add_latents<MT>(shared, keys, args.latent, acc);
    }

    UNROLL
    for (int i = 0; i < OWN_HEADS; i++) {
        const int own = i * ATTENTION_WARPS + warp;
        const Place place(args, HEADS, first_row, num_rows, own);
        if (lane != 0) continue;
        shared.sums[own] = sum[i];
        const int64_t part = (place.row * args.num_splits + blockIdx.y) * args.num_heads + place.head;
        if (num_keys[i] > 0) args.log_sum_exps[part] = max[i] + logf(sum[i]);
    }
    __syncthreads();
    UNROLL
    for (int half = 0; half < 2 * MT; half++) {
        const int own = half * 8 + lane / 4;
        const Place place(args, HEADS, first_row, num_rows, own);
        const float sum = shared.sums[own];
        if (!place.is_there || sum == 0.0f) continue; // no keys in this split
        float* const out =
            args.parts + ((place.row * args.num_splits + blockIdx.y) * args.num_heads + place.head) * args.latent;
        UNROLL
        for (int j = 0; j < PRODUCTS; j++) {
            const int column = (j * ATTENTION_WARPS + warp) * 16 + lane % 4 * 2;
            if (column >= args.latent) continue;
            UNROLL
            for (int c = 0; c < 4; c++) {
                out[column + c / 2 * 8 + c % 2] = acc[half / 2][j][c / 2][half % 2 * 2 + c % 2] / sum;
            }
        }
    }
}

// blockIdx: group of heads, split, group of rows.
template <int MT, int STAGES, bool FP8> DEVICE void attend(const AttentionArgs& args) {
    using Shared = AttentionShared<MT, STAGES, FP8>;
    const Shared shared(shared_memory(), args);
    const int64_t first = int64_t(blockIdx.z) * args.rows_per_block;
    const int64_t end = first + args.rows_per_block < args.num_rows ? first + args.rows_per_block : args.num_rows;
    for (int64_t row = first; row < end;) {
        int count = 1;
        const int length = split_length(args.positions[row] + 1);
        while (row + count < end && args.row_sequences[row + count] == args.row_sequences[row] &&
               split_length(args.positions[row + count] + 1) == length) {
            count++;
        }
        if (row > first) __syncthreads(); // the rows before have left shared memory
        attend_rows<MT>(args, shared, row, count);
        row += count;
    }
}

#define ATTEND_IN(heads, mt, stages, blocks, suffix, is_fp8)                                                     \
    KERNEL_OF_BLOCKS(mla_attend##heads##_##stages##suffix, ATTENTION_THREADS, blocks)(AttentionArgs args) {       \
        attend<mt, stages, is_fp8>(args);                                                                         \
    }                                                                                                             \
    EXPORT(mla_attend##heads##_##stages##suffix)
#define ATTEND(heads, mt, stages, blocks)             \
    ATTEND_IN(heads, mt, stages, blocks, , false)     \
    ATTEND_IN(heads, mt, stages, blocks, _fp8, true)

ATTEND(16, 1, 3, 1)
ATTEND(16, 1, 2, 2)
ATTEND(32, 2, 2, 1)
ATTEND(64, 4, 2, 1)

// blockIdx: head, row.
KERNEL(merge_splits, ATTENTION_THREADS)(AttentionArgs args) {
    const int64_t row = blockIdx.y;
    const int head = blockIdx.x, num_keys = args.positions[row] + 1, length = split_length(num_keys);
    const int num_splits = (num_keys + length - 1) / length;
    const float* const lse = args.log_sum_exps + row * args.num_splits * args.num_heads + head;
    float max = NEG_INF, total = 0.0f;
    for (int split = 0; split < num_splits; split++) max = fmaxf(max, lse[split * args.num_heads]);
    for (int split = 0; split < num_splits; split++) total += expf(lse[split * args.num_heads] - max);
    for (int i = threadIdx.x; i < args.latent; i += ATTENTION_THREADS) {
        float value = 0.0f;
        for (int split = 0; split < num_splits; split++) {
            const int64_t part = (row * args.num_splits + split) * args.num_heads + head;
            value += expf(lse[split * args.num_heads] - max) / total * args.parts[part * args.latent + i];
        }
        args.out[(row * args.num_heads + head) * args.latent + i] = round_bf16(value);
    }
}
EXPORT(merge_splits)
