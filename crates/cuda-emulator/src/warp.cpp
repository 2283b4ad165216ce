// Warp collectives with PTX's fragment layouts, and copies in the background.
//
// Of lane `l`, let g = l / 4 and t = l % 4. `mma.m16n8k16` with bf16 has
//   a[0]: row g,     k 2t, 2t+1        a[1]: row g + 8, k 2t, 2t+1
//   a[2]: row g,     k 2t+8, 2t+9      a[3]: row g + 8, k 2t+8, 2t+9
//   b[0]: k 2t, 2t+1, column g         b[1]: k 2t+8, 2t+9, column g
//   c[0], c[1]: row g, columns 2t, 2t+1            c[2], c[3]: row g + 8, the same columns
// with the lower k (or column) in the lower half of a register.
#include "machine.h"
#include "races.h"

#include <cstdlib>

namespace emulated {

namespace {

typedef float Row __attribute__((vector_size(32)));

inline float low(uint32_t pair) {
    const uint32_t bits = pair << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline float high(uint32_t pair) {
    const uint32_t bits = pair & 0xffff0000u;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Each output starts from c and adds its 16 products (exact in f32) in the order of k, rounding after each.
inline __attribute__((always_inline)) void multiply_warp(Warp& warp) {
    alignas(32) float a[16][16], b[16][8], c[16][8];
    for (uint32_t lane = 0; lane < 32; lane++) {
        const Product& part = warp.products[lane];
        const uint32_t g = lane / 4, t = lane % 4 * 2;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; i++) {
            a[g + i % 2 * 8][t + i / 2 * 8] = low(part.a[i]);
            a[g + i % 2 * 8][t + i / 2 * 8 + 1] = high(part.a[i]);
            c[g + i / 2 * 8][t + i % 2] = part.c[i];
        }
#pragma GCC unroll 2
        for (uint32_t i = 0; i < 2; i++) {
            b[t + i * 8][g] = low(part.b[i]);
            b[t + i * 8 + 1][g] = high(part.b[i]);
        }
    }
    // Four rows at a time: their sums are independent, so the processor overlaps them.
    for (uint32_t row = 0; row < 16; row += 4) {
        Row sum0, sum1, sum2, sum3, factor;
        std::memcpy(&sum0, c[row], 32);
        std::memcpy(&sum1, c[row + 1], 32);
        std::memcpy(&sum2, c[row + 2], 32);
        std::memcpy(&sum3, c[row + 3], 32);
#pragma GCC unroll 4
        for (uint32_t k = 0; k < 16; k++) {
            std::memcpy(&factor, b[k], 32);
            sum0 += a[row][k] * factor;
            sum1 += a[row + 1][k] * factor;
            sum2 += a[row + 2][k] * factor;
            sum3 += a[row + 3][k] * factor;
        }
        std::memcpy(c[row], &sum0, 32);
        std::memcpy(c[row + 1], &sum1, 32);
        std::memcpy(c[row + 2], &sum2, 32);
        std::memcpy(c[row + 3], &sum3, 32);
    }
    for (uint32_t lane = 0; lane < 32; lane++) {
        const uint32_t g = lane / 4, t = lane % 4 * 2;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; i++) warp.products[lane].c[i] = c[g + i / 2 * 8][t + i % 2];
    }
}

void multiply_anywhere(Warp& warp) { multiply_warp(warp); }

#ifdef __x86_64__
// Only wider: without contraction the results are the same.
__attribute__((target("avx2"))) void multiply_avx2(Warp& warp) { multiply_warp(warp); }
void (*const multiply_here)(Warp&) = __builtin_cpu_supports("avx2") ? multiply_avx2 : multiply_anywhere;
#else
void (*const multiply_here)(Warp&) = multiply_anywhere;
#endif

// Matrix j has the rows that lanes 8j to 8j+7 give; lane l gets of each matrix row l / 4, columns 2(l % 4) and the
// next, or, transposed, column l / 4, rows 2(l % 4) and the next.
void distribute(Warp& warp, bool is_transposed) {
    uint16_t values[32][8];
    for (uint32_t i = 0; i < 32; i++) std::memcpy(values[i], warp.rows[i], 16);
    for (uint32_t lane = 0; lane < 32; lane++) {
        const uint32_t g = lane / 4, t = lane % 4 * 2;
#pragma GCC unroll 4
        for (uint32_t matrix = 0; matrix < 4; matrix++) {
            const uint16_t(*rows)[8] = &values[matrix * 8];
            warp.fragments[lane][matrix] = is_transposed ? rows[t][g] | uint32_t(rows[t + 1][g]) << 16
                                                         : rows[g][t] | uint32_t(rows[g][t + 1]) << 16;
        }
    }
}

void check_shared16(const char* what, const void* pointer) {
    const Block& block = *current->block;
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer), start = reinterpret_cast<uintptr_t>(block.shared);
    if (block.shared_bytes < 16 || address < start || address - start > block.shared_bytes - 16) {
        fail("%s at byte %lld of the block's %u bytes of shared memory", what, static_cast<long long>(address - start),
             block.shared_bytes);
    }
    if (address % 16 != 0) {
        fail("%s at byte %lld of shared memory, not a multiple of 16", what, static_cast<long long>(address - start));
    }
}

}  // namespace

uint32_t vote(bool is_set) {
    Warp& warp = *current->warp;
    uint32_t& votes = warp.votes[warp.parity];
    votes |= uint32_t(is_set) << current->lane;
    meet_warp(Meeting::ballot);
    return votes;
}

void multiply(float* c, const uint32_t* a, const uint32_t* b) {
    Warp& warp = *current->warp;
    warp.products[current->lane] = {c, a, b};
    if (enter(warp, Meeting::product)) {
        multiply_here(warp);
        release(warp);
    } else {
        wait_for_release(warp);
    }
}

void load_rows(uint32_t* out, const void* row, bool is_transposed) {
    check_shared16("a row of load_matrices", row);
    watch(Access::read, row, 16);
    Warp& warp = *current->warp;
    warp.rows[current->lane] = row;
    warp.fragments[current->lane] = out;
    if (enter(warp, is_transposed ? Meeting::transposed_matrices : Meeting::matrices)) {
        distribute(warp, is_transposed);
        release(warp);
    } else {
        wait_for_release(warp);
    }
}

// The destination reads as NaN from here on, and the source is read only when the thread waits: what a kernel does
// not wait for it does not see.
void queue_copy(void* shared, const void* from, bool is_there) {
    check_shared16("the target of copy16_async", shared);
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("the source of copy16_async is %p, not a multiple of 16", from);
#ifdef __SANITIZE_ADDRESS__
    // Where the mistake is, not where the copy is waited for.
    if (is_there) (void)*static_cast<const volatile __int128*>(from);
#endif
    if (is_there) watch(Access::read, from, 16);
    watch(Access::write, shared, 16);
    std::memset(shared, 0xff, 16);
    CopyQueue& queue = copies_of(*current);
    if (queue.count == queue.capacity) {
        queue.capacity = queue.capacity == 0 ? 64 : queue.capacity * 2;
        queue.copies = static_cast<Copy*>(std::realloc(queue.copies, queue.capacity * sizeof(Copy)));
        if (queue.copies == nullptr) fail("no memory for queued copies");
    }
    queue.copies[queue.count++] = {shared, from, queue.open_group, is_there};
}

void close_copies() { copies_of(*current).open_group++; }

void finish_copies(uint32_t pending) {
    CopyQueue& queue = copies_of(*current);
    for (; queue.done < queue.count; queue.done++) {
        const Copy& copy = queue.copies[queue.done];
        if (copy.group + pending >= queue.open_group) return;
        if (copy.is_there) watch(Access::read, copy.from, 16);
        watch(Access::write, copy.to, 16);
        if (copy.is_there) {
            std::memcpy(copy.to, copy.from, 16);
        } else {
            std::memset(copy.to, 0, 16);
        }
    }
    queue.count = queue.done = 0;
}

}  // namespace emulated
