// The kernels of adamw.rs and ema.rs: one pass over the flat vector of parameters, and the length of the gradient before it.
//
// The first `dense` of the n parameters are the weights of dense layers, whose gradients come as S (`dense_gradients`, dense numbers); the
// gradients of the rest come as A (`gradients`, n - dense numbers). `params` is the master copy, A throughout.

// What a step needs besides its arrays, in device memory so that a recorded graph reads each step's own.
struct Step {
    double learning_rate, beta1, beta2, eps, decay;
    // 1 - beta^n of both averages.
    double correction1, correction2;
    // Length that the gradient is cut down to; 0 for none.
    double clip;
    // What each average of the weights keeps of itself.
    double keep[8];
    int averages;
};

// V gradients from place i on, whichever array they lie in.
template <int V> __device__ inline Vec<V> gradients_at(const S* dense_gradients, long dense, const A* gradients, long i) {
    if (i + V <= dense && (unsigned long long)(dense_gradients + i) % alignof(Raw<V>) == 0) return read<V>(dense_gradients + i);
    if (i >= dense) return read_parameters<V>(gradients + (i - dense));
    Vec<V> g;
#pragma unroll
    for (int j = 0; j < V; j++) g.x[j] = i + j < dense ? load(dense_gradients[i + j]) : gradients[i + j - dense];
    return g;
}

// Numbers of A in 16 bytes: what a thread of the optimiser handles at once.
constexpr int ARITHMETIC_PACK = 16 / int(sizeof(A));

template <int V> __device__ inline double square_sum(const Vec<V>& v) {
    double sum = 0;
#pragma unroll
    for (int j = 0; j < V; j++) sum += (double)v.x[j] * (double)v.x[j];
    return sum;
}

// This thread's share of the sum of squares of n numbers, read by `read`(place, Width<V>), four packs under way at once.
template <int V, class Read> __device__ inline double share_of_squares(long n, bool packs, Read read) {
    double sum = 0;
    long done = packs ? n / V * V : 0, i = thread_index() * V, step = thread_count() * V;
    for (; i + 3 * step < done; i += 4 * step) {
        auto a = read(i, Width<V>()), b = read(i + step, Width<V>()), c = read(i + 2 * step, Width<V>()), d = read(i + 3 * step, Width<V>());
        sum += (square_sum(a) + square_sum(b)) + (square_sum(c) + square_sum(d));
    }
    for (; i < done; i += step) sum += square_sum(read(i, Width<V>()));
    for (i = done + thread_index(); i < n; i += thread_count()) sum += square_sum(read(i, Width<1>()));
    return sum;
}

// partial[block] = sum of squares of this block's share of the gradients, in double; grid 512, block 256. Reads n. The grid is fixed so that
// the order of the sum is; 512 blocks of 64 bytes a thread have 64 KiB under way on each multiprocessor.
extern "C" __global__ void __launch_bounds__(BLOCK)
gradient_norm(const S* dense_gradients, long dense, const A* gradients, long n, double* partial) {
    __shared__ double scratch[32];
    double sum = share_of_squares<PACK>(dense, aligned(dense_gradients),
                                        [=](long i, auto width) { return read<WIDTH(width)>(dense_gradients + i); });
    sum += share_of_squares<ARITHMETIC_PACK>(n - dense, aligned(gradients),
                                             [=](long i, auto width) { return read_arithmetic<WIDTH(width)>(gradients + i); });
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// result = [length of the gradient, mean of weight_i errors_i (0 where errors is null), 1 where both are finite else 0]. One block.
extern "C" __global__ void __launch_bounds__(1024)
gradient_norm_finish(const double* partial, const double* errors, const double* coefficients, int images, double* result) {
    __shared__ double scratch[32];
    double sum = 0, loss = 0;
    for (int i = threadIdx.x; i < 512; i += blockDim.x) sum += partial[i];
    if (errors)
        for (int i = threadIdx.x; i < images; i += blockDim.x) loss += errors[i] * coefficients[(long)i * 5 + 4];
    sum = block_sum(sum, scratch);
    loss = block_sum(loss, scratch);
    if (threadIdx.x != 0) return;
    double norm = sqrt(sum);
    loss = errors ? loss / images : 0.0;
    result[0] = norm;
    result[1] = loss;
    // Infinity less itself and NaN less itself are NaN.
    result[2] = norm - norm == 0.0 && loss - loss == 0.0 ? 1.0 : 0.0;
}

// A step's numbers as adamw.rs and ema.rs round them.
struct Rates {
    A beta1, beta2, rest1, rest2, kept, rate, root, eps, clip;
    A ema[8];
    int averages;
};

template <int V>
__device__ inline void adamw_by(const Rates& r, A* params, A* first, A* second, S* weights, Vec<V> g, A* averages, long i, long n,
                                long frozen_from, long frozen_to) {
    auto w = read_arithmetic<V>(params + i), m = read_arithmetic<V>(first + i), v = read_arithmetic<V>(second + i);
#pragma unroll
    for (int j = 0; j < V; j++) {
        A d = g.x[j] * r.clip;
        m.x[j] = r.beta1 * m.x[j] + r.rest1 * d;
        v.x[j] = r.beta2 * v.x[j] + r.rest2 * d * d;
        A next = r.kept * w.x[j] - r.rate * m.x[j] / (square_root(v.x[j]) * r.root + r.eps);
        w.x[j] = i + j >= frozen_from && i + j < frozen_to ? w.x[j] : next;
    }
    write_arithmetic(params + i, w);
    write_arithmetic(first + i, m);
    write_arithmetic(second + i, v);
    if (weights) write(weights + i, w);
    for (int k = 0; k < r.averages; k++) {
        A* average = averages + k * n + i;
        auto a = read_arithmetic<V>(average);
#pragma unroll
        for (int j = 0; j < V; j++) a.x[j] += r.ema[k] * (w.x[j] - a.x[j]);
        write_arithmetic(average, a);
    }
}

// One step of AdamW and of all averages of the weights; nothing changes unless result[2] is 1.
//
// With g the gradient (times clip / result[0] where that is below 1): first = beta1 first + (1 - beta1) g, second = beta2 second +
// (1 - beta2) g^2, w = w (1 - rate decay) - rate (first / correction1) / (sqrt(second / correction2) + eps), average_k += (1 - keep_k)
// (w - average_k). `weights` gets all parameters as S, where it is not null; parameters frozen_from..frozen_to keep their value.
// averages (step->averages, n). Block 256, any grid; 16 bytes of each array a thread: with e averages and bytes of A it reads 3 + e and
// writes 3 + e of n, and reads n gradients and writes n of S.
extern "C" __global__ void __launch_bounds__(BLOCK, 2)
adamw(A* params, A* first, A* second, S* weights, const S* dense_gradients, long dense, const A* gradients, long n, const Step* step,
      const double* result, A* averages, long frozen_from, long frozen_to) {
    // Divisions and roots of doubles that are the same for all: once a block.
    __shared__ Rates r;
    if (threadIdx.x == 0) {
        double norm = result[0];
        r.beta1 = A(step->beta1);
        r.beta2 = A(step->beta2);
        r.rest1 = A(1.0 - step->beta1);
        r.rest2 = A(1.0 - step->beta2);
        r.kept = A(1.0 - step->learning_rate * step->decay);
        r.rate = A(step->learning_rate / step->correction1);
        r.root = A(1.0 / sqrt(step->correction2));
        r.eps = A(step->eps);
        r.clip = step->clip > 0.0 && norm > step->clip ? A(step->clip / norm) : A(1);
        for (int k = 0; k < 8; k++) r.ema[k] = A(1.0 - step->keep[k]);
        r.averages = step->averages;
    }
    __syncthreads();
    if (result[2] != 1.0) return;
    constexpr int V = ARITHMETIC_PACK;
    bool packs = aligned(params) && aligned(first) && aligned(second) && aligned(weights) && (r.averages == 0 || aligned(averages)) &&
                 (r.averages < 2 || n % V == 0);
    long done = packs ? n / V * V : 0;
    for (long i = thread_index() * V; i < done; i += thread_count() * V) {
        auto g = gradients_at<V>(dense_gradients, dense, gradients, i);
        adamw_by<V>(r, params, first, second, weights, g, averages, i, n, frozen_from, frozen_to);
    }
    for (long i = done + thread_index(); i < n; i += thread_count()) {
        auto g = gradients_at<1>(dense_gradients, dense, gradients, i);
        adamw_by<1>(r, params, first, second, weights, g, averages, i, n, frozen_from, frozen_to);
    }
}
