// Stacks that take turns on one OS thread.
//
// Invariant: a fiber never moves to another OS thread, so addresses of thread-local variables stay valid in it.
#pragma once

#include <cstddef>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulated {

struct Fiber {
#ifdef __x86_64__
    void* stack_pointer;
#else
    ucontext_t context;
#endif
    // The stack's lowest usable byte. For the OS thread's own stack: set when it is first left (see `arrived`).
    const void* bottom;
    size_t bytes;
};

// Gives `fiber` a stack with a guard page below it. `number` staggers the tops: equal offsets within pages would
// put the hot ends of all stacks into the same cache sets.
void allocate_stack(Fiber& fiber, unsigned number);
void free_stack(Fiber& fiber);

// The next switch to `fiber` calls `entry`, which must not return and must call `arrived` first.
void prepare(Fiber& fiber, unsigned number, void (*entry)());

// Leaves `from`; comes back when something switches to it. With `is_over`, never.
void switch_fiber(Fiber& from, Fiber& to, bool is_over);

// Called at the start of an entry. `came_from` is the OS thread's own stack if that is what was left, else null.
void arrived(Fiber* came_from);

}  // namespace emulated
