#include "fibers.h"
#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <vector>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

using emulator::Block, emulator::Host, emulator::Index, emulator::STACK, emulator::Thread, emulator::VOTE;

void fail(const char* format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("tweedie emulator: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    abort();
}

long setting(const char* name, long otherwise) {
    const char* value = getenv((std::string("TWEEDIE_EMULATOR_") + name).c_str());
    return value && *value ? strtol(value, nullptr, 0) : otherwise;
}

// Red zones: where the address sanitizer is in the process it watches them (reads too), else a pattern shows writes.

typedef void Region(const volatile void*, size_t);
static Region* const poison = (Region*)dlsym(RTLD_DEFAULT, "__asan_poison_memory_region");
static Region* const unpoison = (Region*)dlsym(RTLD_DEFAULT, "__asan_unpoison_memory_region");
constexpr unsigned char PATTERN = 0xCB;

void redden(void* at, size_t size) { poison ? poison(at, size) : (void)memset(at, PATTERN, size); }
void clear(void* at, size_t size) {
    if (unpoison) unpoison(at, size);
}
bool is_red(const void* at, size_t size) {
    auto bytes = (const unsigned char*)at;
    return poison || size == 0 || (bytes[0] == PATTERN && memcmp(bytes, bytes + 1, size - 1) == 0);
}

// Fibers: `leave(from, to)` parks a thread and goes on with another where that was parked; a new one begins in `life`.

[[noreturn]] static void life();

#if defined(__x86_64__)
extern "C" void emulator_leave(void** from, void* to);
asm(R"(
.text
.type emulator_leave, @function
emulator_leave:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
static void leave(void** from, void* to) { emulator_leave(from, to); }
static void* new_stack(Thread* top) {
    auto frame = (void**)((uintptr_t)top & ~15ul) - 8;  // six registers, where to return to, alignment
    frame[6] = (void*)life;
    return frame;
}
#elif defined(__aarch64__)
extern "C" void emulator_leave(void** from, void* to);
asm(R"(
.text
.type emulator_leave, %function
emulator_leave:
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
    mov x9, sp
    str x9, [x0]
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
static void leave(void** from, void* to) { emulator_leave(from, to); }
static void* new_stack(Thread* top) {
    auto frame = (void**)((uintptr_t)top & ~15ul) - 20;
    frame[11] = (void*)life;  // x30
    return frame;
}
#else
static void leave(void** from, void* to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, (ucontext_t*)to);
}
static void* new_stack(Thread* top) {
    auto context = (ucontext_t*)(((uintptr_t)top & ~(STACK - 1)) + 4096);  // beside the guard page
    getcontext(context);
    context->uc_stack.ss_sp = context + 1;
    context->uc_stack.ss_size = (char*)top - (char*)(context + 1);
    makecontext(context, (void (*)())life, 0);
    return context;
}
#endif

// One block at a time on one thread of the host; the object is kept for the next block, and so are its fibers.
struct emulator::Block {
    enum State : unsigned char { FRESH, READY, AT_BARRIER, IN_WARP, DONE };
    struct Slot {
        State state;
        Thread* fiber;
        unsigned line, mask, source;
        uint64_t value;
    };
    struct Piece {
        const void* declaration;
        char* at;
        size_t size;
    };

    const Launch* launch = nullptr;
    Index index;
    std::vector<Slot> slots;           // by thread
    std::vector<unsigned> order;       // turns
    std::vector<unsigned> warps;       // how many lanes wait
    std::vector<Thread*> idle;         // fibers without a thread
    std::vector<Piece> pieces;         // of shared memory
    unsigned cursor, done, arrived;
    size_t used;
    void* outside;
    char* const arena = (char*)aligned_alloc(4096, (SHARED_LIMIT + 4095) / 4096 * 4096 + (64 << 10));  // room for the red zones

    void run(const Launch&, Index);
    void turn(Thread* me);
    void wait(Thread* me, State, unsigned line);
    Thread* fiber(unsigned thread);
    void place(Thread*, unsigned thread);
    void* shared(const void* declaration, size_t size, size_t align);
    void barrier(Thread*, unsigned line);
    uint64_t exchange(Thread*, unsigned mask, uint64_t value, unsigned source, unsigned line);
    [[noreturn]] void fail(unsigned thread, const char* what);
    [[noreturn]] void stuck();
};

static const Host HOST = {
    [](Thread* t, unsigned line) { t->owner->barrier(t, line); },
    [](Thread* t, unsigned mask, unsigned long long value, unsigned source, unsigned line) -> unsigned long long {
        return t->owner->exchange(t, mask, value, source, line);
    },
    [](Thread* t, const void* declaration, unsigned long size, unsigned long align) {
        return t->owner->shared(declaration, size, align);
    },
    [](Thread* t) -> void* { return t->owner->pieces[0].at; },
    [](Thread* t, const char* what) { t->owner->fail(t->number, what); },
};

void Block::fail(unsigned thread, const char* what) {
    auto size = launch->block;
    ::fail("kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", launch->name, index.x, index.y, index.z, thread % size.x,
           thread / size.x % size.y, thread / size.x / size.y, what);
}

void Block::stuck() {
    for (unsigned i = 0; i < slots.size(); ++i) {
        const char* format = slots[i].state == AT_BARRIER ? "waits at the barrier of line %u, which %u of %zu threads reached and %u never will"
                                                          : "waits for its warp at line %u; %u of %zu threads are at a barrier, %u have ended";
        char what[160];
        snprintf(what, sizeof what, format, slots[i].line, arrived, slots.size(), done);
        if (slots[i].state != DONE) fail(i, what);
    }
    ::fail("kernel %s: no thread can go on", launch->name);
}

Thread* Block::fiber(unsigned thread) {
    if (idle.empty()) {
        constexpr unsigned AT_ONCE = 32;
        auto room = (char*)mmap(nullptr, (AT_ONCE + 1) * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED) ::fail("no memory for the fibers of %zu threads", slots.size());
        auto bottom = (char*)(((uintptr_t)room + STACK - 1) & ~(STACK - 1));
        for (unsigned i = 0; i < AT_ONCE; ++i, bottom += STACK) {
            mprotect(bottom, 4096, PROT_NONE);
            Thread* made = emulator::thread_of((uintptr_t)bottom);
            made->stack_pointer = new_stack(made);
            idle.push_back(made);
        }
    }
    Thread* fiber = idle.back();
    idle.pop_back();
    place(fiber, thread);
    return fiber;
}

void Block::place(Thread* fiber, unsigned thread) {
    auto size = launch->block;
    Index at = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
    *fiber = {at, index, size, launch->grid, thread, &HOST, this, fiber->stack_pointer};
    slots[thread].state = READY;
    slots[thread].fiber = fiber;
}

// Gives the turn to the next thread that can go on. Returns when `me` is to go on: with its own thread, or, where that had ended,
// with another that has not begun. `me` is null for the outside, which goes on when all threads have ended.
void Block::turn(Thread* me) {
    bool ended = me && slots[me->number].state == DONE;
    for (size_t tried = 0; tried < slots.size(); ++tried) {
        cursor = cursor + 1 == slots.size() ? 0 : cursor + 1;
        unsigned next = order[cursor];
        Slot& slot = slots[next];
        if (slot.state != FRESH && slot.state != READY) continue;
        if (slot.state == FRESH && ended) return place(me, next);
        Thread* to = slot.state == FRESH ? fiber(next) : slot.fiber;
        if (ended) idle.push_back(me);
        if (to != me) leave(me ? &me->stack_pointer : &outside, to->stack_pointer);
        return;
    }
    if (done < slots.size()) stuck();
    idle.push_back(me);
    leave(&me->stack_pointer, outside);
}

static void life() {
    for (;;) {
        Thread* me = emulator::here();
        Block& block = *me->owner;
        block.launch->kernel->call(block.launch->arguments);
        block.slots[me->number].state = Block::DONE;
        ++block.done;
        block.turn(me);
    }
}

void Block::wait(Thread* me, State state, unsigned line) {
    slots[me->number].state = state;
    slots[me->number].line = line;
    turn(me);
}

void Block::barrier(Thread* me, unsigned line) {
    if (++arrived < slots.size()) return wait(me, AT_BARRIER, line);
    arrived = 0;
    for (Slot& slot : slots) {
        if (&slot != &slots[me->number] && slot.line != line) {
            char what[100];
            snprintf(what, sizeof what, "is at the barrier of line %u while another is at that of line %u", line, slot.line);
            fail(me->number, what);
        }
        slot.state = READY;
    }
}

uint64_t Block::exchange(Thread* me, unsigned mask, uint64_t value, unsigned source, unsigned line) {
    unsigned warp = me->number / 32, lane = me->number % 32, lanes = __builtin_popcount(mask);
    Slot* first = &slots[warp * 32];
    Slot& mine = first[lane];
    if (!(mask >> lane & 1)) fail(me->number, "calls a warp function with a mask that leaves it out");
    if (slots.size() - warp * 32 < 32 && mask >> (slots.size() - warp * 32)) fail(me->number, "names lanes that the block does not have");
    if (source != VOTE && (source >= 32 || !(mask >> source & 1))) fail(me->number, "reads a lane that the mask leaves out");
    mine.mask = mask, mine.value = value, mine.source = source, mine.line = line, mine.state = IN_WARP;
    unsigned there = 0;
    if (++warps[warp] >= lanes)
        for (unsigned i = 0; i < 32; ++i) there += mask >> i & 1 && first[i].state == IN_WARP && first[i].mask == mask && first[i].line == line;
    if (there < lanes) {
        turn(me);
        return mine.value;
    }
    warps[warp] -= lanes;
    uint64_t values[32], votes = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) values[i] = first[i].value, votes |= (uint64_t)(values[i] != 0) << i;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) first[i].value = first[i].source == VOTE ? votes : values[first[i].source], first[i].state = READY;
    return mine.value;
}

void* Block::shared(const void* declaration, size_t size, size_t align) {
    for (Piece& piece : pieces)
        if (piece.declaration == declaration) return piece.at;
    used = (used + RED + align - 1) / align * align;
    size_t statics = declaration ? size : 0;
    for (Piece& piece : pieces) statics += piece.declaration ? piece.size : 0;
    if (statics > STATIC_SHARED_LIMIT) ::fail("kernel %s declares more than 48 KiB of shared memory", launch->name);
    if (statics + launch->dynamic_shared > SHARED_LIMIT) ::fail("kernel %s has more than 227 KiB of shared memory", launch->name);
    pieces.push_back({declaration, arena + used, size});
    char* at = arena + used;
    clear(at, size);
    memset(at, 0xFF, size);
    redden(at + size, RED);
    used += size;
    return at;
}

// TWEEDIE_EMULATOR_ORDER: forward, reverse, or a number that seeds a shuffle.
static void arrange(std::vector<unsigned>& order, size_t n, uint64_t block) {
    static const char* const how = getenv("TWEEDIE_EMULATOR_ORDER");
    bool forward = !how || !*how || !strcmp(how, "forward"), reverse = !forward && !strcmp(how, "reverse");
    if (order.size() == n && (forward || reverse)) return;
    order.resize(n);
    for (size_t i = 0; i < n; ++i) order[i] = reverse ? n - 1 - i : i;
    if (forward || reverse) return;
    uint64_t state = strtoull(how, nullptr, 10) * 0x9E3779B97F4A7C15 + block;
    for (size_t i = n; i > 1; --i) {
        state = state * 6364136223846793005 + 1442695040888963407;
        std::swap(order[i - 1], order[(state >> 33) % i]);
    }
}

void Block::run(const Launch& l, Index at) {
    launch = &l, index = at;
    size_t threads = (size_t)l.block.x * l.block.y * l.block.z;
    slots.assign(threads, {});
    warps.assign((threads + 31) / 32, 0);
    arrange(order, threads, at.x + 65599ul * (at.y + 65599ul * at.z));
    pieces.clear();
    used = done = arrived = 0;
    cursor = threads - 1;
    redden(arena, RED);
    shared(nullptr, l.dynamic_shared, 128);
    turn(nullptr);
    for (Piece& piece : pieces)
        if (!is_red(piece.at + piece.size, RED) || !is_red(arena, RED))
            ::fail("kernel %s, block (%u, %u, %u): wrote past %zu bytes of shared memory", l.name, at.x, at.y, at.z, piece.size);
}

// The threads of the host. The one that launches works too.
struct Pool {
    std::mutex mutex;
    std::condition_variable work, rest;
    std::vector<std::thread> threads;
    const std::function<void(Block&)>* job = nullptr;
    unsigned busy = 0;
    uint64_t round = 0;
    Block block;  // of the thread that launches

    Pool() {
        long count = setting("THREADS", std::thread::hardware_concurrency());
        for (long i = 1; i < count; ++i) threads.emplace_back([this] { serve(); });
    }

    void serve() {
        auto block = new Block;
        std::unique_lock lock(mutex);
        for (uint64_t seen = 0;;) {
            work.wait(lock, [&] { return round != seen; });
            seen = round;
            auto todo = job;
            lock.unlock();
            (*todo)(*block);
            lock.lock();
            if (--busy == 0) rest.notify_one();
        }
    }

    void all(const std::function<void(Block&)>& todo) {
        {
            std::lock_guard lock(mutex);
            job = &todo, busy = threads.size(), ++round;
        }
        work.notify_all();
        todo(block);
        std::unique_lock lock(mutex);
        rest.wait(lock, [&] { return busy == 0; });
    }
};

void run(const Launch& launch) {
    static Pool& pool = *new Pool;  // for the life of the process
    static const char* const order = getenv("TWEEDIE_EMULATOR_ORDER");
    static const bool backwards = order && !strcmp(order, "reverse");
    uint64_t blocks = (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    uint64_t threads = blocks * launch.block.x * launch.block.y * launch.block.z;
    std::atomic<uint64_t> next = 0;
    std::function<void(Block&)> work = [&](Block& block) {
        for (uint64_t n; (n = next++) < blocks;) {
            uint64_t i = backwards ? blocks - 1 - n : n;
            block.run(launch, {(unsigned)(i % launch.grid.x), (unsigned)(i / launch.grid.x % launch.grid.y),
                               (unsigned)(i / launch.grid.x / launch.grid.y)});
        }
    };
    // Waking the others costs as much as a few thousand threads.
    if (blocks == 1 || threads <= 4096) work(pool.block);
    else pool.all(work);
}
