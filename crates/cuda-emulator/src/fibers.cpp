// The switch between stacks, and AddressSanitizer's view of it.
#include "fibers.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
constexpr size_t STACK_BYTES = 256 << 10;
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif
// How far apart the tops of neighbouring stacks lie within a page.
constexpr size_t STAGGER = 128;

namespace emulated {

void allocate_stack(Fiber& fiber, unsigned) {
    const size_t guard = size_t(sysconf(_SC_PAGESIZE));
    void* pages = mmap(nullptr, guard + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, guard, PROT_NONE) != 0) {
        std::perror("moesaic CUDA emulator: no memory for a fiber's stack");
        std::abort();
    }
    fiber.bottom = static_cast<char*>(pages) + guard;
    fiber.bytes = STACK_BYTES;
}

// Forgets the frames of a thread that ended without returning from them.
static void forget_frames(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.bottom, fiber.bytes);
#else
    (void)fiber;
#endif
}

void free_stack(Fiber& fiber) {
    forget_frames(fiber);
    const size_t guard = size_t(sysconf(_SC_PAGESIZE));
    munmap(static_cast<char*>(const_cast<void*>(fiber.bottom)) - guard, guard + STACK_BYTES);
}

void prepare(Fiber& fiber, unsigned number, void (*entry)()) {
    forget_frames(fiber);
    const size_t used = fiber.bytes - number % 32 * STAGGER;
#ifdef __x86_64__
    char* top = static_cast<char*>(const_cast<void*>(fiber.bottom)) + used;
    void** words = reinterpret_cast<void**>(top) - 2;
    // Where to jump, and a null return address at which backtraces end. On entry the stack is then 8 bytes off a
    // multiple of 16, as after a call.
    words[0] = reinterpret_cast<void*>(entry);
    words[1] = nullptr;
    fiber.stack_pointer = words;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = const_cast<void*>(fiber.bottom);
    fiber.context.uc_stack.ss_size = used;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#endif
}

#ifdef __x86_64__
// Leaves everything that is to survive on the old stack and jumps to where the new one was left. In line and with a
// jump, not a call and a return: the processor then predicts the returns of all lanes, which come from the same calls.
// The floating-point control words are the same in all fibers.
static inline __attribute__((always_inline)) void switch_stack(void** save, void* to) {
    asm volatile(
        "leaq -128(%%rsp), %%rsp\n\t"  // The red zone may hold the function's variables.
        "pushq %%rbp\n\t"
        "leaq 1f(%%rip), %%rax\n\t"
        "pushq %%rax\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rax\n\t"
        "jmpq *%%rax\n"
        "1:\n\t"
        "popq %%rbp\n\t"
        "leaq 128(%%rsp), %%rsp"
        : "+D"(save), "+S"(to)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3",
          "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
}
#endif

// Not in line: all switches then go through one place.
__attribute__((noinline)) void switch_fiber(Fiber& from, Fiber& to, bool is_over) {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(is_over ? nullptr : &fake_stack, to.bottom, to.bytes);
#else
    (void)is_over;
#endif
#ifdef __x86_64__
    switch_stack(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void arrived(Fiber* came_from) {
#ifdef __SANITIZE_ADDRESS__
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (came_from != nullptr) {
        came_from->bottom = bottom;
        came_from->bytes = bytes;
    }
#else
    (void)came_from;
#endif
}

}  // namespace emulated
