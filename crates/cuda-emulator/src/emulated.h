// What `device.cuh` needs of the GPU, as plain C++: every thread of a block is a fiber of the launching OS thread.
//
// Not emulated: collectives of part of a warp, static shared memory, blocks of more than one dimension, and waiting
// for another warp or block by polling memory (nothing runs meanwhile).
//
// Invariant: between two meetings (barrier, warp collective, end) a fiber runs alone, so nothing here needs a lock;
// only atomics are real atomics, because other OS threads may launch at the same time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace emulated {

struct Index {
    uint32_t x, y, z;
};

// What lanes of a warp wait for. All 32 must wait for the same.
enum class Meeting : uint8_t { barrier, warp_barrier, shuffle, ballot, matrices, transposed_matrices, product, end };

struct Kernel;
struct Block;

// One lane's part of `mma_bf16`.
struct Product {
    float* c;
    const uint32_t* a;
    const uint32_t* b;
};

struct Warp {
    uint32_t arrived;
    Meeting meeting;
    // Lanes take turns in steps of `stride` (odd, so the 32 lanes form one ring); it changes at every meeting.
    uint32_t stride;
    uint32_t meetings;
    // How many of them were barriers, which order what the lanes read and write.
    uint32_t barriers;
    // Which half of `values` and `votes` this meeting uses: a lane may deposit for the next meeting while others
    // still have to read this one's, but never for the one after.
    uint32_t parity;
    uint64_t values[2][32];
    uint32_t votes[2];
    Product products[32];
    const void* rows[32];
    uint32_t* fragments[32];
};

struct Thread {
    Index index;
    uint32_t lane;
    Warp* warp;
    Block* block;
};

// The part of a running block that kernels look at.
struct Block {
    Index index, size, grid;
    char* shared;
    uint32_t shared_bytes;
    // Of the OS thread's launches and of the blocks of all of them; of the launch's blocks; of the stretches between the
    // block's barriers.
    uint32_t launch, run, number, phase;
};

// The fiber that runs now. Initial-exec: one pointer of static TLS, and no call to find it.
extern __thread Thread* current __attribute__((tls_model("initial-exec")));

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits until the whole warp is here.
void meet_warp(Meeting meeting);
void meet_block();
uint32_t vote(bool is_set);
void multiply(float* c, const uint32_t* a, const uint32_t* b);
void load_rows(uint32_t* out, const void* row, bool is_transposed);
void queue_copy(void* shared, const void* from, bool is_there);
void close_copies();
void finish_copies(uint32_t pending);

template <class T> T exchange(T value, uint32_t source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    static_assert(std::is_trivially_copyable<T>::value, "a shuffle moves plain values");
    Warp& warp = *current->warp;
    uint64_t* values = warp.values[warp.parity];
    std::memcpy(&values[current->lane], &value, sizeof(T));
    meet_warp(Meeting::shuffle);
    std::memcpy(&value, &values[source], sizeof(T));
    return value;
}

constexpr int MAX_ARGUMENTS = 64;

// A kernel by name. `call` runs it in the current fiber with the arguments that `params` points to.
struct Kernel {
    const char* name;
    void (*function)();
    void (*call)(void (*function)(), void* const* params);
    int arguments;
    size_t sizes[MAX_ARGUMENTS];
    // cuFuncSetAttribute's; atomic because launches of other OS threads read it.
    int max_dynamic_shared;
};

void add_kernel(Kernel* kernel);

template <class... Args> struct Caller {
    template <size_t... I>
    static void apply(void (*function)(Args...), void* const* params, std::index_sequence<I...>) {
        function(*static_cast<typename std::remove_cv<Args>::type*>(params[I])...);
    }
    static void call(void (*function)(), void* const* params) {
        apply(reinterpret_cast<void (*)(Args...)>(function), params, std::index_sequence_for<Args...>());
    }
};

struct Registration {
    Kernel kernel;

    template <class... Args>
    Registration(const char* name, void (*function)(Args...))
        : kernel{name, reinterpret_cast<void (*)()>(function), &Caller<Args...>::call, sizeof...(Args), {sizeof(Args)...},
                 48 << 10} {
        static_assert(sizeof...(Args) <= MAX_ARGUMENTS, "too many arguments for a kernel");
        add_kernel(&kernel);
    }
    Registration(const Registration&) = delete;
};

static inline float inverse_root(float value) { return 1.0f / std::sqrt(value); }

}  // namespace emulated

// Macros, because the names are variables in CUDA or the C library declares functions of these names.
#define threadIdx (emulated::current->index)
#define blockIdx (emulated::current->block->index)
#define blockDim (emulated::current->block->size)
#define gridDim (emulated::current->block->grid)
#define rsqrtf(value) emulated::inverse_root(value)
#define __expf(value) expf(value)
#define __logf(value) logf(value)

#ifndef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#endif

// ---- a block and a warp together

static inline void __syncthreads() { emulated::meet_block(); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void check_full_mask(uint32_t mask) {
    if (mask != 0xffffffffu) emulated::fail("a warp collective with mask %08x: only whole warps are emulated", mask);
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    check_full_mask(mask);
    emulated::meet_warp(emulated::Meeting::warp_barrier);
}
static inline uint32_t __ballot_sync(uint32_t mask, int is_set) {
    check_full_mask(mask);
    return emulated::vote(is_set != 0);
}
static inline int __any_sync(uint32_t mask, int is_set) { return __ballot_sync(mask, is_set) != 0; }
static inline int __all_sync(uint32_t mask, int is_set) { return __ballot_sync(mask, is_set) == 0xffffffffu; }

template <class T> static inline T shuffle_xor(T value, int mask) {
    if (mask < 0 || mask > 31) emulated::fail("shuffle_xor with mask %d", mask);
    return emulated::exchange(value, emulated::current->lane ^ uint32_t(mask));
}
template <class T> static inline T shuffle(T value, int lane) { return emulated::exchange(value, uint32_t(lane) & 31); }

static inline char* shared_memory() { return emulated::current->block->shared; }

// ---- tensor cores and copies in the background (layouts: see warp.cpp)

static inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { emulated::multiply(c, a, b); }
static inline void load_matrices(uint32_t (&out)[4], const void* row) { emulated::load_rows(out, row, false); }
static inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) { emulated::load_rows(out, row, true); }
static inline void copy16_async(void* shared, const void* from, bool is_there) { emulated::queue_copy(shared, from, is_there); }
static inline void commit_copies() { emulated::close_copies(); }
template <int PENDING> static inline void wait_copies() {
    static_assert(PENDING >= 0, "a number of groups");
    emulated::finish_copies(PENDING);
}

// ---- bits

static inline int __popc(uint32_t value) { return __builtin_popcount(value); }
static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int __ffsll(long long value) { return __builtin_ffsll(value); }
static inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(uint32_t(value)); }
static inline int __clzll(long long value) { return value == 0 ? 64 : __builtin_clzll(uint64_t(value)); }

// ---- memory

template <class T> static inline T __ldg(const T* pointer) { return *pointer; }

static inline int atomicAdd(int* to, int value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
static inline unsigned atomicAdd(unsigned* to, unsigned value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
static inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
static inline float atomicAdd(float* to, float value) {
    float seen, sum;
    __atomic_load(to, &seen, __ATOMIC_RELAXED);
    do {
        sum = seen + value;
    } while (!__atomic_compare_exchange(to, &seen, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return seen;
}

namespace emulated {
template <class T> T atomic_max(T* to, T value) {
    T seen = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(to, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
}  // namespace emulated
static inline int atomicMax(int* to, int value) { return emulated::atomic_max(to, value); }
static inline unsigned atomicMax(unsigned* to, unsigned value) { return emulated::atomic_max(to, value); }
static inline unsigned long long atomicMax(unsigned long long* to, unsigned long long value) {
    return emulated::atomic_max(to, value);
}

// ---- arithmetic

static inline float __fdividef(float value, float by) { return value / by; }

#define EMULATED_MIN_MAX(T)                                             \
    static inline T min(T left, T right) { return right < left ? right : left; } \
    static inline T max(T left, T right) { return left < right ? right : left; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
static inline float min(float left, float right) { return fminf(left, right); }
static inline float max(float left, float right) { return fmaxf(left, right); }
