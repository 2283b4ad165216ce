// Scheduling. A warp runs until all its lanes wait at a barrier or are through, then the next warp does. Within a
// warp the lanes take turns in a ring, so that all have run when one is reached twice. The order of blocks, warps and
// lanes changes from phase to phase (see `mix`), so that no kernel works by the luck of one order, and is the same
// in every run.
#include "machine.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "fibers.h"

namespace emulated {

__thread Thread* current = nullptr;

namespace {

constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t MAX_WARPS = MAX_THREADS / 32;

struct Runner : Thread {
    Fiber fiber;
    CopyQueue queue;
};

struct Machine : Block {
    const Launch* task = nullptr;
    uint64_t seed = 0;
    uint32_t warp_count = 0;
    // Of this phase: how many warps had their turn, how many wait at the barrier, how many are through.
    uint32_t turn = 0, at_barrier = 0, through = 0;
    uint32_t first_warp = 0;
    bool is_backwards = false;
    bool has_left_main = false;
    Fiber main{};
    uint32_t stacks = 0;
    uint32_t shared_capacity = 0;
    Warp warps[MAX_WARPS];
    Runner runners[MAX_THREADS];

    Machine() : Block{} { std::memset(runners, 0, sizeof(runners)); }
    ~Machine() {
        for (uint32_t i = 0; i < stacks; i++) {
            free_stack(runners[i].fiber);
            std::free(runners[i].queue.copies);
        }
        std::free(shared);
    }
};

// Large, so on the heap, and made by the first launch of an OS thread.
struct Owner {
    Machine* machine = nullptr;
    ~Owner() { delete machine; }
};
thread_local Owner owner;

Runner& runner_of(Thread& thread) { return static_cast<Runner&>(thread); }
Machine& machine_of(Thread& thread) { return static_cast<Machine&>(*thread.block); }

uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

const char* name(Meeting meeting) {
    switch (meeting) {
        case Meeting::barrier: return "__syncthreads";
        case Meeting::warp_barrier: return "__syncwarp";
        case Meeting::shuffle: return "a shuffle";
        case Meeting::ballot: return "a ballot";
        case Meeting::matrices: return "load_matrices";
        case Meeting::transposed_matrices: return "load_matrices_transposed";
        case Meeting::product: return "mma_bf16";
        case Meeting::end: return "the end of the kernel";
    }
    return "?";
}

void switch_to(Thread& next, bool is_over = false) {
    Runner& me = runner_of(*current);
    if (&me == &next) return;
    current = &next;
    switch_fiber(me.fiber, runner_of(next).fiber, is_over);
}

Thread& start_phase(Machine& machine) {
    const uint64_t chance = mix(machine.seed + ++machine.phase);
    machine.turn = 0;
    machine.at_barrier = 0;
    machine.first_warp = uint32_t(chance >> 32) % machine.warp_count;
    machine.is_backwards = (chance & 1) != 0;
    return machine.runners[machine.first_warp * 32 + (chance >> 8 & 31)];
}

// The whole warp of the current lane waits at the barrier or is through: who runs now? Null: the block is done.
Thread* next_turn(Machine& machine) {
    if (++machine.turn < machine.warp_count) {
        const uint32_t step = machine.is_backwards ? machine.warp_count - machine.turn : machine.turn;
        const uint32_t warp = (machine.first_warp + step) % machine.warp_count;
        return &machine.runners[warp * 32 + (mix(machine.seed + machine.phase + (uint64_t(warp) << 32)) & 31)];
    }
    if (machine.at_barrier == 0) return nullptr;
    if (machine.through != 0) {
        fail("%u warps wait at __syncthreads, which %u warps that have ended never reach", machine.at_barrier, machine.through);
    }
    return &start_phase(machine);
}

void run_thread() {
    Machine& machine = machine_of(*current);
    arrived(machine.has_left_main ? nullptr : &machine.main);
    machine.has_left_main = true;
    machine.task->kernel->call(machine.task->kernel->function, machine.task->params);
    Warp& warp = *current->warp;
    if (!enter(warp, Meeting::end)) {
        const uint32_t lane = (current->lane + warp.stride) & 31;
        switch_to(*(static_cast<Runner*>(current) - current->lane + lane), true);
    }
    release(warp);
    machine.through++;
    Thread* next = next_turn(machine);
    if (next != nullptr) switch_to(*next, true);
    Fiber& last = runner_of(*current).fiber;
    current = nullptr;
    switch_fiber(last, machine.main, true);
    std::abort();  // Nothing switches to a fiber that is over.
}

void run_block(Machine& machine, uint32_t number) {
    const Launch& launch = *machine.task;
    machine.index = {number % launch.grid.x, number / launch.grid.x % launch.grid.y, number / launch.grid.x / launch.grid.y};
    machine.number = number;
    machine.run++;
    machine.seed = mix(uint64_t(machine.launch) << 40 ^ number);
    machine.phase = 0;
    machine.through = 0;
    if (machine.shared_bytes != 0) std::memset(machine.shared, 0xff, machine.shared_bytes);
    for (uint32_t i = 0; i < machine.warp_count; i++) {
        Warp& warp = machine.warps[i];
        warp.arrived = 0;
        warp.parity = 0;
        warp.barriers = 0;
        warp.votes[0] = warp.votes[1] = 0;
        warp.meetings = uint32_t(machine.seed) + i;
        warp.stride = uint32_t(mix(warp.meetings)) | 1;
    }
    for (uint32_t i = 0; i < launch.threads; i++) {
        Runner& runner = machine.runners[i];
        runner.index = {i, 0, 0};
        runner.lane = i % 32;
        runner.warp = &machine.warps[i / 32];
        runner.block = &machine;
        runner.queue.count = runner.queue.done = 0;
        runner.queue.open_group = 0;
        prepare(runner.fiber, i, run_thread);
    }
    machine.has_left_main = false;
    Thread& first = start_phase(machine);
    current = &first;
    switch_fiber(machine.main, runner_of(first).fiber, false);
}

void size_machine(Machine& machine, const Launch& launch) {
    for (; machine.stacks < launch.threads; machine.stacks++) {
        allocate_stack(machine.runners[machine.stacks].fiber, machine.stacks);
    }
    // Exactly the size, so that AddressSanitizer sees what lies behind it.
    if (machine.shared_capacity != launch.shared_bytes) {
        std::free(machine.shared);
        void* shared = nullptr;
        if (launch.shared_bytes != 0 && posix_memalign(&shared, 128, launch.shared_bytes) != 0) std::abort();
        machine.shared = static_cast<char*>(shared);
        machine.shared_capacity = launch.shared_bytes;
    }
    machine.shared_bytes = launch.shared_bytes;
}

}  // namespace

void fail(const char* format, ...) {
    std::fflush(stdout);
    std::fprintf(stderr, "moesaic CUDA emulator: ");
    if (current != nullptr) {
        const Machine& machine = machine_of(*current);
        std::fprintf(stderr, "kernel %s, block (%u, %u, %u), thread %u: ", machine.task->kernel->name, machine.index.x,
                     machine.index.y, machine.index.z, current->index.x);
    }
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
    std::abort();
}

bool is_of_the_emulator(uintptr_t address) {
    const Fiber& fiber = runner_of(*current).fiber;
    const uintptr_t machine = reinterpret_cast<uintptr_t>(&machine_of(*current));
    return address - machine < sizeof(Machine) || address - reinterpret_cast<uintptr_t>(fiber.bottom) < fiber.bytes;
}

CopyQueue& copies_of(Thread& thread) { return runner_of(thread).queue; }

bool enter(Warp& warp, Meeting meeting) {
    if (warp.arrived == 0) {
        warp.meeting = meeting;
    } else if (warp.meeting != meeting) {
        fail("this thread is at %s, %u lanes of its warp are at %s", name(meeting), warp.arrived, name(warp.meeting));
    }
    return ++warp.arrived == 32;
}

void wait_for_release(Warp& warp) {
    Runner* me = static_cast<Runner*>(current);
    switch_to(*(me - me->lane + ((me->lane + warp.stride) & 31)));
}

void release(Warp& warp) {
    warp.arrived = 0;
    warp.parity ^= 1;
    warp.votes[warp.parity] = 0;
    // Any odd stride makes one ring of the 32 lanes.
    warp.stride = ++warp.meetings * 0x9e3779b9u >> 16 | 1;
}

void meet_warp(Meeting meeting) {
    Warp& warp = *current->warp;
    if (enter(warp, meeting)) {
        warp.barriers += meeting == Meeting::warp_barrier;
        release(warp);
    } else {
        wait_for_release(warp);
    }
}

void meet_block() {
    Warp& warp = *current->warp;
    if (!enter(warp, Meeting::barrier)) {
        wait_for_release(warp);
        return;
    }
    release(warp);
    Machine& machine = machine_of(*current);
    machine.at_barrier++;
    switch_to(*next_turn(machine));
}

void run(const Launch& launch) {
    if (current != nullptr) fail("a launch from within a kernel");
    if (owner.machine == nullptr) owner.machine = new Machine;
    Machine& machine = *owner.machine;
    size_machine(machine, launch);
    machine.task = &launch;
    machine.grid = launch.grid;
    machine.size = {launch.threads, 1, 1};
    machine.warp_count = launch.threads / 32;
    machine.launch++;
    const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    const uint64_t chance = mix(~uint64_t(machine.launch));
    const uint64_t first = (chance >> 1) % blocks;
    for (uint64_t i = 0; i < blocks; i++) {
        run_block(machine, (first + ((chance & 1) != 0 ? blocks - i : i)) % blocks);
    }
}

}  // namespace emulated
