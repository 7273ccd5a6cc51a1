// Products: rows times a weight (outputs, inputs).
#pragma once

#include "lanes.h"
#include "team.h"

namespace {

// Few rows are bound by reading the weight, many by multiplying. Both reach their limit when a group of weight rows
// stays in the first cache while all rows pass by, and the next group is asked for meanwhile. bfloat16 not where the
// processor has tiles (AMX): torch uses those.

#ifdef __AVX512F__
#define QQVL_MATMUL_FLOAT32 1
#endif
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define QQVL_MATMUL_BFLOAT16 1
#endif

template <typename T>
constexpr bool kHasMatmul = false;

// AVX512-BF16 comes with AVX512F only, so this stands wherever either type is multiplied.
#ifdef QQVL_MATMUL_FLOAT32
template <>
constexpr bool kHasMatmul<float> = true;
constexpr int kGroupRows = 4;      // weight rows of a group
constexpr int kPass = 4;           // rows that pass by at once
constexpr int kDepthBytes = 4096;  // of a row, summed before the next part of it: a group of so much fits the cache
constexpr int kBlock = 128;        // rows whose parts of that depth fit the second cache

struct DotSingles {
    using Vector = Lanes;
    static Vector load(const float* from) {
        Vector found = _mm512_loadu_ps(from);
        // Kept in a register: compilers would rather read it again for each product, of which memory gives half as many.
        asm("" : "+v"(found));
        return found;
    }
    static Lanes add(Lanes total, Vector left, Vector right) { return total + left * right; }
};
template <typename T>
struct Dot {
    using As = DotSingles;
};
#ifdef QQVL_MATMUL_BFLOAT16
template <>
constexpr bool kHasMatmul<BFloat16> = true;
struct DotPairs {
    using Vector = __m512bh;
    static Vector load(const BFloat16* from) { return reinterpret_cast<Vector>(_mm512_loadu_si512(from)); }
    static Lanes add(Lanes total, Vector left, Vector right) { return _mm512_dpbf16_ps(total, left, right); }
};
template <>
struct Dot<BFloat16> {
    using As = DotPairs;
};
#endif

inline Lanes pairwise(Lanes a, Lanes b, Lanes c, Lanes d) {
    const Lanes ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
    const Lanes cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
    return reinterpret_cast<Lanes>(
               _mm512_unpacklo_pd(reinterpret_cast<__m512d>(ab), reinterpret_cast<__m512d>(cd))) +
           reinterpret_cast<Lanes>(
               _mm512_unpackhi_pd(reinterpret_cast<__m512d>(ab), reinterpret_cast<__m512d>(cd)));
}

inline Lanes quarters(Lanes a, Lanes b) {
    return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
}

// The sums of sixteen vectors, in their order.
inline Lanes sums_of(const Lanes (*dots)[kGroupRows]) {
    Lanes four[kPass];
    for (int m = 0; m < kPass; ++m) four[m] = pairwise(dots[m][0], dots[m][1], dots[m][2], dots[m][3]);
    return quarters(quarters(four[0], four[1]), quarters(four[2], four[3]));
}

// M rows times a group of weight rows over depth inputs, added to partial (kPass, kGroupRows). Rows from first to last
// of the next group are fetched on the way. Where out is given the sums are whole and go there, at once: a column of
// many rows falls on few places of the cache, so its stores must not come in one go.
template <int M, typename T>
inline void pass(const T* rows, const T* weight, Index inputs, int depth, const T* next, int first, int last,
                 float* partial, T* out, Index outputs) {
    using As = typename Dot<T>::As;
    constexpr int kStep = sizeof(Lanes) / sizeof(T);
    Lanes dots[kPass][kGroupRows] = {};
    for (int d = 0; d < depth; d += kStep) {
        for (int r = first; r < last; ++r) __builtin_prefetch(next + r * inputs + d, 0, 2);
        typename As::Vector group[kGroupRows];
        for (int r = 0; r < kGroupRows; ++r) group[r] = As::load(weight + r * inputs + d);
        for (int m = 0; m < M; ++m) {
            const auto row = As::load(rows + m * inputs + d);
            for (int r = 0; r < kGroupRows; ++r) dots[m][r] = As::add(dots[m][r], group[r], row);
        }
    }
    const Lanes total = load(partial) + sums_of(dots);
    if (out == nullptr) return store(partial, total);
    alignas(64) T rounded[kLanes];
    store(rounded, total);
    for (int m = 0; m < M; ++m)
        std::memcpy(out + m * outputs, rounded + m * kGroupRows, kGroupRows * sizeof *rounded);
}

template <typename T>
void matmul(const T* rows, const T* weight, Index count, Index outputs, Index inputs, int threads, T* out) {
    constexpr int kDepth = kDepthBytes / sizeof(T);
    // Blocks of about one size: a last one of a few rows would read the whole weight for them.
    const Index blocks = (count + kBlock - 1) / kBlock, size = ((count + blocks - 1) / blocks + kPass - 1) / kPass * kPass;
    const Index groups = outputs / kGroupRows;
    const bool worth = count * outputs * inputs > kAloneProduct || outputs * inputs > 2 * kAlone;
    // Units: all groups of the first block, then all of the next.
    share(worth, (count + size - 1) / size * groups, threads, [&](Index start, Index end) {
        for (Index unit = start; unit < end; ++unit) {
            const Index block = unit / groups * size, group = unit % groups * kGroupRows;
            const int here = static_cast<int>(std::min(size, count - block)), passes = (here + kPass - 1) / kPass;
            alignas(64) float partial[kBlock * kGroupRows];
            std::fill(partial, partial + passes * kPass * kGroupRows, 0.0f);
            for (Index from = 0; from < inputs; from += kDepth) {
                const int depth = static_cast<int>(std::min<Index>(kDepth, inputs - from));
                const bool whole = from + depth == inputs;
                const T* part = weight + group * inputs + from;
                // What is read next: the rest of this group, else the beginning of the next one.
                const T* next = whole ? part + kGroupRows * inputs - from : part + depth;
                for (int p = 0; p < passes; ++p) {
                    const Index row = block + p * kPass;
                    const T* at = rows + row * inputs + from;
                    float* into = partial + p * kPass * kGroupRows;
                    T* to = whole ? out + row * outputs + group : nullptr;
                    const int first = p * kGroupRows / passes, last = (p + 1) * kGroupRows / passes;
                    switch (std::min(kPass, here - p * kPass)) {
                        case 1: pass<1>(at, part, inputs, depth, next, first, last, into, to, outputs); break;
                        case 2: pass<2>(at, part, inputs, depth, next, first, last, into, to, outputs); break;
                        case 3: pass<3>(at, part, inputs, depth, next, first, last, into, to, outputs); break;
                        default: pass<4>(at, part, inputs, depth, next, first, last, into, to, outputs);
                    }
                }
            }
        }
    });
}
#endif

}  // namespace
