// What all kernels share. The .cu files of the crate are concatenated behind this one into a single translation unit and compiled once for
// each precision by -DPRECISION=64, 32 or 16; nothing is included, because a machine may have NVRTC without CUDA's headers. The same text
// compiles as plain C++17 for a host that defines the built-in names, which is how it is tested without a GPU.
//
// S is what activations, weights and their gradients are stored in; A is what is computed in, and what statistics, biases, master weights
// and their averages are stored in. Activations are channels last: x[(image * rows + pixel) * channels + channel]. Sums have a fixed order
// and there are no atomics: the same launch gives the same bits every time.

#ifndef PRECISION
#error "PRECISION is 64, 32 or 16"
#endif

static_assert(sizeof(long) == 8 && sizeof(int) == 4, "sizes that the executor passes");

#if PRECISION == 64
typedef double S;
typedef double A;
#elif PRECISION == 32
typedef float S;
typedef float A;
#else
// The upper half of a float.
struct bf16 {
    unsigned short bits;
};
typedef bf16 S;
typedef float A;
#endif

// Threads of a block, where a kernel does not say otherwise.
constexpr int BLOCK = 256;
// Numbers in 16 bytes, the widest load.
constexpr int PACK = 16 / int(sizeof(S));
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ inline unsigned float_bits(float x) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(x);
#else
    union { float x; unsigned bits; } both = {x};
    return both.bits;
#endif
}

__device__ inline float float_of_bits(unsigned bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    union { unsigned bits; float x; } both = {bits};
    return both.x;
#endif
}

__device__ inline unsigned long long double_bits(double x) {
#ifdef __CUDA_ARCH__
    return (unsigned long long)__double_as_longlong(x);
#else
    union { double x; unsigned long long bits; } both = {x};
    return both.bits;
#endif
}

__device__ inline double double_of_bits(unsigned long long bits) {
#ifdef __CUDA_ARCH__
    return __longlong_as_double((long long)bits);
#else
    union { unsigned long long bits; double x; } both = {bits};
    return both.x;
#endif
}

// Two floats rounded to the nearest bf16, ties to even, the first in the lower half; NaN becomes 0x7fff.
__device__ inline unsigned bf16_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    unsigned l = float_bits(low), h = float_bits(high);
    // Half a unit less one, and the last kept bit: a tie goes up only where that makes it even.
    l = low != low ? 0x7fffu : (l + 0x7fffu + (l >> 16 & 1u)) >> 16;
    h = high != high ? 0x7fffu : (h + 0x7fffu + (h >> 16 & 1u)) >> 16;
    return l | h << 16;
#endif
}

#if PRECISION == 16
__device__ inline A load(S x) { return float_of_bits((unsigned)x.bits << 16); }
__device__ inline S store(A x) {
    S s;
    s.bits = (unsigned short)bf16_pair(x, 0.0f);
    return s;
}
#else
__device__ inline A load(S x) { return x; }
__device__ inline S store(A x) { return x; }
#endif

// V numbers that are computed with together.
template <int V> struct Vec {
    A x[V];
};

// N numbers of T as they lie in memory, moved 16 bytes at a time where they are as many.
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Lanes {
    T x[N];

    __device__ T get(int i) const { return x[i]; }
    __device__ void set(int i, T value) { x[i] = value; }
};

// V stored numbers. Pairs of bf16 stay in the words that they were loaded in until they are used: taken apart at once, as the compiler would
// do with an array of halves, every load would be waited for before the next.
#if PRECISION == 16
template <int V> struct alignas(V * 2 < 16 ? V * 2 : 16) Raw {
    static_assert(V % 2 == 0, "pairs");
    unsigned words[V / 2];

    __device__ S get(int i) const { return {(unsigned short)(words[i / 2] >> i % 2 * 16)}; }
    __device__ void set(int i, S value) {
        unsigned bits = value.bits, &word = words[i / 2];
        word = i % 2 ? (word & 0xffffu) | bits << 16 : (word & 0xffff0000u) | bits;
    }
};
template <> struct Raw<1> : Lanes<S, 1> {};
#else
template <int V> struct Raw : Lanes<S, V> {};
#endif

template <int V> __device__ inline Vec<V> unpacked(const Raw<V>& raw) {
    Vec<V> v;
    if constexpr (PRECISION == 16 && V > 1) {
        // One instruction a number: a shift or a mask.
#pragma unroll
        for (int i = 0; i < V; i++) v.x[i] = float_of_bits(i % 2 ? raw.words[i / 2] & 0xffff0000u : raw.words[i / 2] << 16);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) v.x[i] = load(raw.x[i]);
    }
    return v;
}

template <int V> __device__ inline Raw<V> packed(const Vec<V>& v) {
    Raw<V> raw;
    if constexpr (PRECISION == 16 && V > 1) {
#pragma unroll
        for (int i = 0; i < V / 2; i++) raw.words[i] = bf16_pair(v.x[2 * i], v.x[2 * i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) raw.x[i] = store(v.x[i]);
    }
    return raw;
}

template <int V> __device__ inline Raw<V> read_raw(const S* p) { return *(const Raw<V>*)p; }
template <int V> __device__ inline Vec<V> read(const S* p) { return unpacked(read_raw<V>(p)); }
template <int V> __device__ inline void write(S* p, const Vec<V>& v) { *(Raw<V>*)p = packed(v); }

// Adds what is there where keep, and writes.
template <int V> __device__ inline void write_kept(S* p, Vec<V> v, int keep) {
    if (keep) {
        Vec<V> old = read<V>(p);
#pragma unroll
        for (int i = 0; i < V; i++) v.x[i] = old.x[i] + v.x[i];
    }
    write(p, v);
}

// V numbers of A, 16 bytes at a time, from where packs of S correspond to whole packs of A.
template <int V> __device__ inline Vec<V> read_arithmetic(const A* p) {
    Vec<V> v;
    if constexpr (V * sizeof(A) % 16 == 0) {
        constexpr int N = 16 / int(sizeof(A));
#pragma unroll
        for (int i = 0; i < V; i += N) {
            auto raw = *(const Lanes<A, N>*)(p + i);
#pragma unroll
            for (int j = 0; j < N; j++) v.x[i + j] = raw.x[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) v.x[i] = p[i];
    }
    return v;
}

template <int V> __device__ inline void write_arithmetic(A* p, const Vec<V>& v) {
    if constexpr (V * sizeof(A) % 16 == 0) {
        constexpr int N = 16 / int(sizeof(A));
#pragma unroll
        for (int i = 0; i < V; i += N) {
            Lanes<A, N> raw;
#pragma unroll
            for (int j = 0; j < N; j++) raw.x[j] = v.x[i + j];
            *(Lanes<A, N>*)(p + i) = raw;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) p[i] = v.x[i];
    }
}

__device__ inline bool aligned(const void* p) { return ((unsigned long long)p & 15u) == 0; }

// The same of a parameter, which may begin anywhere in the vector of all.
template <int V> __device__ inline Vec<V> read_parameters(const A* p) {
    if (aligned(p)) return read_arithmetic<V>(p);
    Vec<V> v;
#pragma unroll
    for (int i = 0; i < V; i++) v.x[i] = p[i];
    return v;
}

// Two numbers that are read and written as one.
struct alignas(2 * sizeof(A)) Pair {
    A first, second;
};

// n / d for n, d >= 0; a 64-bit division is some 70 instructions, and hardly ever needed.
__device__ inline long quotient(long n, int d) { return n >> 32 == 0 ? (long)((unsigned)n / (unsigned)d) : n / d; }

__device__ inline int least(int a, int b) { return a < b ? a : b; }

// The larger of two, or the one that is a number.
__device__ inline double larger(double a, double b) { return fmax(a, b); }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }

// This thread among all of a grid, and their number.
__device__ inline long thread_index() { return (long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline long thread_count() { return (long)gridDim.x * blockDim.x; }

template <int V> struct Width {
    static constexpr int value = V;
};
#define WIDTH(width) decltype(width)::value

// Calls body(i, Width<V>) for the places 0..n, all threads of the grid side by side: packs first, then the few numbers that fill none.
template <class Body> __device__ inline void each(long n, bool packs, Body body) {
    long done = packs ? n / PACK * PACK : 0;
    for (long i = thread_index() * PACK; i < done; i += thread_count() * PACK) body(i, Width<PACK>());
    for (long i = done + thread_index(); i < n; i += thread_count()) body(i, Width<1>());
}

// The sum over the lanes of each group of `team` lanes of a warp, a power of two, known to all of them. All lanes of the warp call it.
template <class T> __device__ inline T team_sum(T x, int team) {
    for (int d = team / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL_LANES, x, d);
    return x;
}

template <class T> __device__ inline T team_max(T x, int team) {
    for (int d = team / 2; d > 0; d /= 2) x = larger(x, __shfl_xor_sync(ALL_LANES, x, d));
    return x;
}

// The sum over a block of whole warps, at most 1024 threads, known to all; `scratch` holds a number for each warp. All threads call it.
template <class T> __device__ inline T block_sum(T x, T* scratch) {
    int thread = threadIdx.x + blockDim.x * threadIdx.y, warps = int(blockDim.x * blockDim.y + 31) / 32;
    x = team_sum(x, 32);
    __syncthreads();
    if (thread % 32 == 0) scratch[thread / 32] = x;
    __syncthreads();
    T sum = scratch[0];
    for (int w = 1; w < warps; w++) sum += scratch[w];
    return sum;
}

template <class T> __device__ inline T block_max(T x, T* scratch) {
    int thread = threadIdx.x + blockDim.x * threadIdx.y, warps = int(blockDim.x * blockDim.y + 31) / 32;
    x = team_max(x, 32);
    __syncthreads();
    if (thread % 32 == 0) scratch[thread / 32] = x;
    __syncthreads();
    T largest = scratch[0];
    for (int w = 1; w < warps; w++) largest = larger(largest, scratch[w]);
    return largest;
}

// exp(x): within 2 ulp for f64 and f32; for bf16 by the hardware's 2^x, whose relative error, 2^-22 (1 + |x|), is far below bf16's 2^-8.
__device__ inline A exponential(A x) {
#if PRECISION == 64
    return exp(x);
#elif PRECISION == 16 && defined(__CUDA_ARCH__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
#else
    return expf(x);
#endif
}

// 1 / x for x >= 1: for floats by the hardware, 1 ulp, and 0 for what is beyond 2^126. The exact division is a subroutine.
__device__ inline A reciprocal(A x) {
#if PRECISION == 64 || !defined(__CUDA_ARCH__)
    return A(1) / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// 1 / (1 + exp(-z)). Where exp overflows it is 0, as it should be.
__device__ inline A sigmoid(A z) { return reciprocal(A(1) + exponential(-z)); }

// z sigmoid(z) as one quotient, and its derivative s (1 + z (1 - s)).
__device__ inline A silu_of(A z) {
#if PRECISION == 64 || !defined(__CUDA_ARCH__)
    return z / (A(1) + exponential(-z));
#else
    return z * sigmoid(z);
#endif
}
__device__ inline A silu_slope(A z) {
    A s = sigmoid(z);
    return s * (A(1) + z * (A(1) - s));
}

__device__ inline double square_root(double x) { return sqrt(x); }
__device__ inline float square_root(float x) { return sqrtf(x); }
