// The kernels between the two products of attention.rs: the softmax of each row of scores, and its gradient.
//
// Block 128, any grid. A row that fits into four packs for each lane of a warp (512 numbers of f32, 1024 of bf16) is one warp's, four rows a
// block; a longer one is one block's, and stays in the registers up to four packs a thread; one longer still is read again from the second
// cache. So scores are read once and written once: 2 rows columns, 3 for the gradient.

constexpr int ROW_BLOCK = 128;
// Blocks that a multiprocessor has to find registers for.
constexpr int ROWS_RESIDENT = PRECISION == 64 ? 4 : 6;
// Packs of a row in the registers of one thread.
constexpr int HELD = 4;

// Sums and maxima over the T = 32 or 128 threads that share a row.
template <int T> __device__ inline A row_sum(A x, A* scratch) { return T == 32 ? team_sum(x, 32) : block_sum(x, scratch); }
template <int T> __device__ inline A row_max(A x, A* scratch) { return T == 32 ? team_max(x, 32) : block_max(x, scratch); }

// Below every score.
__device__ inline A lowest() { return A(PRECISION == 64 ? -1.7976931348623157e308 : -3.4028234663852886e38); }

// Calls body(row) for the rows of this thread's warp (T = 32) or block.
template <int T, class Body> __device__ inline void each_row(long rows, Body body) {
    constexpr int SHARED = ROW_BLOCK / T;
    for (long row = (long)blockIdx.x * SHARED + int(threadIdx.x) / T; row < rows; row += (long)gridDim.x * SHARED) body(row);
}

// The row in registers: pack h of thread t begins at (h T + t) V.
template <int V, int T> __device__ inline void softmax_held(S* scores, long rows, int columns, A scale, A* scratch) {
    int thread = int(threadIdx.x) % T;
    each_row<T>(rows, [&](long row) {
        S* p = scores + row * columns;
        Raw<V> raw[HELD];
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int at = (h * T + thread) * V;
            if (at < columns) raw[h] = read_raw<V>(p + at);
        }
        A largest = lowest();
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            if ((h * T + thread) * V >= columns) continue;
            auto v = unpacked(raw[h]);
#pragma unroll
            for (int j = 0; j < V; j++) largest = larger(largest, scale * v.x[j]);
        }
        largest = row_max<T>(largest, scratch);
        Vec<V> e[HELD];
        A sum = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            if ((h * T + thread) * V >= columns) continue;
            auto v = unpacked(raw[h]);
#pragma unroll
            for (int j = 0; j < V; j++) sum += e[h].x[j] = exponential(scale * v.x[j] - largest);
        }
        A inverse = A(1) / row_sum<T>(sum, scratch);
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int at = (h * T + thread) * V;
            if (at >= columns) continue;
#pragma unroll
            for (int j = 0; j < V; j++) e[h].x[j] *= inverse;
            write(p + at, e[h]);
        }
    });
}

// The same for rows of any length, read three times.
template <int V> __device__ inline void softmax_long(S* scores, long rows, int columns, A scale, A* scratch) {
    each_row<ROW_BLOCK>(rows, [&](long row) {
        S* p = scores + row * columns;
        A largest = lowest(), sum = 0;
        for (int at = threadIdx.x * V; at < columns; at += ROW_BLOCK * V) {
            auto v = read<V>(p + at);
#pragma unroll
            for (int j = 0; j < V; j++) largest = larger(largest, scale * v.x[j]);
        }
        largest = row_max<ROW_BLOCK>(largest, scratch);
        for (int at = threadIdx.x * V; at < columns; at += ROW_BLOCK * V) {
            auto v = read<V>(p + at);
#pragma unroll
            for (int j = 0; j < V; j++) sum += exponential(scale * v.x[j] - largest);
        }
        A inverse = A(1) / row_sum<ROW_BLOCK>(sum, scratch);
        for (int at = threadIdx.x * V; at < columns; at += ROW_BLOCK * V) {
            auto v = read<V>(p + at);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] = exponential(scale * v.x[j] - largest) * inverse;
            write(p + at, v);
        }
    });
}

template <int V> __device__ inline void softmax_by(S* scores, long rows, int columns, A scale, A* scratch) {
    if (columns <= 32 * V * HELD) softmax_held<V, 32>(scores, rows, columns, scale, scratch);
    else if (columns <= ROW_BLOCK * V * HELD) softmax_held<V, ROW_BLOCK>(scores, rows, columns, scale, scratch);
    else softmax_long<V>(scores, rows, columns, scale, scratch);
}

// Each row becomes softmax(scale row), in place, its maximum subtracted first; scores (rows, columns). A row of which some scores are minus
// infinity has zeros there.
extern "C" __global__ void __launch_bounds__(ROW_BLOCK, ROWS_RESIDENT) softmax(S* scores, long rows, int columns, A scale) {
    __shared__ A scratch[32];
    if (columns % PACK == 0 && aligned(scores)) softmax_by<PACK>(scores, rows, columns, scale, scratch);
    else softmax_by<1>(scores, rows, columns, scale, scratch);
}

template <int V, int T>
__device__ inline void softmax_gradient_held(const S* probabilities, S* gradients, long rows, int columns, A scale, A* scratch) {
    int thread = int(threadIdx.x) % T;
    each_row<T>(rows, [&](long row) {
        const S* p = probabilities + row * columns;
        S* dp = gradients + row * columns;
        Raw<V> raw_p[HELD], raw_d[HELD];
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int at = (h * T + thread) * V;
            if (at < columns) raw_p[h] = read_raw<V>(p + at), raw_d[h] = read_raw<V>(dp + at);
        }
        A sum = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            if ((h * T + thread) * V >= columns) continue;
            auto v = unpacked(raw_p[h]), d = unpacked(raw_d[h]);
#pragma unroll
            for (int j = 0; j < V; j++) sum += v.x[j] * d.x[j];
        }
        sum = row_sum<T>(sum, scratch);
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int at = (h * T + thread) * V;
            if (at >= columns) continue;
            auto v = unpacked(raw_p[h]), d = unpacked(raw_d[h]);
#pragma unroll
            for (int j = 0; j < V; j++) d.x[j] = scale * v.x[j] * (d.x[j] - sum);
            write(dp + at, d);
        }
    });
}

template <int V>
__device__ inline void softmax_gradient_long(const S* probabilities, S* gradients, long rows, int columns, A scale, A* scratch) {
    each_row<ROW_BLOCK>(rows, [&](long row) {
        const S* p = probabilities + row * columns;
        S* dp = gradients + row * columns;
        A sum = 0;
        for (int at = threadIdx.x * V; at < columns; at += ROW_BLOCK * V) {
            auto v = read<V>(p + at), d = read<V>(dp + at);
#pragma unroll
            for (int j = 0; j < V; j++) sum += v.x[j] * d.x[j];
        }
        sum = row_sum<ROW_BLOCK>(sum, scratch);
        for (int at = threadIdx.x * V; at < columns; at += ROW_BLOCK * V) {
            auto v = read<V>(p + at), d = read<V>(dp + at);
#pragma unroll
            for (int j = 0; j < V; j++) d.x[j] = scale * v.x[j] * (d.x[j] - sum);
            write(dp + at, d);
        }
    });
}

template <int V>
__device__ inline void softmax_gradient_by(const S* p, S* dp, long rows, int columns, A scale, A* scratch) {
    if (columns <= 32 * V * HELD) softmax_gradient_held<V, 32>(p, dp, rows, columns, scale, scratch);
    else if (columns <= ROW_BLOCK * V * HELD) softmax_gradient_held<V, ROW_BLOCK>(p, dp, rows, columns, scale, scratch);
    else softmax_gradient_long<V>(p, dp, rows, columns, scale, scratch);
}

// dp becomes the gradient of the scores, scale p (dp - sum p dp) in each row, in place; p and dp (rows, columns).
extern "C" __global__ void __launch_bounds__(ROW_BLOCK, ROWS_RESIDENT) softmax_gradient(const S* p, S* dp, long rows, int columns, A scale) {
    __shared__ A scratch[32];
    if (columns % PACK == 0 && aligned(p) && aligned(dp)) softmax_gradient_by<PACK>(p, dp, rows, columns, scale, scratch);
    else softmax_gradient_by<1>(p, dp, rows, columns, scale, scratch);
}
