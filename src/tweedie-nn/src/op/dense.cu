// Products: convolutions and linear layers as sums over gathered rows (gather.rs), their gradients, and products of matrices by strides.
// Where a library for these is at hand it is used instead; these are the way without one, and the one in f64.
//
// One engine, `multiply`: a block of 256 threads makes a tile of 64 x 64 numbers, going through the depth in steps of DEPTH. For each step a
// thread brings a segment of each operand, 16 bytes of consecutive numbers (32 in f64), while the step before is being multiplied out of the
// other of two buffers in shared memory. What an operand is, a patch of an image, a weight, a matrix, is in its loader: next() returns this
// thread's segment and moves on one step. f64 and f32 are multiplied by the threads, 4 x 4 each; bf16 by the tensor cores where there are.
//
// Each number is one sum in the order of the depth: the same bits for any grid and batch.

// x (images, height, width, in), its output (images, out_height, out_width, out), w (out, kernel, kernel, in). With up, x is read as if each
// pixel were doubled in both directions; height and width are those before. A linear layer has kernel 1, height = rows, width 1.
struct Conv {
    int images, height, width, in, out_height, out_width, out, kernel, stride, before, up;
};

constexpr int TILE = 64;
// Blocks of a product that a multiprocessor has to find registers for.
constexpr int RESIDENT = PRECISION == 64 ? 1 : 2;
// Numbers that a thread brings for a step, and the depth of a step: 256 threads bring 64 DEPTH.
constexpr int SEGMENT = PRECISION == 16 ? 8 : 4;
constexpr int DEPTH = BLOCK * SEGMENT / TILE;

typedef Raw<SEGMENT> Segment;

// Where this thread's segments lie: along the depth (four threads a row) or along the rows.
struct Seat {
    int row, depth;
    bool along_depth;
};

__device__ inline Seat seat(bool along_depth) {
    int t = threadIdx.x, across = TILE / SEGMENT;
    if (along_depth) return {t / 4, t % 4 * SEGMENT, true};
    return {t % across * SEGMENT, t / across, false};
}

__device__ inline Segment zeros() {
    Segment s;
#pragma unroll
    for (int j = 0; j < SEGMENT; j++) s.set(j, store(A(0)));
    return s;
}

// This thread's 4 x 4 in the tile: a warp's 32 threads make 16 x 32, so that its reads of either operand are few and broadcast.
struct Corner {
    int row, column;
};

__device__ inline Corner corner() {
    int t = threadIdx.x;
    return {t / 64 * 16 + t % 32 / 8 * 4, t / 32 % 2 * 32 + t % 8 * 4};
}

#if PRECISION == 16 && !(defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)

// One operand's two buffers, at[buffer][row][depth]. A row is 80 bytes, and its four packs of 8 stand in the order turned by row / 8: those
// who read words of eight rows, those who write packs along a row and those who write down a row meet different banks.
constexpr int PITCH = DEPTH + 8;
struct alignas(16) Operand {
    S at[2][TILE][PITCH];

    __device__ S* place(int buffer, int row, int depth) { return &at[buffer][row][((depth / 8) ^ (row / 8 % 4)) * 8 + depth % 8]; }
};

__device__ inline void bring(Operand& to, int buffer, const Seat& s, const Segment& segment) {
    if (s.along_depth) {
        *(Segment*)to.place(buffer, s.row, s.depth) = segment;
    } else {
#pragma unroll
        for (int j = 0; j < SEGMENT; j++) *to.place(buffer, s.row + j, s.depth) = segment.get(j);
    }
}

// The operands of four products of (16, 16) by (16, 8) side by side, from (row, depth) and (column, depth) on, in the words that the lanes of
// a warp bring to the instruction: two consecutive numbers of a row each, lane (group, t) being 4 group + t.
struct Words {
    Operand &a, &b;
    int buffer, row, column, depth;

    __device__ static unsigned at(Operand& from, int buffer, int row, int depth) {
        return ((const Raw<2>*)from.place(buffer, row, depth))->words[0];
    }
    // Words 0 and 1 are of rows group and group + 8, 2 and 3 the same 8 further down the depth.
    __device__ unsigned of_a(int group, int t, int i) const { return at(a, buffer, row + group + i % 2 * 8, depth + 2 * t + i / 2 * 8); }
    // Of product n; word 1 is 8 further down the depth.
    __device__ unsigned of_b(int n, int group, int t, int i) const { return at(b, buffer, column + 8 * n + group, depth + 2 * t + i * 8); }
};

// c[n] += this lane's part of product n: c[n][0, 1] is row `group`, columns 2 t and 2 t + 1, and c[n][2, 3] row group + 8.
__device__ inline void tensor_products(A (&c)[4][4], const Words& words) {
    int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#ifdef __CUDA_ARCH__
    unsigned x[4] = {words.of_a(group, t, 0), words.of_a(group, t, 1), words.of_a(group, t, 2), words.of_a(group, t, 3)};
#pragma unroll
    for (int n = 0; n < 4; n++) {
        unsigned y[2] = {words.of_b(n, group, t, 0), words.of_b(n, group, t, 1)};
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
                     : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    }
#else
    // What the instruction makes of the words that all lanes bring.
    for (int n = 0; n < 4; n++)
        for (int q = 0; q < 4; q++)
            for (int i = 0; i < 2; i++) {
                unsigned x[2] = {words.of_a(group, q, 2 * i), words.of_a(group, q, 2 * i + 1)};
                unsigned y[2] = {words.of_b(n, 2 * t, q, i), words.of_b(n, 2 * t + 1, q, i)};
                for (int j = 0; j < 4; j++) {
                    c[n][j] += float_of_bits(x[j / 2] << 16) * float_of_bits(y[j % 2] << 16);
                    c[n][j] += float_of_bits(x[j / 2] & 0xffff0000u) * float_of_bits(y[j % 2] & 0xffff0000u);
                }
            }
#endif
}

// What a thread has of the tile while it grows: a warp makes 16 x 32 by four products side by side. At the end the tile goes through shared
// memory into the order of corner().
struct Sums {
    A c[4][4];

    __device__ void step(Operand& a, Operand& b, int buffer) {
        int warp = threadIdx.x / 32;
#pragma unroll
        for (int depth = 0; depth < DEPTH; depth += 16) tensor_products(c, {a, b, buffer, warp / 2 * 16, warp % 2 * 32, depth});
    }
    __device__ void finish(Operand& both, A (&acc)[4][4]) const {
        // The operands are done with; a row is 4 words longer than the tile for the sake of the banks.
        A* tile = (A*)&both;
        constexpr int LONG = TILE + 4;
        int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        A* mine = tile + (warp / 2 * 16 + group) * LONG + warp % 2 * 32 + 2 * t;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            *(Pair*)(mine + 8 * n) = {c[n][0], c[n][1]};
            *(Pair*)(mine + 8 * LONG + 8 * n) = {c[n][2], c[n][3]};
        }
        __syncthreads();
        Corner at = corner();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            auto v = read_arithmetic<4>(tile + (at.row + i) * LONG + at.column);
#pragma unroll
            for (int j = 0; j < 4; j++) acc[i][j] = v.x[j];
        }
    }
};
static_assert(2 * sizeof(Operand) >= TILE * (TILE + 4) * sizeof(A), "the tile fits where the operands were");

#else

// One operand's two buffers, at[buffer][depth][row], so that a thread reads the 4 + 4 numbers of its 4 x 4 products in two loads. Rows are
// kept at row ^ turn(depth): threads that write segments along the depth then meet all banks, and four rows are still found together.
struct alignas(16) Operand {
    A at[2][DEPTH][TILE];
};

__device__ constexpr int turn(int depth) { return depth / SEGMENT % 4 * 8; }

__device__ inline void bring(Operand& to, int buffer, const Seat& s, const Segment& segment) {
    if (s.along_depth) {
#pragma unroll
        for (int j = 0; j < SEGMENT; j++) to.at[buffer][s.depth + j][s.row ^ turn(s.depth)] = load(segment.get(j));
    } else {
        write_arithmetic(&to.at[buffer][s.depth][s.row ^ turn(s.depth)], unpacked(segment));
    }
}

// What a thread has of the tile: its corner.
struct Sums {
    A c[4][4];

    __device__ void step(Operand& a, Operand& b, int buffer) {
        Corner at = corner();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            auto x = read_arithmetic<4>(&a.at[buffer][k][at.row ^ turn(k)]), y = read_arithmetic<4>(&b.at[buffer][k][at.column ^ turn(k)]);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) c[i][j] += x.x[i] * y.x[j];
        }
    }
    __device__ void finish(Operand&, A (&acc)[4][4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) acc[i][j] = c[i][j];
    }
};

#endif

// acc[i][j] = sum over `steps` DEPTH of a[row + i] b[column + j], (row, column) this thread's corner. With `long_sum` the sum is taken in
// stretches of 64 steps that are added up by themselves: a million pixels in one float would lose three digits.
template <bool long_sum, class LoadA, class LoadB>
__device__ inline void multiply(int steps, LoadA& load_a, LoadB& load_b, A (&acc)[4][4]) {
    __shared__ Operand operands[2];
    Operand &a = operands[0], &b = operands[1];
    Sums sums = {}, total = {};
    Segment next_a = load_a.next(), next_b = load_b.next();
    bring(a, 0, load_a.at, next_a);
    bring(b, 0, load_b.at, next_b);
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        bool more = step + 1 < steps;
        if (more) {
            next_a = load_a.next();
            next_b = load_b.next();
        }
        sums.step(a, b, step & 1);
        if (long_sum && step % 64 == 63) {
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) total.c[i][j] += sums.c[i][j], sums.c[i][j] = 0;
        }
        if (more) {
            // The buffer that was read in the step before, which all threads have left.
            bring(a, ~step & 1, load_a.at, next_a);
            bring(b, ~step & 1, load_b.at, next_b);
        }
        __syncthreads();
    }
    if (long_sum) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums.c[i][j] += total.c[i][j];
    }
    sums.finish(operands[0], acc);
}

// The operand x[row * row_step + depth * depth_step], rows and depths beyond the ends being zero.
struct Strided {
    const S* x;
    long row_step, depth_step;
    // Rows and depths that there are, from this thread's own place.
    long rows, depths;
    // Segments lie whole and aligned wherever they are inside.
    bool packs;
    Seat at;

    __device__ Strided(const S* from, long first_row, long count, long depth, long row_step, long depth_step)
        : row_step(row_step), depth_step(depth_step) {
        at = seat(depth_step == 1 || row_step != 1);
        long row = first_row + at.row;
        x = from + row * row_step + at.depth * depth_step;
        rows = count - row;
        depths = depth - at.depth;
        long other = at.along_depth ? row_step : depth_step, along = at.along_depth ? depth_step : row_step;
        packs = along == 1 && other % SEGMENT == 0 && aligned(from);
    }
    __device__ Segment next() {
        Segment s = zeros();
        if (rows > 0 && depths > 0) {
            if (packs && (at.along_depth ? depths : rows) >= SEGMENT) {
                s = *(const Segment*)x;
            } else {
                long along = at.along_depth ? depth_step : row_step, there = at.along_depth ? depths : rows;
#pragma unroll
                for (int j = 0; j < SEGMENT; j++)
                    if (j < there) s.set(j, x[j * along]);
            }
        }
        x += DEPTH * depth_step;
        depths -= DEPTH;
        return s;
    }
};

// A pixel of a batch of images.
struct Pixel {
    int image, y, x;
    bool inside;
};

__device__ inline Pixel pixel_of(long p, int images, int height, int width) {
    long row = quotient(p, width), image = quotient(row, height);
    return {int(image), int(row - image * height), int(p - row * width), image < images};
}

// The next segment of an operand that is read along channels, tap by tap: what lies under the tap, zeros outside.
template <class Walk>
__device__ inline Segment walked(Walk& w) {
    Segment s = zeros();
    if (w.packs) {
        const S* p = w.under();
        if (p) s = *(const Segment*)(p + w.channel);
        w.channel += DEPTH;
    } else {
#pragma unroll
        for (int j = 0; j < SEGMENT; j++) {
            const S* p = w.under();
            if (p) s.set(j, p[w.channel]);
            w.channel++;
            w.carry();
        }
        w.channel += DEPTH - SEGMENT;
    }
    w.carry();
    return s;
}

// Row: output pixel. Depth: (tap row, tap column, input channel). Value: what the convolution reads there.
struct Patches {
    const S* x;
    Conv g;
    bool packs;
    Seat at;
    Pixel pixel;
    int tap_y, tap_x, channel;

    __device__ Patches(const S* x, const Conv& g, long first) : x(x), g(g), tap_y(0), tap_x(0) {
        at = seat(true);
        pixel = pixel_of(first + at.row, g.images, g.out_height, g.out_width);
        packs = g.in % SEGMENT == 0 && aligned(x);
        channel = at.depth;
        carry();
    }
    // From a channel beyond the last to the tap that it belongs to.
    __device__ void carry() {
        while (channel >= g.in) {
            channel -= g.in;
            if (++tap_x == g.kernel) tap_x = 0, tap_y++;
        }
    }
    // The pixel under the tap, null outside the image.
    __device__ const S* under() const {
        int y = pixel.y * g.stride - g.before + tap_y, x0 = pixel.x * g.stride - g.before + tap_x;
        // Negative numbers are large ones without sign.
        if (!pixel.inside || tap_y >= g.kernel || (unsigned)y >= unsigned(g.height << g.up) || (unsigned)x0 >= unsigned(g.width << g.up)) return 0;
        return x + (((long)pixel.image * g.height + (y >> g.up)) * g.width + (x0 >> g.up)) * g.in;
    }
    __device__ Segment next() { return walked(*this); }
};

// Row: input pixel. Depth: (its copy when doubled, tap row, tap column, output channel). Value: the output's gradient that the input meets
// under that tap.
struct Meetings {
    const S* dy;
    Conv g;
    bool packs;
    Seat at;
    Pixel pixel;
    int copy, tap_y, tap_x, channel;

    __device__ Meetings(const S* dy, const Conv& g, long first) : dy(dy), g(g), copy(0), tap_y(0), tap_x(0) {
        at = seat(true);
        pixel = pixel_of(first + at.row, g.images, g.height, g.width);
        packs = g.out % SEGMENT == 0 && aligned(dy);
        channel = at.depth;
        carry();
    }
    __device__ void carry() {
        while (channel >= g.out) {
            channel -= g.out;
            if (++tap_x == g.kernel) {
                tap_x = 0;
                if (++tap_y == g.kernel) tap_y = 0, copy++;
            }
        }
    }
    __device__ const S* under() const {
        int y = (pixel.y << g.up) + (copy >> 1) + g.before - tap_y, x = (pixel.x << g.up) + (copy & 1) + g.before - tap_x;
        if (!pixel.inside || copy >= 1 << 2 * g.up || y < 0 || x < 0) return 0;
        if (g.stride != 1) {
            if (y % g.stride != 0 || x % g.stride != 0) return 0;
            y /= g.stride;
            x /= g.stride;
        }
        if (y >= g.out_height || x >= g.out_width) return 0;
        return dy + (((long)pixel.image * g.out_height + y) * g.out_width + x) * g.out;
    }
    __device__ Segment next() { return walked(*this); }
};

// Row: input channel. Depth: as of Meetings. Value: the weight of that tap between the two channels.
struct TurnedWeights {
    const S* w;
    int in, out, taps, copies;
    bool packs;
    Seat at;
    int copy, tap, channel, row;

    __device__ TurnedWeights(const S* w, const Conv& g, int first)
        : w(w), in(g.in), out(g.out), taps(g.kernel * g.kernel), copies(1 << 2 * g.up), copy(0), tap(0) {
        at = seat(false);
        packs = in % SEGMENT == 0 && aligned(w);
        row = first + at.row;
        channel = at.depth;
        carry();
    }
    __device__ void carry() {
        while (channel >= out) {
            channel -= out;
            if (++tap == taps) tap = 0, copy++;
        }
    }
    __device__ Segment next() {
        Segment s = zeros();
        if (copy < copies && row < in) {
            const S* p = w + ((long)channel * taps + tap) * in + row;
            if (packs) {
                s = *(const Segment*)p;
            } else {
#pragma unroll
                for (int j = 0; j < SEGMENT; j++)
                    if (row + j < in) s.set(j, p[j]);
            }
        }
        channel += DEPTH;
        carry();
        return s;
    }
};

// Row: (tap row, tap column, input channel). Depth: output pixel. Value: what the convolution reads there.
struct TurnedPatches {
    const S* x;
    Conv g;
    bool packs;
    Seat at;
    Pixel pixel;
    // Pixels from this thread's on.
    long left;
    int tap_y, tap_x, channel;

    // Of the pixels from..to.
    __device__ TurnedPatches(const S* x, const Conv& g, int first, long from, long to) : x(x), g(g) {
        at = seat(false);
        pixel = pixel_of(from + at.depth, g.images, g.out_height, g.out_width);
        left = to - from - at.depth;
        packs = g.in % SEGMENT == 0 && aligned(x);
        int row = first + at.row, tap = row / g.in;
        channel = row - tap * g.in;
        tap_y = tap / g.kernel;
        tap_x = tap - tap_y * g.kernel;
    }
    __device__ const S* under(int tap_y, int tap_x) const {
        int y = pixel.y * g.stride - g.before + tap_y, x0 = pixel.x * g.stride - g.before + tap_x;
        if (tap_y >= g.kernel || (unsigned)y >= unsigned(g.height << g.up) || (unsigned)x0 >= unsigned(g.width << g.up)) return 0;
        return x + (((long)pixel.image * g.height + (y >> g.up)) * g.width + (x0 >> g.up)) * g.in;
    }
    __device__ Segment next() {
        Segment s = zeros();
        if (left > 0) {
            if (packs) {
                const S* p = under(tap_y, tap_x);
                if (p) s = *(const Segment*)(p + channel);
            } else {
                int y = tap_y, x0 = tap_x, c = channel;
#pragma unroll
                for (int j = 0; j < SEGMENT; j++) {
                    const S* p = under(y, x0);
                    if (p) s.set(j, p[c]);
                    if (++c == g.in) {
                        c = 0;
                        if (++x0 == g.kernel) x0 = 0, y++;
                    }
                }
            }
        }
        left -= DEPTH;
        pixel.x += DEPTH;
        if (pixel.x >= g.out_width) {
            int rows = pixel.x / g.out_width;
            pixel.x -= rows * g.out_width;
            pixel.y += rows;
        }
        if (pixel.y >= g.out_height) {
            int images = pixel.y / g.out_height;
            pixel.y -= images * g.out_height;
            pixel.image += images;
        }
        return s;
    }
};

// Writes four numbers of a row, or as many as there are, adding to what is there where keep.
__device__ inline void write_four(S* p, const A (&x)[4], int there, bool packs, int keep) {
    if (packs && there >= 4) {
        Vec<4> v;
#pragma unroll
        for (int j = 0; j < 4; j++) v.x[j] = x[j];
        write_kept(p, v, keep);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (j < there) p[j] = store(keep ? load(p[j]) + x[j] : x[j]);
    }
}

__device__ inline A load_arithmetic(A x) { return x; }
#if PRECISION == 16
__device__ inline A load_arithmetic(S x) { return load(x); }
#endif

// Adds four numbers of S or A, or as many as there are.
template <class T> __device__ inline void add_four(A (&x)[4], const T* p, int there) {
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (j < there) x[j] += load_arithmetic(p[j]);
}

__device__ inline int steps_of(long depth) { return int((depth + DEPTH - 1) / DEPTH); }

// y = (x * w + bias + image_bias + skip) scale; bias (out), image_bias (images, out) and skip (as y) may be null.
// Grid (ceil(images out_height out_width / 64), ceil(out / 64)), block 256.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
dense_forward(const S* x, const S* w, const A* bias, const S* image_bias, const S* skip, A scale, S* y, Conv g) {
    long first = (long)blockIdx.x * TILE, depth = (long)g.kernel * g.kernel * g.in;
    int first_out = blockIdx.y * TILE;
    Patches a(x, g, first);
    Strided b(w, first_out, g.out, depth, depth, 1);
    A acc[4][4];
    multiply<false>(steps_of(depth), a, b, acc);
    Corner at = corner();
    int area = g.out_height * g.out_width, column = first_out + at.column, there = g.out - column;
    long pixels = (long)g.images * area;
    bool packs = g.out % 4 == 0 && aligned(y), skip_packs = g.out % 4 == 0 && aligned(skip);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        long p = first + at.row + i;
        if (p >= pixels || there <= 0) break;
        if (bias) add_four(acc[i], bias + column, there);
        if (image_bias) add_four(acc[i], image_bias + quotient(p, area) * g.out + column, there);
        if (skip && skip_packs) {
            auto s = read<4>(skip + p * g.out + column);
#pragma unroll
            for (int j = 0; j < 4; j++) acc[i][j] += s.x[j];
        } else if (skip) {
            add_four(acc[i], skip + p * g.out + column, there);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] *= scale;
        write_four(y + p * g.out + column, acc[i], there, packs, 0);
    }
}

// dx (+)= the transposed convolution of dy. Grid (ceil(images height width / 64), ceil(in / 64)), block 256.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) dense_input_gradient(const S* dy, const S* w, S* dx, int keep, Conv g) {
    long first = (long)blockIdx.x * TILE;
    int first_in = blockIdx.y * TILE;
    Meetings a(dy, g, first);
    TurnedWeights b(w, g, first_in);
    A acc[4][4];
    multiply<false>(steps_of(((long)g.kernel * g.kernel << 2 * g.up) * g.out), a, b, acc);
    Corner at = corner();
    int column = first_in + at.column;
    long pixels = (long)g.images * g.height * g.width;
    bool packs = g.in % 4 == 0 && aligned(dx);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        long p = first + at.row + i;
        if (p < pixels) write_four(dx + p * g.in + column, acc[i], g.in - column, packs, keep);
    }
}

// This block's tile of dw, (out, (kernel, kernel, in)), summed over the pixels from..to.
__device__ inline void weight_gradient(const S* x, const S* dy, const Conv& g, long from, long to, A (&acc)[4][4]) {
    Strided a(dy + from * g.out, blockIdx.y * TILE, g.out, to - from, 1, g.out);
    TurnedPatches b(x, g, blockIdx.x * TILE, from, to);
    multiply<PRECISION != 64>(steps_of(to - from), a, b, acc);
}

// dw (out, kernel, kernel, in) = sum over all pixels of dy times what was read there, in the order of the pixels.
// Grid (ceil(kernel kernel in / 64), ceil(out / 64)), block 256.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) dense_weight_gradient(const S* x, const S* dy, S* dw, Conv g) {
    A acc[4][4];
    weight_gradient(x, dy, g, 0, (long)g.images * g.out_height * g.out_width, acc);
    Corner at = corner();
    int columns = g.kernel * g.kernel * g.in, column = blockIdx.x * TILE + at.column;
    bool packs = columns % 4 == 0 && aligned(dw);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int o = blockIdx.y * TILE + at.row + i;
        if (o < g.out) write_four(dw + (long)o * columns + column, acc[i], columns - column, packs, 0);
    }
}

// partial (parts, out, kernel, kernel, in), each part the sum over its share of the pixels: for a weight of few tiles, which alone would
// leave most multiprocessors idle. Grid as of dense_weight_gradient and the parts in z, block 256.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) dense_weight_gradient_parts(const S* x, const S* dy, A* partial, Conv g) {
    long pixels = (long)g.images * g.out_height * g.out_width, share = (pixels + gridDim.z - 1) / gridDim.z;
    // Whole steps, so that all parts but the last are aligned as the first is.
    share = (share + DEPTH - 1) / DEPTH * DEPTH;
    long from = share * blockIdx.z, to = from + share < pixels ? from + share : pixels;
    A acc[4][4];
    weight_gradient(x, dy, g, from < to ? from : to, to, acc);
    Corner at = corner();
    int columns = g.kernel * g.kernel * g.in, column = blockIdx.x * TILE + at.column;
    partial += (long)blockIdx.z * g.out * columns;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int o = blockIdx.y * TILE + at.row + i;
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (o < g.out && column + j < columns) partial[(long)o * columns + column + j] = acc[i][j];
    }
}

// dw (n) = the sum of partial (parts, n) over the parts, in order. Block 256, any grid. Reads parts n of A.
extern "C" __global__ void __launch_bounds__(BLOCK) dense_weight_gradient_finish(const A* partial, S* dw, int parts, long n) {
    for (long i = thread_index(); i < n; i += thread_count()) {
        A sum = 0;
#pragma unroll 8
        for (int p = 0; p < parts; p++) sum += partial[p * n + i];
        dw[i] = store(sum);
    }
}

// c[i, j] (+)= alpha sum_l a[i, l] b[l, j] of each of gridDim.z pairs of matrices, all by strides; pair z is (z / inner, z % inner).
// Grid (ceil(m / 64), ceil(n / 64), batch), block 256.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
product(const S* a, const S* b, S* c, int m, int n, int k, long a_row, long a_col, long b_row, long b_col, long c_row, long c_col, int inner,
        long a_outer, long a_inner, long b_outer, long b_inner, long c_outer, long c_inner, A alpha, int keep) {
    long outer = blockIdx.z / inner, in = blockIdx.z % inner;
    a += outer * a_outer + in * a_inner;
    b += outer * b_outer + in * b_inner;
    c += outer * c_outer + in * c_inner;
    int first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;
    Strided load_a(a, first_row, m, k, a_row, a_col), load_b(b, first_column, n, k, b_col, b_row);
    A acc[4][4];
    multiply<false>(steps_of(k), load_a, load_b, acc);
    Corner at = corner();
    bool packs = c_col == 1 && c_row % 4 == 0 && aligned(c);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = first_row + at.row + i, column = first_column + at.column;
        if (row >= m) break;
        S* p = c + row * c_row + column * c_col;
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] *= alpha;
        if (c_col == 1) write_four(p, acc[i], n - column, packs, keep);
        else
            for (int j = 0; j < 4 && column + j < n; j++) p[j * c_col] = store(keep ? load(p[j * c_col]) + acc[i][j] : acc[i][j]);
    }
}

template <int V>
__device__ inline void epilogue_by(S* y, const A* bias, const S* image_bias, const S* skip, A scale, long pixels, int rows, int channels) {
    int packs = channels / V;
    for (long i = thread_index(); i < pixels * packs; i += thread_count()) {
        long pixel = quotient(i, packs);
        int k = int(i - pixel * packs) * V;
        auto v = read<V>(y + i * V);
        if (bias) {
            auto b = read_parameters<V>(bias + k);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] += b.x[j];
        }
        if (image_bias) {
            auto b = read<V>(image_bias + quotient(pixel, rows) * channels + k);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] += b.x[j];
        }
        if (skip) {
            auto s = read<V>(skip + i * V);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] += s.x[j];
        }
#pragma unroll
        for (A& z : v.x) z *= scale;
        write(y + i * V, v);
    }
}

// y = (y + bias + image_bias + skip) scale in place, behind a library's convolution; y (pixels, channels), `rows` pixels an image; bias,
// image_bias (images, channels) and skip may be null. Block 256, any grid. Reads and writes y, reads skip.
extern "C" __global__ void __launch_bounds__(BLOCK)
dense_epilogue(S* y, const A* bias, const S* image_bias, const S* skip, A scale, long pixels, int rows, int channels) {
    if (channels % PACK == 0 && aligned(y) && aligned(image_bias) && aligned(skip))
        epilogue_by<PACK>(y, bias, image_bias, skip, scale, pixels, rows, channels);
    else epilogue_by<1>(y, bias, image_bias, skip, scale, pixels, rows, channels);
}

// Channels of a block of bias_gradient.
constexpr int STRIP = 32;

template <int V> __device__ inline void bias_gradient_by(const S* dy, A* partial, int rows, int channels) {
    // At [lane][channel], the lanes' sums.
    __shared__ A seen[BLOCK / STRIP * V][STRIP];
    constexpr int across = STRIP / V, lanes = BLOCK / across;
    int thread = threadIdx.x + threadIdx.y * blockDim.x, lane = thread / across, k = thread % across * V, first = blockIdx.y * STRIP;
    const S* p = dy + (long)blockIdx.x * rows * channels + first + k;
    A sum[V] = {};
    if (first + k < channels) {
        long step = (long)lanes * channels;
        p += (long)lane * channels;
        int r = lane;
        for (; r + 3 * lanes < rows; r += 4 * lanes, p += 4 * step) {
            auto raw0 = read_raw<V>(p), raw1 = read_raw<V>(p + step), raw2 = read_raw<V>(p + 2 * step), raw3 = read_raw<V>(p + 3 * step);
            auto a = unpacked(raw0), b = unpacked(raw1), c = unpacked(raw2), d = unpacked(raw3);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += (a.x[j] + b.x[j]) + (c.x[j] + d.x[j]);
        }
        for (; r < rows; r += lanes, p += step) {
            auto a = read<V>(p);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += a.x[j];
        }
    }
#pragma unroll
    for (int j = 0; j < V; j++) seen[lane][k + j] = sum[j];
    __syncthreads();
    // Eight threads a channel, then one.
    int channel = thread % STRIP, part = thread / STRIP;
    A x = 0;
    for (int l = part; l < lanes; l += BLOCK / STRIP) x += seen[l][channel];
    __syncthreads();
    seen[part][channel] = x;
    __syncthreads();
    if (part == 0 && first + channel < channels) {
        for (int l = 1; l < BLOCK / STRIP; l++) x += seen[l][channel];
        partial[(long)blockIdx.x * channels + first + channel] = x;
    }
}

// partial (images, channels) = the sum of dy (images, rows, channels) over each image's pixels. Grid (images, ceil(channels / 32)),
// block (32, 8): 32 channels of all rows, 16 bytes a thread. Reads images rows channels.
extern "C" __global__ void __launch_bounds__(BLOCK) bias_gradient(const S* dy, A* partial, int images, int rows, int channels) {
    if (channels % PACK == 0 && aligned(dy)) bias_gradient_by<PACK>(dy, partial, rows, channels);
    else bias_gradient_by<1>(dy, partial, rows, channels);
}

// dbias (channels) = the sum of partial over the images; dimage_bias (images, channels) (+)= partial. Either may be null.
// Grid (ceil(channels / 32)), block (32, 1 to 32).
extern "C" __global__ void __launch_bounds__(1024)
bias_gradient_finish(const A* partial, A* dbias, S* dimage_bias, int keep_image, int images, int channels) {
    __shared__ A seen[32][32];
    int k = blockIdx.x * 32 + threadIdx.x;
    A sum = 0;
    for (long image = threadIdx.y; image < images && k < channels; image += blockDim.y) {
        A x = partial[image * channels + k];
        sum += x;
        if (dimage_bias) {
            S* to = dimage_bias + image * channels + k;
            *to = store(keep_image ? load(*to) + x : x);
        }
    }
    seen[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || k >= channels || !dbias) return;
    for (int y = 1; y < int(blockDim.y); y++) sum += seen[y][threadIdx.x];
    dbias[k] = sum;
}
