// Initialisation, the one device, its context, and the names of results.
#include <atomic>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"

struct EmulatedContext {
    int unused;
};

namespace {

std::atomic<bool> is_initialized{false};
EmulatedContext primary;
thread_local CUcontext context = nullptr;

constexpr int MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81;
constexpr int MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;
constexpr int RESERVED_SHARED_MEMORY = 1024;

struct Attribute {
    int attribute, value;
};

// An H100's, where kernels or hosts may ask; all others are 0. No memory pools (115), so that callers use cuMemAlloc.
constexpr Attribute ATTRIBUTES[] = {
    {1, 1024},        // MAX_THREADS_PER_BLOCK
    {2, 1024},        // MAX_BLOCK_DIM_X
    {3, 1024},        // MAX_BLOCK_DIM_Y
    {4, 64},          // MAX_BLOCK_DIM_Z
    {5, 2147483647},  // MAX_GRID_DIM_X
    {6, 65535},       // MAX_GRID_DIM_Y
    {7, 65535},       // MAX_GRID_DIM_Z
    {8, 49152},       // MAX_SHARED_MEMORY_PER_BLOCK
    {9, 65536},       // TOTAL_CONSTANT_MEMORY
    {10, 32},         // WARP_SIZE
    {12, 65536},      // MAX_REGISTERS_PER_BLOCK
    {13, 1980000},    // CLOCK_RATE
    {16, 132},        // MULTIPROCESSOR_COUNT
    {19, 1},          // CAN_MAP_HOST_MEMORY
    {31, 1},          // CONCURRENT_KERNELS
    {36, 2619000},    // MEMORY_CLOCK_RATE
    {37, 5120},       // GLOBAL_MEMORY_BUS_WIDTH
    {38, 52428800},   // L2_CACHE_SIZE
    {39, 2048},       // MAX_THREADS_PER_MULTIPROCESSOR
    {40, 1},          // ASYNC_ENGINE_COUNT
    {41, 1},          // UNIFIED_ADDRESSING
    {75, 9},          // COMPUTE_CAPABILITY_MAJOR
    {76, 0},          // COMPUTE_CAPABILITY_MINOR
    {82, 65536},      // MAX_REGISTERS_PER_MULTIPROCESSOR
    {106, 32},        // MAX_BLOCKS_PER_MULTIPROCESSOR
    {111, RESERVED_SHARED_MEMORY}, // RESERVED_SHARED_MEMORY_PER_BLOCK
};

CUresult check_device(CUdevice device) {
    if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

}  // namespace

namespace emulated {

// An H100's, unless another GPU is to be tried.
int shared_memory_limit() {
    static const char* const text = std::getenv("MOESAIC_EMULATOR_SHARED_MEMORY");
    return text != nullptr ? std::atoi(text) : 232448;
}

CUresult refuse(CUresult result, const char* format, ...) {
    std::fprintf(stderr, "moesaic CUDA emulator: ");
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
    return result;
}

// Launches until the GPU is lost, as after a bad access: from then on every call fails.
static std::atomic<long> launches_left{[] {
    const char* text = std::getenv("MOESAIC_EMULATOR_LOSE_GPU_AFTER");
    return text != nullptr ? std::atol(text) : LONG_MAX;
}()};

CUresult count_launch() { return launches_left.fetch_sub(1) > 0 ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS; }

CUresult check_context() {
    if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (launches_left.load() < 0) return CUDA_ERROR_ILLEGAL_ADDRESS;
    return context != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

}  // namespace emulated

API CUresult cuInit(unsigned flags) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    is_initialized = true;
    return CUDA_SUCCESS;
}

API CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int* count) {
    if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
    *count = 1;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    CHECK(check_device(ordinal));
    *device = ordinal;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
    CHECK(check_device(device));
    if (bytes <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, size_t(bytes), "moesaic CUDA emulator");
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(char* uuid, CUdevice device) {
    CHECK(check_device(device));
    std::memcpy(uuid, "moesaic-emulator", 16);
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetUuid(char* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    CHECK(check_device(device));
    size_t free;
    emulated::memory_info(&free, bytes);
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
    CHECK(check_device(device));
    *value = 0;
    if (attribute == MAX_SHARED_MEMORY_PER_BLOCK_OPTIN) *value = emulated::shared_memory_limit();
    if (attribute == MAX_SHARED_MEMORY_PER_MULTIPROCESSOR) *value = emulated::shared_memory_limit() + RESERVED_SHARED_MEMORY;
    for (const Attribute& known : ATTRIBUTES) {
        if (known.attribute == attribute) *value = known.value;
    }
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext* retained, CUdevice device) {
    CHECK(check_device(device));
    *retained = &primary;
    return CUDA_SUCCESS;
}

// The context lives as long as the process.
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return check_device(device); }

API CUresult cuCtxSetCurrent(CUcontext wanted) {
    if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (wanted != nullptr && wanted != &primary) return CUDA_ERROR_INVALID_CONTEXT;
    context = wanted;
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetCurrent(CUcontext* wanted) {
    if (!is_initialized) return CUDA_ERROR_NOT_INITIALIZED;
    *wanted = context;
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetDevice(CUdevice* device) {
    CHECK(emulated::check_context());
    *device = 0;
    return CUDA_SUCCESS;
}

API CUresult cuCtxSynchronize() {
    CHECK(emulated::check_context());
    CHECK(emulated::check_not_capturing());
    emulated::finish_all_work();
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    CHECK(emulated::check_context());
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}

API CUresult cuGetErrorName(CUresult result, const char** text) {
    switch (result) {
#define EMULATED_RESULT(name, value, words) \
    case value: *text = "CUDA_" #name; return CUDA_SUCCESS;
        EMULATED_RESULTS(EMULATED_RESULT)
#undef EMULATED_RESULT
    }
    *text = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult result, const char** text) {
    switch (result) {
#define EMULATED_RESULT(name, value, words) \
    case value: *text = words; return CUDA_SUCCESS;
        EMULATED_RESULTS(EMULATED_RESULT)
#undef EMULATED_RESULT
    }
    *text = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}
