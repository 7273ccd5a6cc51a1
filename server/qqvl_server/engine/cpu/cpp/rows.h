// What lies between the products: norms, rotary positions, the cache's write, the gate.
#pragma once

#include "lanes.h"
#include "team.h"

namespace {

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
    share(count * width > kAlone, count, threads, [&](Index first, Index last) {
        for (Index n = first; n < last; ++n) {
            const T* row = rows + n * width;
            if (added != nullptr) {
                T* to = total + n * width;
                for (int d = 0; d < width; d += kLanes) store(to + d, load(row + d) + load(added + n * width + d));
                row = to;
            }
            const float scale = inverse_rms(row, width, eps);
            for (int d = 0; d < width; d += kLanes) store(out + n * width + d, load(row + d) * scale * load(weight + d));
        }
    });
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
void rotate_and_store(const T* joined, const T* query_weight, const T* key_weight, float eps, const T* cosine,
                      const T* sine, const Index* slots, Index count, int heads, int kv_heads, int width, int threads,
                      T* keys, T* values, T* query) {
    const Index row = static_cast<Index>(heads + 2 * kv_heads) * width, kept = static_cast<Index>(kv_heads) * width;
    share(count * row > kAlone, count, threads, [&](Index first, Index last) {
        for (Index n = first; n < last; ++n) {
            const T *from = joined + n * row, *c = cosine + n * width, *s = sine + n * width;
            for (int h = 0; h < heads; ++h)
                turn(from + h * width, query_weight, eps, c, s, width, query + (n * heads + h) * width);
            from += heads * width;
            for (int h = 0; h < kv_heads; ++h)
                turn(from + h * width, key_weight, eps, c, s, width, keys + slots[n] * kept + h * width);
            std::memcpy(values + slots[n] * kept, from + kept, kept * sizeof(T));
        }
    });
}

// joined (count, 2 width) holds gate and up: out = gate · sigmoid(gate) · up.
template <typename T>
void silu_multiply(const T* joined, Index count, int width, int threads, T* out) {
    share(count * width > kAlone, count, threads, [&](Index first, Index last) {
        for (Index n = first; n < last; ++n)
            for (int d = 0; d < width; d += kLanes) {
                const Lanes x = load(joined + 2 * n * width + d);
                store(out + n * width + d, x / (1.0f + exponential(-x)) * load(joined + (2 * n + 1) * width + d));
            }
    });
}

}  // namespace
