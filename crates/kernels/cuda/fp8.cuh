// e4m3: 1 sign, 4 exponent (bias 7) and 3 mantissa bits, no infinities; and cache entries made of it.
#pragma once

#include "device.cuh"

struct fp8 {
    uint8_t bits;
};

constexpr float FP8_MAX = 448.0f;

// The bits of an e4m3 are those of an f32 at another exponent, subnormal numbers included. (Its NaN, which we never write,
// is read as 480.)
DEVICE float e4m3_to_float(uint32_t bits) {
    return bits_to_float((bits & 0x80) << 24 | (bits & 0x7f) << 20) * 0x1p120f;
}

// Two e4m3 in the lower half of `bits`, times a scale, as bf16.
DEVICE uint32_t widen_pair(uint32_t bits, float scale) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    // The same numbers (but NaN), in a third of the instructions.
    float low, high;
    asm("{\n\t.reg .b32 pair;\n\t.reg .f16 first, second;\n\t"
        "cvt.rn.f16x2.e4m3x2 pair, %2;\n\t"
        "mov.b32 {first, second}, pair;\n\t"
        "cvt.f32.f16 %0, first;\n\tcvt.f32.f16 %1, second;\n\t}"
        : "=f"(low), "=f"(high)
        : "h"(uint16_t(bits)));
    return pack_bf16(low * scale, high * scale);
#else
    return pack_bf16(e4m3_to_float(bits & 0xff) * scale, e4m3_to_float(bits >> 8 & 0xff) * scale);
#endif
}

// To the nearest, ties to even; what is too large becomes the largest.
DEVICE uint8_t float_to_e4m3(float value) {
    const uint32_t sign = float_to_bits(value) >> 24 & 0x80;
    const float size = fminf(fabsf(value), FP8_MAX);
    if (size < 0x1p-6f) return uint8_t(sign | uint32_t(rintf(size * 0x1p9f)));
    const uint32_t bits = float_to_bits(size);
    const uint32_t rounded = bits + 0x7ffff + (bits >> 20 & 1);
    return uint8_t(sign | ((rounded >> 20) - ((127 - 7) << 3)));
}

// 16 numbers in e4m3 at `from`, times a scale, as bf16 to `to`.
DEVICE void widen16(bf16* to, Vec4 from, float scale) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
    uint32_t out[8];
    UNROLL
    for (int pair = 0; pair < 8; pair++) out[pair] = widen_pair(words[pair / 2] >> (pair % 2 * 16), scale);
    store16(to, Vec4{out[0], out[1], out[2], out[3]});
    store16(to + 8, Vec4{out[4], out[5], out[6], out[7]});
}

// An entry of the latent cache in 8 bits: latent e4m3 numbers, an f32 scale per SCALE_GROUP of them, rope bf16 numbers;
// each part padded to 16 bytes. 656 bytes for DeepSeek's 512 and 64, as peers lay it out.
constexpr int SCALE_GROUP = 128;

struct Fp8Entry {
    int latent;
    int rope;

    DEVICE_MEMBER int num_groups() const { return (latent + SCALE_GROUP - 1) / SCALE_GROUP; }
    DEVICE_MEMBER int scales_at() const { return (latent + 15) / 16 * 16; }
    DEVICE_MEMBER int rope_at() const { return scales_at() + (num_groups() * 4 + 15) / 16 * 16; }
    DEVICE_MEMBER int num_bytes() const { return rope_at() + (rope * 2 + 15) / 16 * 16; }
};
