// The formats of the fake libraries, and the one product that all of them come down to.
#pragma once
#include "driver.h"
#include "fibers.h"
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

enum Format { F32, F64, BF16 };
constexpr size_t BYTES[] = {4, 8, 2};

inline float from_bits(uint32_t bits) {
    float x;
    return memcpy(&x, &bits, 4), x;
}
inline uint32_t to_bits(float x) {
    uint32_t bits;
    return memcpy(&bits, &x, 4), bits;
}

// To the nearest with `drop` bits fewer, ties to even; what is not a number stays so.
inline float rounded(float x, int drop) {
    uint32_t bits = to_bits(x), half = (1u << (drop - 1)) - 1 + (bits >> drop & 1);
    return std::isnan(x) ? x : from_bits((bits + half) & ~((1u << drop) - 1));
}

template <class A>
A load(const void* at, size_t i, Format format) {
    if (format == F64) return (A)((const double*)at)[i];
    if (format == BF16) return from_bits((uint32_t)((const uint16_t*)at)[i] << 16);
    return ((const float*)at)[i];
}
template <class A>
void store(void* at, size_t i, Format format, A x) {
    if (format == F64) ((double*)at)[i] = x;
    else if (format == BF16) ((uint16_t*)at)[i] = std::isnan(x) ? 0x7FFF : to_bits(rounded((float)x, 16)) >> 16;
    else ((float*)at)[i] = (float)x;
}

// c (m, n) += a (m, k) b (k, n), rows one after the other.
template <class A>
void product(const A* a, const A* b, A* c, size_t m, size_t n, size_t k) {
    for (size_t i = 0; i < m; ++i)
        for (size_t l = 0; l < k; ++l) {
            A x = a[i * k + l];
            for (size_t j = 0; j < n; ++j) c[i * n + j] += x * b[l * n + j];
        }
}

// What a library is given must be there: beyond it a GPU would read what belongs to others.
inline void demand_memory(const char* function, const char* what, const void* at, size_t bytes) {
    if (!on_device(at, bytes)) fail("%s: %s: %zu bytes from %p are not in one allocation", function, what, bytes, at);
}
