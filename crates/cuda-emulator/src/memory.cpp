// Device and pinned memory: allocations of the process, one per call and of exactly the size asked for, so that
// AddressSanitizer sees what lies outside them. New memory is NaN in every format.
#include <cstdlib>
#include <cstring>
#include <map>

#include "driver.h"

using emulated::is_device_memory;
using emulated::submit;
using emulated::submit_and_wait;
using emulated::to_pointer;
using emulated::Work;

namespace {

size_t total_memory() {
    const char* text = std::getenv("MOESAIC_EMULATOR_MEMORY");
    return text != nullptr ? size_t(std::strtoull(text, nullptr, 10)) : size_t(8) << 30;
}

struct Memory {
    std::mutex mutex;
    std::map<uintptr_t, size_t> device, host;
    size_t used = 0;
    const size_t total = total_memory();
};

// Never destroyed: other threads may still free memory while the process exits.
Memory& memory() {
    static Memory& only = *new Memory;
    return only;
}

// What watches for races asks of whole pages whether they are on the device.
#ifdef WATCH_RACES
constexpr size_t ALIGNMENT = 4096;
#else
constexpr size_t ALIGNMENT = 256;
#endif

void* allocate(size_t bytes) {
    void* pointer = nullptr;
#ifdef WATCH_RACES
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
#endif
    if (posix_memalign(&pointer, ALIGNMENT, bytes) != 0) return nullptr;
    std::memset(pointer, 0xff, bytes);
    return pointer;
}

Work copy(void* to, const void* from, size_t bytes) {
    Work work{};
    work.kind = Work::Kind::copy;
    work.to = to;
    work.from = from;
    work.bytes = bytes;
    return work;
}

CUresult check_range(const char* call, CUdeviceptr pointer, size_t bytes) {
    CHECK(emulated::check_context());
    if (is_device_memory(pointer, bytes)) return CUDA_SUCCESS;
    return emulated::refuse(CUDA_ERROR_INVALID_VALUE, "%s: %zu bytes at %p are not in an allocation on the device", call, bytes,
                            to_pointer(pointer));
}

CUresult fill(CUdeviceptr to, unsigned char value, size_t bytes, Work& work) {
    CHECK(check_range("cuMemsetD8", to, bytes));
    work.kind = Work::Kind::fill;
    work.to = to_pointer(to);
    work.value = value;
    work.bytes = bytes;
    return CUDA_SUCCESS;
}

}  // namespace

namespace emulated {

bool is_device_memory(CUdeviceptr pointer, size_t bytes) {
    if (bytes == 0) return true;
    Memory& all = memory();
    const std::lock_guard<std::mutex> lock(all.mutex);
    auto after = all.device.upper_bound(pointer);
    if (after == all.device.begin()) return false;
    --after;
    const size_t offset = pointer - after->first;
    return offset <= after->second && bytes <= after->second - offset;
}

void memory_info(size_t* free, size_t* total) {
    Memory& all = memory();
    const std::lock_guard<std::mutex> lock(all.mutex);
    *free = all.total - all.used;
    *total = all.total;
}

}  // namespace emulated

API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    CHECK(emulated::check_context());
    emulated::memory_info(free, total);
    return CUDA_SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
    CHECK(emulated::check_context());
    CHECK(emulated::check_not_capturing());
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    Memory& all = memory();
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (bytes > all.total - all.used) return CUDA_ERROR_OUT_OF_MEMORY;
    void* allocated = allocate(bytes);
    if (allocated == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    all.used += bytes;
    *pointer = reinterpret_cast<CUdeviceptr>(allocated);
    all.device[*pointer] = bytes;
    return CUDA_SUCCESS;
}

API CUresult cuMemFree_v2(CUdeviceptr pointer) {
    CHECK(emulated::check_context());
    CHECK(emulated::check_not_capturing());
    emulated::finish_all_work();
    Memory& all = memory();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.device.find(pointer);
    if (found == all.device.end()) return CUDA_ERROR_INVALID_VALUE;
    all.used -= found->second;
    all.device.erase(found);
    std::free(to_pointer(pointer));
    return CUDA_SUCCESS;
}

API CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, CUstream) { return cuMemAlloc_v2(pointer, bytes); }
API CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return cuMemFree_v2(pointer); }

API CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    CHECK(emulated::check_context());
    CHECK(emulated::check_not_capturing());
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    *pointer = allocate(bytes);
    if (*pointer == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    Memory& all = memory();
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.host[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
    return CUDA_SUCCESS;
}

API CUresult cuMemFreeHost(void* pointer) {
    CHECK(emulated::check_context());
    CHECK(emulated::check_not_capturing());
    emulated::finish_all_work();
    Memory& all = memory();
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (all.host.erase(reinterpret_cast<uintptr_t>(pointer)) == 0) return CUDA_ERROR_INVALID_VALUE;
    std::free(pointer);
    return CUDA_SUCCESS;
}

API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    CHECK(check_range("cuMemcpyHtoD", to, bytes));
    return submit_and_wait(copy(to_pointer(to), from, bytes));
}

API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    CHECK(check_range("cuMemcpyDtoH", from, bytes));
    return submit_and_wait(copy(to, to_pointer(from), bytes));
}

API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    CHECK(check_range("cuMemcpyDtoD", to, bytes));
    CHECK(check_range("cuMemcpyDtoD", from, bytes));
    return submit_and_wait(copy(to_pointer(to), to_pointer(from), bytes));
}

API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes) {
    Work work{};
    CHECK(fill(to, value, bytes, work));
    return submit_and_wait(work);
}

API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    CHECK(check_range("cuMemcpyHtoDAsync", to, bytes));
    return submit(stream, copy(to_pointer(to), from, bytes));
}

API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CHECK(check_range("cuMemcpyDtoHAsync", from, bytes));
    return submit(stream, copy(to, to_pointer(from), bytes));
}

API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CHECK(check_range("cuMemcpyDtoDAsync", to, bytes));
    CHECK(check_range("cuMemcpyDtoDAsync", from, bytes));
    return submit(stream, copy(to_pointer(to), to_pointer(from), bytes));
}

API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    Work work{};
    CHECK(fill(to, value, bytes, work));
    return submit(stream, work);
}
