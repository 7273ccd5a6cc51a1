// A packed step through the text layers of a Qwen3-VL, on a CPU.
//
// Attention reads the paged KV cache where it lies, and a product reads its weight as the checkpoint has it. The rows of
// a tensor are rows of the packed step; T is bfloat16 or float32, and everything between loading and storing is
// float32. Plain C interface and no headers of torch: it compiles in a few seconds and is called through ctypes.

#include "attention.h"
#include "lanes.h"
#include "products.h"
#include "rows.h"

namespace {

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
    share(count * hidden > kAlone, count * hidden / kLanes, threads, [&](Index first, Index last) {
        for (Index at = first * kLanes; at < last * kLanes; at += kLanes)
            store(rows + at, load(rows + at) + load(narrow + at));
    });
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
