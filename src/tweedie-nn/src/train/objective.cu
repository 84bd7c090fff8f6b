// The kernels of objective.rs: noise on a batch, and the loss.

// x = c0 x0 + c1 eps and target = a x0 + b eps for each image of a batch, in double, rounded once.
//
// x0 (count, h, w, c), index and flip (images), coefficients (images, 5): c0, c1, a, b, weight; x and target (images, h, w, c). The noise of
// image i, place j in the data's own order (c, h, w), is normal(seed, *stream, (first + i) d + j), as loader.rs draws it, first being the
// place of the first image in the batch of all processes; flip mirrors x0 in its width, not the noise. A thread makes one number, in the
// order of the output so that it is written in rows; block 256, any grid. The draws take longer than the memory.
extern "C" __global__ void __launch_bounds__(BLOCK)
prepare(const A* x0, const int* index, const int* flip, const double* coefficients, unsigned long long seed,
        const unsigned long long* stream, long first, S* x, A* target, int images, int height, int width, int channels) {
    int area = height * width, d = area * channels;
    for (long i = thread_index(); i < (long)images * d; i += thread_count()) {
        long image = quotient(i, d);
        int place = int(i - image * d), pixel = place / channels, channel = place % channels;
        int from = flip[image] ? pixel + (width - 1) - 2 * (pixel % width) : pixel;
        double clean = (double)x0[(long)index[image] * d + (long)from * channels + channel];
        double eps = normal(seed, *stream, (unsigned long long)((first + image) * d) + (unsigned long long)channel * area + pixel);
        const double* c = coefficients + image * 5;
        x[i] = store(A(c[0] * clean + c[1] * eps));
        target[i] = A(c[2] * clean + c[3] * eps);
    }
}

// errors[i] = mean over image i of (y - target)^2, in double; dy = factor weight_i 2 (y - target) / (images size), where dy is not null.
//
// y, target, dy (images, size), coefficients (images, 5), the weight last. Grid (images), block any number of warps up to 1024 threads (256;
// more for large images); reads 2 and writes 1 of y's size, in packs. The sum runs in each thread, then through the block, in a fixed order.
extern "C" __global__ void __launch_bounds__(1024)
loss(const S* y, const A* target, const double* coefficients, S* dy, double* errors, A factor, int images, long size) {
    __shared__ double scratch[32];
    long image = blockIdx.x;
    y += image * size;
    target += image * size;
    A scale = A((double)factor * (2.0 * coefficients[image * 5 + 4] / ((double)images * (double)size)));
    double sum = 0;
    auto body = [&](long i, auto width) {
        constexpr int V = WIDTH(width);
        auto v = read<V>(y + i), t = read_arithmetic<V>(target + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            A e = v.x[j] - t.x[j];
            sum += (double)e * (double)e;
            v.x[j] = scale * e;
        }
        if (dy) write(dy + image * size + i, v);
    };
    bool packs = size % PACK == 0 && aligned(y) && aligned(target) && aligned(dy);
    long done = packs ? size : 0;
    for (long i = (long)threadIdx.x * PACK; i < done; i += (long)blockDim.x * PACK) body(i, Width<PACK>());
    for (long i = done + threadIdx.x; i < size; i += blockDim.x) body(i, Width<1>());
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) errors[image] = sum / (double)size;
}
