// The forms of gemm.cuh that the host chooses from.
#include "gemm.cuh"

#define THIN(rows, mt, name, GATED, OUT, W)                                                                            \
    KERNEL(gemm_thin##rows##_##name, THIN_THREADS)(GemmArgs args) { thin<mt, GATED, OUT, W>(args); }                   \
    EXPORT(gemm_thin##rows##_##name)

#define TILED(name, BM, BN, WARPS_M, WARPS_N, GATED, OUT, W)                                                           \
    KERNEL(gemm_tiled##BM##_##name, WARPS_M* WARPS_N* WARP)(GemmArgs args) {                                           \
        tiled<BM, BN, WARPS_M, WARPS_N, GATED, OUT, W>(args);                                                          \
    }                                                                                                                  \
    EXPORT(gemm_tiled##BM##_##name)

#define FORMS(name, GATED, OUT, W)                                                                                     \
    THIN(16, 1, name, GATED, OUT, W)                                                                                   \
    THIN(32, 2, name, GATED, OUT, W)                                                                                   \
    THIN(64, 4, name, GATED, OUT, W)                                                                                   \
    TILED(name, 64, 64, 2, 2, GATED, OUT, W)                                                                           \
    TILED(name, 128, 128, 2, 4, GATED, OUT, W)

FORMS(bf16_to_bf16, false, bf16, bf16)
FORMS(bf16_to_f32, false, float, bf16)
FORMS(bf16_gated, true, bf16, bf16)
FORMS(fp8_to_bf16, false, bf16, fp8)
FORMS(fp8_to_f32, false, float, fp8)
FORMS(fp8_gated, true, bf16, fp8)
