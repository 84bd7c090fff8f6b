// libcuda: the CUDA driver with the host's memory as the device's. What is queued on a stream runs when somebody waits for it, so
// that a host that forgets to wait reads what was there before. The rules of stream capture hold.
#include "driver.h"
#include "fibers.h"
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

using emulator::Index, emulator::Kernel;
typedef unsigned long long Pointer;  // CUdeviceptr

struct Op {
    std::string name;
    std::function<void()> work;
};
struct Graph {
    std::vector<Op> ops;
};
struct Stream {
    bool blocking = true;  // waits for the legacy stream
    std::vector<Op> queue;
    // While it is captured:
    std::shared_ptr<Graph> graph;
    int mode = 0;
    std::thread::id by;
    bool origin = false, invalid = false;
};
struct Event {
    bool timing = true;
    Stream* stream = nullptr;  // where it was recorded last
    std::shared_ptr<double> time;  // in ms; negative while queued; null if never recorded
    std::shared_ptr<Graph> graph;  // that it was captured in
};
struct Module {
    void* library;
};
struct Function {
    Module* module;
    std::string name;
    const Kernel* kernel;
    unsigned dynamic_limit = STATIC_SHARED_LIMIT;
};
struct Allocation {
    char* base;  // red zone, memory, red zone
    size_t size;
    int device;
};
struct Context {
    int device;
};

// All state of the driver, for the life of the process; one lock around every call.
static struct Driver {
    std::recursive_mutex mutex;
    bool initialised = false;
    Error lost = SUCCESS;  // a device that failed refuses everything
    long launches_left = -1;
    Error failure = SUCCESS;
    std::vector<Context> contexts;
    std::vector<size_t> used;
    size_t total;
    Stream legacy;
    std::set<Stream*> streams = {&legacy};
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Function*> functions;
    std::set<Graph*> graphs, executables;
    std::map<uintptr_t, Allocation> allocations;
    std::map<uintptr_t, size_t> pinned;
    std::map<std::string, std::pair<long, double>> profile;  // times run, ms
} & driver = *new Driver;
static thread_local Context* current = nullptr;

static double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The device fails on demand: TWEEDIE_EMULATOR_FAIL=ecc:100 after 100 launches.
static void set_up() {
    driver.contexts.resize(setting("DEVICES", 1));
    for (size_t i = 0; i < driver.contexts.size(); ++i) driver.contexts[i].device = i;
    driver.used.resize(driver.contexts.size());
    driver.total = (size_t)setting("MEMORY", 4096) << 20;
    if (const char* fail = getenv("TWEEDIE_EMULATOR_FAIL")) {
        static const std::map<std::string, Error> kinds = {
            {"ecc", ECC_UNCORRECTABLE}, {"address", ILLEGAL_ADDRESS}, {"timeout", LAUNCH_TIMEOUT}, {"launch", LAUNCH_FAILED}, {"unknown", UNKNOWN}};
        std::string text = fail;
        size_t colon = text.find(':');
        auto kind = kinds.find(text.substr(0, colon));
        if (colon == std::string::npos || kind == kinds.end()) ::fail("TWEEDIE_EMULATOR_FAIL=%s: write for example ecc:100", fail);
        driver.failure = kind->second, driver.launches_left = atol(fail + colon + 1);
    }
    if (setting("PROFILE", 0)) {
        atexit([] {
            for (auto& [name, what] : driver.profile) fprintf(stderr, "%-32s %8ld x %10.3f ms\n", name.c_str(), what.first, what.second);
        });
    }
}

static void check_red(const char* after) {
    for (auto& [at, a] : driver.allocations) {
        size_t front = at - (uintptr_t)a.base;
        const char* where = !is_red(a.base, front) ? "before" : !is_red((char*)at + a.size, RED) ? "past" : nullptr;
        if (where) fail("%s wrote %s an allocation of %zu bytes", after, where, a.size);
    }
}

// Without this a driver that is lost, not initialised or without a context would go on.
static Error ready(bool context = true) {
    if (!driver.initialised) return NOT_INITIALIZED;
    if (driver.lost) return driver.lost;
    return context && !current ? INVALID_CONTEXT : SUCCESS;
}
#define BEGIN                                      \
    std::lock_guard guard(driver.mutex);           \
    if (Error error = ready()) return error;
#define DEMAND(condition, error) \
    if (!(condition)) return error;

static void run_op(const Op& op) {
    if (driver.lost) return;
    double start = now();
    op.work();
    auto& [times, ms] = driver.profile[op.name];
    ++times, ms += now() - start;
    check_red(op.name.c_str());
}
static Error flush(Stream& stream, size_t most = ~0ul) {
    size_t count = std::min(most, stream.queue.size());
    std::vector<Op> ops(stream.queue.begin(), stream.queue.begin() + count);
    stream.queue.erase(stream.queue.begin(), stream.queue.begin() + count);
    for (auto& op : ops) run_op(op);
    return driver.lost;
}
static Error flush_all() {
    for (Stream* stream : driver.streams) flush(*stream);
    return driver.lost;
}

static Stream* find(Stream* stream) {
    if ((uintptr_t)stream <= 2) return &driver.legacy;  // and its two names
    return driver.streams.count(stream) ? stream : nullptr;
}

// What is forbidden while a stream is captured, because it would wait or could; it spoils the capture.
static bool spoils_capture() {
    bool spoilt = false;
    for (Stream* s : driver.streams)
        if (s->graph && (s->mode == 0 || (s->mode == 1 && s->by == std::this_thread::get_id()))) spoilt = s->invalid = true;
    return spoilt;
}

Error enqueue(Stream* handle, const char* name, std::function<void()> work) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream, INVALID_HANDLE)
    if (stream->graph) {
        DEMAND(!stream->invalid, CAPTURE_INVALIDATED)
        stream->graph->ops.push_back({name, std::move(work)});
        return SUCCESS;
    }
    for (Stream* other : driver.streams)
        if (other != stream && (stream == &driver.legacy ? other->blocking : stream->blocking && other == &driver.legacy)) {
            DEMAND(!other->graph || other->mode == 2, (other->invalid = true, CAPTURE_IMPLICIT))
            flush(*other);
        }
    stream->queue.push_back({name, std::move(work)});
    return stream->queue.size() > 4096 ? flush(*stream) : SUCCESS;
}

bool on_device(const void* pointer, size_t bytes) {
    std::lock_guard guard(driver.mutex);
    auto at = (uintptr_t)pointer;
    auto next = driver.allocations.upper_bound(at);
    if (next == driver.allocations.begin()) return false;
    auto& [start, a] = *--next;
    return at + bytes <= start + a.size;
}
static bool on_device(Pointer at, size_t bytes) { return on_device((void*)at, bytes); }
static bool is_pinned(const void* pointer, size_t bytes) {
    auto next = driver.pinned.upper_bound((uintptr_t)pointer);
    return next != driver.pinned.begin() && (--next, (uintptr_t)pointer + bytes <= next->first + next->second);
}

static Error allocate(Pointer* out, size_t bytes) {
    DEMAND(out && bytes, INVALID_VALUE)
    size_t& used = driver.used[current->device];
    if (used + bytes > driver.total) flush_all();
    DEMAND(used + bytes <= driver.total, OUT_OF_MEMORY)
    constexpr size_t FRONT = 512;  // keeps the alignment that the driver promises
    size_t whole = (FRONT + bytes + RED + 511) / 512 * 512;
    auto base = (char*)aligned_alloc(512, whole), at = base + FRONT;
    DEMAND(base, OUT_OF_MEMORY)
    memset(at, 0xFF, bytes);
    redden(base, FRONT);
    redden(at + bytes, RED);
    driver.allocations[(uintptr_t)at] = {base, bytes, current->device};
    used += bytes;
    return *out = (Pointer)at, SUCCESS;
}
static Error release(Pointer at) {
    auto found = driver.allocations.find(at);
    DEMAND(found != driver.allocations.end(), INVALID_VALUE)
    check_red("something");
    Allocation a = found->second;
    clear(a.base, at - (uintptr_t)a.base + a.size + RED);
    memset((void*)at, 0xFF, a.size);
    free(a.base);
    driver.used[a.device] -= a.size;
    driver.allocations.erase(found);
    return SUCCESS;
}

template <class T>
static Error set(Pointer to, T value, size_t count, Stream* stream) {
    BEGIN
    DEMAND((!count || on_device(to, count * sizeof(T))) && to % sizeof(T) == 0, INVALID_VALUE)
    return enqueue(stream, "set", [=] { std::fill_n((T*)to, count, value); });
}

extern "C" {

Error cuInit(unsigned flags) {
    std::lock_guard guard(driver.mutex);
    if (!driver.initialised) set_up();
    DEMAND(!flags, INVALID_VALUE)
    DEMAND(!driver.contexts.empty(), NO_DEVICE)
    return driver.initialised = true, SUCCESS;
}
Error cuDriverGetVersion(int* version) { return *version = setting("DRIVER", 13000), SUCCESS; }

#define NAMED(e, sentence) {e, {"CUDA_ERROR_" #e, sentence}}
static const std::map<int, std::pair<const char*, const char*>> ERRORS = {
    {SUCCESS, {"CUDA_SUCCESS", "no error"}},
    NAMED(INVALID_VALUE, "invalid argument"), NAMED(OUT_OF_MEMORY, "out of memory"), NAMED(NOT_INITIALIZED, "initialization error"),
    NAMED(NO_DEVICE, "no CUDA-capable device is detected"), NAMED(INVALID_DEVICE, "invalid device ordinal"),
    NAMED(INVALID_IMAGE, "device kernel image is invalid"), NAMED(INVALID_CONTEXT, "invalid device context"),
    NAMED(NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    NAMED(ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"), NAMED(INVALID_PTX, "a PTX JIT compilation failed"),
    NAMED(INVALID_HANDLE, "invalid resource handle"), NAMED(ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    NAMED(NOT_FOUND, "named symbol not found"), NAMED(NOT_READY, "device not ready"),
    NAMED(ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    NAMED(LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"), NAMED(LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    NAMED(LAUNCH_FAILED, "unspecified launch failure"), NAMED(NOT_SUPPORTED, "operation not supported"),
    {CAPTURE_UNSUPPORTED, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {CAPTURE_INVALIDATED, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {CAPTURE_UNJOINED, {"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"}},
    {CAPTURE_ISOLATION, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
    {CAPTURE_IMPLICIT, {"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"}},
    {CAPTURED_EVENT, {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"}},
    {CAPTURE_WRONG_THREAD, {"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a capture from another thread"}},
    NAMED(UNKNOWN, "unknown error"),
};
Error cuGetErrorName(int error, const char** name) {
    auto found = ERRORS.find(error);
    return found == ERRORS.end() ? (*name = nullptr, INVALID_VALUE) : (*name = found->second.first, SUCCESS);
}
Error cuGetErrorString(int error, const char** text) {
    auto found = ERRORS.find(error);
    return found == ERRORS.end() ? (*text = nullptr, INVALID_VALUE) : (*text = found->second.second, SUCCESS);
}

// Devices and contexts.

static Error known(int device) {
    if (!driver.initialised) return NOT_INITIALIZED;
    return device >= 0 && (size_t)device < driver.contexts.size() ? SUCCESS : INVALID_DEVICE;
}
Error cuDeviceGetCount(int* count) {
    DEMAND(driver.initialised, NOT_INITIALIZED)
    return *count = driver.contexts.size(), SUCCESS;
}
Error cuDeviceGet(int* device, int number) { return *device = number, known(number); }
Error cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "tweedie emulator"), known(device); }
Error cuDeviceTotalMem_v2(size_t* bytes, int device) { return *bytes = driver.total, known(device); }
Error cuDeviceGetUuid_v2(unsigned char* uuid, int device) { return memset(uuid, 0x40 + device, 16), known(device); }
Error cuDeviceGetPCIBusId(char* id, int length, int device) { return snprintf(id, length, "0000:%02x:00.0", device), known(device); }
Error cuDeviceGetAttribute(int* value, int attribute, int device) {
    // An H100's, in the order of CUdevice_attribute; what is not here is 0.
    static const std::map<int, int> values = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, STATIC_SHARED_LIMIT}, {9, 65536}, {10, 32},
        {12, 65536}, {13, 1980000}, {16, 4}, {31, 1}, {32, 1}, {36, 2619000}, {37, 5120}, {38, 50 << 20}, {39, 2048}, {40, 3}, {41, 1},
        {81, 228 << 10}, {82, 65536}, {95, 1}, {97, SHARED_LIMIT}, {115, 1}};
    long capability = setting("CAPABILITY", 90);
    auto found = values.find(attribute);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : found == values.end() ? 0 : found->second;
    return known(device);
}
Error cuDevicePrimaryCtxRetain(Context** context, int device) {
    std::lock_guard guard(driver.mutex);
    if (Error e = ready(false)) return e;
    return known(device) ? INVALID_DEVICE : (*context = &driver.contexts[device], SUCCESS);
}
Error cuDevicePrimaryCtxRelease_v2(int device) {
    std::lock_guard guard(driver.mutex);
    flush_all();
    return known(device);
}
Error cuCtxSetCurrent(Context* context) {
    if (Error e = ready(false)) return e;
    return current = context, SUCCESS;
}
Error cuCtxGetCurrent(Context** context) { return *context = current, driver.initialised ? SUCCESS : NOT_INITIALIZED; }
Error cuCtxGetDevice(int* device) { return current ? *device = current->device, SUCCESS : INVALID_CONTEXT; }
Error cuCtxSetFlags(unsigned) { return ready(); }
Error cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, ready(); }
Error cuCtxSynchronize() {
    BEGIN
    DEMAND(!spoils_capture(), CAPTURE_UNSUPPORTED)
    return flush_all();
}

// Memory.

Error cuMemGetInfo_v2(size_t* available, size_t* total) {
    BEGIN
    return *total = driver.total, *available = driver.total - driver.used[current->device], SUCCESS;
}
Error cuMemAlloc_v2(Pointer* at, size_t bytes) {
    BEGIN
    DEMAND(!spoils_capture(), CAPTURE_UNSUPPORTED)
    return allocate(at, bytes);
}
Error cuMemFree_v2(Pointer at) {
    BEGIN
    DEMAND(!spoils_capture(), CAPTURE_UNSUPPORTED)
    if (Error e = flush_all()) return e;
    return at ? release(at) : SUCCESS;
}
Error cuMemAllocAsync(Pointer* at, size_t bytes, Stream* stream) {
    BEGIN
    DEMAND(find(stream), INVALID_HANDLE)
    DEMAND(!find(stream)->graph, NOT_SUPPORTED)
    return allocate(at, bytes);
}
Error cuMemFreeAsync(Pointer at, Stream* stream) {
    BEGIN
    DEMAND(driver.allocations.count(at), INVALID_VALUE)
    DEMAND(find(stream) && !find(stream)->graph, NOT_SUPPORTED)
    return enqueue(stream, "free", [at] { release(at); });
}
Error cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    BEGIN
    DEMAND(bytes && (*at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)), OUT_OF_MEMORY)
    return driver.pinned[(uintptr_t)*at] = bytes, SUCCESS;
}
Error cuMemAllocHost_v2(void** at, size_t bytes) { return cuMemHostAlloc(at, bytes, 0); }
Error cuMemFreeHost(void* at) {
    BEGIN
    DEMAND(driver.pinned.erase((uintptr_t)at), INVALID_VALUE)
    flush_all();
    return free(at), driver.lost;
}

Error cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, Stream* stream) {
    BEGIN
    DEMAND(find(stream), INVALID_HANDLE)
    DEMAND(!bytes || (from && on_device(to, bytes)), INVALID_VALUE)
    if (is_pinned(from, bytes) || find(stream)->graph) return enqueue(stream, "copy to device", [=] { memcpy((void*)to, from, bytes); });
    // Pageable memory has been read when the call returns.
    auto copy = std::make_shared<std::string>((const char*)from, bytes);
    return enqueue(stream, "copy to device", [=] { memcpy((void*)to, copy->data(), bytes); });
}
Error cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, Stream* stream) {
    BEGIN
    DEMAND(find(stream), INVALID_HANDLE)
    DEMAND(!bytes || (to && on_device(from, bytes)), INVALID_VALUE)
    if (Error e = enqueue(stream, "copy to host", [=] { memcpy(to, (void*)from, bytes); })) return e;
    // Pageable memory has been written when the call returns.
    return is_pinned(to, bytes) || find(stream)->graph ? SUCCESS : flush(*find(stream));
}
Error cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream* stream) {
    BEGIN
    DEMAND(!bytes || (on_device(to, bytes) && on_device(from, bytes)), INVALID_VALUE)
    DEMAND(from + bytes <= to || to + bytes <= from, INVALID_VALUE)
    return enqueue(stream, "copy", [=] { memcpy((void*)to, (void*)from, bytes); });
}
Error cuMemsetD8Async(Pointer to, unsigned char value, size_t n, Stream* stream) { return set(to, value, n, stream); }
Error cuMemsetD16Async(Pointer to, unsigned short value, size_t n, Stream* stream) { return set(to, value, n, stream); }
Error cuMemsetD32Async(Pointer to, unsigned value, size_t n, Stream* stream) { return set(to, value, n, stream); }

// Those that wait run on the legacy stream.
static Error waited(Error queued) { return queued ? queued : flush(driver.legacy); }
Error cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) { return waited(cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr)); }
Error cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) { return waited(cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr)); }
Error cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) { return waited(cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr)); }
Error cuMemsetD8_v2(Pointer to, unsigned char value, size_t n) { return waited(set(to, value, n, nullptr)); }
Error cuMemsetD32_v2(Pointer to, unsigned value, size_t n) { return waited(set(to, value, n, nullptr)); }

// Streams and events.

Error cuStreamCreate(Stream** stream, unsigned flags) {
    BEGIN
    DEMAND(flags <= 1, INVALID_VALUE)
    *stream = new Stream;
    (*stream)->blocking = flags == 0;
    return driver.streams.insert(*stream), SUCCESS;
}
Error cuStreamCreateWithPriority(Stream** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
Error cuStreamDestroy_v2(Stream* stream) {
    BEGIN
    DEMAND(stream != &driver.legacy && driver.streams.count(stream), INVALID_HANDLE)
    flush(*stream);
    driver.streams.erase(stream);
    return delete stream, driver.lost;
}
Error cuStreamSynchronize(Stream* handle) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream, INVALID_HANDLE)
    DEMAND(!stream->graph, (stream->invalid = true, CAPTURE_UNSUPPORTED))
    return flush(*stream);
}
Error cuStreamQuery(Stream* handle) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream, INVALID_HANDLE)
    DEMAND(!stream->graph, (stream->invalid = true, CAPTURE_UNSUPPORTED))
    if (stream->queue.empty()) return SUCCESS;
    Error e = flush(*stream, 1);  // who asks often enough will hear that it is done
    return e ? e : NOT_READY;
}
Error cuLaunchHostFunc(Stream* stream, void (*f)(void*), void* argument) {
    return enqueue(stream, "host function", [=] { f(argument); });
}

Error cuEventCreate(Event** event, unsigned flags) {
    BEGIN
    *event = new Event;
    (*event)->timing = !(flags & 2);
    return driver.events.insert(*event), SUCCESS;
}
Error cuEventDestroy_v2(Event* event) {
    BEGIN
    DEMAND(driver.events.erase(event), INVALID_HANDLE)
    return delete event, SUCCESS;
}
Error cuEventRecord(Event* event, Stream* handle) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream && driver.events.count(event), INVALID_HANDLE)
    event->stream = stream, event->graph = stream->graph;
    event->time = std::make_shared<double>(-1);
    return stream->graph ? SUCCESS : enqueue(stream, "event", [time = event->time] { *time = now(); });
}
static Error reached(Event* event, size_t most) {
    DEMAND(driver.events.count(event), INVALID_HANDLE)
    DEMAND(!event->graph, CAPTURED_EVENT)
    if (!event->time || *event->time >= 0) return SUCCESS;
    if (Error e = flush(*event->stream, most)) return e;
    return *event->time >= 0 ? SUCCESS : NOT_READY;
}
Error cuEventSynchronize(Event* event) {
    BEGIN
    return reached(event, ~0ul);
}
Error cuEventQuery(Event* event) {
    BEGIN
    return reached(event, 1);
}
Error cuEventElapsedTime_v2(float* ms, Event* from, Event* to) {
    BEGIN
    DEMAND(driver.events.count(from) && driver.events.count(to) && from->timing && to->timing && from->time && to->time, INVALID_HANDLE)
    DEMAND(!from->graph && !to->graph, CAPTURED_EVENT)
    DEMAND(*from->time >= 0 && *to->time >= 0, NOT_READY)
    return *ms = *to->time - *from->time, SUCCESS;
}
Error cuStreamWaitEvent(Stream* handle, Event* event, unsigned) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream && driver.events.count(event), INVALID_HANDLE)
    if (event->graph && !stream->graph) {  // joins the capture
        stream->graph = event->graph, stream->mode = event->stream->mode, stream->by = event->stream->by, stream->origin = false;
        return SUCCESS;
    }
    DEMAND(event->graph == stream->graph, (stream->invalid = true, CAPTURE_ISOLATION))
    if (event->graph || event->stream == stream) return SUCCESS;
    Error e = reached(event, ~0ul);
    return e;
}

// Modules and kernels.

Error cuModuleLoadData(Module** module, const void* image) {
    BEGIN
    DEMAND(image, INVALID_VALUE)
    DEMAND(!spoils_capture(), CAPTURE_UNSUPPORTED)
    auto header = (const Elf64_Ehdr*)image;
    DEMAND(!memcmp(image, ELFMAG, SELFMAG), INVALID_PTX)
    DEMAND(header->e_type == ET_DYN, INVALID_IMAGE)
    size_t size = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    std::string path = "/tmp/tweedie-module-XXXXXX";
    int file = mkstemp(path.data());
    bool written = file >= 0 && write(file, image, size) == (ssize_t)size;
    close(file);
    void* library = written ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library) fprintf(stderr, "tweedie emulator: %s\n", written ? dlerror() : "no room for a module in /tmp");
    if (!setting("KEEP", 0)) unlink(path.c_str());  // kept, a sanitizer can name what is in it
    DEMAND(library, NO_BINARY_FOR_GPU)
    *module = new Module{library};
    return driver.modules.insert(*module), SUCCESS;
}
Error cuModuleUnload(Module* module) {
    BEGIN
    DEMAND(!spoils_capture(), CAPTURE_UNSUPPORTED)
    DEMAND(driver.modules.erase(module), INVALID_HANDLE)
    flush_all();
    for (auto f = driver.functions.begin(); f != driver.functions.end();)
        (*f)->module == module ? (delete *f, f = driver.functions.erase(f)) : ++f;
    return dlclose(module->library), delete module, driver.lost;
}
Error cuModuleGetFunction(Function** function, Module* module, const char* name) {
    BEGIN
    DEMAND(driver.modules.count(module), INVALID_HANDLE)
    auto kernel = (const Kernel*)dlsym(module->library, (std::string("emulator_") + name).c_str());
    DEMAND(kernel, NOT_FOUND)
    *function = new Function{module, name, kernel};
    return driver.functions.insert(*function), SUCCESS;
}
Error cuFuncGetAttribute(int* value, int attribute, Function* function) {
    BEGIN
    DEMAND(driver.functions.count(function), INVALID_HANDLE)
    *value = attribute == 0 ? function->kernel->max_threads : attribute == 4 ? 32 : attribute == 8 ? function->dynamic_limit : 0;
    return SUCCESS;
}
Error cuFuncSetAttribute(Function* function, int attribute, int value) {
    BEGIN
    DEMAND(driver.functions.count(function), INVALID_HANDLE)
    DEMAND(attribute == 8 || attribute == 9, INVALID_VALUE)
    if (attribute == 9) return SUCCESS;
    DEMAND(value >= 0 && (unsigned)value <= SHARED_LIMIT, INVALID_VALUE)
    return function->dynamic_limit = value, SUCCESS;
}
Error cuFuncSetCacheConfig(Function*, int) { return ready(); }
Error cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int size, size_t) {
    BEGIN
    DEMAND(driver.functions.count(function) && size > 0, INVALID_VALUE)
    return *blocks = std::max(1, 2048 / size), SUCCESS;
}
Error cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                     Stream* stream, void** arguments, void** extra) {
    BEGIN
    DEMAND(driver.functions.count(function), INVALID_HANDLE)
    DEMAND(gx && gy && gz && bx && by && bz && gx < 1u << 31 && gy < 65536 && gz < 65536 && !extra, INVALID_VALUE)
    DEMAND(bx <= 1024 && by <= 1024 && bz <= 64 && bx * by * bz <= 1024 && shared <= function->dynamic_limit, INVALID_VALUE)
    const Kernel* kernel = function->kernel;
    DEMAND(bx * by * bz <= kernel->max_threads, LAUNCH_OUT_OF_RESOURCES)
    // The arguments are read now, and kept as long as what was queued or recorded.
    auto values = std::make_shared<std::vector<std::vector<uint64_t>>>();
    for (size_t i = 0; i < kernel->arguments; ++i) {
        values->emplace_back((kernel->sizes[i] + 7) / 8);
        memcpy(values->back().data(), arguments[i], kernel->sizes[i]);
    }
    return enqueue(stream, function->name.c_str(), [=, name = function->name] {
        if (driver.launches_left >= 0 && driver.launches_left-- == 0) {
            driver.lost = driver.failure;
            return;
        }
        std::vector<void*> pointers;
        for (auto& value : *values) pointers.push_back(value.data());
        run({name.c_str(), kernel, pointers.data(), {gx, gy, gz}, {bx, by, bz}, shared});
    });
}

// Graphs.

Error cuStreamBeginCapture_v2(Stream* handle, int mode) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream, INVALID_HANDLE)
    DEMAND(stream != &driver.legacy, CAPTURE_UNSUPPORTED)
    DEMAND(!stream->graph, ILLEGAL_STATE)
    stream->graph = std::make_shared<Graph>(), stream->mode = mode, stream->by = std::this_thread::get_id();
    return stream->origin = true, stream->invalid = false, SUCCESS;
}
Error cuStreamEndCapture(Stream* stream, Graph** graph) {
    BEGIN
    *graph = nullptr;
    DEMAND(find(stream) && stream->graph && stream->origin, ILLEGAL_STATE)
    DEMAND(stream->mode == 2 || stream->by == std::this_thread::get_id(), CAPTURE_WRONG_THREAD)
    auto captured = stream->graph;
    bool invalid = false;
    for (Stream* s : driver.streams)
        if (s->graph == captured) s->graph = nullptr, invalid |= s->invalid;
    DEMAND(!invalid && !refuses("recording"), CAPTURE_INVALIDATED)
    *graph = new Graph(*captured);
    return driver.graphs.insert(*graph), SUCCESS;
}
Error cuStreamIsCapturing(Stream* handle, int* status) {
    BEGIN
    Stream* stream = find(handle);
    DEMAND(stream, INVALID_HANDLE)
    return *status = !stream->graph ? 0 : stream->invalid ? 2 : 1, SUCCESS;
}
Error cuGraphGetNodes(Graph* graph, void**, size_t* count) {
    BEGIN
    DEMAND(driver.graphs.count(graph), INVALID_VALUE)
    return *count = graph->ops.size(), SUCCESS;
}
Error cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    BEGIN
    DEMAND(driver.graphs.count(graph), INVALID_VALUE)
    return driver.executables.insert(*executable = new Graph(*graph)), SUCCESS;
}
Error cuGraphUpload(Graph* executable, Stream* stream) {
    BEGIN
    DEMAND(driver.executables.count(executable) && find(stream), INVALID_VALUE)
    return SUCCESS;
}
Error cuGraphLaunch(Graph* executable, Stream* stream) {
    BEGIN
    DEMAND(driver.executables.count(executable), INVALID_VALUE)
    return enqueue(stream, "graph", [ops = executable->ops] {
        for (auto& op : ops) run_op(op);
    });
}
Error cuGraphDestroy(Graph* graph) {
    BEGIN
    DEMAND(driver.graphs.erase(graph), INVALID_VALUE)
    return delete graph, SUCCESS;
}
Error cuGraphExecDestroy(Graph* executable) {
    BEGIN
    DEMAND(driver.executables.erase(executable), INVALID_VALUE)
    return delete executable, SUCCESS;
}
}
