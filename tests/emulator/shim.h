// What a kernel sees: CUDA C++ as NVRTC knows it without any header, for a C++17 compiler on the host. The fake NVRTC puts this
// before the kernels' source; `__shared__` declarations it rewrites itself (nvrtc.cpp).
#pragma once
#include "contract.h"

typedef decltype(sizeof 0) size_t;

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __restrict__ __restrict

// Where a thread is.
typedef emulator::Index uint3;
typedef emulator::Index dim3;
#define threadIdx (emulator::here()->thread)
#define blockIdx (emulator::here()->block)
#define blockDim (emulator::here()->block_size)
#define gridDim (emulator::here()->grid)
constexpr int warpSize = 32;

// Vectors, aligned as CUDA aligns them: the undefined-behaviour sanitizer then finds a pack that is not.
#define VECTORS(T, N, A2, A4)                                                                          \
    struct N##2 { alignas(A2) T x; T y; };                                                             \
    struct N##3 { T x, y, z; };                                                                        \
    struct N##4 { alignas(A4) T x; T y, z, w; };                                                       \
    inline N##2 make_##N##2(T x, T y) { return {x, y}; }                                               \
    inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }                                       \
    inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define uint3 unused_uint3  // CUDA's uint3 is the type of threadIdx
VECTORS(signed char, char, 2, 4)
VECTORS(unsigned char, uchar, 2, 4)
VECTORS(short, short, 4, 8)
VECTORS(unsigned short, ushort, 4, 8)
VECTORS(int, int, 8, 16)
VECTORS(unsigned, uint, 8, 16)
VECTORS(long, long, 16, 16)
VECTORS(unsigned long, ulong, 16, 16)
VECTORS(long long, longlong, 16, 16)
VECTORS(unsigned long long, ulonglong, 16, 16)
VECTORS(float, float, 8, 16)
VECTORS(double, double, 16, 16)
#undef uint3
#undef VECTORS

// Barriers, votes and shuffles.
#define __syncthreads() emulator::barrier(__LINE__)
#define __syncthreads_count(p) emulator::block_vote(__LINE__, p)
#define __syncthreads_or(p) (emulator::block_vote(__LINE__, p) != 0)
#define __syncthreads_and(p) (emulator::block_vote(__LINE__, !(p)) == 0)
#define __syncwarp(...) emulator::warp<__LINE__>(__VA_ARGS__)
#define __ballot_sync(mask, p) emulator::vote(mask, p, __LINE__)
#define __any_sync(mask, p) (emulator::vote(mask, p, __LINE__) != 0)
#define __all_sync(mask, p) (emulator::vote(mask, !(p), __LINE__) == 0)
#define __shfl_sync(mask, ...) emulator::shuffle<emulator::ABSOLUTE>(__LINE__, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) emulator::shuffle<emulator::UP>(__LINE__, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emulator::shuffle<emulator::DOWN>(__LINE__, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) emulator::shuffle<emulator::XOR>(__LINE__, mask, __VA_ARGS__)

namespace emulator {

inline void barrier(unsigned line) { here()->host->barrier(here(), line); }
inline unsigned vote(unsigned mask, bool p, unsigned line) { return (unsigned)here()->host->exchange(here(), mask, p, VOTE, line); }
template <unsigned line>
void warp(unsigned mask = ~0u) { vote(mask, true, line); }

enum Move { ABSOLUTE, UP, DOWN, XOR };
template <Move move, class T>
T shuffle(unsigned line, unsigned mask, T value, int by, int width = 32) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    int lane = here()->number % 32, first = lane / width * width, source;
    if (move == ABSOLUTE) source = first + (by & (width - 1));
    if (move == UP) source = lane - by < first ? lane : lane - by;
    if (move == DOWN) source = lane + by >= first + width ? lane : lane + by;
    if (move == XOR) source = (lane ^ by) >= first + width ? lane : lane ^ by;
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = here()->host->exchange(here(), mask, bits, source, line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

inline int block_vote(unsigned line, bool p) {
    static const char declaration = 0;
    auto count = (int*)here()->host->shared(here(), &declaration, sizeof(int), sizeof(int));
    if (here()->number == 0) *count = 0;
    barrier(line);
    __atomic_fetch_add(count, p, __ATOMIC_SEQ_CST);
    barrier(line);
    int result = *count;
    barrier(line);
    return result;
}

// One declaration of shared memory: all threads of a block get the same piece.
template <class T>
T& shared(const void* declaration) {
    return *(T*)here()->host->shared(here(), declaration, sizeof(T), alignof(T));
}

// Arguments by their types: initialisers in braces are evaluated from left to right.
template <class... T>
struct Apply {
    Apply(void (*f)(T...), T... arguments) { f(arguments...); }
};
template <class T>
T next(void**& arguments) { return *(T*)*arguments++; }
template <auto f>
struct Entry;
template <class... T, void (*f)(T...)>
struct Entry<f> {
    static void call(void** arguments) { Apply<T...>{f, next<T>(arguments)...}; }
    static constexpr unsigned long sizes[] = {sizeof(T)..., 0};
    static constexpr unsigned long count = sizeof...(T);
};

}  // namespace emulator

// Atomics: blocks run on several threads of the host.
template <class T, class F>
inline T emulator_atomic(T* at, F f) {
    T old, next;
    __atomic_load(at, &old, __ATOMIC_SEQ_CST);
    do next = f(old);
    while (!__atomic_compare_exchange(at, &old, &next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}
#define ATOMIC(name, expression) \
    template <class T> inline T name(T* at, decltype(T()) x) { return emulator_atomic(at, [&](T old) -> T { return expression; }); }
ATOMIC(atomicAdd, old + x)
ATOMIC(atomicSub, old - x)
ATOMIC(atomicExch, x)
ATOMIC(atomicMin, x < old ? x : old)
ATOMIC(atomicMax, x > old ? x : old)
ATOMIC(atomicAnd, old & x)
ATOMIC(atomicOr, old | x)
ATOMIC(atomicXor, old ^ x)
ATOMIC(atomicInc, old >= x ? 0 : old + 1)
ATOMIC(atomicDec, old == 0 || old > x ? x : old - 1)
#undef ATOMIC
template <class T>
inline T atomicCAS(T* at, decltype(T()) compare, decltype(T()) value) {
    __atomic_compare_exchange(at, &compare, &value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return compare;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }
#define __trap() emulator::here()->host->fail(emulator::here(), "__trap()")

// Loads and stores with hints for a cache.
#define __ldg(p) (*(p))
#define __ldcg(p) (*(p))
#define __ldcs(p) (*(p))
#define __stcg(p, x) (*(p) = (x))
#define __stcs(p, x) (*(p) = (x))

// Bits.
#define BITS(name, From, To)                   \
    inline To name(From x) {                   \
        To y;                                  \
        __builtin_memcpy(&y, &x, sizeof y);    \
        return y;                              \
    }
BITS(__float_as_int, float, int)
BITS(__float_as_uint, float, unsigned)
BITS(__int_as_float, int, float)
BITS(__uint_as_float, unsigned, float)
BITS(__double_as_longlong, double, long long)
BITS(__longlong_as_double, long long, double)
#undef BITS
inline int __double2hiint(double x) { return (int)(__double_as_longlong(x) >> 32); }
inline int __double2loint(double x) { return (int)__double_as_longlong(x); }
inline double __hiloint2double(int high, int low) { return __longlong_as_double((long long)high << 32 | (unsigned)low); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
    return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) { return (unsigned)(((unsigned long long)high << 32 | low) << (by & 31) >> 32); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) { return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31)); }

// Mathematics: the C library's functions, and the overloads for float that CUDA has.
#define UNARY(name)                                \
    extern "C" double name(double) noexcept;       \
    extern "C" float name##f(float) noexcept;      \
    inline float name(float x) { return name##f(x); }
#define BINARY(name)                                    \
    extern "C" double name(double, double) noexcept;    \
    extern "C" float name##f(float, float) noexcept;    \
    inline float name(float x, float y) { return name##f(x, y); }
UNARY(exp) UNARY(exp2) UNARY(expm1) UNARY(log) UNARY(log2) UNARY(log10) UNARY(log1p) UNARY(sqrt) UNARY(cbrt)
UNARY(sin) UNARY(cos) UNARY(tan) UNARY(asin) UNARY(acos) UNARY(atan) UNARY(sinh) UNARY(cosh) UNARY(tanh)
UNARY(erf) UNARY(erfc) UNARY(lgamma) UNARY(tgamma) UNARY(floor) UNARY(ceil) UNARY(round) UNARY(trunc) UNARY(rint) UNARY(fabs)
BINARY(pow) BINARY(fmod) BINARY(hypot) BINARY(atan2) BINARY(fmin) BINARY(fmax) BINARY(copysign) BINARY(fdim)
#undef UNARY
#undef BINARY
extern "C" double ldexp(double, int) noexcept;
extern "C" float ldexpf(float, int) noexcept;
extern "C" void sincos(double, double*, double*) noexcept;
extern "C" void sincosf(float, float*, float*) noexcept;
inline float ldexp(float x, int n) { return ldexpf(x, n); }
inline void sincos(float x, float* s, float* c) { sincosf(x, s, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return (float)(1 / sqrt((double)x)); }
inline float rsqrtf(float x) { return rsqrt(x); }

// sin and cos of pi x: the argument is reduced exactly before pi comes in.
inline void sincospi(double x, double* s, double* c) {
    double turn = x - 2 * rint(x / 2), quarter = rint(2 * turn);
    double sine, cosine;
    sincos((turn - quarter / 2) * 3.141592653589793, &sine, &cosine);
    switch ((int)quarter & 3) {
        case 0: *s = sine, *c = cosine; break;
        case 1: *s = cosine, *c = -sine; break;
        case 2: *s = -sine, *c = -cosine; break;
        default: *s = -cosine, *c = sine;
    }
}
inline double sinpi(double x) { double s, c; return sincospi(x, &s, &c), s; }
inline double cospi(double x) { double s, c; return sincospi(x, &s, &c), c; }
inline float sinpif(float x) { return (float)sinpi((double)x); }
inline float cospif(float x) { return (float)cospi((double)x); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }

inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline bool signbit(double x) { return __builtin_signbit(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline long abs(long x) { return x < 0 ? -x : x; }
inline long long abs(long long x) { return x < 0 ? -x : x; }
inline double abs(double x) { return fabs(x); }
inline float abs(float x) { return fabsf(x); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }

// As CUDA's: of two kinds of integer the wider or unsigned one; of floats the one that is a number.
#define LEAST_AND_MOST(T)                                      \
    inline T min(T a, T b) { return b < a ? b : a; }           \
    inline T max(T a, T b) { return a < b ? b : a; }
LEAST_AND_MOST(int) LEAST_AND_MOST(unsigned) LEAST_AND_MOST(long) LEAST_AND_MOST(unsigned long)
LEAST_AND_MOST(long long) LEAST_AND_MOST(unsigned long long)
#undef LEAST_AND_MOST
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline long min(int a, long b) { return min((long)a, b); }
inline long min(long a, int b) { return min(a, (long)b); }
inline long max(int a, long b) { return max((long)a, b); }
inline long max(long a, int b) { return max(a, (long)b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin((double)a, b); }
inline double min(double a, float b) { return fmin(a, (double)b); }
inline double max(float a, double b) { return fmax((double)a, b); }
inline double max(double a, float b) { return fmax(a, (double)b); }

// Rounding by name: the compiler is told not to contract (-ffp-contract=off), so the plain operations are these. The fast ones
// are macros: the C library has functions of some of these names.
#define __dadd_rn(a, b) ((double)(a) + (double)(b))
#define __dsub_rn(a, b) ((double)(a) - (double)(b))
#define __dmul_rn(a, b) ((double)(a) * (double)(b))
#define __ddiv_rn(a, b) ((double)(a) / (double)(b))
#define __drcp_rn(a) (1.0 / (double)(a))
#define __dsqrt_rn(a) __builtin_sqrt(a)
#define __fma_rn(a, b, c) __builtin_fma(a, b, c)
#define __fadd_rn(a, b) ((float)(a) + (float)(b))
#define __fsub_rn(a, b) ((float)(a) - (float)(b))
#define __fmul_rn(a, b) ((float)(a) * (float)(b))
#define __fdiv_rn(a, b) ((float)(a) / (float)(b))
#define __frcp_rn(a) (1.0f / (float)(a))
#define __fsqrt_rn(a) __builtin_sqrtf(a)
#define __frsqrt_rn(a) rsqrt((float)(a))
#define __fmaf_rn(a, b, c) __builtin_fmaf(a, b, c)
#define __fdividef(a, b) ((float)(a) / (float)(b))
#define __expf(a) __builtin_expf(a)
#define __exp10f(a) __builtin_exp10f(a)
#define __logf(a) __builtin_logf(a)
#define __log2f(a) __builtin_log2f(a)
#define __powf(a, b) __builtin_powf(a, b)
#define __sinf(a) __builtin_sinf(a)
#define __cosf(a) __builtin_cosf(a)
#define __tanhf(a) __builtin_tanhf(a)

// Conversions that name their rounding.
#define __float2int_rn(x) ((int)__builtin_rintf(x))
#define __float2int_rz(x) ((int)(float)(x))
#define __float2int_rd(x) ((int)__builtin_floorf(x))
#define __float2int_ru(x) ((int)__builtin_ceilf(x))
#define __double2int_rn(x) ((int)__builtin_rint(x))
#define __double2int_rz(x) ((int)(double)(x))
#define __double2ll_rn(x) ((long long)__builtin_rint(x))
#define __double2float_rn(x) ((float)(double)(x))
#define __int2float_rn(x) ((float)(int)(x))
#define __uint2float_rn(x) ((float)(unsigned)(x))
#define __uint2double_rn(x) ((double)(unsigned)(x))
#define __ll2double_rn(x) ((double)(long long)(x))
#define __ull2double_rn(x) ((double)(unsigned long long)(x))
