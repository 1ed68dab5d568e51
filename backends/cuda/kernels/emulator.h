// Blocks of threads on a processor: fibers of one thread of the system, of which each runs until it
// has to wait for others. What a whole warp does, its last lane does when it arrives; lanes that
// arrive elsewhere end the run with an error, and so does a thread that is never met. Slow, and
// strict where a GPU may be lucky: shared memory is full of NaN before a block starts, a copy shows
// nothing but NaN from its start until it is waited for, and threads run in turns from the first
// and from the last.
#pragma once
#include <stddef.h>
#include <stdint.h>

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define UNROLL _Pragma("unroll")
#define ONE_BY_ONE

struct Index {
    u32 x, y, z;
};
struct alignas(16) Four {
    u32 x, y, z, w;
};
struct alignas(8) Two {
    u32 x, y;
};

extern "C" {
// Not static: a switch to another fiber changes them, which the compiler has to expect.
__attribute__((visibility("hidden"))) Index threadIdx, blockIdx, gridDim;
__attribute__((visibility("hidden"))) void emulator_switch(void** left, void* entered);
__attribute__((visibility("hidden"))) void emulator_first(void);
void* memcpy(void*, const void*, size_t);
void* memset(void*, int, size_t);
}

#if defined(__x86_64__)
asm(R"(
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
constexpr int RETURN = 6;  // place of the address where it goes on
constexpr int FRAME = 7, SPARE = 3;  // so that the stack is aligned as after a call
#elif defined(__aarch64__)
asm(R"(
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
constexpr int RETURN = 11;  // x30 among what is saved
constexpr int FRAME = 20, SPARE = 2;
#endif

namespace emulator {

constexpr int LANES = 32, MOST_THREADS = 1024, MOST_COPIES = 512;
constexpr size_t STACK = 64 << 10, MOST_SHARED = 232448, GUARD = 4096;
constexpr unsigned char POISON = 0xff;  // a NaN of every type, and -1

struct Meeting {  // of the lanes of a warp, or of the threads of a block
    const char* what;
    int line;
    u32 size, here;
    u64 turn;
    void* brought[LANES];
};

struct Copy {
    unsigned char* to;
    const unsigned char* from;  // or null, for zeros
};

struct Thread {
    void* stack;
    const Meeting* awaits;  // null unless it waits
    u64 turn;
    bool done;
    int started, committed, finished;  // copies; groups of them
    Copy copies[MOST_COPIES];
    int ends[MOST_COPIES];  // of every group among the copies
};

static Thread threads[MOST_THREADS];
static Meeting warps[MOST_THREADS / LANES], block;
static u32 many, current;
static void* scheduler;
static const char* failure;
alignas(1024) static unsigned char memory[MOST_SHARED + GUARD];
static void (*body)(void**);
static void** given;

DEVICE u32 lane() { return current % LANES; }

DEVICE void pause() { emulator_switch(&threads[current].stack, scheduler); }

DEVICE void fail(const char* why) {
    if (!failure) failure = why;
    for (;;) pause();
}

template <class All>
DEVICE void meet(Meeting& at, const char* what, int line, void* mine, All all) {
    if (at.here == 0) {
        at.what = what;
        at.line = line;
    } else if (at.what != what || at.line != line) {
        fail("threads that should do one thing together are at different lines");
    }
    if (mine) at.brought[lane()] = mine;
    if (++at.here == at.size) {
        all(at.brought);
        at.here = 0;
        ++at.turn;
        return;
    }
    threads[current].awaits = &at;
    threads[current].turn = at.turn;
    pause();
    threads[current].awaits = nullptr;
}

template <class All>
DEVICE void together(const char* what, int line, void* mine, All all) {
    meet(warps[current / LANES], what, line, mine, all);
}

DEVICE bool runs(const Thread& each) {
    return !each.done && !(each.awaits && each.awaits->turn == each.turn);
}

DEVICE bool run_warp(u32 first, bool backwards) {
    bool moved = false;
    for (u32 turn = 0; turn < LANES && !failure; ++turn) {
        current = first + (backwards ? LANES - 1 - turn : turn);
        if (!runs(threads[current])) continue;
        threadIdx = {current, 0, 0};
        emulator_switch(&scheduler, threads[current].stack);
        moved = true;
    }
    return moved;
}

DEVICE void run_block(size_t shared, unsigned char* stacks) {
    memset(memory, POISON, shared + GUARD);
    for (u32 each = 0; each < many; ++each) {
        Thread& thread = threads[each];
        thread.awaits = nullptr;
        thread.done = false;
        thread.started = thread.committed = thread.finished = 0;
        void** top = reinterpret_cast<void**>(stacks + (each + 1) * STACK) - SPARE - FRAME;
        memset(top, 0, (FRAME + SPARE) * sizeof *top);
        top[RETURN] = reinterpret_cast<void*>(emulator_first);
        thread.stack = top;
    }
    for (u32 each = 0; each < many / LANES; ++each) warps[each] = {"", 0, LANES, 0, 0, {}};
    block = {"", 0, many, 0, 0, {}};
    bool moved = true, backwards = false;
    while (moved && !failure) {
        moved = false;
        for (u32 each = 0; each < many; each += LANES)
            while (run_warp(backwards ? many - LANES - each : each, backwards)) moved = true;
        backwards = !backwards;
    }
    for (u32 each = 0; each < many; ++each)
        if (!threads[each].done && !failure)
            failure = "threads wait for others that have ended, or that wait elsewhere";
    for (size_t each = 0; each < GUARD; ++each)
        if (memory[shared + each] != POISON && !failure)
            failure = "more shared memory is written than there is";
}

DEVICE const char* run(void (*kernel)(void**), void** arguments, Index grid, u32 of_a_block,
                       size_t shared, unsigned char* stacks) {
    body = kernel;
    given = arguments;
    many = of_a_block;
    gridDim = grid;
    failure = nullptr;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x && !failure; ++blockIdx.x)
                run_block(shared, stacks);
    return failure;
}

// Calls a kernel with the values that an array points to.
template <class T, T... numbers>
struct Numbers {};
template <class... All, size_t... at>
DEVICE void call(void (*kernel)(All...), void** values, Numbers<size_t, at...>) {
    kernel(*static_cast<All*>(values[at])...);
}
template <class... All>
DEVICE void call(void (*kernel)(All...), void** values) {
    call(kernel, values, __make_integer_seq<Numbers, size_t, sizeof...(All)>());
}

DEVICE void must_be_aligned(const void* address, u32 bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes) fail("an address is not aligned");
}

DEVICE void forget_finished(Thread& mine) {  // makes room for new copies
    if (!mine.finished) fail("too many copies are not waited for");
    int done = mine.ends[mine.finished - 1];
    for (int each = done; each < mine.started; ++each) mine.copies[each - done] = mine.copies[each];
    for (int each = mine.finished; each < mine.committed; ++each)
        mine.ends[each - mine.finished] = mine.ends[each] - done;
    mine.started -= done;
    mine.committed -= mine.finished;
    mine.finished = 0;
}

}  // namespace emulator

extern "C" void emulator_first(void) {
    emulator::body(emulator::given);
    emulator::threads[emulator::current].done = true;
    for (;;) emulator::pause();
}

#define SHARED_MEMORY(name) unsigned char* name = emulator::memory

// A kernel as a function of C: what went wrong, or null.
#define KERNEL(name, ...)                                                                   \
    static void name(__VA_ARGS__);                                                          \
    extern "C" __attribute__((visibility("default"))) const char* emulate_##name(           \
        void** arguments, u32 x, u32 y, u32 z, unsigned char* stacks) {                     \
        return emulator::run([](void** values) { emulator::call(name, values); },           \
                             arguments, {x, y, z}, 32 * WARPS, SHARED, stacks);             \
    }                                                                                       \
    static void name(__VA_ARGS__)
