// Streams, events, capture and graphs. Work runs inside the call that submits it, so a stream is always empty when
// a call returns: waiting has nothing to do but to refuse where a capture forbids it.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "driver.h"

using emulated::Work;

struct EmulatedGraph {
    std::vector<Work> work;
};

namespace {
enum Mode : int { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };
enum Status : int { NONE = 0, ACTIVE = 1, INVALIDATED = 2 };
}  // namespace

struct EmulatedStream {
    // Work of two OS threads on one stream takes turns. Recursive, as host functions may submit.
    std::recursive_mutex turn;
    bool is_blocking = true;
    // The rest under `captures().mutex`.
    Status status = NONE;
    Mode mode = GLOBAL;
    const void* thread = nullptr;
    EmulatedGraph captured;
};

struct EmulatedEvent {
    bool has_time = true;
    std::mutex mutex;
    std::chrono::steady_clock::time_point time;
    bool is_recorded = false;
    // Last recorded in this capture, which may have ended since.
    CUstream capture = nullptr;
};

namespace {

struct Captures {
    std::mutex mutex;
    std::vector<CUstream> streams;
};

// Never destroyed, like the legacy stream: other threads may still be at work while the process exits.
Captures& captures() {
    static Captures& only = *new Captures;
    return only;
}

// Null and the two reserved handles (legacy: 1, per thread: 2) are one stream here; it cannot capture.
CUstream resolve(CUstream stream) {
    static EmulatedStream& legacy = *new EmulatedStream;
    return reinterpret_cast<uintptr_t>(stream) <= 2 ? &legacy : stream;
}

bool is_legacy(CUstream stream) { return stream == resolve(nullptr); }

// Something whose address tells OS threads apart.
const void* this_thread() {
    static thread_local char here;
    return &here;
}

void execute(const Work& work) {
    switch (work.kind) {
        case Work::Kind::launch: emulated::run(work.launch); break;
        case Work::Kind::copy:
            if (work.bytes != 0) std::memmove(work.to, work.from, work.bytes);
            break;
        case Work::Kind::fill:
            if (work.bytes != 0) std::memset(work.to, work.value, work.bytes);
            break;
        case Work::Kind::call: work.function(work.data); break;
    }
}

// Arguments lie one after the other, each at a multiple of 16.
size_t padded(size_t bytes) { return (bytes + 15) / 16 * 16; }

// With the arguments' values, as the caller's are gone when the graph runs.
Work keep(const Work& work) {
    Work kept = work;
    if (work.kind != Work::Kind::launch || work.launch.params == nullptr) return kept;
    const emulated::Kernel& kernel = *work.launch.kernel;
    size_t bytes = 0;
    for (int i = 0; i < kernel.arguments; i++) bytes += padded(kernel.sizes[i]);
    kept.arguments.resize(bytes);
    size_t at = 0;
    for (int i = 0; i < kernel.arguments; i++) {
        std::memcpy(kept.arguments.data() + at, work.launch.params[i], kernel.sizes[i]);
        at += padded(kernel.sizes[i]);
    }
    kept.launch.params = nullptr;
    return kept;
}

void replay(const Work& work) {
    if (work.kind != Work::Kind::launch || work.arguments.empty()) return execute(work);
    Work again{};
    again.kind = work.kind;
    again.launch = work.launch;
    // The kernel may change its arguments, the next replay must not see it.
    std::vector<unsigned char> arguments = work.arguments;
    void* params[emulated::MAX_ARGUMENTS];
    size_t at = 0;
    for (int i = 0; i < work.launch.kernel->arguments; i++) {
        params[i] = arguments.data() + at;
        at += padded(work.launch.kernel->sizes[i]);
    }
    again.launch.params = params;
    execute(again);
}

// Forgets the capture; the mutex is held.
void end_capture(CUstream stream) {
    auto& streams = captures().streams;
    streams.erase(std::remove(streams.begin(), streams.end(), stream), streams.end());
    stream->status = NONE;
    stream->captured.work.clear();
}

// Decides between recording (`is_recorded`) and doing. On success without recording nothing forbids the work.
template <class Record> CUresult record(CUstream stream, bool* is_recorded, Record put) {
    Captures& all = captures();
    const std::lock_guard<std::mutex> lock(all.mutex);
    *is_recorded = stream->status == ACTIVE;
    if (stream->status == INVALIDATED) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->status == ACTIVE) put(stream->captured);
    if (!is_legacy(stream)) return CUDA_SUCCESS;
    for (CUstream other : all.streams) {
        if (!other->is_blocking) continue;
        other->status = INVALIDATED;
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    return CUDA_SUCCESS;
}

}  // namespace

namespace emulated {

CUresult submit(CUstream handle, const Work& work) {
    CHECK(check_context());
    const CUstream stream = resolve(handle);
    bool is_recorded;
    CHECK(record(stream, &is_recorded, [&](EmulatedGraph& graph) { graph.work.push_back(keep(work)); }));
    if (is_recorded) return CUDA_SUCCESS;
    const std::lock_guard<std::recursive_mutex> turn(stream->turn);
    execute(work);
    return CUDA_SUCCESS;
}

// A capture in the global mode forbids such calls to all threads, a thread-local one to its own, a relaxed one to none.
CUresult check_not_capturing() {
    Captures& all = captures();
    const std::lock_guard<std::mutex> lock(all.mutex);
    CUresult result = CUDA_SUCCESS;
    for (CUstream stream : all.streams) {
        if (stream->mode == GLOBAL || (stream->mode == THREAD_LOCAL && stream->thread == this_thread())) {
            stream->status = INVALIDATED;
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    return result;
}

}  // namespace emulated

using emulated::check_context;
using emulated::check_not_capturing;

// ---- streams

API CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) {
    CHECK(check_context());
    *stream = new EmulatedStream;
    (*stream)->is_blocking = (flags & 1) == 0;
    return CUDA_SUCCESS;
}

API CUresult cuStreamCreate(CUstream* stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

API CUresult cuStreamDestroy_v2(CUstream stream) {
    CHECK(check_context());
    if (is_legacy(resolve(stream))) return CUDA_ERROR_INVALID_HANDLE;
    {
        const std::lock_guard<std::mutex> lock(captures().mutex);
        end_capture(stream);
    }
    delete stream;
    return CUDA_SUCCESS;
}

// What the waiting calls on a stream have in common.
static CUresult wait_for(CUstream handle) {
    CHECK(check_context());
    CUstream stream = resolve(handle);
    {
        const std::lock_guard<std::mutex> lock(captures().mutex);
        if (stream->status != NONE) {
            stream->status = INVALIDATED;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    CHECK(check_not_capturing());
    // Another OS thread's work on this stream may be under way.
    const std::lock_guard<std::recursive_mutex> turn(stream->turn);
    return CUDA_SUCCESS;
}

API CUresult cuStreamSynchronize(CUstream stream) { return wait_for(stream); }
API CUresult cuStreamQuery(CUstream stream) { return wait_for(stream); }

API CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    CHECK(check_context());
    const CUstream stream = resolve(handle);
    Captures& all = captures();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const std::lock_guard<std::mutex> event_lock(event->mutex);
    if (stream->status == INVALIDATED) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (event->capture == stream && stream->status == ACTIVE) return CUDA_SUCCESS;
    if (event->capture != nullptr) {
        return emulated::refuse(CUDA_ERROR_NOT_SUPPORTED, "a capture that spreads to a second stream is not emulated");
    }
    if (stream->status == ACTIVE) {
        stream->status = INVALIDATED;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    return CUDA_SUCCESS;
}

API CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    Work work{};
    work.kind = Work::Kind::call;
    work.function = function;
    work.data = data;
    return emulated::submit(stream, work);
}

// ---- events

API CUresult cuEventCreate(CUevent* event, unsigned flags) {
    CHECK(check_context());
    *event = new EmulatedEvent;
    (*event)->has_time = (flags & 2) == 0;
    return CUDA_SUCCESS;
}

API CUresult cuEventDestroy_v2(CUevent event) {
    CHECK(check_context());
    delete event;
    return CUDA_SUCCESS;
}

API CUresult cuEventRecord(CUevent event, CUstream handle) {
    CHECK(check_context());
    const CUstream stream = resolve(handle);
    bool is_recorded;
    CHECK(record(stream, &is_recorded, [](EmulatedGraph&) {}));
    if (!is_recorded) stream->turn.lock();
    {
        const std::lock_guard<std::mutex> lock(event->mutex);
        event->capture = is_recorded ? stream : nullptr;
        if (!is_recorded) {
            event->is_recorded = true;
            event->time = std::chrono::steady_clock::now();
        }
    }
    if (!is_recorded) stream->turn.unlock();
    return CUDA_SUCCESS;
}

static CUresult wait_for(CUevent event) {
    CHECK(check_context());
    CHECK(check_not_capturing());
    const std::lock_guard<std::mutex> lock(event->mutex);
    return event->capture == nullptr ? CUDA_SUCCESS : CUDA_ERROR_CAPTURED_EVENT;
}

API CUresult cuEventQuery(CUevent event) { return wait_for(event); }
API CUresult cuEventSynchronize(CUevent event) { return wait_for(event); }

API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
    CHECK(check_context());
    for (CUevent event : {start, end}) {
        const std::lock_guard<std::mutex> lock(event->mutex);
        if (!event->has_time || !event->is_recorded) return CUDA_ERROR_INVALID_HANDLE;
        if (event->capture != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUDA_SUCCESS;
}

API CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

// ---- capture

API CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
    CHECK(check_context());
    const CUstream stream = resolve(handle);
    if (is_legacy(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (mode < GLOBAL || mode > RELAXED) return CUDA_ERROR_INVALID_VALUE;
    Captures& all = captures();
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (stream->status != NONE) return CUDA_ERROR_ILLEGAL_STATE;
    stream->status = ACTIVE;
    stream->mode = Mode(mode);
    stream->thread = this_thread();
    all.streams.push_back(stream);
    return CUDA_SUCCESS;
}

API CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    CHECK(check_context());
    const CUstream stream = resolve(handle);
    const std::lock_guard<std::mutex> lock(captures().mutex);
    *graph = nullptr;
    if (stream->status == NONE) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream->mode != RELAXED && stream->thread != this_thread()) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    const bool is_valid = stream->status == ACTIVE;
    if (is_valid) {
        *graph = new EmulatedGraph;
        std::swap((*graph)->work, stream->captured.work);
    }
    end_capture(stream);
    return is_valid ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

API CUresult cuStreamIsCapturing(CUstream handle, int* status) {
    CHECK(check_context());
    const std::lock_guard<std::mutex> lock(captures().mutex);
    *status = resolve(handle)->status;
    return CUDA_SUCCESS;
}

// ---- graphs

API CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    CHECK(check_context());
    *executable = new EmulatedGraph(*graph);
    return CUDA_SUCCESS;
}

API CUresult cuGraphUpload(CUgraphExec, CUstream) { return check_context(); }

API CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle) {
    CHECK(check_context());
    CHECK(emulated::count_launch());
    const CUstream stream = resolve(handle);
    bool is_recorded;
    CHECK(record(stream, &is_recorded, [&](EmulatedGraph& graph) {
        graph.work.insert(graph.work.end(), executable->work.begin(), executable->work.end());
    }));
    if (is_recorded) return CUDA_SUCCESS;
    const std::lock_guard<std::recursive_mutex> turn(stream->turn);
    for (const Work& work : executable->work) replay(work);
    return CUDA_SUCCESS;
}

API CUresult cuGraphDestroy(CUgraph graph) {
    CHECK(check_context());
    delete graph;
    return CUDA_SUCCESS;
}

API CUresult cuGraphExecDestroy(CUgraphExec executable) {
    CHECK(check_context());
    delete executable;
    return CUDA_SUCCESS;
}
