// Streams, events, capture and graphs. Work is done at the latest moment: when somebody waits for it. So what the host
// overwrites or reads too early shows.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
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

namespace {

// What a stream was given and has not done yet. Events keep it beyond their stream's life.
struct Queue {
    // Work of two OS threads on one stream takes turns. Recursive, as host functions may submit.
    std::recursive_mutex turn;
    std::deque<Work> waiting;
    uint64_t submitted = 0, done = 0;

    void push(Work work) {
        const std::lock_guard<std::recursive_mutex> lock(turn);
        waiting.push_back(std::move(work));
        submitted++;
    }

    uint64_t end() {
        const std::lock_guard<std::recursive_mutex> lock(turn);
        return submitted;
    }

    // Does what was submitted as one of the first `count` pieces.
    void run_until(uint64_t count);
};

}  // namespace

struct EmulatedStream {
    std::shared_ptr<Queue> queue = std::make_shared<Queue>();
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
    std::shared_ptr<emulated::Stamp> stamp;
    // Comes when this queue has done so many pieces of work.
    std::shared_ptr<Queue> queue;
    uint64_t count = 0;
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

struct Streams {
    std::mutex mutex;
    std::vector<CUstream> all;
};

Streams& streams() {
    static Streams& only = *new Streams;
    return only;
}

std::vector<std::shared_ptr<Queue>> queues(bool only_blocking) {
    const std::lock_guard<std::mutex> lock(streams().mutex);
    std::vector<std::shared_ptr<Queue>> found;
    for (CUstream stream : streams().all) {
        if (stream->is_blocking || !only_blocking) found.push_back(stream->queue);
    }
    return found;
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
        case Work::Kind::stamp: work.stamp->time = std::chrono::steady_clock::now(); break;
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

void Queue::run_until(uint64_t count) {
    const std::lock_guard<std::recursive_mutex> lock(turn);
    while (done < count && !waiting.empty()) {
        const Work work = std::move(waiting.front());
        waiting.pop_front();
        done++;
        replay(work);
    }
}

// What the legacy stream does comes after all that blocking streams were given before, and they wait for it.
void keep_legacy_order(CUstream stream) {
    if (is_legacy(stream)) {
        for (const auto& queue : queues(true)) queue->run_until(queue->end());
    } else if (stream->is_blocking) {
        const auto& legacy = resolve(nullptr)->queue;
        legacy->run_until(legacy->end());
    }
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
    keep_legacy_order(stream);
    stream->queue->push(keep(work));
    return CUDA_SUCCESS;
}

CUresult submit_and_wait(const Work& work) {
    CHECK(check_context());
    CHECK(check_not_capturing());
    CHECK(submit(nullptr, work));
    const auto& legacy = resolve(nullptr)->queue;
    legacy->run_until(legacy->end());
    return CUDA_SUCCESS;
}

void finish_all_work() {
    for (const auto& queue : queues(false)) queue->run_until(queue->end());
    const auto& legacy = resolve(nullptr)->queue;
    legacy->run_until(legacy->end());
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
    const std::lock_guard<std::mutex> lock(streams().mutex);
    streams().all.push_back(*stream);
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
    {
        const std::lock_guard<std::mutex> lock(streams().mutex);
        auto& all = streams().all;
        all.erase(std::remove(all.begin(), all.end(), stream), all.end());
    }
    stream->queue->run_until(stream->queue->end());
    delete stream;
    return CUDA_SUCCESS;
}

// What the calls on a stream that are about its work have in common.
static CUresult check_can_wait(CUstream handle) {
    CHECK(check_context());
    CUstream stream = resolve(handle);
    {
        const std::lock_guard<std::mutex> lock(captures().mutex);
        if (stream->status != NONE) {
            stream->status = INVALIDATED;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    return check_not_capturing();
}

API CUresult cuStreamSynchronize(CUstream stream) {
    CHECK(check_can_wait(stream));
    Queue& queue = *resolve(stream)->queue;
    queue.run_until(queue.end());
    return CUDA_SUCCESS;
}

// Lets one piece of work happen, so that those who ask again and again come to an end.
static CUresult progress(Queue& queue, uint64_t count) {
    const std::lock_guard<std::recursive_mutex> lock(queue.turn);
    if (queue.done >= count) return CUDA_SUCCESS;
    queue.run_until(queue.done + 1);
    return CUDA_ERROR_NOT_READY;
}

API CUresult cuStreamQuery(CUstream stream) {
    CHECK(check_can_wait(stream));
    Queue& queue = *resolve(stream)->queue;
    return progress(queue, queue.end());
}

API CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    CHECK(check_context());
    const CUstream stream = resolve(handle);
    std::shared_ptr<Queue> queue;
    uint64_t count;
    {
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
        queue = event->queue;
        count = event->count;
    }
    if (queue != nullptr) queue->run_until(count);
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
    const std::lock_guard<std::mutex> lock(event->mutex);
    event->capture = is_recorded ? stream : nullptr;
    if (is_recorded) return CUDA_SUCCESS;
    event->stamp = std::make_shared<emulated::Stamp>();
    event->queue = stream->queue;
    Work work{};
    work.kind = Work::Kind::stamp;
    work.stamp = event->stamp;
    const std::lock_guard<std::recursive_mutex> turn(stream->queue->turn);
    stream->queue->push(work);
    event->count = stream->queue->end();
    return CUDA_SUCCESS;
}

// The queue that the event waits for, if it was ever recorded.
static CUresult check_can_wait(CUevent event, std::shared_ptr<Queue>* queue, uint64_t* count) {
    CHECK(check_context());
    CHECK(check_not_capturing());
    const std::lock_guard<std::mutex> lock(event->mutex);
    *queue = event->queue;
    *count = event->count;
    return event->capture == nullptr ? CUDA_SUCCESS : CUDA_ERROR_CAPTURED_EVENT;
}

API CUresult cuEventQuery(CUevent event) {
    std::shared_ptr<Queue> queue;
    uint64_t count;
    CHECK(check_can_wait(event, &queue, &count));
    return queue == nullptr ? CUDA_SUCCESS : progress(*queue, count);
}

API CUresult cuEventSynchronize(CUevent event) {
    std::shared_ptr<Queue> queue;
    uint64_t count;
    CHECK(check_can_wait(event, &queue, &count));
    if (queue != nullptr) queue->run_until(count);
    return CUDA_SUCCESS;
}

API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
    CHECK(check_context());
    for (CUevent event : {start, end}) {
        const std::lock_guard<std::mutex> lock(event->mutex);
        if (!event->has_time || event->queue == nullptr) return CUDA_ERROR_INVALID_HANDLE;
        if (event->capture != nullptr) return CUDA_ERROR_CAPTURED_EVENT;
        const std::lock_guard<std::recursive_mutex> turn(event->queue->turn);
        if (event->queue->done < event->count) return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->stamp->time - start->stamp->time).count();
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
    keep_legacy_order(stream);
    for (const Work& work : executable->work) stream->queue->push(work);
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
