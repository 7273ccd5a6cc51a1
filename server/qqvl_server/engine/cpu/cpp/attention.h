// Attention over the paged cache: a step's decodes and prefills.
#pragma once

#include "lanes.h"
#include "team.h"

namespace {

constexpr int kWidth = 256;     // largest head_dim
constexpr int kHeads = 128;     // most query heads
constexpr int kGroup = 8;       // most query heads to a key head
constexpr int kSpan = 256;      // keys that one unit of a decode reads
constexpr int kTile = 64;       // keys that one tile of a prefill reads
constexpr int kQueries = 96;    // query rows of such a tile, heads of a group counted each
constexpr int kRows = 6;        // rows that one product keeps in registers

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
    const bool worth = starts[requests] * kSpan * cache.row() > 2 * kAlone;
    share(worth, starts[requests], threads, [&](Index from, Index upto) {
        for (Index unit = from; unit < upto; ++unit) {
            const Index request = std::upper_bound(starts, starts + requests, unit) - starts - 1;
            const int first = static_cast<int>(unit - starts[request]) * kSpan;
            const int count = static_cast<int>(std::min<Index>(kSpan, lengths[request] - first));
            float* part = scratch + unit * size;
            span<T, G>(query + request * heads * width, cache, tables + request * columns, first, count, scaling, part,
                       part + heads, part + 2 * heads);
        }
    });
    share(worth, requests * heads, threads, [&](Index from, Index upto) {
        for (Index line = from; line < upto; ++line) {
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
    });
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
    // The last tiles see the most: they go first, so that no thread is left with one at the end.
    for (Index n = 0; n < number; ++n) {
        const Chunk chunk = chunks[n];
        const Index tiles = (chunk.count + rows - 1) / rows;
        share(work > kAloneProduct, tiles * cache.kv_heads, threads, [&](Index first, Index last) {
            for (Index unit = first; unit < last; ++unit) {
                const int from = static_cast<int>(tiles - 1 - unit / cache.kv_heads) * rows;
                tile<T>(query + chunk.row * width, cache, group, static_cast<int>(unit % cache.kv_heads),
                        blocks + chunk.blocks, static_cast<int>(chunk.start), from,
                        static_cast<int>(std::min<Index>(chunk.count, from + rows)), scaling, out + chunk.row * width);
            }
        });
    }
}

// ---- Both -------------------------------------------------------------------------------------------------------------

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

}  // namespace
