// libcublas and libcublasLt: the products that the program asks for, as plain loops.
#include "numbers.h"

namespace {

enum Status { OK, NOT_INITIALISED = 1, BAD_VALUE = 7, FAILED = 13, UNSUPPORTED = 15 };

struct Handle {
    Stream* stream = nullptr;
};

bool format_of(int type, Format& format) {
    format = type == 1 ? F64 : type == 14 ? BF16 : F32;
    return type == 0 || type == 1 || type == 14;
}

struct Matrix {
    const void* at;
    Format format;
    int step;  // from one column to the next
    long long stride;
    bool turned;
};

// Row-major copy of op(x), rows x columns.
template <class A>
std::vector<A> taken(const Matrix& x, size_t batch, size_t rows, size_t columns, bool tf32) {
    std::vector<A> out(rows * columns);
    auto at = (const char*)x.at + batch * x.stride * BYTES[x.format];
    for (size_t i = 0; i < rows; ++i)
        for (size_t j = 0; j < columns; ++j) {
            A value = load<A>(at, x.turned ? i * x.step + j : j * x.step + i, x.format);
            out[i * columns + j] = tf32 ? (A)rounded((float)value, 13) : value;
        }
    return out;
}

// d = alpha a b + beta c + bias, column after column.
template <class A>
void multiply(Matrix a, Matrix b, Matrix c, Matrix d, size_t m, size_t n, size_t k, size_t batch, A alpha, A beta, const void* bias, bool tf32) {
    for (size_t z = 0; z < batch; ++z) {
        auto x = taken<A>(a, z, m, k, tf32), y = taken<A>(b, z, k, n, tf32);
        std::vector<A> sum(m * n);
        product(x.data(), y.data(), sum.data(), m, n, k);
        auto before = (const char*)c.at + z * c.stride * BYTES[c.format];
        auto out = (char*)d.at + z * d.stride * BYTES[d.format];
        for (size_t j = 0; j < n; ++j)
            for (size_t i = 0; i < m; ++i) {
                A value = alpha * sum[i * n + j];
                // With beta = 0 what is there is not read: it may be no number.
                if (beta != 0) value += beta * load<A>(before, j * c.step + i, c.format);
                if (bias) value += load<A>(bias, i, d.format);
                store(out, j * d.step + i, d.format, value);
            }
    }
}

size_t extent(const Matrix& x, size_t rows, size_t columns, size_t batch) {
    if (x.turned) std::swap(rows, columns);
    return ((batch - 1) * x.stride + (columns - 1) * x.step + rows) * BYTES[x.format];
}

bool supported(int compute, Format a, Format b, Format c) {
    if (compute == 70) return a == F64 && b == F64 && c == F64;
    if (compute == 77) return a == F32 && b == F32 && c == F32;
    return compute == 68 && a != F64 && a == b && (c == a || c == F32);
}

Status queue(Stream* stream, const char* name, Matrix a, Matrix b, Matrix c, Matrix d, int m, int n, int k, int batch, int compute,
             const void* alpha, const void* beta, const void* bias) {
    if (!alpha || !beta || !supported(compute, a.format, b.format, d.format)) return alpha && beta ? UNSUPPORTED : BAD_VALUE;
    if (a.step < (a.turned ? k : m) || b.step < (b.turned ? n : k) || c.step < m || d.step < m || m < 0 || n < 0 || k < 0) return BAD_VALUE;
    if (a.step < 1 || b.step < 1 || c.step < 1 || d.step < 1) return BAD_VALUE;
    for (auto* matrix : {&a, &b, &c, &d})
        if ((uintptr_t)matrix->at % BYTES[matrix->format]) return BAD_VALUE;
    if (!m || !n || !batch) return OK;
    // The factors are read now.
    bool doubles = compute == 70;
    double p = doubles ? *(const double*)alpha : *(const float*)alpha, q = doubles ? *(const double*)beta : *(const float*)beta;
    if (k) demand_memory(name, "A", a.at, extent(a, m, k, batch));
    if (k) demand_memory(name, "B", b.at, extent(b, k, n, batch));
    if (q != 0) demand_memory(name, "C", c.at, extent(c, m, n, batch));
    demand_memory(name, "D", d.at, extent(d, m, n, batch));
    if (bias) demand_memory(name, "bias", bias, m * BYTES[d.format]);
    auto work = [=] {
        if (doubles) multiply<double>(a, b, c, d, m, n, k, batch, p, q, bias, false);
        else multiply<float>(a, b, c, d, m, n, k, batch, p, q, bias, compute == 77);
    };
    return enqueue(stream, name, work) ? FAILED : OK;
}

// cuBLASLt's descriptions.
struct Layout {
    Format format;
    unsigned long rows, columns;
    long step;
};
struct Description {
    int compute;
    int a_op = 0, b_op = 0, epilogue = 1;
    const void* bias = nullptr;
};
struct Preference {
    size_t workspace = 0;
    unsigned alignment[4] = {256, 256, 256, 256};
};
// What the heuristic promises: the memory and the alignment that it was told.
struct Algorithm {
    size_t workspace;
    unsigned alignment[4];
    char rest[64 - sizeof(size_t) - 16];
};
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

Status agree(const Description* g, const Layout* a, const Layout* b, const Layout* c, const Layout* d) {
    if (!g || !a || !b || !c || !d) return BAD_VALUE;
    unsigned long m = g->a_op ? a->columns : a->rows, k = g->a_op ? a->rows : a->columns, n = g->b_op ? b->rows : b->columns;
    bool fits = (g->b_op ? b->columns : b->rows) == k && c->rows == m && c->columns == n && d->rows == m && d->columns == n;
    if (!fits || c->format != d->format) return BAD_VALUE;
    // Doubles have no epilogue but the default.
    bool epilogue = g->epilogue == 1 || (g->epilogue == 4 && g->compute != 70);
    return epilogue && supported(g->compute, a->format, b->format, d->format) ? OK : UNSUPPORTED;
}

template <class T>
Status set(T& to, const void* from, size_t bytes) { return from && bytes == sizeof(T) ? memcpy(&to, from, bytes), OK : BAD_VALUE; }

}  // namespace

extern "C" {

Status cublasCreate_v2(Handle** handle) { return *handle = new Handle, OK; }
Status cublasDestroy_v2(Handle* handle) { return handle ? delete handle, OK : NOT_INITIALISED; }
Status cublasSetStream_v2(Handle* handle, Stream* stream) { return handle ? handle->stream = stream, OK : NOT_INITIALISED; }
Status cublasSetMathMode(Handle* handle, int) { return handle ? OK : NOT_INITIALISED; }
Status cublasSetWorkspace_v2(Handle* handle, void* at, size_t bytes) {
    if (!handle) return NOT_INITIALISED;
    if ((uintptr_t)at % 256) return BAD_VALUE;
    demand_memory("cublasSetWorkspace", "workspace", at, bytes);
    return OK;
}
Status cublasGetProperty(int kind, int* value) { return *value = kind == 0 ? 12 : kind == 1 ? 9 : 1, OK; }

Status cublasGemmStridedBatchedEx(Handle* handle, int a_op, int b_op, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                                  long long a_stride, const void* b, int b_type, int ldb, long long b_stride, const void* beta, void* c,
                                  int c_type, int ldc, long long c_stride, int batch, int compute, int) {
    if (!handle) return NOT_INITIALISED;
    Matrix x = {a, F32, lda, a_stride, a_op != 0}, y = {b, F32, ldb, b_stride, b_op != 0}, z = {c, F32, ldc, c_stride, false};
    if (!format_of(a_type, x.format) || !format_of(b_type, y.format) || !format_of(c_type, z.format)) return UNSUPPORTED;
    if (m < 0 || n < 0 || k < 0 || batch < 0 || a_op < 0 || a_op > 1 || b_op < 0 || b_op > 1) return BAD_VALUE;
    return queue(handle->stream, "cublasGemm", x, y, z, z, m, n, k, batch, compute, alpha, beta, nullptr);
}
Status cublasGemmEx(Handle* handle, int a_op, int b_op, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda, const void* b,
                    int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, a_op, b_op, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1,
                                      compute, algorithm);
}

Status cublasLtGetProperty(int kind, int* value) { return cublasGetProperty(kind, value); }
Status cublasLtCreate(Handle** handle) { return cublasCreate_v2(handle); }
Status cublasLtDestroy(Handle* handle) { return cublasDestroy_v2(handle); }
Status cublasLtMatrixLayoutCreate(Layout** layout, int type, unsigned long rows, unsigned long columns, long step) {
    Format format;
    if (!format_of(type, format) || step < (long)rows) return BAD_VALUE;
    return *layout = new Layout{format, rows, columns, step}, OK;
}
Status cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, OK; }
Status cublasLtMatmulDescCreate(Description** g, int compute, int scale) {
    if ((compute == 70) != (scale == 1) || (compute != 70 && scale != 0)) return UNSUPPORTED;
    *g = new Description{};
    return (*g)->compute = compute, OK;
}
Status cublasLtMatmulDescDestroy(Description* g) { return delete g, OK; }
Status cublasLtMatmulDescSetAttribute(Description* g, int attribute, const void* from, size_t bytes) {
    switch (g ? attribute : -1) {
        case 3: return set(g->a_op, from, bytes);
        case 4: return set(g->b_op, from, bytes);
        case 7: return set(g->epilogue, from, bytes);
        case 8: return set(g->bias, from, bytes);
        default: return BAD_VALUE;
    }
}
Status cublasLtMatmulPreferenceCreate(Preference** preference) { return *preference = new Preference, OK; }
Status cublasLtMatmulPreferenceDestroy(Preference* preference) { return delete preference, OK; }
Status cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* from, size_t bytes) {
    if (!preference || !(attribute == 1 || (attribute >= 5 && attribute <= 8))) return BAD_VALUE;
    return attribute == 1 ? set(preference->workspace, from, bytes) : set(preference->alignment[attribute - 5], from, bytes);
}
Status cublasLtMatmulAlgoGetHeuristic(Handle* handle, Description* g, Layout* a, Layout* b, Layout* c, Layout* d, Preference* preference,
                                      int most, Heuristic* list, int* count) {
    if (!handle || !preference || most < 1 || !list || !count) return BAD_VALUE;
    *count = 0;
    if (Status status = agree(g, a, b, c, d)) return status;
    list[0] = {};
    list[0].algorithm.workspace = preference->workspace;
    memcpy(list[0].algorithm.alignment, preference->alignment, sizeof preference->alignment);
    return *count = 1, OK;
}
Status cublasLtMatmul(Handle* handle, Description* g, const void* alpha, const void* a, Layout* al, const void* b, Layout* bl, const void* beta,
                      const void* c, Layout* cl, void* d, Layout* dl, const Algorithm* algorithm, void* workspace, size_t bytes, Stream* stream) {
    if (!handle) return NOT_INITIALISED;
    if (Status status = agree(g, al, bl, cl, dl)) return status;
    if (algorithm) {
        const void* operands[] = {a, b, c, d};
        for (int i = 0; i < 4; ++i)
            if ((uintptr_t)operands[i] % algorithm->alignment[i]) return BAD_VALUE;
        if (bytes < algorithm->workspace || (bytes && !workspace)) return BAD_VALUE;
        if (bytes) demand_memory("cublasLtMatmul", "workspace", workspace, bytes);
    }
    const void* bias = g->epilogue == 4 ? g->bias : nullptr;
    if (g->epilogue == 4 && (!bias || (uintptr_t)bias % 16)) return BAD_VALUE;
    Matrix x = {a, al->format, (int)al->step, 0, g->a_op != 0}, y = {b, bl->format, (int)bl->step, 0, g->b_op != 0};
    Matrix before = {c, cl->format, (int)cl->step, 0, false}, out = {d, dl->format, (int)dl->step, 0, false};
    int k = g->a_op ? al->rows : al->columns;
    return queue(stream, "cublasLtMatmul", x, y, before, out, dl->rows, dl->columns, k, 1, g->compute, alpha, beta, bias);
}
}
