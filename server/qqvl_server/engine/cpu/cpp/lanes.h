// Sixteen numbers at a time, of either type, and what is done to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;
// Below so many elements touched, or multiplied, one thread is done before another would have begun; and where other
// work keeps the cores busy, waiting for that other one takes longest.
constexpr int kAlone = 1 << 16;
constexpr int kAloneProduct = 1 << 22;

using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using Half = float __attribute__((vector_size(kLanes / 2 * sizeof(float))));
using Quarter = float __attribute__((vector_size(kLanes / 4 * sizeof(float))));
using Words = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));
using Shorts = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));
using Index = std::int64_t;

struct BFloat16 {
    std::uint16_t bits;
};

inline Lanes load(const float* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline Lanes load(const BFloat16* from) {
    Shorts shorts;
    std::memcpy(&shorts, from, sizeof shorts);
    return reinterpret_cast<Lanes>(__builtin_convertvector(shorts, Words) << 16);
}

inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline void store(BFloat16* to, Lanes lanes) {
    Words bits = reinterpret_cast<Words>(lanes);
    bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    const Shorts shorts = __builtin_convertvector(bits >> 16, Shorts);
    std::memcpy(to, &shorts, sizeof shorts);
}

template <typename Part, typename Whole>
inline Part folded(Whole whole) {
    Part low, high;
    std::memcpy(&low, &whole, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&whole) + sizeof low, sizeof high);
    return low + high;
}

inline float sum(Lanes lanes) {
    const Quarter four = folded<Quarter>(folded<Half>(lanes));
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// e^x = 2^(n + f), by a polynomial for 2^f on [-1/2, 1/2]; relative error below 3e-7, x held to [-87, 87].
inline Lanes exponential(Lanes x) {
    x = x < -87.0f ? Lanes{} - 87.0f : x;
    x = x > 87.0f ? Lanes{} + 87.0f : x;
    const Lanes y = x * 1.44269504f;
    const Words n = __builtin_convertvector(y + (y < 0.0f ? Lanes{} - 0.5f : Lanes{} + 0.5f), Words);
    const Lanes f = y - __builtin_convertvector(n, Lanes);
    Lanes p = f * 1.5403530e-4f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return reinterpret_cast<Lanes>(reinterpret_cast<Words>(p) + (n << 23));
}

}  // namespace
