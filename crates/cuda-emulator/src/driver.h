// The driver API's side: handles, results and what the parts of the driver share. Values are CUDA's.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "machine.h"

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct EmulatedContext* CUcontext;
typedef struct EmulatedModule* CUmodule;
typedef emulated::Kernel* CUfunction;
typedef struct EmulatedStream* CUstream;
typedef struct EmulatedEvent* CUevent;
typedef struct EmulatedGraph* CUgraph;
typedef struct EmulatedGraph* CUgraphExec;
typedef void (*CUhostFn)(void*);

#define API extern "C" __attribute__((visibility("default")))

// name, value, text: the results that the emulator returns.
#define EMULATED_RESULTS(X)                                                                               \
    X(SUCCESS, 0, "no error")                                                                             \
    X(ERROR_INVALID_VALUE, 1, "invalid argument")                                                         \
    X(ERROR_OUT_OF_MEMORY, 2, "out of memory")                                                            \
    X(ERROR_NOT_INITIALIZED, 3, "initialization error")                                                   \
    X(ERROR_INVALID_DEVICE, 101, "invalid device ordinal")                                                \
    X(ERROR_INVALID_CONTEXT, 201, "invalid device context")                                               \
    X(ERROR_INVALID_HANDLE, 400, "invalid resource handle")                                               \
    X(ERROR_ILLEGAL_STATE, 401, "the operation cannot be performed in the present state")                 \
    X(ERROR_NOT_FOUND, 500, "named symbol not found")                                                     \
    X(ERROR_NOT_READY, 600, "device not ready")                                                           \
    X(ERROR_ILLEGAL_ADDRESS, 700, "an illegal memory access was encountered")                              \
    X(ERROR_NOT_SUPPORTED, 801, "operation not supported")                                                \
    X(ERROR_STREAM_CAPTURE_UNSUPPORTED, 900, "operation not permitted when stream is capturing")          \
    X(ERROR_STREAM_CAPTURE_INVALIDATED, 901, "operation failed due to a previous error during capture")   \
    X(ERROR_STREAM_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work in another stream")     \
    X(ERROR_STREAM_CAPTURE_IMPLICIT, 906, "operation would make the legacy stream depend on a capturing blocking stream") \
    X(ERROR_CAPTURED_EVENT, 907, "operation not permitted on an event last recorded in a capturing stream") \
    X(ERROR_STREAM_CAPTURE_WRONG_THREAD, 908, "attempt to terminate a thread-local capture sequence from another thread")

enum : CUresult {
#define EMULATED_RESULT(name, value, text) CUDA_##name = value,
    EMULATED_RESULTS(EMULATED_RESULT)
#undef EMULATED_RESULT
};

namespace emulated {

// A message on stderr for a refusal whose result alone would not say why.
// Called by every launch: whether the GPU is still there (MOESAIC_EMULATOR_LOSE_GPU_AFTER).
CUresult count_launch();
// Bytes of shared memory that a block can have; MOESAIC_EMULATOR_SHARED_MEMORY makes them fewer.
int shared_memory_limit();
CUresult refuse(CUresult result, const char* format, ...) __attribute__((format(printf, 2, 3)));

// CUDA_SUCCESS if the driver is initialised and this OS thread has a context.
CUresult check_context();

// When an event came.
struct Stamp {
    std::chrono::steady_clock::time_point time;
};

// Work for a stream.
struct Work {
    enum class Kind : uint8_t { launch, copy, fill, call, stamp } kind;
    Launch launch;
    // The bytes that `launch.params` points to, once the work is kept for later (see `keep`).
    std::vector<unsigned char> arguments;
    void* to;
    const void* from;
    size_t bytes;
    unsigned char value;
    CUhostFn function;
    void* data;
    std::shared_ptr<Stamp> stamp;
};

// Keeps the work until somebody waits for it, or records it where the stream is capturing.
CUresult submit(CUstream stream, const Work& work);
// The same on the legacy stream, for calls that return when it is done. A capture forbids them.
CUresult submit_and_wait(const Work& work);
// Waits for all streams, as the freeing of memory does.
void finish_all_work();

// CUDA_SUCCESS where no capture forbids calls that wait or allocate; else the captures concerned become invalid.
CUresult check_not_capturing();

// Whether all the bytes lie in one allocation on the device.
bool is_device_memory(CUdeviceptr pointer, size_t bytes);
void memory_info(size_t* free, size_t* total);

inline void* to_pointer(CUdeviceptr pointer) { return reinterpret_cast<void*>(pointer); }

}  // namespace emulated

#define CHECK(call)                                          \
    do {                                                     \
        const CUresult checked = (call);                     \
        if (checked != CUDA_SUCCESS) return checked;         \
    } while (false)
