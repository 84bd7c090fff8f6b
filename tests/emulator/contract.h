// What compiled kernels and the driver that runs them agree on. No headers: NVRTC has none either, and a kernel compiles faster.
#pragma once

namespace emulator {

struct Index {
    unsigned x, y, z;
};

struct Thread;
struct Block;  // the driver's

// What a kernel asks of the driver. `line` is where: threads that meet at one barrier must have come from one line.
struct Host {
    void (*barrier)(Thread*, unsigned line);
    // Meets the lanes of `mask`; returns lane `source`'s value, or for source = VOTE the mask of the lanes whose value is not 0.
    unsigned long long (*exchange)(Thread*, unsigned mask, unsigned long long value, unsigned source, unsigned line);
    // The block's piece of shared memory for this declaration: poisoned when first asked for, between red zones.
    void* (*shared)(Thread*, const void* declaration, unsigned long size, unsigned long align);
    void* (*dynamic_shared)(Thread*);
    void (*fail)(Thread*, const char* what);
};
constexpr unsigned VOTE = ~0u;

// One thread of a block. It lies at the upper end of its fiber's stack, whose address is a multiple of its size: so a kernel finds
// its thread from its stack pointer, with no thread-local storage.
struct Thread {
    Index thread, block, block_size, grid;
    unsigned number;  // within the block, x fastest
    const Host* host;
    Block* owner;
    void* stack_pointer;  // while the fiber is parked
};
constexpr unsigned long STACK = 256 << 10;

// Not all at the same distance from the end: they would share a few lines of the cache.
inline __attribute__((always_inline)) Thread* thread_of(unsigned long stack) {
    stack &= ~(STACK - 1);
    return (Thread*)(stack + STACK - (stack / STACK % 64 + 1) * 320);
}
inline __attribute__((always_inline)) Thread* here() { return thread_of((unsigned long)__builtin_frame_address(0)); }
static_assert(sizeof(Thread) <= 320, "it fits");

// A kernel as its module exports it, under the name `emulator_NAME`.
struct Kernel {
    void (*call)(void** arguments);
    const unsigned long* sizes;  // of the arguments, in bytes
    unsigned long arguments;
    unsigned max_threads;  // __launch_bounds__
};

}  // namespace emulator
