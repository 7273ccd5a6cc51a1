"""What CUDA's variable-length kernels are given, held to a plain kernel that does by definition what theirs do."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray
from structlog.testing import capture_logs

from qqvl_server.engine import build
from qqvl_server.engine.cache.device import put_together, taken_apart
from qqvl_server.engine.cache.kv_cache import KVShape
from qqvl_server.engine.cuda import varlen
from qqvl_server.engine.cuda.backend import CudaBackend
from qqvl_server.engine.cuda.trial import Trial, Trusted
from qqvl_server.engine.cuda.varlen import LIBRARIES, NamedKernel, TorchVarlen
from qqvl_server.errors import GenerationFailed
from tests.engine.flash import FakeVarlenAttention
from tests.engine.twins import Twins

SHAPE = KVShape(layers=1, kv_heads=2, head_dim=8)
CPU = torch.device("cpu")


def by_definition(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: varlen.VarlenMetadata, scaling: float
) -> torch.Tensor:
    """Causal from the end: of n rows and m keys, row i sees the first m - n + i + 1."""
    out = torch.empty_like(query)
    size, group = keys.shape[1], query.shape[1] // keys.shape[2]
    for n, length in enumerate(rows.lengths.tolist()):
        first, last = rows.starts[n : n + 2].tolist()
        for row in range(first, last):
            seen = range(length - (last - first) + (row - first) + 1)
            at = [(int(rows.table[n, p // size]), p % size) for p in seen]
            k, v = (torch.stack([t[b, o] for b, o in at]).repeat_interleave(group, 1) for t in (keys, values))
            weights = torch.einsum("hd,phd->hp", query[row], k).mul(scaling).softmax(-1)
            out[row] = torch.einsum("hp,phd->hd", weights, v)
    return out


def test_rows_and_blocks_are_told_as_the_kernels_want_them() -> None:
    rows = varlen.varlen_metadata([([7, 3, 9], 9, 1), ([1, 2], 4, 1), ([5, 6, 8, 4], 3, 6)], 4, CPU)
    assert rows.starts.tolist() == [0, 1, 2, 8]
    assert rows.lengths.tolist() == [10, 5, 9]
    assert rows.key_starts.tolist() == [0, 10, 15, 24]
    # Blocks beyond the last token are left out, shorter rows filled up.
    assert rows.table.tolist() == [[7, 3, 9], [1, 2, 0], [5, 6, 8]]
    assert (rows.most_rows, rows.longest) == (6, 10)
    assert {t.dtype for t in (rows.starts, rows.lengths, rows.key_starts, rows.table)} == {torch.int32}


def trial(**others: Any) -> Trial:
    return Trial(CPU, torch.float32, SHAPE, 6, **{"requests": 12, "context": 600, **others})


@pytest.mark.parametrize("size", [16, 256])
def test_a_kernel_is_trusted_once_it_gives_what_sdpa_gives(size: int) -> None:
    assert trial(context=90, requests=3).refuses(by_definition, size) is None


def test_a_kernel_that_errs_or_raises_is_not_trusted_and_the_reason_is_known() -> None:
    def blind(query: torch.Tensor, *_rest: object) -> torch.Tensor:
        return torch.zeros_like(query)

    def choosy(*_args: object) -> torch.Tensor:
        raise RuntimeError("Paged KV cache block size must be divisible by 256")

    kernels = (NamedKernel("blind", blind, (16, 256)), NamedKernel("choosy", choosy, (16,)), *LIBRARIES)
    refused = trial().find(kernels)
    assert not isinstance(refused, Trusted)
    assert [name.partition(",")[0] for name in refused] == [
        "blind", "blind", "choosy", "torch varlen_attn", "flash-attn", "flash-attn",
    ]  # fmt: skip
    assert "off by" in refused["blind, 16"]
    assert "divisible by 256" in refused["choosy, 16"]


def as_shipped_before(attend: Any) -> varlen.VarlenKernel:
    """One table of starts, and a window for decodes too."""

    def kernel(
        query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: varlen.VarlenMetadata, scaling: float
    ) -> torch.Tensor:
        found: torch.Tensor = attend(
            query, keys, values, rows.starts, None, rows.most_rows, rows.longest, scale=scaling, window_size=(-1, 0),
            enable_gqa=True, seqused_k=rows.lengths, block_table=rows.table,
        )  # fmt: skip
        return found

    return kernel


def split_without_a_ban(attend: Any) -> varlen.VarlenKernel:
    """Both tables, but the library chooses the splits of what has a window."""

    def kernel(
        query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: varlen.VarlenMetadata, scaling: float
    ) -> torch.Tensor:
        found: torch.Tensor = attend(
            query, keys, values, rows.starts, rows.key_starts, rows.most_rows, rows.longest, scale=scaling,
            window_size=(-1, 0), enable_gqa=True, seqused_k=rows.lengths, block_table=rows.table,
        )  # fmt: skip
        return found

    return kernel


@pytest.mark.parametrize("processors", [24, 46, 58, 82, 132])
def test_on_every_card_torchs_own_kernel_is_found_and_leaves_no_row_unwritten(processors: int) -> None:
    attend = FakeVarlenAttention(processors)
    tried = Trial(CPU, torch.float32, KVShape(1, 2, 16), 8, requests=16, context=16_384)
    found = tried.find([NamedKernel("torch", TorchVarlen(attend), (256,))])
    assert isinstance(found, Trusted), found
    assert (found.name, found.block_size) == ("torch", 256)
    # What would be wrong on some card is refused on each where it is.
    assert "both set" in str(tried.refuses(as_shipped_before(attend), 256))
    assert "off by nan" in str(tried.refuses(split_without_a_ban(attend), 256))


def test_falling_back_is_a_warning_that_says_why() -> None:
    def absent(*_args: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    broken, right = NamedKernel("own", absent, (16,)), NamedKernel("other", by_definition, (16,))
    tried = trial(context=60, requests=2)
    with capture_logs() as told:
        found = build.attention_kernel(tried, [broken, right])
        assert found is not None
        assert found.name == "other"
        assert build.attention_kernel(tried, [broken]) is None
        assert build.attention_kernel(tried, [right]) is not None
    assert [line["log_level"] for line in told] == ["warning", "warning"]
    assert all("no kernel image" in line["reasons"]["own, 16"] for line in told)


def test_what_is_no_number_ends_its_request_and_nothing_of_it_is_used_again(twins: Twins) -> None:
    """Also not where the same prompt, or one that begins alike, finds its blocks and its picture in the caches."""
    bad = True

    def overflowing(
        query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: varlen.VarlenMetadata, scaling: float
    ) -> torch.Tensor:
        found = by_definition(query, keys, values, rows, scaling)
        if bad and int(rows.lengths.max()) > 30:
            found[int(rows.starts[rows.lengths.argmax()])] = torch.nan
        return found

    engine = twins.engine(blocks=120, backend=CudaBackend(overflowing, 16))
    outputs = []
    for name in "ab":
        made = [twins.request(f"{name}{n}", twins.inputs[n]) for n in (0, 1)]
        for request, patches in made:
            engine.add(request, patches)
        while engine.has_work:
            outputs += engine.step()
            engine.check_integrity()
        assert made[0][0].output == twins.expected[0]
        if name == "b":
            assert made[1][0].output == twins.expected[1]
        bad = False
    (failed,) = [output for output in outputs if output.error is not None]
    assert isinstance(failed.error, GenerationFailed)
    assert failed.request.id == "a1"


def test_the_engine_gives_the_same_tokens_through_such_a_kernel(twins: Twins) -> None:
    engine = twins.engine(blocks=60, backend=CudaBackend(by_definition, 16))
    made = [twins.request(f"v{n}", twins.inputs[n]) for n in (0, 1)]
    for request, patches in made:
        engine.add(request, patches)
    assert twins.run(engine, [request for request, _ in made]) == twins.expected[:2]


def test_arrays_of_any_type_and_shape_travel_as_one_piece() -> None:
    arrays: list[NDArray[Any]] = [
        numpy.arange(5), numpy.arange(6, dtype=numpy.int32).reshape(3, 2).T, numpy.ones((2, 1, 3), numpy.float32),
        numpy.zeros((0, 4)), numpy.array([True, False, True]), numpy.arange(3)[:, None],
    ]  # fmt: skip
    found = taken_apart(put_together(arrays, pinned=False), arrays)
    for one, array in zip(found, arrays, strict=True):
        assert one.dtype == torch.from_numpy(array.copy()).dtype
        assert numpy.array_equal(one.numpy(), array)
