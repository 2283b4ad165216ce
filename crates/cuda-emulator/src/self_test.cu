// Kernels for the emulator's own tests.
#include "device.cuh"

// out[block] = sum of the block's `blockDim.x` numbers; shared: one float per warp.
KERNEL(self_test_sum, 1024)(float* out, const float* numbers) {
    float* sums = reinterpret_cast<float*>(shared_memory());
    const float sum = warp_sum(numbers[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float total = 0;
    for (unsigned i = 0; i < blockDim.x / WARP; i++) total += sums[i];
    out[blockIdx.x] = total;
}
EXPORT(self_test_sum)

// The same without the barrier: some warp's sum is missing.
KERNEL(self_test_sum_without_barrier, 1024)(float* out, const float* numbers) {
    float* sums = reinterpret_cast<float*>(shared_memory());
    const float sum = warp_sum(numbers[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    if (threadIdx.x != 0) return;
    float total = 0;
    for (unsigned i = 0; i < blockDim.x / WARP; i++) total += sums[i];
    out[blockIdx.x] = total;
}
EXPORT(self_test_sum_without_barrier)

// c (16 x 8) = a (16 x 16, row-major) * b, which is 8 x 16 (column-major) or, with `is_row_major`, 16 x 8.
KERNEL(self_test_product, 32)(float* c, const bf16* a, const bf16* b, int is_row_major) {
    bf16* shared_a = reinterpret_cast<bf16*>(shared_memory());
    bf16* shared_b = shared_a + 256;
    for (int i = threadIdx.x; i < 256; i += WARP) shared_a[i] = a[i];
    for (int i = threadIdx.x; i < 128; i += WARP) shared_b[i] = b[i];
    __syncwarp();
    const int lane = threadIdx.x;
    uint32_t rows[4], columns[4];
    load_matrices(rows, shared_a + lane % 16 * 16 + lane / 16 * 8);
    if (is_row_major) {
        load_matrices_transposed(columns, shared_b + lane % 16 * 8);
    } else {
        load_matrices(columns, shared_b + lane % 8 * 16 + lane / 8 % 2 * 8);
    }
    float sums[4] = {0, 0, 0, 0};
    const uint32_t pair[2] = {columns[0], columns[1]};
    mma_bf16(sums, rows, pair);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}
EXPORT(self_test_product)

// out = in, 16 bytes per thread, through shared memory; without the wait, or for threads from `there` on, not.
KERNEL(self_test_copy, 1024)(Vec4* out, const Vec4* in, unsigned there, int waits) {
    Vec4* shared = reinterpret_cast<Vec4*>(shared_memory());
    copy16_async(&shared[threadIdx.x], &in[threadIdx.x], threadIdx.x < there);
    commit_copies();
    commit_copies();
    if (waits) wait_copies<1>();
    __syncthreads();
    const unsigned other = blockDim.x - 1 - threadIdx.x;
    store16(&out[other], shared[other]);
}
EXPORT(self_test_copy)

// to[i] += value
KERNEL(self_test_add, 1024)(float* to, float value) { to[blockIdx.x * blockDim.x + threadIdx.x] += value; }
EXPORT(self_test_add)

// Of each kind of collective and atomic, the results of thread i at out[i * 8].
KERNEL(self_test_collectives, 1024)(int* out, unsigned long long* counter) {
    const int i = threadIdx.x;
    int* mine = out + i * 8;
    mine[0] = shuffle(i, 5);
    mine[1] = shuffle_xor(i, 3);
    mine[2] = int(shuffle_xor(double(i), 1));
    mine[3] = int(__ballot_sync(0xffffffffu, i % 3 == 0));
    mine[4] = __popc(unsigned(mine[3])) + __ffs(8) + __clz(1) + __clzll(1);
    __syncthreads();
    atomicAdd(counter, 1ull);
    atomicMax(counter + 1, static_cast<unsigned long long>(i));
    __syncthreads();
    mine[5] = int(counter[0]);
    mine[6] = int(counter[1]);
    mine[7] = int(max(3u, gridDim.x)) + min(i, 0);
}
EXPORT(self_test_collectives)

// Misuse, one per `kind`.
KERNEL(self_test_misuse, 1024)(int kind) {
    uint32_t out[4] = {0, 0, 0, 0};
    switch (kind) {
        case 0:
            if (threadIdx.x < WARP) return;
            __syncthreads();
            return;
        case 1:
            if (threadIdx.x == 7) return;
            shuffle(1, 0);
            return;
        case 2:
            if (threadIdx.x % 2 == 0) __syncthreads();
            shuffle(1, 0);
            return;
        case 3: load_matrices(out, shared_memory() + 8); return;
        case 4: load_matrices(out, shared_memory() + 16 * 1024); return;
        case 5: copy16_async(shared_memory() + 4, shared_memory(), true); return;
        case 6: copy16_async(out, shared_memory(), true); return;
    }
}
EXPORT(self_test_misuse)

// Two warps, two blocks. An access, and another that only the kinds from 100 on order.
KERNEL(self_test_race, 64)(int* out, int kind) {
    int* shared = reinterpret_cast<int*>(shared_memory());
    char* bytes = shared_memory();
    const int i = threadIdx.x, lane = i % WARP, other = i ^ 1;
    switch (kind) {
        case 0: // another warp's number
            shared[i] = i;
            __syncwarp();
            out[blockIdx.x * 64 + i] = shared[i ^ WARP];
            return;
        case 1: // the lanes meet, but a shuffle orders nothing
            shared[i] = i;
            out[blockIdx.x * 64 + i] = shuffle_xor(i, 1) + shared[other];
            return;
        case 2: // two blocks
            if (i == 0) out[0] = blockIdx.x;
            return;
        case 3: // a write too early for those that still read
            if (i == 0) shared[0] = 1;
            __syncthreads();
            out[blockIdx.x * 64 + i] = shared[0];
            if (i == 0) shared[0] = 2;
            return;
        case 4: // with an atomic
            if (i == 0) shared[0] = 0;
            __syncthreads();
            atomicAdd(&shared[0], 1);
            out[blockIdx.x * 64 + i] = shared[0];
            return;
        case 5: // a copy that its own thread has waited for
            copy16_async(&bytes[i * 16], out, true);
            commit_copies();
            wait_copies<0>();
            out[64 + blockIdx.x * 64 + i] = bytes[other * 16];
            return;
        case 6: // half of a word
            shared[i] = 0;
            __syncthreads();
            reinterpret_cast<short*>(shared)[i] = 1;
            if (i == 40) shared[20] = 2;
            return;
        case 7: // a row of a matrix
            reinterpret_cast<bf16*>(shared)[i] = bf16{0};
            __syncwarp();
            uint32_t rows[4];
            load_matrices(rows, &bytes[lane % 8 * 16]);
            out[blockIdx.x * 64 + i] = rows[0];
            return;
        case 9: // an atomic of its own does not make a plain write atomic
            if (blockIdx.x == 1 && i == 0) out[0] = 0;
            __syncthreads();
            atomicAdd(&out[0], 1);
            return;
        case 10: // nor does it matter which block was first
            if (blockIdx.x == 0 && i == 0) out[0] = 0;
            __syncthreads();
            atomicAdd(&out[0], 1);
            return;
        case 8: // one block reads what another writes
            if (i < 2) out[2 + blockIdx.x * 64 + i] = out[2 + (blockIdx.x ^ 1) * 64 + i];
            return;
        case 100:
            shared[i] = i;
            __syncthreads();
            out[blockIdx.x * 64 + i] = shared[i ^ WARP];
            __syncthreads();
            shared[other] = 1;
            __syncwarp();
            out[blockIdx.x * 64 + i] += shared[i];
            return;
        case 101: // neighbours in a word
            bytes[i] = 1;
            reinterpret_cast<short*>(out)[blockIdx.x * 64 + i] = 1;
            return;
        case 102:
            atomicAdd(&out[0], 1);
            atomicMax(&out[0], 3);
            return;
        case 103: // all read
            out[64 + blockIdx.x * 64 + i] = out[0] + out[i];
            return;
    }
}
EXPORT(self_test_race)
