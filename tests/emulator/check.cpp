// The emulator's own test: what it must run, and what it must not let pass. Every mistake is made in a process of its own.
#include "driver.h"
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

typedef unsigned long long Pointer;
struct Module;
struct Function;
struct Graph;
struct Event;
struct Program;
extern "C" {
Error cuInit(unsigned), cuDevicePrimaryCtxRetain(void**, int), cuCtxSetCurrent(void*), cuMemAlloc_v2(Pointer*, size_t), cuMemFree_v2(Pointer),
    cuMemcpyHtoDAsync_v2(Pointer, const void*, size_t, Stream*), cuMemcpyDtoH_v2(void*, Pointer, size_t), cuStreamCreate(Stream**, unsigned),
    cuMemcpyDtoHAsync_v2(void*, Pointer, size_t, Stream*), cuMemHostAlloc(void**, size_t, unsigned),
    cuStreamSynchronize(Stream*), cuModuleLoadData(Module**, const void*), cuModuleGetFunction(Function**, Module*, const char*),
    cuLaunchKernel(Function*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream*, void**, void**),
    cuStreamBeginCapture_v2(Stream*, int), cuStreamEndCapture(Stream*, Graph**), cuGraphInstantiateWithFlags(Graph**, Graph*, unsigned long long),
    cuGraphLaunch(Graph*, Stream*), cuFuncSetAttribute(Function*, int, int);
int nvrtcCreateProgram(Program**, const char*, const char*, int, const char* const*, const char* const*),
    nvrtcCompileProgram(Program*, int, const char* const*), nvrtcGetCUBINSize(Program*, size_t*), nvrtcGetCUBIN(Program*, char*),
    nvrtcGetProgramLogSize(Program*, size_t*), nvrtcGetProgramLog(Program*, char*);
}

#define OK(call)                                                              \
    if (int result = (call)) {                                                \
        printf("%s:%d: %s gave %d\n", __FILE__, __LINE__, #call, result);     \
        exit(1);                                                              \
    }
#define HOLDS(condition)                                                      \
    if (!(condition)) {                                                       \
        printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);        \
        exit(1);                                                              \
    }

const char* const SOURCE = R"(
struct Shape { int n; int pad[10]; };
extern "C" __global__ void __launch_bounds__(256) add(const float* a, const float* b, float* c, Shape s) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < s.n; i += gridDim.x * blockDim.x) c[i] = a[i] + b[i];
}
template <class T>
__device__ T block_sum(T x) {
    __shared__ T of_warp[32];
    for (int by = 16; by; by >>= 1) x += __shfl_xor_sync(0xffffffffu, x, by);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0;
    if (threadIdx.x < 32) for (int by = 16; by; by >>= 1) x += __shfl_down_sync(0xffffffffu, x, by);
    return x;
}
extern "C" __global__ void sums(const float* x, double* out, float* most, int n) {
    extern __shared__ float turned[];
    __shared__ int count, odd;
    if (threadIdx.x == 0) count = odd = 0;
    turned[blockDim.x - 1 - threadIdx.x] = x[blockIdx.x * n + threadIdx.x % n];
    __syncthreads();
    atomicAdd(&count, 1);
    if (__ballot_sync(0xffffffffu, threadIdx.x & 1) == 0xaaaaaaaau) atomicOr(&odd, 1);
    double sum = block_sum((double)turned[threadIdx.x]);
    float same = block_sum(turned[threadIdx.x]);
    if (threadIdx.x == 0) out[blockIdx.x] = sum + count - (int)blockDim.x + odd - 1, most[blockIdx.x] = same;
}
extern "C" __global__ void beyond(float* x, int n) { x[n + (int)threadIdx.x] = 1; }
extern "C" __global__ void some_wait(float* x) { if (threadIdx.x) __syncthreads(); x[0] = 1; }
extern "C" __global__ void two_barriers(float* x) {
    if (threadIdx.x < 32) __syncthreads();
    else
        __syncthreads();
    x[0] = 1;
}
extern "C" __global__ void lanes_missing(float* x) { if (threadIdx.x) x[0] = __shfl_sync(0xffffffffu, x[0], 0); }
extern "C" __global__ void beyond_shared(float* x, int n) { __shared__ float y[8]; y[n] = 1; x[0] = y[0]; }
extern "C" __global__ void race(float* x) {
    __shared__ float y[64];
    y[threadIdx.x] = threadIdx.x;
    x[threadIdx.x] = y[(threadIdx.x + 1) % 64];
}
)";

static Stream* stream;
static Module* module;

static Function* kernel(const char* name) {
    Function* f;
    OK(cuModuleGetFunction(&f, module, name))
    return f;
}
template <class... A>
static Error launch(const char* name, unsigned grid, unsigned block, unsigned shared, A... a) {
    void* arguments[] = {&a...};
    return cuLaunchKernel(kernel(name), grid, 1, 1, block, 1, 1, shared, stream, arguments, nullptr);
}
template <class T>
static Pointer upload(const std::vector<T>& x) {
    Pointer at;
    OK(cuMemAlloc_v2(&at, x.size() * sizeof(T)))
    OK(cuMemcpyHtoDAsync_v2(at, x.data(), x.size() * sizeof(T), stream))
    return at;
}
template <class T>
static std::vector<T> download(Pointer at, size_t n) {
    std::vector<T> x(n);
    OK(cuStreamSynchronize(stream))
    OK(cuMemcpyDtoH_v2(x.data(), at, n * sizeof(T)))
    return x;
}

// Whether a process that runs this ends by the emulator's own hand.
template <class F>
static void is_caught(const char* what, F run) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) exit(1);
        setenv("TWEEDIE_EMULATOR_THREADS", "1", 1);
        run();
        cuStreamSynchronize(stream);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    bool sanitized = getenv("LD_PRELOAD");  // which ends the process in its own way
    if (sanitized ? WIFEXITED(status) && WEXITSTATUS(status) == 0 : !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        printf("not caught: %s\n", what), exit(1);
}

int main() {
    Program* program;
    OK(nvrtcCreateProgram(&program, SOURCE, "check.cu", 0, nullptr, nullptr))
    const char* options[] = {"--gpu-architecture=sm_90", "-DPRECISION=32"};
    if (nvrtcCompileProgram(program, 2, options)) {
        size_t size;
        nvrtcGetProgramLogSize(program, &size);
        std::string log(size, 0);
        nvrtcGetProgramLog(program, log.data());
        printf("%s\n", log.c_str());
        return 1;
    }
    size_t size;
    OK(nvrtcGetCUBINSize(program, &size))
    std::string cubin(size, 0);
    OK(nvrtcGetCUBIN(program, cubin.data()))

    Pointer none;
    HOLDS(cuMemAlloc_v2(&none, 4) == NOT_INITIALIZED)
    OK(cuInit(0))
    HOLDS(cuMemAlloc_v2(&none, 4) == INVALID_CONTEXT)
    void* context;
    OK(cuDevicePrimaryCtxRetain(&context, 0))
    OK(cuCtxSetCurrent(context))
    OK(cuStreamCreate(&stream, 1))
    OK(cuModuleLoadData(&module, cubin.data()))
    HOLDS(cuModuleLoadData(&module, ".version 8.0") == INVALID_PTX)

    // Mistakes first: their processes are copies of this one, which has no threads yet.
    std::vector<float> ones(300, 1);
    Pointer x = upload(ones);
    OK(cuStreamSynchronize(stream))
    is_caught("a write past an allocation", [=] { launch("beyond", 1, 1, 0, x, 300); });
    is_caught("a write before an allocation", [=] { launch("beyond", 1, 1, 0, x, -1); });
    is_caught("a barrier that one thread passes by", [=] { launch("some_wait", 1, 64, 0, x); });
    is_caught("two barriers at once", [=] { launch("two_barriers", 1, 64, 0, x); });
    is_caught("a shuffle that one lane passes by", [=] { launch("lanes_missing", 1, 32, 0, x); });
    is_caught("a mask of lanes that the block does not have", [=] { launch("lanes_missing", 1, 16, 0, x); });
    is_caught("a write past shared memory", [=] { launch("beyond_shared", 1, 1, 0, x, 8); });

    // Kernels.
    struct Shape {
        int n, pad[10];
    } shape = {300, {}};
    std::vector<float> a(300), b(300);
    for (int i = 0; i < 300; ++i) a[i] = i, b[i] = 0.5f * i;
    Pointer da = upload(a), db = upload(b), dc = upload(ones);
    a[0] = 7;  // pageable memory has been read
    OK(launch("add", 2, 64, 0, da, db, dc, shape))
    auto c = download<float>(dc, 300);
    for (int i = 0; i < 300; ++i) HOLDS(c[i] == 1.5f * i)

    Pointer sums = upload(std::vector<double>(40)), most = upload(std::vector<float>(40));
    std::vector<float> y(40 * 256);
    for (size_t i = 0; i < y.size(); ++i) y[i] = float(i % 97);
    OK(launch("sums", 40, 256, 1024, upload(y), sums, most, 256))
    auto got = download<double>(sums, 40);
    auto same = download<float>(most, 40);
    for (int k = 0; k < 40; ++k) {
        double sum = 0;
        for (int i = 0; i < 256; ++i) sum += y[k * 256 + i];
        HOLDS(got[k] == sum && same[k] == (float)sum)
    }

    // A race shows as what shared memory holds before anything is written there, in one order or another.
    OK(launch("race", 1, 64, 0, x))
    auto raced = download<float>(x, 64);
    bool nan = false;
    for (float value : raced) nan |= std::isnan(value);
    HOLDS(nan)

    // What is refused.
    HOLDS(launch("add", 1, 512, 0, da, db, dc, shape) == LAUNCH_OUT_OF_RESOURCES)
    HOLDS(launch("sums", 1, 1025, 0, x, sums, most, 256) == INVALID_VALUE)
    HOLDS(launch("sums", 1, 256, 50 << 10, x, sums, most, 256) == INVALID_VALUE)
    HOLDS(launch("sums", 0, 256, 0, x, sums, most, 256) == INVALID_VALUE)
    HOLDS(cuMemcpyDtoH_v2(y.data(), x, 1201) == INVALID_VALUE)
    HOLDS(cuMemFree_v2(x + 4) == INVALID_VALUE)

    // Fresh memory is NaN.
    OK(cuMemAlloc_v2(&none, 64))
    HOLDS(std::isnan(download<float>(none, 16)[3]) && std::isnan(download<double>(none, 8)[7]))
    OK(cuMemFree_v2(none))

    // Nothing has run until somebody waits.
    float* pinned;
    OK(cuMemHostAlloc((void**)&pinned, 4, 0))
    *pinned = -1;
    OK(cuMemcpyDtoHAsync_v2(pinned, dc + 4, 4, stream))
    HOLDS(*pinned == -1)
    OK(cuStreamSynchronize(stream))
    HOLDS(*pinned == 1.5f)

    // Capture runs nothing; every replay runs all of it, with the arguments of then.
    Graph *graph, *executable;
    OK(cuStreamBeginCapture_v2(stream, 0))
    OK(launch("add", 2, 64, 0, dc, db, dc, shape))
    HOLDS(cuGraphLaunch(nullptr, stream) == INVALID_VALUE)
    OK(cuStreamEndCapture(stream, &graph))
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0))
    shape.n = 0;
    HOLDS(download<float>(dc, 300)[4] == 6)
    OK(cuGraphLaunch(executable, stream))
    OK(cuGraphLaunch(executable, stream))
    HOLDS(download<float>(dc, 300)[4] == 10)

    // What would wait spoils a capture.
    OK(cuStreamBeginCapture_v2(stream, 1))
    HOLDS(cuMemAlloc_v2(&none, 4) == CAPTURE_UNSUPPORTED)
    HOLDS(cuStreamEndCapture(stream, &graph) == CAPTURE_INVALIDATED && graph == nullptr)
    OK(cuStreamBeginCapture_v2(stream, 0))
    HOLDS(cuStreamSynchronize(stream) == CAPTURE_UNSUPPORTED)
    HOLDS(cuStreamEndCapture(stream, &graph) == CAPTURE_INVALIDATED)

    puts("the emulator holds");
    return 0;
}
