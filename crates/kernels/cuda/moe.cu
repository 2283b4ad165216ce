// From router logits to tokens sorted by expert.
#include "gemm.cuh"

constexpr int GATE_THREADS = 256;
constexpr int GATE_ROWS = 8;
constexpr int GATE_SLICES = GATE_THREADS / WARP;
constexpr int GATE_STEP = WARP * 4;
static_assert(GATE_SLICES == GATE_ROWS, "a warp adds up a row");

struct GateArgs {
    const bf16* x;       // (rows, k)
    const float* weight; // (experts, k)
    float* logits;       // (rows, experts)
    int32_t num_rows;
    int32_t num_experts;
    int32_t k; // a multiple of 8
    int32_t unused;
};

// A lane's part of the products of up to GATE_ROWS rows with an expert, over one of GATE_SLICES runs of the inner length.
DEVICE void add_gate_slice(const GateArgs& args, int expert, int first_row, int slice, float (&sums)[GATE_ROWS]) {
    const int steps = (args.k + GATE_STEP - 1) / GATE_STEP, per_slice = (steps + GATE_SLICES - 1) / GATE_SLICES;
    const int end = min((slice + 1) * per_slice * GATE_STEP, args.k);
    for (int k = slice * per_slice * GATE_STEP + threadIdx.x % WARP * 4; k < end; k += GATE_STEP) {
        const Vec4 w = load16(args.weight + int64_t(expert) * args.k + k);
        // The last row, where there is no such one: nobody reads what comes of it.
        Vec2 x[GATE_ROWS];
        UNROLL
        for (int row = 0; row < GATE_ROWS; row++) {
            x[row] = load8(args.x + int64_t(min(first_row + row, args.num_rows - 1)) * args.k + k);
        }
        UNROLL
        for (int row = 0; row < GATE_ROWS; row++) {
            sums[row] += bits_to_float(x[row].x << 16) * bits_to_float(w.x);
            sums[row] += bits_to_float(x[row].x & 0xffff0000) * bits_to_float(w.y);
            sums[row] += bits_to_float(x[row].y << 16) * bits_to_float(w.z);
            sums[row] += bits_to_float(x[row].y & 0xffff0000) * bits_to_float(w.w);
        }
    }
}

// logits = x * weightT in f32: choices flip on small differences. A lane's slices are summed from zero and added in order,
// then the lanes; so both forms have the same bits. Here a block takes an expert, a warp a slice: for few rows.
KERNEL(gate_logits_thin, GATE_THREADS)(GateArgs args) {
    const int expert = blockIdx.x, first_row = blockIdx.y * GATE_ROWS, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float* const shared = reinterpret_cast<float*>(shared_memory()); // (slices, rows, lanes)
    float sums[GATE_ROWS] = {};
    add_gate_slice(args, expert, first_row, warp, sums);
    UNROLL
    for (int row = 0; row < GATE_ROWS; row++) shared[(warp * GATE_ROWS + row) * WARP + lane] = sums[row];
    __syncthreads();
    const int row = warp;
    float total = 0.0f;
    for (int slice = 0; slice < GATE_SLICES; slice++) total += shared[(slice * GATE_ROWS + row) * WARP + lane];
    total = warp_sum(total);
    if (lane == 0 && first_row + row < args.num_rows) args.logits[int64_t(first_row + row) * args.num_experts + expert] = total;
}
EXPORT(gate_logits_thin)

// A warp takes an expert: for many rows.
KERNEL(gate_logits, GATE_THREADS)(GateArgs args) {
    const int expert = blockIdx.x * (GATE_THREADS / WARP) + threadIdx.x / WARP, first_row = blockIdx.y * GATE_ROWS;
    if (expert >= args.num_experts) return;
    float total[GATE_ROWS] = {};
    for (int slice = 0; slice < GATE_SLICES; slice++) {
        float sums[GATE_ROWS] = {};
        add_gate_slice(args, expert, first_row, slice, sums);
        UNROLL
        for (int row = 0; row < GATE_ROWS; row++) total[row] += sums[row];
    }
    UNROLL
    for (int row = 0; row < GATE_ROWS; row++) {
        const float sum = warp_sum(total[row]);
        if (threadIdx.x % WARP == 0 && first_row + row < args.num_rows) {
            args.logits[int64_t(first_row + row) * args.num_experts + expert] = sum;
        }
    }
}
EXPORT(gate_logits)

struct RouteArgs {
    const float* logits; // (rows, experts)
    const float* bias;   // (experts), or none: takes part in the choice, never in the weights
    uint32_t* ids;       // (rows, top_k), best first
    float* weights;
    int32_t num_experts;
    int32_t top_k;
    int32_t num_groups;
    int32_t top_groups;
    int32_t sigmoid; // else softmax
    int32_t top_two; // groups are ranked by the sum of their two best, else by their best
    int32_t normalise;
    float scale;
};

// A place that has been taken already. Below every number's key but that of one NaN.
constexpr uint32_t TAKEN = 0;

// The index of the largest of `count` keys, the lowest among equals; the whole warp gets it.
DEVICE int warp_largest(const uint32_t* keys, int count) {
    uint64_t best = 0;
    for (int i = threadIdx.x % WARP; i < count; i += WARP) {
        const uint64_t candidate = uint64_t(keys[i]) << 32 | uint32_t(~i);
        best = candidate > best ? candidate : best;
    }
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        const uint64_t other = shuffle_xor(best, mask);
        best = other > best ? other : best;
    }
    return int(~uint32_t(best));
}

// Takes the experts of all but the best groups out of the choice.
DEVICE void keep_best_groups(const RouteArgs& args, const float* choice, uint32_t* keys, uint32_t* group_keys) {
    const int lane = threadIdx.x, size = args.num_experts / args.num_groups;
    for (int group = lane; group < args.num_groups; group += WARP) {
        float best = NEG_INF, second = NEG_INF;
        for (int i = group * size; i < (group + 1) * size; i++) {
            second = fmaxf(second, fminf(best, choice[i]));
            best = fmaxf(best, choice[i]);
        }
        group_keys[group] = order_key(args.top_two ? best + second : best);
    }
    __syncwarp();
    for (int kept = 0; kept < args.top_groups; kept++) {
        const int group = warp_largest(group_keys, args.num_groups);
        __syncwarp();
        if (lane == 0) group_keys[group] = TAKEN;
        __syncwarp();
    }
    for (int i = lane; i < args.num_experts; i += WARP) {
        if (group_keys[i / size] != TAKEN) keys[i] = order_key(NEG_INF);
    }
    __syncwarp();
}

// One warp per row. Shared memory: (3, experts) and (groups) numbers of 32 bits.
KERNEL(route, WARP)(RouteArgs args) {
    const int lane = threadIdx.x, num_experts = args.num_experts;
    float* const scores = reinterpret_cast<float*>(shared_memory());
    float* const choice = scores + num_experts;
    uint32_t* const keys = reinterpret_cast<uint32_t*>(choice + num_experts);
    uint32_t* const group_keys = keys + num_experts;
    const float* const logits = args.logits + int64_t(blockIdx.x) * num_experts;

    float max = NEG_INF;
    for (int i = lane; i < num_experts; i += WARP) max = fmaxf(max, logits[i]);
    max = warp_max(max);
    float sum = 0.0f;
    for (int i = lane; i < num_experts; i += WARP) {
        scores[i] = args.sigmoid ? 1.0f / (1.0f + expf(-logits[i])) : expf(logits[i] - max);
        sum += scores[i];
    }
    sum = warp_sum(sum);
    for (int i = lane; i < num_experts; i += WARP) {
        if (!args.sigmoid) scores[i] /= sum;
        choice[i] = scores[i] + (args.bias ? args.bias[i] : 0.0f);
        keys[i] = order_key(choice[i]);
    }
    __syncwarp();
    if (args.top_groups < args.num_groups) keep_best_groups(args, choice, keys, group_keys);

    uint32_t* const ids = args.ids + int64_t(blockIdx.x) * args.top_k;
    float* const weights = args.weights + int64_t(blockIdx.x) * args.top_k;
    float chosen_sum = 0.0f, weight = 0.0f; // lane i keeps the weight of choice i
    for (int slot = 0; slot < args.top_k; slot++) {
        const int expert = warp_largest(keys, num_experts);
        __syncwarp();
        chosen_sum += scores[expert];
        if (lane == slot) weight = scores[expert];
        if (lane == 0) {
            ids[slot] = expert;
            keys[expert] = TAKEN;
        }
        __syncwarp();
    }
    if (lane < args.top_k) weights[lane] = (args.normalise ? weight / (chosen_sum + 1e-20f) : weight) * args.scale;
}
EXPORT(route)

constexpr int SORT_THREADS = 1024;

struct SortArgs {
    const uint32_t* ids; // (rows, slots)
    int32_t* order;      // pairs of row and slot, sorted by expert
    int32_t* rows;       // the row of each
    Tile* tiles;         // runs of at most tile_rows pairs of one expert, the rest empty
    int32_t num_pairs;
    int32_t num_slots;
    int32_t num_experts;
    int32_t tile_rows;
    int32_t max_tiles;
    int32_t unused;
};

// One block. The order within an expert is an accident and changes no result. Shared memory: (2, experts + 1) numbers.
KERNEL(sort_by_expert, SORT_THREADS)(SortArgs args) {
    const int num_experts = args.num_experts;
    int32_t* const starts = reinterpret_cast<int32_t*>(shared_memory()); // (experts + 1): first counts, then starts
    int32_t* const tile_starts = starts + num_experts + 1;
    for (int i = threadIdx.x; i < num_experts; i += SORT_THREADS) starts[i] = 0;
    __syncthreads();
    for (int pair = threadIdx.x; pair < args.num_pairs; pair += SORT_THREADS) atomicAdd(&starts[args.ids[pair]], 1);
    __syncthreads();
    if (threadIdx.x < WARP) {
        // Each lane sums a run of experts; the lanes' sums are then added up.
        const int lane = threadIdx.x, run = (num_experts + WARP - 1) / WARP;
        const int begin = min(lane * run, num_experts), end = min(begin + run, num_experts);
        int pairs = 0, tiles = 0;
        for (int i = begin; i < end; i++) {
            pairs += starts[i];
            tiles += (starts[i] + args.tile_rows - 1) / args.tile_rows;
        }
        int pairs_before = 0, tiles_before = 0;
        for (int other = 0; other < WARP; other++) {
            const int other_pairs = shuffle(pairs, other), other_tiles = shuffle(tiles, other);
            if (other < lane) {
                pairs_before += other_pairs;
                tiles_before += other_tiles;
            }
        }
        for (int i = begin; i < end; i++) {
            const int count = starts[i];
            starts[i] = pairs_before;
            tile_starts[i] = tiles_before;
            pairs_before += count;
            tiles_before += (count + args.tile_rows - 1) / args.tile_rows;
        }
        if (lane == WARP - 1) {
            starts[num_experts] = pairs_before;
            tile_starts[num_experts] = tiles_before;
        }
    }
    __syncthreads();
    for (int expert = threadIdx.x; expert < num_experts; expert += SORT_THREADS) {
        const int begin = starts[expert], end = starts[expert + 1];
        for (int i = 0; begin + i * args.tile_rows < end; i++) {
            const int first = begin + i * args.tile_rows;
            args.tiles[tile_starts[expert] + i] = Tile{expert, first, min(args.tile_rows, end - first), 0};
        }
    }
    for (int i = tile_starts[num_experts] + threadIdx.x; i < args.max_tiles; i += SORT_THREADS) {
        args.tiles[i] = Tile{0, 0, 0, 0};
    }
    __syncthreads(); // from here on the starts are cursors
    for (int pair = threadIdx.x; pair < args.num_pairs; pair += SORT_THREADS) {
        const int place = atomicAdd(&starts[args.ids[pair]], 1);
        args.order[place] = pair;
        args.rows[place] = pair / args.num_slots;
    }
}
EXPORT(sort_by_expert)
