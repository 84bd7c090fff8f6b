// Runs the blocks of a launch: each thread of a block is a fiber, blocks share the threads of the host.
#pragma once
#include "contract.h"
#include <cstddef>

struct Launch {
    const char* name;
    const emulator::Kernel* kernel;
    void** arguments;
    emulator::Index grid, block;
    unsigned dynamic_shared;  // bytes
};

constexpr unsigned long STATIC_SHARED_LIMIT = 48 << 10, SHARED_LIMIT = 227 << 10;

// Runs every thread of every block; a mistake of the kernel ends the process with what and where.
void run(const Launch&);

// Bytes that nobody may touch, beside those that somebody may.
constexpr size_t RED = 256;
void redden(void* at, size_t size);               // now forbidden
void clear(void* at, size_t size);                // allowed again
bool is_red(const void* at, size_t size);         // false once somebody wrote there
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
long setting(const char* name, long otherwise);   // TWEEDIE_EMULATOR_name
