// Latent attention in its naive form: cached rows expanded to keys and values of each head, for long prompts.
//
// A block takes 64 queries of one head, a warp 16 of them; keys go through shared memory, 64 at a time, with a running
// softmax in registers. Keys come in pieces, one launch each; a later piece joins its result with that of the earlier ones
// by their log-sum-exps.
#include "device.cuh"

constexpr int NAIVE_THREADS = 128;
constexpr int NAIVE_ROWS = 64;
constexpr int NAIVE_KEYS = 64;
constexpr int NAIVE_PAD = 8;
constexpr int MAX_VALUE = 128;
constexpr int VALUE_PRODUCTS = MAX_VALUE / 16;

struct NaiveArgs {
    const bf16* q;      // (rows, heads, nope + rope)
    const bf16* kv;     // (keys, heads, nope + value)
    const bf16* k_rope; // (keys, rope)
    float* parts;       // (rows, heads, value): of the pieces so far
    float* log_sum_exps; // (rows, heads)
    bf16* out;          // (rows, heads, value), with the last piece; else none
    int32_t num_rows;
    int32_t num_keys;
    int32_t num_heads;
    int32_t nope;  // a multiple of 8, as are rope and value
    int32_t rope;
    int32_t value;
    int32_t query_start; // position of the first row
    int32_t key_start;   // and of the first key
    float scale;
    int32_t is_first; // piece
};

DEVICE int padded(int width) { return (width + 15) / 16 * 16; }

// Copies `count` rows of `width` elements; rows beyond `count` and columns beyond `width` become zeros.
DEVICE void copy_rows(bf16* to, int pitch, const bf16* from, int64_t stride, int num_rows, int count, int width, int padded_width) {
    const int chunks = padded_width / 8, rows_further = NAIVE_THREADS / chunks, chunks_further = NAIVE_THREADS % chunks;
    for (int row = threadIdx.x / chunks, chunk = threadIdx.x % chunks; row < num_rows;) {
        const int column = chunk * 8;
        const bool is_there = row < count && column < width;
        copy16_async(to + row * pitch + column, is_there ? from + row * stride + column : from, is_there);
        // NAIVE_THREADS chunks further, without a division.
        row += rows_further;
        chunk += chunks_further;
        if (chunk >= chunks) {
            chunk -= chunks;
            row++;
        }
    }
}

KERNEL(mla_naive, NAIVE_THREADS)(NaiveArgs args) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int head = blockIdx.x, first_row = blockIdx.y * NAIVE_ROWS;
    const int width = args.nope + args.rope, full = padded(width), pitch = full + NAIVE_PAD;
    const int value_pitch = padded(args.value) + NAIVE_PAD, kv_width = args.nope + args.value;
    bf16* const q = reinterpret_cast<bf16*>(shared_memory());
    bf16* const keys = q + NAIVE_ROWS * pitch;
    bf16* const values = keys + NAIVE_KEYS * pitch;

    // Keys that the last row of this block sees.
    const int last_row = min(first_row + NAIVE_ROWS, args.num_rows) - 1;
    const int num_seen = min(args.query_start + last_row + 1 - args.key_start, args.num_keys);
    if (num_seen <= 0 && !args.is_first && !args.out) return; // what there is so far stays

    const int64_t q_stride = int64_t(args.num_heads) * width, kv_stride = int64_t(args.num_heads) * kv_width;
    copy_rows(q, pitch, args.q + first_row * q_stride + head * width, q_stride, NAIVE_ROWS, args.num_rows - first_row, width, full);
    commit_copies();

    const int own_row = first_row + warp * 16 + g; // and the one eight further
    float max[2] = {NEG_INF, NEG_INF}, sum[2] = {}, acc[VALUE_PRODUCTS][2][4] = {};
    for (int first = 0; first < num_seen; first += NAIVE_KEYS) {
        const int count = min(NAIVE_KEYS, num_seen - first);
        const bf16* const kv = args.kv + first * kv_stride + head * kv_width;
        copy_rows(keys, pitch, kv, kv_stride, NAIVE_KEYS, count, args.nope, args.nope);
        copy_rows(keys + args.nope, pitch, args.k_rope + int64_t(first) * args.rope, args.rope, NAIVE_KEYS, count, args.rope,
                  full - args.nope);
        copy_rows(values, value_pitch, kv + args.nope, kv_stride, NAIVE_KEYS, count, args.value, padded(args.value));
        commit_copies();
        wait_copies<0>();
        __syncthreads();

        float logits[NAIVE_KEYS / 8][4] = {};
        for (int step = 0; step < full / 16; step++) {
            uint32_t a[4];
            load_matrices(a, q + (warp * 16 + lane % 16) * pitch + step * 16 + lane / 16 * 8);
            UNROLL
            for (int pair = 0; pair < NAIVE_KEYS / 16; pair++) {
                // Matrices: keys 0-7 and 8-15 of the pair, each in both halves of the step.
                const int key = pair * 16 + lane / 16 * 8 + lane % 8;
                uint32_t b[4];
                load_matrices(b, keys + key * pitch + step * 16 + lane / 8 % 2 * 8);
                mma_bf16(logits[2 * pair], a, {b[0], b[1]});
                mma_bf16(logits[2 * pair + 1], a, {b[2], b[3]});
            }
        }

        uint32_t weights[NAIVE_KEYS / 8][2];
        UNROLL
        for (int half = 0; half < 2; half++) {
            const int seen = args.query_start + own_row + half * 8 + 1 - args.key_start - first; // of this tile
            float new_max = max[half];
            UNROLL
            for (int i = 0; i < NAIVE_KEYS / 4; i++) {
                const int key = i / 2 * 8 + t * 2 + i % 2;
                float& logit = logits[i / 2][half * 2 + i % 2];
                logit = key < seen && key < count ? logit * args.scale : NEG_INF;
                new_max = fmaxf(new_max, logit);
            }
            new_max = fmaxf(new_max, shuffle_xor(new_max, 1));
            new_max = fmaxf(new_max, shuffle_xor(new_max, 2));
            const float base = new_max == NEG_INF ? 0.0f : new_max; // a row that sees nothing yet
            const float factor = expf(max[half] - base);
            float tile_sum = 0.0f;
            UNROLL
            for (int i = 0; i < NAIVE_KEYS / 8; i++) {
                const float low = expf(logits[i][half * 2] - base), high = expf(logits[i][half * 2 + 1] - base);
                tile_sum += low + high;
                weights[i][half] = pack_bf16(low, high);
            }
            tile_sum += shuffle_xor(tile_sum, 1);
            tile_sum += shuffle_xor(tile_sum, 2);
            sum[half] = sum[half] * factor + tile_sum;
            max[half] = new_max;
            UNROLL
            for (int i = 0; i < VALUE_PRODUCTS * 4; i++) acc[i / 4][i / 2 % 2][half * 2 + i % 2] *= factor;
        }

        UNROLL
        for (int step = 0; step < NAIVE_KEYS / 16; step++) {
            const uint32_t a[4] = {weights[2 * step][0], weights[2 * step][1], weights[2 * step + 1][0], weights[2 * step + 1][1]};
            UNROLL
            for (int j = 0; j < VALUE_PRODUCTS; j++) {
                if (j * 16 >= args.value) continue;
                uint32_t b[4];
                load_matrices_transposed(b, values + (step * 16 + lane % 16) * value_pitch + j * 16 + lane / 16 * 8);
                mma_bf16(acc[j][0], a, {b[0], b[1]});
                mma_bf16(acc[j][1], a, {b[2], b[3]});
            }
        }
        __syncthreads(); // the tile is used up
    }
    wait_copies<0>();

    UNROLL
    for (int half = 0; half < 2; half++) {
        const int row = own_row + half * 8;
        const bool is_there = row < args.num_rows;
        const int64_t index = int64_t(row) * args.num_heads + head;
        // The share of this piece, and of those before.
        const float before = is_there && !args.is_first ? args.log_sum_exps[index] : NEG_INF;
        const float own = sum[half] > 0.0f ? max[half] + logf(sum[half]) : NEG_INF;
        const float highest = fmaxf(own, before); // finite from the first piece on: every row sees position 0
        const float own_weight = expf(own - highest), weight_before = expf(before - highest);
        const float total = own_weight + weight_before;
        __syncwarp(); // all have read what the first of the quad writes
        if (!is_there) continue;
        if (t == 0) args.log_sum_exps[index] = highest + logf(total);
        UNROLL
        for (int i = 0; i < VALUE_PRODUCTS * 4; i++) {
            const int column = i / 4 * 16 + i / 2 % 2 * 8 + t * 2 + i % 2;
            if (column >= args.value) continue;
            const int64_t place = index * args.value + column;
            float value = own == NEG_INF ? 0.0f : own_weight / total * acc[i / 4][i / 2 % 2][half * 2 + i % 2] / sum[half];
            if (!args.is_first) value += weight_before / total * args.parts[place];
            if (args.out) args.out[place] = round_bf16(value);
            else args.parts[place] = value;
        }
    }
}
EXPORT(mla_naive)
