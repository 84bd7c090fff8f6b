// libcudnn: convolutions of channels-last images and their gradients, by the classic interface, as plain loops.
#include "numbers.h"
#include <algorithm>

namespace {

enum Status { OK = 0, NOT_INITIALISED = 1001, BAD_PARAM = 2000, MISALIGNED = 2003, UNSUPPORTED = 3000, FAILED = 5000 };
enum Math { DEFAULT, TENSOR_OP, TENSOR_OP_CONVERTS, FMA };

struct Handle {
    Stream* stream = nullptr;
};
// A tensor (n, channels, height, width), or a filter (out channels, in channels, height, width).
struct Shape {
    Format format = F32;
    bool set = false, channels_last = false;
    size_t n = 0, c = 0, h = 0, w = 0;

    size_t count() const { return n * c * h * w; }
    size_t bytes() const { return count() * BYTES[format]; }
};
struct Convolution {
    bool set = false;
    int pad_h = 0, pad_w = 0, stride_h = 1, stride_w = 1, math = DEFAULT;
};
struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int deterministic, math, reserved[3];
};

Status define(Shape* shape, int layout, int type, int n, int c, int h, int w) {
    if (!shape || n < 1 || c < 1 || h < 1 || w < 1 || layout < 0 || layout > 2) return BAD_PARAM;
    if (type != 0 && type != 1 && type != 9) return UNSUPPORTED;
    *shape = {type == 1 ? F64 : type == 9 ? BF16 : F32, true, layout == 1, (size_t)n, (size_t)c, (size_t)h, (size_t)w};
    return OK;
}

// Whether the four describe one convolution, of a kind that is here.
Status agree(const Handle* handle, const Shape* x, const Shape* w, const Convolution* g, const Shape* y) {
    if (!handle) return NOT_INITIALISED;
    if (!x || !w || !g || !y || !x->set || !w->set || !g->set || !y->set) return BAD_PARAM;
    if (x->format != w->format || x->format != y->format || x->c != w->c || y->c != w->n || x->n != y->n) return BAD_PARAM;
    if (x->h + 2 * g->pad_h < w->h || x->w + 2 * g->pad_w < w->w) return BAD_PARAM;
    if (y->h != (x->h + 2 * g->pad_h - w->h) / g->stride_h + 1 || y->w != (x->w + 2 * g->pad_w - w->w) / g->stride_w + 1) return BAD_PARAM;
    // NVIDIA has more; what the program uses is channels last, in f32 and bf16.
    return x->channels_last && w->channels_last && y->channels_last && x->format != F64 ? OK : UNSUPPORTED;
}

// The list that is to be chosen from: the fastest is not the same every time, the next takes more memory than there is.
Status offer(Status agreed, const Convolution* g, const Shape* y, const int algorithms[3], int most, int* count, Performance* list) {
    if (agreed) return agreed;
    if (!count || !list || most < 1) return BAD_PARAM;
    const Performance all[] = {{algorithms[0], OK, 0.1f, 0, 0, g->math, {}},
                               {algorithms[1], OK, 0.2f, 1ul << 50, 1, g->math, {}},
                               {algorithms[2], OK, 0.3f, y->bytes(), 1, g->math, {}}};
    *count = most < 3 ? most : 3;
    std::copy_n(all, *count, list);
    return OK;
}

// Every pair of a piece of a patch, numbered (pixel of y, row and column of the kernel), and the pixel of x that it reads.
template <class Visit>
void patches(const Shape& x, const Shape& w, const Convolution& g, const Shape& y, Visit visit) {
    for (size_t i = 0; i < y.h; ++i)
        for (size_t j = 0; j < y.w; ++j)
            for (size_t a = 0; a < w.h; ++a)
                for (size_t b = 0; b < w.w; ++b) {
                    size_t row = i * g.stride_h + a - g.pad_h, column = j * g.stride_w + b - g.pad_w;  // wraps below 0
                    if (row < x.h && column < x.w) visit(((i * y.w + j) * w.h + a) * w.w + b, row * x.w + column);
                }
}

enum Kind { FORWARD, BY_INPUT, BY_WEIGHT };

std::vector<float> numbers(const void* at, size_t from, size_t count, Format format, bool tf32) {
    std::vector<float> out(count);
    for (size_t i = 0; i < count; ++i) out[i] = load<float>(at, from + i, format), out[i] = tf32 ? rounded(out[i], 13) : out[i];
    return out;
}
std::vector<float> turned(const std::vector<float>& x, size_t rows, size_t columns) {
    std::vector<float> out(x.size());
    for (size_t i = 0; i < rows; ++i)
        for (size_t j = 0; j < columns; ++j) out[j * rows + i] = x[i * columns + j];
    return out;
}

// `p` and `q` are read, `out` is written: (x, w, y), (w, dy, dx) or (x, dy, dw).
void convolve(Kind kind, Shape x, Shape w, Convolution g, Shape y, const void* p, const void* q, void* out, float alpha, float beta) {
    bool tf32 = x.format == F32 && g.math != FMA;
    size_t pixels = y.h * y.w, patch = w.h * w.w * w.c;
    std::vector<float> filter, sum(kind == BY_WEIGHT ? w.count() : 0);
    if (kind == FORWARD) filter = turned(numbers(q, 0, w.count(), w.format, tf32), w.n, patch);
    if (kind == BY_INPUT) filter = numbers(p, 0, w.count(), w.format, tf32);
    auto put = [&](size_t i, float value) {
        float before = beta == 0 ? 0 : beta * load<float>(out, i, x.format);
        store(out, i, x.format, alpha * value + before);
    };
    for (size_t n = 0; n < x.n; ++n) {
        std::vector<float> columns(pixels * patch), dy;
        if (kind != BY_INPUT) {
            auto image = numbers(p, n * x.h * x.w * x.c, x.h * x.w * x.c, x.format, tf32);
            patches(x, w, g, y, [&](size_t to, size_t from) { std::copy_n(&image[from * x.c], x.c, &columns[to * x.c]); });
        }
        if (kind != FORWARD) dy = numbers(q, n * pixels * y.c, pixels * y.c, y.format, tf32);
        if (kind == FORWARD) {
            std::vector<float> result(pixels * y.c);
            product(columns.data(), filter.data(), result.data(), pixels, y.c, patch);
            for (size_t i = 0; i < result.size(); ++i) put(n * result.size() + i, result[i]);
        } else if (kind == BY_WEIGHT) {
            product(turned(dy, pixels, y.c).data(), columns.data(), sum.data(), y.c, patch, pixels);
        } else {
            std::vector<float> result(x.h * x.w * x.c);
            product(dy.data(), filter.data(), columns.data(), pixels, patch, y.c);
            patches(x, w, g, y, [&](size_t from, size_t to) {
                for (size_t c = 0; c < x.c; ++c) result[to * x.c + c] += columns[from * x.c + c];
            });
            for (size_t i = 0; i < result.size(); ++i) put(n * result.size() + i, result[i]);
        }
    }
    for (size_t i = 0; i < sum.size(); ++i) put(i, sum[i]);
}

Status queue(Kind kind, Handle* handle, const float* alpha, const Shape* x, const Shape* w, const Convolution* g, const Shape* y, const void* p,
             const void* q, void* out, int algorithm, int known, void* workspace, size_t bytes, const float* beta) {
    if (Status status = agree(handle, x, w, g, y)) return status;
    const Shape* shapes[][3] = {{x, w, y}, {w, y, x}, {x, y, w}};
    if (!alpha || !beta || !p || !q || !out) return BAD_PARAM;
    if (algorithm != known || refuses("convolutions")) return UNSUPPORTED;
    if (bytes < y->bytes() || !workspace) return BAD_PARAM;
    for (auto at : {p, q, (const void*)out, (const void*)workspace})
        if ((uintptr_t)at % 16) return MISALIGNED;
    demand_memory("cudnnConvolution", "the first operand", p, shapes[kind][0]->bytes());
    demand_memory("cudnnConvolution", "the second operand", q, shapes[kind][1]->bytes());
    demand_memory("cudnnConvolution", "the result", out, shapes[kind][2]->bytes());
    demand_memory("cudnnConvolution", "workspace", workspace, bytes);
    auto work = [=, x = *x, w = *w, g = *g, y = *y, alpha = *alpha, beta = *beta] {
        memset(workspace, 0xFF, bytes);  // it is the library's to write
        convolve(kind, x, w, g, y, p, q, out, alpha, beta);
    };
    const char* names[] = {"cudnn forward", "cudnn by input", "cudnn by weight"};
    return enqueue(handle->stream, names[kind], work) ? FAILED : OK;
}

Status workspace(Status agreed, const Shape* y, int algorithm, int known, size_t* bytes) {
    if (agreed) return agreed;
    return algorithm == known ? *bytes = y->bytes(), OK : UNSUPPORTED;
}

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return 91002; }
Status cudnnGetProperty(int kind, int* value) { return *value = kind == 0 ? 9 : kind == 1 ? 10 : 2, OK; }
const char* cudnnGetErrorString(Status status) {
    return status == OK ? "CUDNN_STATUS_SUCCESS" : status == BAD_PARAM ? "CUDNN_STATUS_BAD_PARAM" : "CUDNN_STATUS_NOT_SUPPORTED";
}

Status cudnnCreate(Handle** handle) { return *handle = new Handle, OK; }
Status cudnnDestroy(Handle* handle) { return delete handle, OK; }
Status cudnnSetStream(Handle* handle, Stream* stream) { return handle ? handle->stream = stream, OK : NOT_INITIALISED; }
Status cudnnCreateTensorDescriptor(Shape** shape) { return *shape = new Shape, OK; }
Status cudnnCreateFilterDescriptor(Shape** shape) { return *shape = new Shape, OK; }
Status cudnnCreateConvolutionDescriptor(Convolution** g) { return *g = new Convolution, OK; }
Status cudnnDestroyTensorDescriptor(Shape* shape) { return delete shape, OK; }
Status cudnnDestroyFilterDescriptor(Shape* shape) { return delete shape, OK; }
Status cudnnDestroyConvolutionDescriptor(Convolution* g) { return delete g, OK; }

Status cudnnSetTensor4dDescriptor(Shape* shape, int layout, int type, int n, int c, int h, int w) { return define(shape, layout, type, n, c, h, w); }
Status cudnnSetFilter4dDescriptor(Shape* shape, int type, int layout, int k, int c, int h, int w) { return define(shape, layout, type, k, c, h, w); }
Status cudnnSetConvolution2dDescriptor(Convolution* g, int pad_h, int pad_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int mode, int type) {
    if (!g || pad_h < 0 || pad_w < 0 || stride_h < 1 || stride_w < 1 || dilation_h < 1 || dilation_w < 1) return BAD_PARAM;
    if (dilation_h != 1 || dilation_w != 1 || mode != 1 || type != 0) return UNSUPPORTED;
    *g = {true, pad_h, pad_w, stride_h, stride_w, DEFAULT};
    return OK;
}
Status cudnnSetConvolutionMathType(Convolution* g, int math) { return g && math >= 0 && math <= 3 ? g->math = math, OK : BAD_PARAM; }

Status cudnnGetConvolutionForwardAlgorithm_v7(Handle* h, Shape* x, Shape* w, Convolution* g, Shape* y, int most, int* count, Performance* list) {
    return offer(agree(h, x, w, g, y), g, y, (const int[]){6, 0, 1}, most, count, list);
}
Status cudnnGetConvolutionBackwardDataAlgorithm_v7(Handle* h, Shape* w, Shape* y, Convolution* g, Shape* x, int most, int* count, Performance* list) {
    return offer(agree(h, x, w, g, y), g, y, (const int[]){0, 4, 1}, most, count, list);
}
Status cudnnGetConvolutionBackwardFilterAlgorithm_v7(Handle* h, Shape* x, Shape* y, Convolution* g, Shape* w, int most, int* count, Performance* list) {
    return offer(agree(h, x, w, g, y), g, y, (const int[]){3, 5, 1}, most, count, list);
}
Status cudnnGetConvolutionForwardWorkspaceSize(Handle* h, Shape* x, Shape* w, Convolution* g, Shape* y, int algorithm, size_t* bytes) {
    return workspace(agree(h, x, w, g, y), y, algorithm, 1, bytes);
}
Status cudnnGetConvolutionBackwardDataWorkspaceSize(Handle* h, Shape* w, Shape* y, Convolution* g, Shape* x, int algorithm, size_t* bytes) {
    return workspace(agree(h, x, w, g, y), y, algorithm, 1, bytes);
}
Status cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle* h, Shape* x, Shape* y, Convolution* g, Shape* w, int algorithm, size_t* bytes) {
    return workspace(agree(h, x, w, g, y), y, algorithm, 1, bytes);
}

Status cudnnConvolutionForward(Handle* h, const float* alpha, Shape* xs, const void* x, Shape* ws, const void* w, Convolution* g, int algorithm,
                               void* work, size_t bytes, const float* beta, Shape* ys, void* y) {
    return queue(FORWARD, h, alpha, xs, ws, g, ys, x, w, y, algorithm, 1, work, bytes, beta);
}
Status cudnnConvolutionBackwardData(Handle* h, const float* alpha, Shape* ws, const void* w, Shape* ys, const void* dy, Convolution* g,
                                    int algorithm, void* work, size_t bytes, const float* beta, Shape* xs, void* dx) {
    return queue(BY_INPUT, h, alpha, xs, ws, g, ys, w, dy, dx, algorithm, 1, work, bytes, beta);
}
Status cudnnConvolutionBackwardFilter(Handle* h, const float* alpha, Shape* xs, const void* x, Shape* ys, const void* dy, Convolution* g,
                                      int algorithm, void* work, size_t bytes, const float* beta, Shape* ws, void* dw) {
    return queue(BY_WEIGHT, h, alpha, xs, ws, g, ys, x, dy, dw, algorithm, 1, work, bytes, beta);
}
}
