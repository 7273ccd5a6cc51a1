// A packed step through the text layers of a Qwen3-VL, on a CPU.
//
// Attention reads the paged KV cache where it lies, and a product reads its weight as the checkpoint has it. The rows of
// a tensor are rows of the packed step; T is bfloat16 or float32, and everything between loading and storing is
// float32. Plain C interface and no headers of torch: it compiles in a few seconds and is called through ctypes.
// OpenMP's runtime must be the one torch has loaded already, so the library is linked without one of its own.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;
constexpr int kWidth = 256;     // largest head_dim
constexpr int kHeads = 128;     // most query heads
constexpr int kGroup = 8;       // most query heads to a key head
constexpr int kSpan = 256;      // keys that one unit of a decode reads
constexpr int kTile = 64;       // keys that one tile of a prefill reads
constexpr int kQueries = 96;    // query rows of such a tile, heads of a group counted each
constexpr int kRows = 6;        // rows that one product keeps in registers
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

// The keys and values of one layer: (blocks, block_size, kv_heads, head_dim).
template <typename T>
struct Cache {
    const T *keys, *values;
    int block_size, kv_heads, head_dim;

    Index row() const { return static_cast<Index>(kv_heads) * head_dim; }
    Index place(const Index* table, int position) const {
        return (table[position / block_size] * block_size + position % block_size) * row();
    }
};

// ---- Decodes: one query row per request -----------------------------------------------------------------------------
// Bound by reading keys and values: they are read once, in the order in which they stand in memory, for all heads of a
// span of tokens. Spans are merged by their maxima and sums, as in flash-decoding (Dao et al., 2023).

// A block is read head by head, which the processor's own prefetching does not foresee: ask for the next one meanwhile.
template <typename T>
inline void fetch(const T* from, int count) {
    for (int i = 0; i < count; i += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(from + i, 0, 2);
}

// Adds to dots[g] the products of a key with query row g; the lanes of each make up the sum.
template <int G, typename T>
inline void products(const T* key, const T* const* rows, int width, Lanes* dots) {
    for (int d = 0; d < width; d += kLanes) {
        const Lanes part = load(key + d);
        for (int g = 0; g < G; ++g) dots[g] += part * load(rows[g] + d);
    }
}

#ifdef __AVX512BF16__
template <int G>
inline void products(const BFloat16* key, const BFloat16* const* rows, int width, Lanes* dots) {
    int d = 0;
    for (; d + 2 * kLanes <= width; d += 2 * kLanes) {
        const auto part = reinterpret_cast<__m512bh>(_mm512_loadu_si512(key + d));
        for (int g = 0; g < G; ++g)
            dots[g] = _mm512_dpbf16_ps(dots[g], part, reinterpret_cast<__m512bh>(_mm512_loadu_si512(rows[g] + d)));
    }
    for (; d < width; d += kLanes)
        for (int g = 0; g < G; ++g) dots[g] += load(key + d) * load(rows[g] + d);
}
#endif

// Tokens first to first + count of one request: each head's maximum score, sum of weights and weighted sum of values.
template <typename T, int G>
void span(const T* query, const Cache<T>& cache, const Index* table, int first, int count, float scaling, float* maxima,
          float* weights, float* sums) {
    const int width = cache.head_dim, heads = cache.kv_heads * G, block = cache.block_size;
    const Index row = cache.row();
    alignas(64) float scores[kHeads][kSpan];

    for (int from = 0; from < count;) {
        const int upto = std::min(count, from + block - (first + from) % block);
        const T* base = cache.keys + cache.place(table, first + from);
        const T* next = upto < count ? cache.keys + cache.place(table, first + upto) : base;
        for (int kv = 0; kv < cache.kv_heads; ++kv) {
            const T* rows[G];
            for (int g = 0; g < G; ++g) rows[g] = query + (kv * G + g) * width;
            for (int t = from; t < upto; ++t) {
                const Index at = (t - from) * row + kv * width;
                fetch(next + at, width);
                Lanes dots[G] = {};
                products<G>(base + at, rows, width, dots);
                for (int g = 0; g < G; ++g) scores[kv * G + g][t] = sum(dots[g]) * scaling;
            }
        }
        from = upto;
    }

    for (int head = 0; head < heads; ++head) {
        float* line = scores[head];
        const float most = *std::max_element(line, line + count);
        std::fill(line + count, line + (count + kLanes - 1) / kLanes * kLanes, most - 1000.0f);
        Lanes total = {};
        for (int t = 0; t < count; t += kLanes) {
            const Lanes weight = exponential(load(line + t) - most);
            store(line + t, weight);
            total += weight;
        }
        maxima[head] = most;
        weights[head] = sum(total);
    }

    std::fill(sums, sums + heads * width, 0.0f);
    for (int from = 0; from < count;) {
        const int upto = std::min(count, from + block - (first + from) % block);
        const T* base = cache.values + cache.place(table, first + from);
        const T* next = upto < count ? cache.values + cache.place(table, first + upto) : base;
        const int share = (upto - from) * kLanes;
        for (int column = 0; column < row; column += kLanes) {
            fetch(next + column / kLanes * share, share);
            const int kv = column / width, d = column % width;
            float* into = sums + kv * G * width + d;
            Lanes totals[G];
            for (int g = 0; g < G; ++g) totals[g] = load(into + g * width);
            for (int t = from; t < upto; ++t) {
                const Lanes value = load(base + (t - from) * row + column);
                for (int g = 0; g < G; ++g) totals[g] += value * scores[kv * G + g][t];
            }
            for (int g = 0; g < G; ++g) store(into + g * width, totals[g]);
        }
        from = upto;
    }
}

template <typename T, int G>
void decode(const T* query, const Cache<T>& cache, const Index* tables, Index columns, const Index* lengths,
            const Index* starts, Index requests, float scaling, int threads, float* scratch, T* out) {
    const Index width = cache.head_dim, heads = cache.kv_heads * G, size = heads * (width + 2);
#pragma omp parallel num_threads(threads) if (starts[requests] * kSpan * cache.row() > 2 * kAlone)
    {
#pragma omp for schedule(dynamic)
        for (Index unit = 0; unit < starts[requests]; ++unit) {
            const Index request = std::upper_bound(starts, starts + requests, unit) - starts - 1;
            const int first = static_cast<int>(unit - starts[request]) * kSpan;
            const int count = static_cast<int>(std::min<Index>(kSpan, lengths[request] - first));
            float* part = scratch + unit * size;
            span<T, G>(query + request * heads * width, cache, tables + request * columns, first, count, scaling, part,
                       part + heads, part + 2 * heads);
        }
#pragma omp for schedule(static)
        for (Index line = 0; line < requests * heads; ++line) {
            const Index request = line / heads, head = line % heads;
            const float *parts = scratch + starts[request] * size, *end = scratch + starts[request + 1] * size;
            float most = parts[head];
            for (const float* part = parts; part < end; part += size) most = std::max(most, part[head]);
            alignas(64) float total[kWidth] = {};
            float weight = 0;
            for (const float* part = parts; part < end; part += size) {
                const float share = std::exp(part[head] - most);
                weight += share * part[heads + head];
                for (int d = 0; d < width; d += kLanes)
                    store(total + d, load(total + d) + share * load(part + 2 * heads + head * width + d));
            }
            for (int d = 0; d < width; d += kLanes) store(out + line * width + d, load(total + d) / weight);
        }
    }
}

// ---- Prefills: many query rows of one request -----------------------------------------------------------------------
// Bound by multiplying: tiles of keys and values are laid out for the multiplier once per tile of queries, and softmax
// is kept running from tile to tile, as in flash-attention (Dao et al., 2022).

struct Singles {
    using Unit = float;
    static constexpr int kPer = 1;

    template <typename T>
    static void row(const T* from, int width, Unit* to) {
        for (int d = 0; d < width; d += kLanes) store(to + d, load(from + d));
    }
    template <typename T>
    static void two(const T* upper, const T*, int width, Unit* to, Index) {
        row(upper, width, to);
    }
    static Lanes add(Lanes total, Unit left, const Unit* right) { return total + left * load(right); }
};

#ifdef __AVX512BF16__
// Two bfloat16 that follow one another along the summed axis.
struct Pairs {
    using Unit = std::uint32_t;
    static constexpr int kPer = 2;

    static void row(const BFloat16* from, int width, Unit* to) { std::memcpy(to, from, width * sizeof *from); }
    static void row(const float* from, int width, Unit* to) {
        for (int d = 0; d < width; d += kLanes) store(reinterpret_cast<BFloat16*>(to) + d, load(from + d));
    }
    static void two(const BFloat16* upper, const BFloat16* lower, int width, Unit* to, Index) {
        for (int d = 0; d < width; ++d) to[d] = upper[d].bits | static_cast<Unit>(lower[d].bits) << 16;
    }
    static Lanes add(Lanes total, Unit left, const Unit* right) {
        return _mm512_dpbf16_ps(total, reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(left))),
                                reinterpret_cast<__m512bh>(_mm512_loadu_si512(right)));
    }
};
#endif

template <typename T>
struct Multiplier {
    using As = Singles;
};
#ifdef __AVX512BF16__
template <>
struct Multiplier<BFloat16> {
    using As = Pairs;
};
#endif

// R rows of left (units each) times right (units, columns) are added to into; V vectors of columns.
template <typename As, int R, int V>
inline void multiply(const typename As::Unit* left, int left_stride, const typename As::Unit* right, int right_stride,
                     int units, float* into, int into_stride) {
    Lanes totals[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) totals[r][v] = load(into + r * into_stride + v * kLanes);
    for (int k = 0; k < units; ++k)
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                totals[r][v] = As::add(totals[r][v], left[r * left_stride + k], right + k * right_stride + v * kLanes);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(into + r * into_stride + v * kLanes, totals[r][v]);
}

template <typename As, int R>
void columns(const typename As::Unit* left, int left_stride, const typename As::Unit* right, int width, int units,
             float* into) {
    int c = 0;
    for (; c + 4 * kLanes <= width; c += 4 * kLanes)
        multiply<As, R, 4>(left, left_stride, right + c, width, units, into + c, width);
    for (; c < width; c += kLanes) multiply<As, R, 1>(left, left_stride, right + c, width, units, into + c, width);
}

template <typename As>
void product(const typename As::Unit* left, int left_stride, int rows, const typename As::Unit* right, int width,
             int units, float* into) {
    int r = 0;
    for (; r + kRows <= rows; r += kRows)
        columns<As, kRows>(left + r * left_stride, left_stride, right, width, units, into + r * width);
    for (; r < rows; ++r) columns<As, 1>(left + r * left_stride, left_stride, right, width, units, into + r * width);
}

// Query rows [from, upto) of a chunk that starts at position start, for one key head; row i of query is the chunk's.
template <typename T>
void tile(const T* query, const Cache<T>& cache, int group, int kv, const Index* table, int start, int from, int upto,
          float scaling, T* out) {
    using As = typename Multiplier<T>::As;
    using Unit = typename As::Unit;
    const int width = cache.head_dim, units = width / As::kPer, heads = cache.kv_heads * group;
    const int rows = (upto - from) * group, seen = start + upto;
    alignas(64) Unit queries[kQueries * kWidth], keys[kWidth * kTile], values[kTile * kWidth], shares[kQueries * kTile];
    alignas(64) float scores[kQueries * kTile], sums[kQueries * kWidth];
    static const T nothing[kWidth] = {};
    float most[kQueries], weight[kQueries];
    for (int r = 0; r < rows; ++r) {
        As::row(query + (static_cast<Index>(from + r / group) * heads + kv * group + r % group) * width, width,
                queries + r * units);
        most[r] = -1e30f;
        weight[r] = 0;
    }
    std::fill(sums, sums + rows * width, 0.0f);

    for (int first = 0; first < seen; first += kTile) {
        const int count = std::min(kTile, seen - first);
        const T *key[kTile], *value[kTile];
        for (int t = 0; t < kTile; ++t) {
            const Index at = t < count ? cache.place(table, first + t) + kv * width : 0;
            key[t] = t < count ? cache.keys + at : nothing;
            value[t] = t < count ? cache.values + at : nothing;
        }
        for (int t = 0; t < kTile; ++t) {
            alignas(64) Unit line[kWidth];
            As::row(key[t], width, line);
            for (int k = 0; k < units; ++k) keys[k * kTile + t] = line[k];
        }
        for (int t = 0; t < kTile; t += As::kPer)
            As::two(value[t], value[t + As::kPer - 1], width, values + t / As::kPer * width, 0);

        std::fill(scores, scores + rows * kTile, 0.0f);
        product<As>(queries, units, rows, keys, kTile, units, scores);
        for (int r = 0; r < rows; ++r) {
            float* line = scores + r * kTile;
            const int last = start + from + r / group - first;  // the last key this row may see
            for (int t = std::max(last + 1, 0); t < kTile; ++t) line[t] = -1e30f;
            float top = most[r];
            for (int t = 0; t < kTile; ++t) top = std::max(top, line[t]);
            Lanes total = {};
            for (int t = 0; t < kTile; t += kLanes) {
                const Lanes share = exponential((load(line + t) - top) * scaling);
                store(line + t, share);
                total += share;
            }
            const float kept = std::exp((most[r] - top) * scaling);
            most[r] = top;
            weight[r] = weight[r] * kept + sum(total);
            for (int d = 0; d < width; d += kLanes) store(sums + r * width + d, load(sums + r * width + d) * kept);
            As::row(line, kTile, shares + r * (kTile / As::kPer));
        }
        product<As>(shares, kTile / As::kPer, rows, values, width, kTile / As::kPer, sums);
    }

    for (int r = 0; r < rows; ++r) {
        T* to = out + (static_cast<Index>(from + r / group) * heads + kv * group + r % group) * width;
        for (int d = 0; d < width; d += kLanes) store(to + d, load(sums + r * width + d) / weight[r]);
    }
}

// Rows row to row + count of a step are positions start and following of one request, whose blocks begin at blocks.
struct Chunk {
    Index row, start, count, blocks;
};

template <typename T>
void prefill(const T* query, const Cache<T>& cache, int group, const Chunk* chunks, const Index* blocks, Index number,
             float scaling, int threads, T* out) {
    const int rows = kQueries / group;
    const Index width = cache.row() * group;
    Index work = 0;
    for (Index n = 0; n < number; ++n) work += chunks[n].count * (chunks[n].start + chunks[n].count) * cache.row();
#pragma omp parallel num_threads(threads) if (work > kAloneProduct)
    for (Index n = 0; n < number; ++n) {
        const Chunk chunk = chunks[n];
        const Index tiles = (chunk.count + rows - 1) / rows;
        // The last tiles see the most: they go first, so that no thread is left with one at the end.
#pragma omp for schedule(dynamic) nowait
        for (Index unit = 0; unit < tiles * cache.kv_heads; ++unit) {
            const int from = static_cast<int>(tiles - 1 - unit / cache.kv_heads) * rows;
            tile<T>(query + chunk.row * width, cache, group, static_cast<int>(unit % cache.kv_heads),
                    blocks + chunk.blocks, static_cast<int>(chunk.start), from,
                    static_cast<int>(std::min<Index>(chunk.count, from + rows)), scaling, out + chunk.row * width);
        }
    }
}

template <typename T, typename... Rest>
void decode_group(int group, Rest... rest) {
    switch (group) {
        case 1: return decode<T, 1>(rest...);
        case 2: return decode<T, 2>(rest...);
        case 3: return decode<T, 3>(rest...);
        case 4: return decode<T, 4>(rest...);
        case 5: return decode<T, 5>(rest...);
        case 6: return decode<T, 6>(rest...);
        case 7: return decode<T, 7>(rest...);
        case 8: return decode<T, 8>(rest...);
    }
}

// The rows of a step: first decodes of one token each, then prefills (see decode and prefill).
struct Step {
    Index block_size, decodes, columns, prefills;
    const Index *table, *lengths, *starts;
    const Chunk* chunks;
    const Index* blocks;
    float* scratch;
};

// query (rows of the step, heads, head_dim) looks at all that each request has in the cache.
template <typename T>
void attend(const T* query, const Cache<T>& cache, int group, const Step& step, float scaling, int threads, T* out) {
    if (step.decodes > 0)
        decode_group<T>(group, query, cache, step.table, step.columns, step.lengths, step.starts, step.decodes, scaling,
                        threads, step.scratch, out);
    if (step.prefills > 0)
        prefill<T>(query, cache, group, step.chunks, step.blocks, step.prefills, scaling, threads, out);
}

// ---- Products: rows times a weight (outputs, inputs) ------------------------------------------------------------------
// Few rows are bound by reading the weight, many by multiplying. Both reach their limit when a group of weight rows
// stays in the first cache while all rows pass by, and the next group is asked for meanwhile. bfloat16 not where the
// processor has tiles (AMX): torch uses those.

#ifdef __AVX512F__
#define QQVL_MULTIPLIES_SINGLES 1
#endif
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define QQVL_MULTIPLIES_BFLOAT16 1
#endif

#ifdef QQVL_MULTIPLIES_SINGLES
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
#ifdef QQVL_MULTIPLIES_BFLOAT16
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
void weigh(const T* rows, const T* weight, Index count, Index outputs, Index inputs, int threads, T* out) {
    constexpr int kDepth = kDepthBytes / sizeof(T);
    // Blocks of about one size: a last one of a few rows would read the whole weight for them.
    const Index blocks = (count + kBlock - 1) / kBlock, size = ((count + blocks - 1) / blocks + kPass - 1) / kPass * kPass;
#pragma omp parallel num_threads(threads) if (count * outputs * inputs > kAloneProduct || outputs * inputs > 2 * kAlone)
    for (Index block = 0; block < count; block += size) {
        const int here = static_cast<int>(std::min(size, count - block)), passes = (here + kPass - 1) / kPass;
#pragma omp for schedule(static) nowait
        for (Index group = 0; group < outputs; group += kGroupRows) {
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
    }
}
#endif

// ---- Between the products -------------------------------------------------------------------------------------------

template <typename T>
inline float inverse_rms(const T* row, int width, float eps) {
    Lanes total = {};
    for (int d = 0; d < width; d += kLanes) total += load(row + d) * load(row + d);
    return 1.0f / std::sqrt(sum(total) / width + eps);
}

// Where added is given, rows + added goes to total and is normalised; else rows is.
template <typename T>
void norm(const T* rows, const T* added, const T* weight, float eps, Index count, int width, int threads, T* total,
          T* out) {
#pragma omp parallel for num_threads(threads) if (count * width > kAlone)
    for (Index n = 0; n < count; ++n) {
        const T* row = rows + n * width;
        if (added != nullptr) {
            T* to = total + n * width;
            for (int d = 0; d < width; d += kLanes) store(to + d, load(row + d) + load(added + n * width + d));
            row = to;
        }
        const float scale = inverse_rms(row, width, eps);
        for (int d = 0; d < width; d += kLanes) store(out + n * width + d, load(row + d) * scale * load(weight + d));
    }
}

// Normalises and turns one head of a query or key; cosine and sine are (head_dim,), halves turned against each other.
template <typename T>
inline void turn(const T* from, const T* weight, float eps, const T* cosine, const T* sine, int width, T* to) {
    const float scale = inverse_rms(from, width, eps);
    const int half = width / 2;
    for (int d = 0; d < half; d += kLanes) {
        const Lanes left = load(from + d) * scale * load(weight + d);
        const Lanes right = load(from + half + d) * scale * load(weight + half + d);
        store(to + d, left * load(cosine + d) - right * load(sine + d));
        store(to + half + d, right * load(cosine + half + d) + left * load(sine + half + d));
    }
}

// joined (count, heads + 2 kv_heads, head_dim): queries go to query, keys and values to their slots in the cache.
template <typename T>
void place(const T* joined, const T* query_weight, const T* key_weight, float eps, const T* cosine, const T* sine,
           const Index* slots, Index count, int heads, int kv_heads, int width, int threads, T* keys, T* values,
           T* query) {
    const Index row = static_cast<Index>(heads + 2 * kv_heads) * width, kept = static_cast<Index>(kv_heads) * width;
#pragma omp parallel for num_threads(threads) if (count * row > kAlone)
    for (Index n = 0; n < count; ++n) {
        const T *from = joined + n * row, *c = cosine + n * width, *s = sine + n * width;
        for (int h = 0; h < heads; ++h)
            turn(from + h * width, query_weight, eps, c, s, width, query + (n * heads + h) * width);
        from += heads * width;
        for (int h = 0; h < kv_heads; ++h)
            turn(from + h * width, key_weight, eps, c, s, width, keys + slots[n] * kept + h * width);
        std::memcpy(values + slots[n] * kept, from + kept, kept * sizeof(T));
    }
}

// joined (count, 2 width) holds gate and up: out = gate · sigmoid(gate) · up.
template <typename T>
void gate(const T* joined, Index count, int width, int threads, T* out) {
#pragma omp parallel for num_threads(threads) if (count * width > kAlone)
    for (Index n = 0; n < count; ++n)
        for (int d = 0; d < width; d += kLanes) {
            const Lanes x = load(joined + 2 * n * width + d);
            store(out + n * width + d, x / (1.0f + exponential(-x)) * load(joined + (2 * n + 1) * width + d));
        }
}

template <typename T>
const T* as(const void* pointer) {
    return static_cast<const T*>(pointer);
}

template <typename T>
T* as(void* pointer) {
    return static_cast<T*>(pointer);
}

// ---- Whole layers ---------------------------------------------------------------------------------------------------
// In one call: between two calls the interpreter's lock has to be had back from the threads that read and answer.

// Weights of type T; joined are those of queries, keys and values, and of gate and up, along their outputs.
struct Layer {
    Index hidden, inner, heads, kv_heads, head_dim;
    float first_eps, head_eps, second_eps, scaling;
    const void *first_norm, *joined, *query_norm, *key_norm, *projection, *second_norm, *gate_up, *down;
    void *keys, *values;  // the layer's part of the cache
};

// AVX512-BF16 comes with AVX512F only, so this stands wherever either type is multiplied.
#ifdef QQVL_MULTIPLIES_SINGLES
// rows (count, hidden) become what the layer makes of them; slots, cosines and sines as place takes them. The workspace
// is three tensors of count rows: hidden wide; max(queries + keys + values, 2 inner); max(queries, inner, hidden).
template <typename T>
void run(const Layer& layer, const Step& step, Index count, const Index* slots, const T* cosines, const T* sines,
         int threads, T* workspace, T* rows) {
    T *keys = as<T>(layer.keys), *values = as<T>(layer.values);
    const Cache<T> cache{keys, values, static_cast<int>(step.block_size), static_cast<int>(layer.kv_heads),
                         static_cast<int>(layer.head_dim)};
    const int hidden = static_cast<int>(layer.hidden), inner = static_cast<int>(layer.inner);
    const int heads = static_cast<int>(layer.heads), group = heads / cache.kv_heads, queries = heads * cache.head_dim;
    T *narrow = workspace, *wide = narrow + count * hidden;
    T *middle = wide + count * std::max(queries + 2 * cache.row(), 2 * layer.inner);

    norm<T>(rows, nullptr, as<T>(layer.first_norm), layer.first_eps, count, hidden, threads, nullptr, narrow);
    weigh(narrow, as<T>(layer.joined), count, queries + 2 * cache.row(), hidden, threads, wide);
    place<T>(wide, as<T>(layer.query_norm), as<T>(layer.key_norm), layer.head_eps, cosines, sines, slots, count, heads,
             cache.kv_heads, cache.head_dim, threads, keys, values, middle);
    attend<T>(middle, cache, group, step, layer.scaling, threads, wide);
    weigh(wide, as<T>(layer.projection), count, hidden, queries, threads, narrow);
    norm<T>(rows, narrow, as<T>(layer.second_norm), layer.second_eps, count, hidden, threads, rows, middle);
    weigh(middle, as<T>(layer.gate_up), count, 2 * inner, hidden, threads, wide);
    gate<T>(wide, count, inner, threads, middle);
    weigh(middle, as<T>(layer.down), count, hidden, inner, threads, narrow);
#pragma omp parallel for num_threads(threads) if (count * hidden > kAlone)
    for (Index at = 0; at < count * hidden; at += kLanes) store(rows + at, load(rows + at) + load(narrow + at));
}
#endif

}  // namespace

extern "C" {

int qqvl_span() { return kSpan; }

// Whether qqvl_multiply may be called: inputs in multiples of 64 bytes, outputs of 4.
int qqvl_multiplies(int bf16) {
    (void)bf16;
#ifdef QQVL_MULTIPLIES_BFLOAT16
    if (bf16) return 1;
#endif
#ifdef QQVL_MULTIPLIES_SINGLES
    if (!bf16) return 1;
#endif
    return 0;
}

void qqvl_multiply(int bf16, const void* rows, const void* weight, Index count, Index outputs, Index inputs, int threads,
                   void* out) {
#ifdef QQVL_MULTIPLIES_BFLOAT16
    if (bf16) weigh(as<BFloat16>(rows), as<BFloat16>(weight), count, outputs, inputs, threads, as<BFloat16>(out));
#endif
#ifdef QQVL_MULTIPLIES_SINGLES
    if (!bf16) weigh(as<float>(rows), as<float>(weight), count, outputs, inputs, threads, as<float>(out));
#endif
    (void)bf16, (void)rows, (void)weight, (void)count, (void)outputs, (void)inputs, (void)threads, (void)out;
}

// One layer after another. Only where qqvl_multiply takes all of their weights.
void qqvl_layers(int bf16, const Layer* layers, int number, const Step* step, Index count, const Index* slots,
                 const void* cosines, const void* sines, int threads, void* workspace, void* rows) {
    for (int n = 0; n < number; ++n) {
#ifdef QQVL_MULTIPLIES_BFLOAT16
        if (bf16)
            run(layers[n], *step, count, slots, as<BFloat16>(cosines), as<BFloat16>(sines), threads,
                as<BFloat16>(workspace), as<BFloat16>(rows));
#endif
#ifdef QQVL_MULTIPLIES_SINGLES
        if (!bf16)
            run(layers[n], *step, count, slots, as<float>(cosines), as<float>(sines), threads, as<float>(workspace),
                as<float>(rows));
#endif
    }
    (void)bf16, (void)layers, (void)step, (void)count, (void)slots, (void)cosines, (void)sines, (void)threads;
    (void)workspace, (void)rows;
}

// Whether rows of such widths and heads are taken; all else may be called only then.
int qqvl_takes(int hidden, int inner, int heads, int kv_heads, int head_dim) {
    const int group = kv_heads > 0 ? heads / kv_heads : 0;
    return group >= 1 && group <= kGroup && heads == group * kv_heads && heads <= kHeads && head_dim <= kWidth &&
           head_dim % (2 * kLanes) == 0 && hidden % kLanes == 0 && inner % kLanes == 0;
}

void qqvl_attend(int bf16, const void* query, const void* keys, const void* values, int kv_heads, int head_dim,
                 int group, const Step* step, float scaling, int threads, void* out) {
    const int size = static_cast<int>(step->block_size);
    if (bf16)
        attend(as<BFloat16>(query),
               Cache<BFloat16>{as<BFloat16>(keys), as<BFloat16>(values), size, kv_heads, head_dim}, group, *step,
               scaling, threads, as<BFloat16>(out));
    else
        attend(as<float>(query), Cache<float>{as<float>(keys), as<float>(values), size, kv_heads, head_dim}, group,
               *step, scaling, threads, as<float>(out));
}

void qqvl_norm(int bf16, const void* rows, const void* added, const void* weight, float eps, Index count, int width,
               int threads, void* total, void* out) {
    if (bf16)
        norm(as<BFloat16>(rows), as<BFloat16>(added), as<BFloat16>(weight), eps, count, width, threads,
             as<BFloat16>(total), as<BFloat16>(out));
    else
        norm(as<float>(rows), as<float>(added), as<float>(weight), eps, count, width, threads, as<float>(total),
             as<float>(out));
}

void qqvl_place(int bf16, const void* joined, const void* query_weight, const void* key_weight, float eps,
                const void* cosine, const void* sine, const Index* slots, Index count, int heads, int kv_heads,
                int width, int threads, void* keys, void* values, void* query) {
    if (bf16)
        place(as<BFloat16>(joined), as<BFloat16>(query_weight), as<BFloat16>(key_weight), eps, as<BFloat16>(cosine),
              as<BFloat16>(sine), slots, count, heads, kv_heads, width, threads, as<BFloat16>(keys),
              as<BFloat16>(values), as<BFloat16>(query));
    else
        place(as<float>(joined), as<float>(query_weight), as<float>(key_weight), eps, as<float>(cosine),
              as<float>(sine), slots, count, heads, kv_heads, width, threads, as<float>(keys), as<float>(values),
              as<float>(query));
}

void qqvl_gate(int bf16, const void* joined, Index count, int width, int threads, void* out) {
    if (bf16)
        gate(as<BFloat16>(joined), count, width, threads, as<BFloat16>(out));
    else
        gate(as<float>(joined), count, width, threads, as<float>(out));
}

}
