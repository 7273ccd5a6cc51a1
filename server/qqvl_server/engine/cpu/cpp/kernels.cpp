// A packed step through the text layers of a Qwen3-VL, on a CPU.
//
// Attention reads the paged KV cache where it lies, and a product reads its weight as the checkpoint has it. The rows of
// a tensor are rows of the packed step; T is bfloat16 or float32, and everything between loading and storing is
// float32. Plain C interface and no headers of torch: it compiles in a few seconds and is called through ctypes.

#include <cstddef>

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

// What the numbers of rows, or of a weight, are. Nothing is done for a kind that is not listed.
enum class Kind : int { float32, bfloat16 };

// Calls run with a number of the kind's type.
template <typename Run>
void with(int kind, Run run) {
    switch (static_cast<Kind>(kind)) {
        case Kind::float32: return run(float{});
        case Kind::bfloat16: return run(BFloat16{});
    }
}

// ---- Whole layers ---------------------------------------------------------------------------------------------------
// In one call: between two calls the interpreter's lock has to be had back from the threads that read and answer.

// Norms are of the rows' type, weights of their own kind; joined are those of queries, keys and values, and of gate and
// up, along their outputs.
struct Layer {
    Index hidden, inner, heads, kv_heads, head_dim, weight_kind;
    float first_eps, head_eps, second_eps, scaling;
    const void *first_norm, *joined, *query_norm, *key_norm, *projection, *second_norm, *gate_up, *down;
    void *keys, *values;  // the layer's part of the cache
};

// rows (count, hidden) become what the layer makes of them; slots, cosines and sines as rotate_and_store takes them.
// The workspace is three tensors of count rows: hidden wide; max(queries + keys + values, 2 inner); max(queries, inner,
// hidden).
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
    matmul(narrow, as<T>(layer.joined), count, queries + 2 * cache.row(), hidden, threads, wide);
    rotate_and_store<T>(wide, as<T>(layer.query_norm), as<T>(layer.key_norm), layer.head_eps, cosines, sines, slots,
                        count, heads, cache.kv_heads, cache.head_dim, threads, keys, values, middle);
    attend<T>(middle, cache, group, step, layer.scaling, threads, wide);
    matmul(wide, as<T>(layer.projection), count, hidden, queries, threads, narrow);
    norm<T>(rows, narrow, as<T>(layer.second_norm), layer.second_eps, count, hidden, threads, rows, middle);
    matmul(middle, as<T>(layer.gate_up), count, 2 * inner, hidden, threads, wide);
    silu_multiply<T>(wide, count, inner, threads, middle);
    matmul(middle, as<T>(layer.down), count, hidden, inner, threads, narrow);
    share(count * hidden > kAlone, count * hidden / kLanes, threads, [&](Index first, Index last) {
        for (Index at = first * kLanes; at < last * kLanes; at += kLanes)
            store(rows + at, load(rows + at) + load(narrow + at));
    });
}

// ---- The structures, as whoever calls has to have them ---------------------------------------------------------------

struct Field {
    const char* name;
    Index offset, size;
};

#define QQVL_FIELD(type, name) {#name, offsetof(type, name), sizeof(type::name)}

const Field kLayer[] = {
    QQVL_FIELD(Layer, hidden),      QQVL_FIELD(Layer, inner),       QQVL_FIELD(Layer, heads),
    QQVL_FIELD(Layer, kv_heads),    QQVL_FIELD(Layer, head_dim),    QQVL_FIELD(Layer, weight_kind),
    QQVL_FIELD(Layer, first_eps),   QQVL_FIELD(Layer, head_eps),    QQVL_FIELD(Layer, second_eps),
    QQVL_FIELD(Layer, scaling),     QQVL_FIELD(Layer, first_norm),  QQVL_FIELD(Layer, joined),
    QQVL_FIELD(Layer, query_norm),  QQVL_FIELD(Layer, key_norm),    QQVL_FIELD(Layer, projection),
    QQVL_FIELD(Layer, second_norm), QQVL_FIELD(Layer, gate_up),     QQVL_FIELD(Layer, down),
    QQVL_FIELD(Layer, keys),        QQVL_FIELD(Layer, values),
};
const Field kStep[] = {
    QQVL_FIELD(Step, block_size), QQVL_FIELD(Step, decodes), QQVL_FIELD(Step, columns), QQVL_FIELD(Step, prefills),
    QQVL_FIELD(Step, table),      QQVL_FIELD(Step, lengths), QQVL_FIELD(Step, starts),  QQVL_FIELD(Step, chunks),
    QQVL_FIELD(Step, blocks),     QQVL_FIELD(Step, scratch),
};
const Field kChunk[] = {
    QQVL_FIELD(Chunk, row), QQVL_FIELD(Chunk, start), QQVL_FIELD(Chunk, count), QQVL_FIELD(Chunk, blocks)};

template <typename Structure, std::size_t number>
const Field* described(const Field (&fields)[number], Index* size, Index* count) {
    *size = sizeof(Structure);
    *count = number;
    return fields;
}

}  // namespace

extern "C" {

// Each structure's size in bytes and its fields, of which a caller's must not differ.
const Field* qqvl_layer_fields(Index* size, Index* count) { return described<Layer>(kLayer, size, count); }
const Field* qqvl_step_fields(Index* size, Index* count) { return described<Step>(kStep, size, count); }
const Field* qqvl_chunk_fields(Index* size, Index* count) { return described<Chunk>(kChunk, size, count); }

// Bytes of a number of that kind; 0 where there is none.
int qqvl_number_size(int kind) {
    int size = 0;
    with(kind, [&](auto number) { size = sizeof number; });
    return size;
}

int qqvl_span() { return kSpan; }

// Whether qqvl_matmul may be called for these kinds: inputs in multiples of 64 bytes, outputs of 4.
int qqvl_has_matmul(int kind, int weight_kind) {
    bool found = false;
    if (kind == weight_kind) with(kind, [&](auto number) { found = kHasMatmul<decltype(number)>; });
    return found;
}

void qqvl_matmul(int kind, int weight_kind, const void* rows, const void* weight, Index count, Index outputs,
                 Index inputs, int threads, void* out) {
    if (kind != weight_kind) return;
    with(kind, [&](auto number) {
        using T = decltype(number);
        if constexpr (kHasMatmul<T>) matmul(as<T>(rows), as<T>(weight), count, outputs, inputs, threads, as<T>(out));
    });
}

// One layer after another. Only where qqvl_matmul takes all of their weights.
void qqvl_layers(int kind, const Layer* layers, int number_of_layers, const Step* step, Index count, const Index* slots,
                 const void* cosines, const void* sines, int threads, void* workspace, void* rows) {
    with(kind, [&](auto number) {
        using T = decltype(number);
        if constexpr (kHasMatmul<T>)
            for (int n = 0; n < number_of_layers; ++n)
                if (layers[n].weight_kind == kind)
                    run(layers[n], *step, count, slots, as<T>(cosines), as<T>(sines), threads, as<T>(workspace),
                        as<T>(rows));
    });
}

// Whether rows of such widths and heads are taken; all else may be called only then.
int qqvl_takes(int hidden, int inner, int heads, int kv_heads, int head_dim) {
    const int group = kv_heads > 0 ? heads / kv_heads : 0;
    return group >= 1 && group <= kGroup && heads == group * kv_heads && heads <= kHeads && head_dim <= kWidth &&
           head_dim % (2 * kLanes) == 0 && hidden % kLanes == 0 && inner % kLanes == 0;
}

void qqvl_attend(int kind, const void* query, const void* keys, const void* values, int kv_heads, int head_dim,
                 int group, const Step* step, float scaling, int threads, void* out) {
    with(kind, [&](auto number) {
        using T = decltype(number);
        const Cache<T> cache{as<T>(keys), as<T>(values), static_cast<int>(step->block_size), kv_heads, head_dim};
        attend(as<T>(query), cache, group, *step, scaling, threads, as<T>(out));
    });
}

void qqvl_norm(int kind, const void* rows, const void* added, const void* weight, float eps, Index count, int width,
               int threads, void* total, void* out) {
    with(kind, [&](auto number) {
        using T = decltype(number);
        norm(as<T>(rows), as<T>(added), as<T>(weight), eps, count, width, threads, as<T>(total), as<T>(out));
    });
}

void qqvl_rotate_and_store(int kind, const void* joined, const void* query_weight, const void* key_weight, float eps,
                           const void* cosine, const void* sine, const Index* slots, Index count, int heads,
                           int kv_heads, int width, int threads, void* keys, void* values, void* query) {
    with(kind, [&](auto number) {
        using T = decltype(number);
        rotate_and_store(as<T>(joined), as<T>(query_weight), as<T>(key_weight), eps, as<T>(cosine), as<T>(sine), slots,
                         count, heads, kv_heads, width, threads, as<T>(keys), as<T>(values), as<T>(query));
    });
}

void qqvl_silu_multiply(int kind, const void* joined, Index count, int width, int threads, void* out) {
    with(kind, [&](auto number) {
        using T = decltype(number);
        silu_multiply(as<T>(joined), count, width, threads, as<T>(out));
    });
}

}
