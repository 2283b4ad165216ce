// The multiprocessor: runs the blocks of one launch, one after the other, on the calling OS thread.
#pragma once

#include <cstdint>

#include "emulated.h"

namespace emulated {

struct Launch {
    const Kernel* kernel;
    Index grid;
    uint32_t threads;
    uint32_t shared_bytes;
    void* const* params;
};

// Runs the launch to its end. The sizes have been checked.
void run(const Launch& launch);

// One warp's turn at a meeting: true for the last lane to arrive, which does the work and then calls `release`; the
// others call `wait_for_release`.
bool enter(Warp& warp, Meeting meeting);
void wait_for_release(Warp& warp);
void release(Warp& warp);

// Whether the running kernel has this memory without knowing: its thread's stack and the emulator's own state.
bool is_of_the_emulator(uintptr_t address);

// A thread's copies under way, in the order in which it queued them.
struct Copy {
    void* to;
    const void* from;
    uint64_t group;
    bool is_there;
};

struct CopyQueue {
    Copy* copies;
    uint32_t count, capacity, done;
    uint64_t open_group;
};

CopyQueue& copies_of(Thread& thread);

}  // namespace emulated
