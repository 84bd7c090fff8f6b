// The kernels of pointwise.rs: maps without parameters, and conversions.
//
// Grid-stride loops, block 256, any grid. A thread moves 16 bytes at a time and a warp 512 in a row, so that a kernel is as fast as the
// memory; with a pack for each thread in flight a multiprocessor of 2048 threads has 32 KiB under way, which covers the latency. Tensors
// that do not begin on 16 bytes, or whose channels do not come in packs, go number by number. Numbers moved stand beside each kernel.

// out = x sigmoid(x). Reads n, writes n.
extern "C" __global__ void __launch_bounds__(BLOCK) silu(const S* x, S* out, long n) {
    each(n, aligned(x) && aligned(out), [=](long i, auto width) {
        auto v = read<WIDTH(width)>(x + i);
#pragma unroll
        for (A& z : v.x) z = silu_of(z);
        write(out + i, v);
    });
}

// dx (+)= dout s (1 + x (1 - s)) with s = sigmoid(x). Reads 2 n, writes n; keeping reads n more.
extern "C" __global__ void __launch_bounds__(BLOCK) silu_gradient(const S* x, const S* dout, S* dx, int keep, long n) {
    each(n, aligned(x) && aligned(dout) && aligned(dx), [=](long i, auto width) {
        constexpr int V = WIDTH(width);
        auto v = read<V>(x + i), d = read<V>(dout + i);
#pragma unroll
        for (int j = 0; j < V; j++) d.x[j] *= silu_slope(v.x[j]);
        write_kept(dx + i, d, keep);
    });
}

// out = a + b. Reads 2 n, writes n.
extern "C" __global__ void __launch_bounds__(BLOCK) add(const S* a, const S* b, S* out, long n) {
    each(n, aligned(a) && aligned(b) && aligned(out), [=](long i, auto width) {
        constexpr int V = WIDTH(width);
        auto v = read<V>(a + i), w = read<V>(b + i);
#pragma unroll
        for (int j = 0; j < V; j++) v.x[j] += w.x[j];
        write(out + i, v);
    });
}

// out (+)= scale x. Reads n, writes n; keeping reads n more.
extern "C" __global__ void __launch_bounds__(BLOCK) accumulate(const S* x, A scale, S* out, int keep, long n) {
    each(n, aligned(x) && aligned(out), [=](long i, auto width) {
        auto v = read<WIDTH(width)>(x + i);
#pragma unroll
        for (A& z : v.x) z *= scale;
        write_kept(out + i, v, keep);
    });
}

template <int V> __device__ inline void concat_by(const S* a, int ca, const S* b, int cb, S* out, long pixels) {
    int packs = (ca + cb) / V, first = ca / V;
    for (long i = thread_index(); i < pixels * packs; i += thread_count()) {
        long pixel = quotient(i, packs);
        int k = int(i - pixel * packs);
        const S* from = k < first ? a + (pixel * first + k) * V : b + (pixel * (packs - first) + k - first) * V;
        *(Raw<V>*)(out + i * V) = read_raw<V>(from);
    }
}

// Channels of a (pixels, ca), then of b (pixels, cb). Reads and writes pixels (ca + cb); a thread goes by the place that it writes.
extern "C" __global__ void __launch_bounds__(BLOCK) concat(const S* a, int ca, const S* b, int cb, S* out, long pixels) {
    if (ca % PACK == 0 && cb % PACK == 0 && aligned(a) && aligned(b) && aligned(out)) concat_by<PACK>(a, ca, b, cb, out, pixels);
    else concat_by<1>(a, ca, b, cb, out, pixels);
}

template <int V>
__device__ inline void split_by(const S* dout, S* da, int ca, int keep_a, S* db, int cb, int keep_b, long pixels) {
    int packs = (ca + cb) / V, first = ca / V;
    for (long i = thread_index(); i < pixels * packs; i += thread_count()) {
        long pixel = quotient(i, packs);
        int k = int(i - pixel * packs);
        bool to_a = k < first;
        S* to = to_a ? da + (pixel * first + k) * V : db + (pixel * (packs - first) + k - first) * V;
        write_kept(to, read<V>(dout + i * V), to_a ? keep_a : keep_b);
    }
}

// The gradient of concat: da (+)= the first ca channels of dout, db (+)= the rest. Reads and writes pixels (ca + cb).
extern "C" __global__ void __launch_bounds__(BLOCK)
split(const S* dout, S* da, int ca, int keep_a, S* db, int cb, int keep_b, long pixels) {
    if (ca % PACK == 0 && cb % PACK == 0 && aligned(dout) && aligned(da) && aligned(db))
        split_by<PACK>(dout, da, ca, keep_a, db, cb, keep_b, pixels);
    else split_by<1>(dout, da, ca, keep_a, db, cb, keep_b, pixels);
}

// Where a place of `small`, (images, height, width, channels), has its four in `large`, (images, 2 height, 2 width, channels).
struct Four {
    long at;
    // From a pixel to the one below it.
    long below;
};

template <int V> __device__ inline Four four_of(long i, int width, int channels) {
    int packs = channels / V;
    long pixel = quotient(i, packs), row = quotient(pixel, width);
    // Rows of all images in one count: row 2 (image height + y) of `large` is image 2 height + 2 y.
    long x = pixel - row * width, below = 2l * width * channels;
    return {2 * row * below + 2 * x * channels + (i - pixel * packs) * V, below};
}

template <int V>
__device__ inline void halve_by(const S* large, S* small, A scale, int keep, long pixels, int width, int channels) {
    for (long i = thread_index(); i < pixels * (channels / V); i += thread_count()) {
        Four f = four_of<V>(i, width, channels);
        auto raw00 = read_raw<V>(large + f.at), raw01 = read_raw<V>(large + f.at + channels);
        auto raw10 = read_raw<V>(large + f.at + f.below), raw11 = read_raw<V>(large + f.at + f.below + channels);
        auto a = unpacked(raw00), b = unpacked(raw01), c = unpacked(raw10), d = unpacked(raw11);
#pragma unroll
        for (int j = 0; j < V; j++) a.x[j] = scale * ((a.x[j] + b.x[j]) + (c.x[j] + d.x[j]));
        write_kept(small + i * V, a, keep);
    }
}

// small (+)= scale times the sum of the four pixels of large; height and width are small's. Reads 4 and writes 1 of small's size.
extern "C" __global__ void __launch_bounds__(BLOCK)
halve(const S* large, S* small, A scale, int keep, int images, int height, int width, int channels) {
    long pixels = (long)images * height * width;
    if (channels % PACK == 0 && aligned(large) && aligned(small)) halve_by<PACK>(large, small, scale, keep, pixels, width, channels);
    else halve_by<1>(large, small, scale, keep, pixels, width, channels);
}

template <int V>
__device__ inline void doubled_by(const S* small, S* large, A scale, int keep, long pixels, int width, int channels) {
    for (long i = thread_index(); i < pixels * (channels / V); i += thread_count()) {
        Four f = four_of<V>(i, width, channels);
        auto v = read<V>(small + i * V);
#pragma unroll
        for (A& z : v.x) z *= scale;
        write_kept(large + f.at, v, keep);
        write_kept(large + f.at + channels, v, keep);
        write_kept(large + f.at + f.below, v, keep);
        write_kept(large + f.at + f.below + channels, v, keep);
    }
}

// Each pixel of small four times in large (+)=, times scale; height and width are small's. Reads 1 and writes 4 of small's size: a thread
// goes by small's place, which it reads once.
extern "C" __global__ void __launch_bounds__(BLOCK)
doubled(const S* small, S* large, A scale, int keep, int images, int height, int width, int channels) {
    long pixels = (long)images * height * width;
    if (channels % PACK == 0 && aligned(large) && aligned(small)) doubled_by<PACK>(small, large, scale, keep, pixels, width, channels);
    else doubled_by<1>(small, large, scale, keep, pixels, width, channels);
}

// Where a pack of the smaller image lies in the padded one: by rows, since padding shifts a row as a whole.
template <int V>
__device__ inline long padded_place(long i, int height, int width, int channels, int before, int after) {
    int row_packs = width * (channels / V), rows = before + height + after, columns = before + width + after;
    long row = quotient(i, row_packs), image = quotient(row, height);
    return ((image * rows + (row - image * height) + before) * columns + before) * channels + (i - row * row_packs) * V;
}

template <int V>
__device__ inline void pad_by(const S* x, S* out, int images, int height, int width, int channels, int before, int after) {
    int rows = before + height + after, columns = before + width + after, packs = channels / V;
    for (long i = thread_index(); i < (long)images * rows * columns * packs; i += thread_count()) {
        long pixel = quotient(i, packs), line = quotient(pixel, columns), image = quotient(line, rows);
        int y = int(line - image * rows) - before, column = int(pixel - line * columns) - before;
        bool inside = y >= 0 && y < height && column >= 0 && column < width;
        Vec<V> v = {};
        if (inside) v = read<V>(x + ((image * height + y) * width + column) * channels + (i - pixel * packs) * V);
        write(out + i * V, v);
    }
}

// Zeros around each image: out is (before + height + after, before + width + after). Reads x, writes out.
extern "C" __global__ void __launch_bounds__(BLOCK)
pad(const S* x, S* out, int images, int height, int width, int channels, int before, int after) {
    if (channels % PACK == 0 && aligned(x) && aligned(out)) pad_by<PACK>(x, out, images, height, width, channels, before, after);
    else pad_by<1>(x, out, images, height, width, channels, before, after);
}

template <int V>
__device__ inline void crop_by(const S* padded, S* x, int keep, long n, int height, int width, int channels, int before, int after) {
    for (long i = thread_index(); i < n / V; i += thread_count()) {
        auto v = read<V>(padded + padded_place<V>(i, height, width, channels, before, after));
        write_kept(x + i * V, v, keep);
    }
}

// x (+)= the inside of padded: the way back of pad. Reads and writes n.
extern "C" __global__ void __launch_bounds__(BLOCK)
crop(const S* padded, S* x, int keep, int images, int height, int width, int channels, int before, int after) {
    long n = (long)images * height * width * channels;
    if (channels % PACK == 0 && aligned(padded) && aligned(x)) crop_by<PACK>(padded, x, keep, n, height, width, channels, before, after);
    else crop_by<1>(padded, x, keep, n, height, width, channels, before, after);
}

// x = a x + b, in place. Reads n, writes n.
extern "C" __global__ void __launch_bounds__(BLOCK) affine(S* x, A a, A b, long n) {
    each(n, aligned(x), [=](long i, auto width) {
        auto v = read<WIDTH(width)>(x + i);
#pragma unroll
        for (A& z : v.x) z = a * z + b;
        write(x + i, v);
    });
}

// y[image] /= times[image], in place, y (images, size). Reads and writes images size.
extern "C" __global__ void __launch_bounds__(BLOCK) divide_by_time(S* y, const double* times, int images, long size) {
    each(images * size, aligned(y) && size % PACK == 0, [=](long i, auto width) {
        auto v = read<WIDTH(width)>(y + i);
        A inverse = A(1.0 / times[size >> 31 == 0 ? quotient(i, int(size)) : i / size]);
#pragma unroll
        for (A& z : v.x) z *= inverse;
        write(y + i, v);
    });
}

// Arithmetic numbers rounded to stored ones. Reads n of A, writes n of S.
extern "C" __global__ void __launch_bounds__(BLOCK) narrow(const A* x, S* out, long n) {
    each(n, aligned(x) && aligned(out), [=](long i, auto width) { write(out + i, read_arithmetic<WIDTH(width)>(x + i)); });
}

// Stored numbers as arithmetic ones. Reads n of S, writes n of A.
extern "C" __global__ void __launch_bounds__(BLOCK) widen(const S* x, A* out, long n) {
    each(n, aligned(x) && aligned(out), [=](long i, auto width) { write_arithmetic(out + i, read<WIDTH(width)>(x + i)); });
}
