"""What ``own.py`` launches, in Triton; imported only where that is installed, as it is with PyTorch for CUDA.

Attention is flash-attention's online softmax (Dao 2023) over blocks that a table names; decodes split a request's keys
over processors and put the parts together after (Flash-Decoding). Outside products all is computed in float32; where
EXACT, in products too.
"""

import triton
import triton.language as tl


@triton.jit
def rms_norm(rows, added, weight, total, out, width, eps, ADDED: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program: ``out`` = norm(rows), or ``total`` = rows + added and ``out`` = norm(total)."""
    first = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    found = tl.load(rows + first + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        found += tl.load(added + first + at, mask=inside, other=0.0).to(tl.float32)
        kept = found.to(total.dtype.element_ty)
        tl.store(total + first + at, kept, mask=inside)
        found = kept.to(tl.float32)
    found = found * tl.rsqrt(tl.sum(found * found, 0) / width + eps)
    by = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + first + at, (found * by).to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotate_and_store(
    joined, query_weight, key_weight, cosines, sines, slots, query, keys, values, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """One head of one row a program: queries and keys normed and turned, keys and values put into the cache."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.arange(0, HALF)
    width: tl.constexpr = 2 * HALF
    source = joined + (row * (HEADS + 2 * KV_HEADS) + head) * width
    left = tl.load(source + at).to(tl.float32)
    right = tl.load(source + HALF + at).to(tl.float32)
    slot = tl.load(slots + row).to(tl.int64)
    if head >= HEADS + KV_HEADS:
        place = values + (slot * KV_HEADS + head - HEADS - KV_HEADS) * width
        tl.store(place + at, left.to(values.dtype.element_ty))
        tl.store(place + HALF + at, right.to(values.dtype.element_ty))
    else:
        by = query_weight
        place = query + (row * HEADS + head) * width
        if head >= HEADS:
            by = key_weight
            place = keys + (slot * KV_HEADS + head - HEADS) * width
        scale = tl.rsqrt((tl.sum(left * left, 0) + tl.sum(right * right, 0)) / width + eps)
        left = left * scale * tl.load(by + at).to(tl.float32)
        right = right * scale * tl.load(by + HALF + at).to(tl.float32)
        turn = row * width + at
        first = left * tl.load(cosines + turn).to(tl.float32) - right * tl.load(sines + turn).to(tl.float32)
        turn += HALF
        second = right * tl.load(cosines + turn).to(tl.float32) + left * tl.load(sines + turn).to(tl.float32)
        tl.store(place + at, first.to(query.dtype.element_ty))
        tl.store(place + HALF + at, second.to(query.dtype.element_ty))


@triton.jit
def silu_multiply(gates, out, inner, BLOCK: tl.constexpr):
    """A part of one row a program: silu of its first half times its second."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inner
    gate = tl.load(gates + row * 2 * inner + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gates + row * 2 * inner + inner + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * inner + at, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def decode(
    query, keys, values, table, lengths, out, parts, tops, sums, scaling, widest,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PAGE: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """One split of one key head of one request a program, for the GROUP queries that share it."""
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + request)
    share = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
    start = split * share
    end = tl.minimum(start + share, length)
    mine = tl.arange(0, ROWS)
    dims = tl.arange(0, WIDTH)
    within = mine < GROUP
    heads = request * HEADS + kv_head * GROUP + mine
    asked = tl.load(query + heads[:, None] * WIDTH + dims[None, :], mask=within[:, None], other=0.0)
    if EXACT:
        asked = asked.to(tl.float32)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(start, end, BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        there = tokens < end
        page = tl.load(table + request * widest + tokens // PAGE, mask=there, other=0).to(tl.int64)
        at = ((page * PAGE + tokens % PAGE) * KV_HEADS + kv_head)[:, None] * WIDTH + dims[None, :]
        key = tl.load(keys + at, mask=there[:, None], other=0.0)
        if EXACT:
            key = key.to(tl.float32)
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        value = tl.load(values + at, mask=there[:, None], other=0.0)
        if EXACT:
            value = value.to(tl.float32)
        found = found * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        top = higher
    if SPLITS == 1:
        place = out + heads[:, None] * WIDTH + dims[None, :]
        tl.store(place, (found / total[:, None]).to(out.dtype.element_ty), mask=within[:, None])
    else:
        part = heads * SPLITS + split
        tl.store(parts + part[:, None] * WIDTH + dims[None, :], found, mask=within[:, None])
        tl.store(tops + part, top, mask=within)
        tl.store(sums + part, total, mask=within)


@triton.jit
def join_splits(parts, tops, sums, out, SPLITS: tl.constexpr, WIDTH: tl.constexpr):
    """One head of one request a program."""
    head = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, WIDTH)
    top = tl.load(tops + head * SPLITS + splits)
    # A split behind the request's end has -inf here, and weighs nothing.
    weights = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(tl.load(sums + head * SPLITS + splits) * weights, 0)
    part = tl.load(parts + (head * SPLITS + splits)[:, None] * WIDTH + dims[None, :])
    found = tl.sum(part * weights[:, None], 0) / total
    tl.store(out + head * WIDTH + dims, found.to(out.dtype.element_ty))


@triton.jit
def prefill(
    query, keys, values, table, starts, lengths, out, scaling, widest,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PAGE: tl.constexpr, BLOCK: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head of one request a program; row i is its token ``lengths - count + i``."""
    request = tl.program_id(1).to(tl.int64)
    head = tl.program_id(2)
    begin = tl.load(starts + request)
    count = tl.load(starts + request + 1) - begin
    mine = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(0) * ROWS < count:
        length = tl.load(lengths + request)
        before = length - count
        dims = tl.arange(0, WIDTH)
        within = mine < count
        rows = ((begin + mine).to(tl.int64) * HEADS + head)[:, None] * WIDTH + dims[None, :]
        asked = tl.load(query + rows, mask=within[:, None], other=0.0)
        if EXACT:
            asked = asked.to(tl.float32)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        found = tl.zeros([ROWS, WIDTH], tl.float32)
        end = tl.minimum(length, before + (tl.program_id(0) + 1) * ROWS)
        for first in range(0, end, BLOCK):
            tokens = first + tl.arange(0, BLOCK)
            there = tokens < end
            page = tl.load(table + request * widest + tokens // PAGE, mask=there, other=0).to(tl.int64)
            at = ((page * PAGE + tokens % PAGE) * KV_HEADS + head // GROUP)[:, None] * WIDTH + dims[None, :]
            key = tl.load(keys + at, mask=there[:, None], other=0.0)
            if EXACT:
                key = key.to(tl.float32)
            scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
            scores = tl.where(tokens[None, :] <= before + mine[:, None], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            fade = tl.exp2(top - higher)
            total = total * fade + tl.sum(weights, 1)
            value = tl.load(values + at, mask=there[:, None], other=0.0)
            if EXACT:
                value = value.to(tl.float32)
            found = found * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            top = higher
        tl.store(out + rows, (found / total[:, None]).to(out.dtype.element_ty), mask=within[:, None])
