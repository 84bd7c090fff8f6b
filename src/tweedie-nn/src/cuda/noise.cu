// The recipe of noise.rs, to the bit: a draw is a function of (seed, stream, index). Only + - * / and sqrt on doubles, each rounded once by
// its own intrinsic, so that no compiler contracts a product and a sum into one rounding. A host builds this with -ffp-contract=off.

struct Bits {
    unsigned long long even, odd;
};

// The bits of indices 2 block and 2 block + 1: ten rounds of Philox 4x32.
__device__ inline Bits philox(unsigned long long seed, unsigned long long stream, unsigned long long block) {
    unsigned c0 = (unsigned)block, c1 = (unsigned)(block >> 32), c2 = (unsigned)stream, c3 = (unsigned)(stream >> 32);
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {c0 | (unsigned long long)c1 << 32, c2 | (unsigned long long)c3 << 32};
}

// c[0] + c[1] x + ... + c[7] x^7, innermost first.
__device__ inline double horner(double x, double c0, double c1, double c2, double c3, double c4, double c5, double c6, double c7) {
    double s = c7;
    s = __dadd_rn(__dmul_rn(s, x), c6);
    s = __dadd_rn(__dmul_rn(s, x), c5);
    s = __dadd_rn(__dmul_rn(s, x), c4);
    s = __dadd_rn(__dmul_rn(s, x), c3);
    s = __dadd_rn(__dmul_rn(s, x), c2);
    s = __dadd_rn(__dmul_rn(s, x), c1);
    return __dadd_rn(__dmul_rn(s, x), c0);
}

// The logarithm of a positive normal number: x = 2^e m, ln m = 2 atanh(s), s = (m - 1)/(m + 1).
__device__ inline double noise_log(double x) {
    unsigned long long bits = double_bits(x);
    int e = int(bits >> 52) - 1023;
    double m = double_of_bits((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    bool large = m > 1.4142135623730951;
    m = __dmul_rn(m, large ? 0.5 : 1.0);
    e += large;
    double s = __ddiv_rn(__dadd_rn(m, -1.0), __dadd_rn(m, 1.0)), z = __dmul_rn(s, s);
    double series = 1.0 / 23.0;
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 21.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 19.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 17.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 15.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 13.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 11.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 9.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 7.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 5.0);
    series = __dadd_rn(__dmul_rn(series, z), 1.0 / 3.0);
    double e2 = e, s2 = __dmul_rn(2.0, s);
    // The upper 32 bits of ln 2, and the rest.
    double high = double_of_bits(0x3FE62E42FEE00000ull), low = 1.9082149292705877e-10;
    double tail = __dadd_rn(__dmul_rn(s2, __dmul_rn(series, z)), __dmul_rn(e2, low));
    return __dadd_rn(__dmul_rn(e2, high), __dadd_rn(s2, tail));
}

// The standard normal's quantile in the tails, |p - 1/2| > 0.425.
__device__ inline double tail_quantile(double p) {
    double r = __dsqrt_rn(-noise_log(p < 0.5 ? p : __dadd_rn(1.0, -p)));
    double x;
    if (r <= 5.0) {
        r = __dadd_rn(r, -1.6);
        x = __ddiv_rn(
            horner(r, 1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
                   1.27045825245236838258, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
            horner(r, 1.0, 2.05319162663775882187, 1.67638483018380384940, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
                   1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9));
    } else {
        r = __dadd_rn(r, -5.0);
        x = __ddiv_rn(
            horner(r, 6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 2.96560571828504891230e-1,
                   2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
            horner(r, 1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                   7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15));
    }
    return p < 0.5 ? -x : x;
}

// The standard normal of 64 bits.
__device__ inline double normal_of_bits(unsigned long long bits) {
    // The middle of one of 2^52 cells of (0, 1), exact.
    double p = __dmul_rn(__dadd_rn((double)(bits >> 12), 0.5), 1.0 / 4503599627370496.0);
    double q = __dadd_rn(p, -0.5);
    if (!(q <= 0.425 && q >= -0.425)) return tail_quantile(p);
    double r = __dadd_rn(0.180625, -__dmul_rn(q, q));
    return __dmul_rn(
        q, __ddiv_rn(horner(r, 3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
                            45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
                     horner(r, 1.0, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077, 21213.794301586595867,
                            39307.89580009271061, 28729.085735721942674, 5226.495278852854561)));
}

// Draw `index` of a stream.
__device__ inline double normal(unsigned long long seed, unsigned long long stream, unsigned long long index) {
    Bits bits = philox(seed, stream, index >> 1);
    return normal_of_bits(index & 1 ? bits.odd : bits.even);
}
