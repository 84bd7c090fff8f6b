// What the fake libraries share: the driver's stream, on which they queue their work like any kernel.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>

// What is refused on demand, as hardware and libraries may: TWEEDIE_EMULATOR_REFUSE=recording,convolutions.
inline bool refuses(const char* what) {
    const char* list = getenv("TWEEDIE_EMULATOR_REFUSE");
    return list && strstr(list, what);
}

// CUresult, those that are used.
enum Error {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, ECC_UNCORRECTABLE = 214, INVALID_PTX = 218, INVALID_HANDLE = 400, ILLEGAL_STATE = 401,
    NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_OUT_OF_RESOURCES = 701, LAUNCH_TIMEOUT = 702, LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908, UNKNOWN = 999,
};

struct Stream;

// Queues work on a stream, or records it where the stream is being captured.
Error enqueue(Stream*, const char* name, std::function<void()> work);

// Whether all of it is memory of the device, in one allocation.
bool on_device(const void* at, size_t bytes);
