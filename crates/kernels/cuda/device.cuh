// What the kernels use of the device, behind names with two meanings: the GPU's, and that of the emulator
// (`crates/cuda-emulator`), which compiles the same kernels as plain C++.
//
// Kernels run in blocks of one dimension. All shared memory is dynamic: `shared_memory()`.
// A kernel is declared with `KERNEL(name, threads)` and listed with `EXPORT(name)` after its body.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define DEVICE __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
// At most `threads` per block, so many blocks at once on a multiprocessor; registers are allotted accordingly.
#define KERNEL_OF_BLOCKS(name, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name
#define EXPORT(name)
#define UNROLL _Pragma("unroll")
#else
#include "emulated.h"
#define DEVICE static inline
#define DEVICE_MEMBER inline
#define KERNEL_OF_BLOCKS(name, threads, blocks) extern "C" void name
#define EXPORT(name) static const emulated::Registration register_##name(#name, &name);
#define UNROLL
#endif

#define KERNEL(name, threads) KERNEL_OF_BLOCKS(name, threads, 1)

constexpr int WARP = 32;
constexpr float NEG_INF = -__builtin_huge_valf();

// ---- numbers

// The upper half of an f32.
struct bf16 {
    uint16_t bits;
};

DEVICE float bits_to_float(uint32_t bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
#endif
}

DEVICE uint32_t float_to_bits(float value) {
#ifdef __CUDACC__
    return __float_as_uint(value);
#else
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
#endif
}

// Numbers in the order of their bits, NaN above all: every comparison has an answer.
DEVICE uint32_t order_key(float value) {
    const uint32_t bits = float_to_bits(value);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// The same of doubles.
DEVICE uint64_t order_key(double value) {
    uint64_t bits;
#ifdef __CUDACC__
    bits = __double_as_longlong(value);
#else
    __builtin_memcpy(&bits, &value, 8);
#endif
    return bits >> 63 ? ~bits : bits | 0x8000000000000000u;
}

DEVICE float widen(bf16 value) { return bits_to_float(uint32_t(value.bits) << 16); }
DEVICE float widen(float value) { return value; }

// To the nearest, ties to even.
DEVICE bf16 round_bf16(float value) {
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return bf16{uint16_t((bits >> 16) | 0x40)};
    return bf16{uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Two numbers in a register, the first in the lower half.
DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return uint32_t(round_bf16(low).bits) | uint32_t(round_bf16(high).bits) << 16;
#endif
}

template <class T> DEVICE T narrow(float value) {
    if constexpr (sizeof(T) == sizeof(float)) return value;
    else return round_bf16(value);
}

// ---- 16 bytes at a time

struct alignas(16) Vec4 {
    uint32_t x, y, z, w;
};

struct alignas(8) Vec2 {
    uint32_t x, y;
};

DEVICE Vec2 load8(const void* pointer) { return *static_cast<const Vec2*>(pointer); }
DEVICE Vec4 load16(const void* pointer) { return *static_cast<const Vec4*>(pointer); }
DEVICE void store16(void* pointer, Vec4 value) { *static_cast<Vec4*>(pointer) = value; }

// For weights that are read once: past the first cache.
DEVICE Vec4 load16_once(const void* pointer) {
#ifdef __CUDACC__
    Vec4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(pointer));
    return v;
#else
    return load16(pointer);
#endif
}

// ---- a warp together

#ifdef __CUDACC__
DEVICE char* shared_memory() {
    extern __shared__ __align__(128) char memory[];
    return memory;
}

template <class T> DEVICE T shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
template <class T> DEVICE T shuffle(T value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

// c (16 x 8) += a (16 x 16) * b (16 x 8), f32 += bf16 * bf16, in the fragments of `mma.m16n8k16`.
DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit values from shared memory; lane i gives the row address i % 8 of matrix i / 8 and
// gets of matrix j, in out[j], row lane / 4, columns 2 * (lane % 4) and the next.
DEVICE void load_matrices(uint32_t (&out)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
DEVICE void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// Copies 16 bytes to shared memory in the background, or writes zeros where `is_there` is false (`from` is then not
// read, but must be a valid address).
DEVICE void copy16_async(void* shared, const void* from, bool is_there) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}

// Closes a group of this thread's copies.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` groups of this thread are under way. Others see the copies after a barrier.
template <int PENDING> DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }
#endif

DEVICE float warp_sum(float value) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

DEVICE float warp_max(float value) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
    return value;
}
