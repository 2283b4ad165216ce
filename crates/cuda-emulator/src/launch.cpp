// Modules, functions and launches. Every kernel of the library is in every module.
#include <cstring>

#include "driver.h"

using emulated::Kernel;
using emulated::refuse;
using emulated::Work;

struct EmulatedModule {
    int unused;
};

namespace {

constexpr int FUNCTION_MAX_THREADS = 0;
constexpr int FUNCTION_MAX_DYNAMIC_SHARED = 8;

EmulatedModule module;

// Filled while the library is loaded, before any other thread knows of it.
std::vector<Kernel*>& kernels() {
    static std::vector<Kernel*>& only = *new std::vector<Kernel*>;
    return only;
}

CUresult check_sizes(const Kernel& kernel, const emulated::Launch& launch) {
    const emulated::Index& grid = launch.grid;
    if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "kernel %s: a grid of (%u, %u, %u) blocks", kernel.name, grid.x, grid.y, grid.z);
    }
    if (launch.threads == 0 || launch.threads > 1024 || launch.threads % 32 != 0) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "kernel %s: a block of %u threads; only whole warps are emulated, at most 32",
                      kernel.name, launch.threads);
    }
    const int allowed = __atomic_load_n(&kernel.max_dynamic_shared, __ATOMIC_RELAXED);
    if (launch.shared_bytes > uint32_t(allowed)) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "kernel %s: %u bytes of shared memory, %d allowed (see cuFuncSetAttribute)",
                      kernel.name, launch.shared_bytes, allowed);
    }
    return CUDA_SUCCESS;
}

}  // namespace

namespace emulated {

void add_kernel(Kernel* kernel) {
    for (const Kernel* other : kernels()) {
        if (std::strcmp(other->name, kernel->name) == 0) fail("two kernels named %s", kernel->name);
    }
    kernels().push_back(kernel);
}

}  // namespace emulated

API CUresult cuModuleLoadData(CUmodule* loaded, const void* image) {
    CHECK(emulated::check_context());
    CHECK(emulated::check_not_capturing());
    if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *loaded = &module;
    return CUDA_SUCCESS;
}

API CUresult cuModuleUnload(CUmodule unloaded) {
    CHECK(emulated::check_context());
    return unloaded == &module ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

API CUresult cuModuleGetFunction(CUfunction* function, CUmodule of, const char* name) {
    CHECK(emulated::check_context());
    if (of != &module) return CUDA_ERROR_INVALID_HANDLE;
    for (Kernel* kernel : kernels()) {
        if (std::strcmp(kernel->name, name) != 0) continue;
        *function = kernel;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
}

API CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
    CHECK(emulated::check_context());
    if (attribute != FUNCTION_MAX_DYNAMIC_SHARED) return CUDA_SUCCESS;
    const int limit = emulated::shared_memory_limit();
    if (value < 0 || value > limit) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "kernel %s: %d bytes of shared memory, a block has at most %d",
                      function->name, value, limit);
    }
    __atomic_store_n(&function->max_dynamic_shared, value, __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}

API CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction function) {
    CHECK(emulated::check_context());
    switch (attribute) {
        case FUNCTION_MAX_THREADS: *value = 1024; break;
        case FUNCTION_MAX_DYNAMIC_SHARED: *value = __atomic_load_n(&function->max_dynamic_shared, __ATOMIC_RELAXED); break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

API CUresult cuFuncSetCacheConfig(CUfunction, int) { return emulated::check_context(); }

API CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                            unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** params,
                            void** extra) {
    CHECK(emulated::check_context());
    CHECK(emulated::count_launch());
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (extra != nullptr || (params == nullptr && function->arguments != 0)) {
        return refuse(CUDA_ERROR_NOT_SUPPORTED, "kernel %s: arguments must be passed in kernelParams", function->name);
    }
    if (block_y != 1 || block_z != 1) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "kernel %s: a block of (%u, %u, %u) threads; only one dimension is emulated",
                      function->name, block_x, block_y, block_z);
    }
    Work work{};
    work.kind = Work::Kind::launch;
    work.launch = {function, {grid_x, grid_y, grid_z}, block_x, shared_bytes, params};
    CHECK(check_sizes(*function, work.launch));
    return emulated::submit(stream, work);
}

// How many blocks share a multiprocessor as far as threads and shared memory go; registers are not known.
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int threads,
                                                                  size_t shared_bytes, unsigned) {
    CHECK(emulated::check_context());
    if (function == nullptr || threads <= 0 || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    const int by_threads = 2048 / ((threads + 31) / 32 * 32);
    const int by_shared = int(size_t(emulated::shared_memory_limit() + 1024) / (shared_bytes + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > 32) *blocks = 32;
    return CUDA_SUCCESS;
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads, size_t shared_bytes) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared_bytes, 0);
}
