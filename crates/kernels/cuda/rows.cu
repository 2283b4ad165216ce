// What is done row by row: embedding, residual sums and norms, rotation and the writing of the latent cache.
#include "fp8.cuh"

constexpr int ROW_THREADS = 1024; // at most: the host chooses by the width of a row, and sums depend on nothing else

// Sum over the block, in an order that depends on the block's size alone. Every thread gets it.
DEVICE float block_sum(float value, float* scratch) {
    const float sum = warp_sum(value);
    __syncthreads(); // the scratch of an earlier sum has been read
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = sum;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < int(blockDim.x) / WARP; warp++) total += scratch[warp];
    return total;
}

// out (rows, width) = table[ids].
KERNEL(embed, ROW_THREADS)(const bf16* table, const uint32_t* ids, float* out, int width) {
    const bf16* row = table + int64_t(ids[blockIdx.x]) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[int64_t(blockIdx.x) * width + i] = widen(row[i]);
}
EXPORT(embed)

struct AddNormArgs {
    const float* x;          // (rows, width)
    const float* delta;      // (rows, num_parts, width), summed in order and added to x; none for no sum
    const uint32_t* row_ids; // rows of x to take, or none for all
    const bf16* weight;
    float* sum;  // x + delta; none where nobody needs it
    bf16* out;   // sum / rms(sum) * weight
    int32_t num_parts;
    int32_t width;
    float eps;
    int32_t unused;
};

KERNEL(add_rms_norm, ROW_THREADS)(AddNormArgs args) {
    float* const values = reinterpret_cast<float*>(shared_memory()); // (width), then scratch
    const int64_t row = args.row_ids ? args.row_ids[blockIdx.x] : blockIdx.x;
    const int width = args.width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float value = args.x[row * width + i];
        if (args.delta) {
            const float* parts = args.delta + row * args.num_parts * width + i;
            float delta = parts[0];
            for (int part = 1; part < args.num_parts; part++) delta += parts[int64_t(part) * width];
            value += delta;
        }
        if (args.sum) args.sum[int64_t(blockIdx.x) * width + i] = value;
        values[i] = value;
        squares += value * value;
    }
    const float mean = block_sum(squares, values + width) / width;
    const float scale = 1.0f / sqrtf(mean + args.eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float scaled = widen(round_bf16(values[i] * scale));
        args.out[int64_t(blockIdx.x) * width + i] = round_bf16(scaled * widen(args.weight[i]));
    }
}
EXPORT(add_rms_norm)

// The same of bf16 rows, without a sum.
KERNEL(rms_norm, ROW_THREADS)(const bf16* x, const bf16* weight, bf16* out, int width, float eps) {
    float* const scratch = reinterpret_cast<float*>(shared_memory());
    const bf16* row = x + int64_t(blockIdx.x) * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += widen(row[i]) * widen(row[i]);
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float scaled = widen(round_bf16(widen(row[i]) * scale));
        out[int64_t(blockIdx.x) * width + i] = round_bf16(scaled * widen(weight[i]));
    }
}
EXPORT(rms_norm)

// Of a row that is not to be kept.
constexpr uint32_t NO_SLOT = 0xffffffff;

struct RotateArgs {
    bf16* q;                   // (rows, heads, nope + rope); the rope parts are rotated in place
    bf16* q_latent;            // (rows, heads, latent + rope); gets the rotated parts behind the latent ones
    const bf16* latent_and_key; // (rows, latent + rope)
    const bf16* norm_weight;   // (latent)
    const float* cos;          // (positions, rope / 2)
    const float* sin;
    const uint32_t* positions; // (rows)
    const uint32_t* slots;     // (rows), or NO_SLOT
    void* cache;               // (slots, latent + rope), bf16, or entries in 8 bits
    int32_t num_heads;
    int32_t nope;
    int32_t rope;
    int32_t latent;
    float eps;
    int32_t interleaved;
    int32_t is_fp8;
    int32_t unused;
};

// Rotates pair `pair` of the `rope` values at `from`; both results.
DEVICE void rotate_pair(const RotateArgs& args, const bf16* from, int pair, uint32_t position, int (&at)[2], bf16 (&out)[2]) {
    const int half = args.rope / 2;
    at[0] = args.interleaved ? 2 * pair : pair;
    at[1] = args.interleaved ? 2 * pair + 1 : pair + half;
    const float cos = args.cos[int64_t(position) * half + pair], sin = args.sin[int64_t(position) * half + pair];
    const float a = widen(from[at[0]]), b = widen(from[at[1]]);
    out[0] = round_bf16(a * cos - b * sin);
    out[1] = round_bf16(b * cos + a * sin);
}

// A row of queries is rotated; its latent is normalised and written to the cache with the rotated shared key.
KERNEL(mla_rotate, ROW_THREADS)(RotateArgs args) {
    float* const scratch = reinterpret_cast<float*>(shared_memory());
    const int64_t row = blockIdx.x;
    const uint32_t position = args.positions[row];
    const int half = args.rope / 2, width = args.latent + args.rope, q_width = args.nope + args.rope;
    int at[2];
    bf16 out[2];
    for (int i = threadIdx.x; i < args.num_heads * half; i += blockDim.x) {
        const int64_t head = row * args.num_heads + i / half;
        bf16* const q = args.q + head * q_width + args.nope;
        rotate_pair(args, q, i % half, position, at, out);
        bf16* const behind = args.q_latent + head * width + args.latent;
        for (int j = 0; j < 2; j++) q[at[j]] = behind[at[j]] = out[j];
    }
    if (args.slots[row] == NO_SLOT) return;
    const bf16* const from = args.latent_and_key + row * width;
    const Fp8Entry entry{args.latent, args.rope};
    char* const cached = static_cast<char*>(args.cache) + int64_t(args.slots[row]) * (args.is_fp8 ? entry.num_bytes() : width * 2);
    bf16* const cached_key = reinterpret_cast<bf16*>(cached + (args.is_fp8 ? entry.rope_at() : args.latent * 2));
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        rotate_pair(args, from + args.latent, i, position, at, out);
        for (int j = 0; j < 2; j++) cached_key[at[j]] = out[j];
    }
    float squares = 0.0f;
    for (int i = threadIdx.x; i < args.latent; i += blockDim.x) squares += widen(from[i]) * widen(from[i]);
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / args.latent + args.eps);
    auto normed = [&](int i) { return round_bf16(widen(round_bf16(widen(from[i]) * scale)) * widen(args.norm_weight[i])); };
    if (!args.is_fp8) {
        for (int i = threadIdx.x; i < args.latent; i += blockDim.x) reinterpret_cast<bf16*>(cached)[i] = normed(i);
        return;
    }
    // A warp per group.
    const int lane = threadIdx.x % WARP;
    for (int group = threadIdx.x / WARP; group < entry.num_groups(); group += blockDim.x / WARP) {
        const int end = min((group + 1) * SCALE_GROUP, args.latent);
        float largest = 0.0f;
        for (int i = group * SCALE_GROUP + lane; i < end; i += WARP) largest = fmaxf(largest, fabsf(widen(normed(i))));
        largest = warp_max(largest);
        const float group_scale = largest > 0.0f ? largest / FP8_MAX : 1.0f;
        if (lane == 0) reinterpret_cast<float*>(cached + entry.scales_at())[group] = group_scale;
        for (int i = group * SCALE_GROUP + lane; i < end; i += WARP) {
            cached[i] = char(float_to_e4m3(widen(normed(i)) / group_scale));
        }
    }
}
EXPORT(mla_rotate)

// latents (rows, latent) and keys (rows, rope) = parts of the cache entries at `slots`.
KERNEL(gather_cache, ROW_THREADS)
(const void* cache, const uint32_t* slots, bf16* latents, bf16* keys, int latent, int rope, int is_fp8) {
    const Fp8Entry entry{latent, rope};
    const int64_t slot = slots[blockIdx.x], row = blockIdx.x;
    const char* const from = static_cast<const char*>(cache) + slot * (is_fp8 ? entry.num_bytes() : (latent + rope) * 2);
    const bf16* const key = reinterpret_cast<const bf16*>(from + (is_fp8 ? entry.rope_at() : latent * 2));
    const float* const scales = reinterpret_cast<const float*>(from + entry.scales_at());
    for (int i = threadIdx.x; i < latent; i += blockDim.x) {
        latents[row * latent + i] = is_fp8 ? round_bf16(e4m3_to_float(uint8_t(from[i])) * scales[i / SCALE_GROUP])
                                           : reinterpret_cast<const bf16*>(from)[i];
    }
    for (int i = threadIdx.x; i < rope; i += blockDim.x) keys[row * rope + i] = key[i];
}
EXPORT(gather_cache)
