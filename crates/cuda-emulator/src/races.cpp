// Who touched each byte last, of the running block's shared memory and of device memory.
#ifdef WATCH_RACES

#include "races.h"

#include <array>
#include <dlfcn.h>
#include <memory>
#include <unordered_map>
#include <vector>

#include "driver.h"

namespace emulated {

namespace {

constexpr uint32_t MANY = UINT32_MAX;
constexpr size_t PAGE_BYTES = 4096;

// The last accesses of one kind to a byte, as far as later ones may race with them.
struct Accesses {
    uint32_t lifetime = 0;  // of what they are in: the launch, of shared memory the block; 0: none
    uint32_t block;       // or MANY, like all below
    uint32_t phase;       // of the block: it changes at __syncthreads
    uint32_t warp;
    uint32_t warp_phase;  // and that of the warp at __syncwarp
    uint32_t thread;
    Access access = Access::read;
    const char* code;     // where the last one was made

    // Whether all of these are over before the running thread, as `now` describes it, does anything.
    bool are_before(const Accesses& now) const {
        if (lifetime != now.lifetime) return true;
        if (block != now.block) return false;
        return phase != now.phase || thread == now.thread || (warp == now.warp && warp_phase != now.warp_phase);
    }

    // Afterwards `are_before` answers for `now` too. Those that are over are forgotten.
    void add(const Accesses& now) {
        const Accesses earlier = *this;
        *this = now;
        if (earlier.are_before(now)) return;
        if (earlier.block != now.block) block = MANY;
        if (earlier.warp != now.warp) warp = MANY;
        thread = MANY;
    }
};

struct Byte {
    Accesses reads, writes, atomics;
};

struct Page {
    uint32_t launch = 0;  // in which it was last looked up
    bool is_on_device = false;
    std::unique_ptr<Byte[]> bytes;
};

// One per OS thread, as the machine is: kernels launched from two OS threads are not compared.
struct Shadow {
    std::vector<Byte> shared;
    std::unordered_map<uintptr_t, Page> pages;
    // Those looked up last: kernels go to and fro between a few.
    std::array<std::pair<uintptr_t, Page*>, 256> recent{};
};
Shadow& my_shadow() {
    // On the heap: the library's thread-local memory is scarce (see `current`).
    thread_local const std::unique_ptr<Shadow> mine(new Shadow);
    return *mine;
}

Byte* on_device(Shadow& shadow, uintptr_t address, uint32_t launch) {
    const uintptr_t number = address / PAGE_BYTES;
    auto& recent = shadow.recent[number % shadow.recent.size()];
    if (recent.second == nullptr || recent.first != number) recent = {number, &shadow.pages[number]};
    Page& page = *recent.second;
    if (page.launch != launch) {
        page.launch = launch;
        page.is_on_device = is_device_memory(address, 1);
    }
    if (!page.is_on_device) return nullptr;
    if (page.bytes == nullptr) page.bytes.reset(new Byte[PAGE_BYTES]);
    return &page.bytes[address % PAGE_BYTES];
}

// Of the byte at `address` and those behind it, `count` in all, which becomes less where they are not side by side.
Byte* shadow_of(uintptr_t address, size_t& count, uint32_t& lifetime) {
    Shadow& shadow = my_shadow();
    const Block& block = *current->block;
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(block.shared);
    if (block.shared != nullptr && offset < block.shared_bytes) {
        if (shadow.shared.size() < block.shared_bytes) shadow.shared.resize(block.shared_bytes);
        count = min(count, block.shared_bytes - offset);
        lifetime = block.run;
        return &shadow.shared[offset];
    }
    if (is_of_the_emulator(address)) return nullptr;
    count = min(count, PAGE_BYTES - address % PAGE_BYTES);
    lifetime = block.launch;
    return on_device(shadow, address, block.launch);
}

const char* name(Access access) {
    switch (access) {
        case Access::read: return "reads";
        case Access::write: return "writes";
        case Access::atomic: return "changes (atomically)";
    }
    return "?";
}

size_t in_library(const char* code) {
    Dl_info info;
    return dladdr(code, &info) != 0 ? size_t(code - static_cast<const char*>(info.dli_fbase)) : 0;
}

[[noreturn]] void report(const Accesses& now, const Accesses& other, uintptr_t address) {
    const Block& block = *current->block;
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(block.shared);
    const bool is_shared = offset < block.shared_bytes;
    Dl_info info;
    const char* const library = dladdr(now.code, &info) != 0 ? info.dli_fname : "?";
    fail("a race: it %s byte %s%llx, which %s %d of block %d %s, with nothing between that orders them\n"
         "  where: addr2line -Cfie %s 0x%zx 0x%zx",
         name(now.access), is_shared ? "of shared memory 0x" : "0x", static_cast<unsigned long long>(is_shared ? offset : address),
         other.thread == MANY ? "another thread, the last of several (-1)," : "thread", int(other.thread), int(other.block),
         name(other.access), library, in_library(now.code), in_library(other.code));
}

void check(const Accesses& now, Byte& byte, uintptr_t address) {
    if (!byte.writes.are_before(now)) report(now, byte.writes, address);
    if (now.access != Access::atomic && !byte.atomics.are_before(now)) report(now, byte.atomics, address);
    if (now.access != Access::read && !byte.reads.are_before(now)) report(now, byte.reads, address);
    switch (now.access) {
        case Access::read: byte.reads.add(now); break;
        case Access::write: byte.writes = now; break;
        case Access::atomic: byte.atomics.add(now); break;
    }
}

void watch_from(Access access, const volatile void* address, size_t bytes, void* code) {
    if (current == nullptr) return;
    const Block& block = *current->block;
    const Warp& warp = *current->warp;
    Accesses now{0, block.number, block.phase, current->index.x / 32, warp.barriers, current->index.x, access,
                 static_cast<const char*>(code)};
    uintptr_t at = reinterpret_cast<uintptr_t>(address);
    for (size_t left = bytes, count = bytes; left > 0; left -= count, at += count, count = left) {
        Byte* const shadow = shadow_of(at, count, now.lifetime);
        for (size_t i = 0; shadow != nullptr && i < count; i++) check(now, shadow[i], at + i);
    }
}

}  // namespace

void watch(Access access, const void* address, size_t bytes) {
    watch_from(access, address, bytes, __builtin_return_address(0));
}

}  // namespace emulated

// What the compiler calls.

using emulated::Access;
using emulated::watch_from;

#define HERE __builtin_return_address(0)
#define HOOK extern "C" void

#define HOOKS(size)                                                                                      \
    HOOK __tsan_read##size(void* address) { watch_from(Access::read, address, size, HERE); }             \
    HOOK __tsan_write##size(void* address) { watch_from(Access::write, address, size, HERE); }           \
    HOOK __tsan_unaligned_read##size(void* address) { watch_from(Access::read, address, size, HERE); }   \
    HOOK __tsan_unaligned_write##size(void* address) { watch_from(Access::write, address, size, HERE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

HOOK __tsan_init() {}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit(void*) {}
HOOK __tsan_vptr_update(void**, void*) {}
HOOK __tsan_read_range(void* address, size_t bytes) { watch_from(Access::read, address, bytes, HERE); }
HOOK __tsan_write_range(void* address, size_t bytes) { watch_from(Access::write, address, bytes, HERE); }
HOOK __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#define ATOMIC_HOOKS(bits)                                                                                        \
    extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* from, int) {              \
        watch_from(Access::atomic, from, bits / 8, HERE);                                                         \
        return __atomic_load_n(from, __ATOMIC_RELAXED);                                                           \
    }                                                                                                             \
    extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t* to, uint##bits##_t value, int) { \
        watch_from(Access::atomic, to, bits / 8, HERE);                                                           \
        return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);                                                   \
    }                                                                                                             \
    extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* to, uint##bits##_t* seen, \
                                                                 uint##bits##_t value, int, int) {                \
        watch_from(Access::atomic, to, bits / 8, HERE);                                                           \
        return __atomic_compare_exchange_n(to, seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);           \
    }
ATOMIC_HOOKS(32)
ATOMIC_HOOKS(64)

#endif
