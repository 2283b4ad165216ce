// Races between the threads of a launch: accesses to the same byte, one of them a write, that nothing orders.
//
// Only `__syncthreads` and `__syncwarp` order accesses. Shuffles, ballots and products do not, though the lanes meet
// there, and nothing orders the blocks of a launch. Atomics do not race with each other. Not seen: accesses between a
// copy's start and its end, but for those in the same stretch between barriers as either of them; and kernels that two OS
// threads launch.
//
// The kernels of `libcuda-races.so` are compiled with -fsanitize=thread, which makes the compiler call a function at
// every access; races.cpp answers these calls in place of the sanitizer's own library, which knows nothing of warps.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulated {

enum class Access : uint8_t { read, write, atomic };

#ifdef WATCH_RACES
// One that the emulator makes for the running thread, and so the compiler does not see.
void watch(Access access, const void* address, size_t bytes);
#else
inline void watch(Access, const void*, size_t) {}
#endif

}  // namespace emulated
