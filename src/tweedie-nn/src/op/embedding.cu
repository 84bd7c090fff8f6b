// The kernels of embedding.rs: what a time or a label becomes before the first linear layer. All are small, (images, channels) numbers;
// block 256, any grid. Angles are computed in double in every precision, as on the CPU: in float, sin(1000) is wrong in the fifth digit.

// Sine and cosine of angle(time, k) into halves k and half + k, swapped where flip; an odd last channel is 0. One thread a pair.
template <class Angle>
__device__ inline void angles(const double* times, S* out, int images, int channels, int flip, Angle angle) {
    int half = channels / 2, columns = (channels + 1) / 2;
    for (long i = thread_index(); i < (long)images * columns; i += thread_count()) {
        long image = quotient(i, columns);
        int k = int(i - image * columns);
        S* row = out + image * channels;
        if (k == half) {
            row[channels - 1] = store(A(0));
            continue;
        }
        double a = angle(times[image], k), sine = sin(a), cosine = cos(a);
        row[k] = store(A(flip ? cosine : sine));
        row[half + k] = store(A(flip ? sine : cosine));
    }
}

// [sin(t w_k), cos(t w_k)], w_k = 10000^(-k / (half - shift)); out (images, channels).
extern "C" __global__ void __launch_bounds__(BLOCK)
sinusoid(const double* times, S* out, int images, int channels, int flip, double shift) {
    // The logarithm of 10000, as exactly as a double holds it.
    double rate = -9.210340371976182, span = channels / 2 - shift;
    angles(times, out, images, channels, flip, [=](double t, int k) { return t * exp(rate * k / span); });
}

// [sin(2 pi w_k log t), cos(2 pi w_k log t)]; weight (channels / 2), out (images, channels).
extern "C" __global__ void __launch_bounds__(BLOCK)
fourier(const double* times, const A* weight, S* out, int images, int channels, int flip) {
    double tau = 6.283185307179586;
    angles(times, out, images, channels, flip, [=](double t, int k) { return tau * (double)weight[k] * log(t); });
}

__device__ inline long row_of(const int* index, const double* times, long image) { return index ? index[image] : (long)times[image]; }

// out[image] = weight[index[image]], the index being the time where `index` is null; weight (table rows, channels), out (images, channels).
extern "C" __global__ void __launch_bounds__(BLOCK)
lookup(const A* weight, const int* index, const double* times, S* out, int images, int channels) {
    for (long i = thread_index(); i < (long)images * channels; i += thread_count()) {
        long image = quotient(i, channels);
        out[i] = store(weight[row_of(index, times, image) * channels + (i - image * channels)]);
    }
}

// dweight[row] = sum of dout over the images whose index is the row, in their order; dweight (table_rows, channels) is written whole. A
// thread owns a number of the table and goes through all images, so that equal rows need no atomics; neighbours read the same index.
extern "C" __global__ void __launch_bounds__(BLOCK)
lookup_gradient(const int* index, const double* times, const S* dout, A* dweight, int images, int table_rows, int channels) {
    for (long i = thread_index(); i < (long)table_rows * channels; i += thread_count()) {
        long row = quotient(i, channels), k = i - row * channels;
        A sum = 0;
        for (long image = 0; image < images; image++)
            if (row_of(index, times, image) == row) sum += load(dout[image * channels + k]);
        dweight[i] = sum;
    }
}
