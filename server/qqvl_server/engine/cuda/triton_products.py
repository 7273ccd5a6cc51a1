"""Products with weights that stay packed, in Triton; imported only where that is installed."""

import triton
import triton.language as tl


@triton.jit
def by_integers(
    rows, packed, scales, zeros, out, count, inputs, outputs, group,
    BITS: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """COLUMNS outputs of ROWS rows over one split of the inputs a program; each packed number is read once."""
    per: tl.constexpr = 32 // BITS
    mine = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    words = inputs // per
    share = tl.cdiv(tl.cdiv(words, WORDS), SPLITS) * WORDS
    start = tl.program_id(2) * share
    end = tl.minimum(start + share, words)
    within = (mine < count)[:, None]
    known = (columns < outputs)[None, :]
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, end, WORDS):
        at = first + tl.arange(0, WORDS)
        there = at < end
        numbers = tl.load(packed + at[:, None] * outputs + columns[None, :], mask=there[:, None] & known, other=0)
        of = (at * per // group)[:, None] * outputs + columns[None, :]
        scale = tl.load(scales + of, mask=there[:, None] & known, other=0.0).to(tl.float32)
        zero = tl.load(zeros + of, mask=there[:, None] & known, other=0).to(tl.float32)
        for place in tl.static_range(per):
            inner = mine[:, None] * inputs + (at * per + place)[None, :]
            row = tl.load(rows + inner, mask=within & there[None, :], other=0.0)
            weight = ((numbers >> (place * BITS) & (1 << BITS) - 1).to(tl.float32) - zero) * scale
            if EXACT:
                row = row.to(tl.float32)
            found += tl.dot(row, weight.to(row.dtype), input_precision="ieee")
    place = (tl.program_id(2) * count + mine[:, None]) * outputs + columns[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=within & known)


@triton.jit
def expand(
    packed, scales, zeros, out, words, outputs, group, first, width,
    BITS: tl.constexpr, WORDS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Weights (inputs, width) of the outputs from ``first`` on, for products of many rows."""
    per: tl.constexpr = 32 // BITS
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    mine = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = (at < words)[:, None] & (mine < width)[None, :]
    columns = first + mine
    numbers = tl.load(packed + at[:, None] * outputs + columns[None, :], mask=known, other=0)
    of = (at * per // group)[:, None] * outputs + columns[None, :]
    scale = tl.load(scales + of, mask=known, other=0.0).to(tl.float32)
    zero = tl.load(zeros + of, mask=known, other=0).to(tl.float32)
    for place in tl.static_range(per):
        weight = ((numbers >> (place * BITS) & (1 << BITS) - 1).to(tl.float32) - zero) * scale
        to = (at * per + place)[:, None] * width + mine[None, :]
        tl.store(out + to, weight.to(out.dtype.element_ty), mask=known)


@triton.jit
def by_bytes(
    rows, weights, scales, out, count, inputs, outputs, high, wide, across,
    FLOATS: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """As ``by_integers``, for weights (outputs, inputs) of one byte: FLOATS are E4M3, others integers."""
    mine = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    share = tl.cdiv(tl.cdiv(inputs, INNER), SPLITS) * INNER
    start = tl.program_id(2) * share
    end = tl.minimum(start + share, inputs)
    within = (mine < count)[:, None]
    known = (columns < outputs)[None, :]
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, end, INNER):
        at = first + tl.arange(0, INNER)
        there = at < end
        weight = tl.load(weights + columns[None, :] * inputs + at[:, None], mask=there[:, None] & known, other=0)
        if FLOATS:
            # A half with the same exponent and digits is 2^8 times less; cards before Ada have no E4M3 of their own.
            bits = weight.to(tl.int16)
            bits = (bits & 0x80) << 8 | (bits & 0x7F) << 7
            number = bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        else:
            number = weight.to(tl.float32)
        of = (columns // high)[None, :] * across + (at // wide)[:, None]
        number = number * tl.load(scales + of, mask=there[:, None] & known, other=0.0).to(tl.float32)
        row = tl.load(rows + mine[:, None] * inputs + at[None, :], mask=within & there[None, :], other=0.0)
        if EXACT:
            row = row.to(tl.float32)
        found += tl.dot(row, number.to(row.dtype), input_precision="ieee")
    place = (tl.program_id(2) * count + mine[:, None]) * outputs + columns[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=within & known)


@triton.jit
def add_splits(parts, out, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of SPLITS results of ``size`` numbers."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    found = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        found += tl.load(parts + split * size + at, mask=inside, other=0.0)
    tl.store(out + at, found.to(out.dtype.element_ty), mask=inside)
