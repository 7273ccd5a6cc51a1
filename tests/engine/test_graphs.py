"""Recorded decode steps, where recording keeps the function: the buffers, the filling up and the check are real."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.cache.paged_attention import PagedBatch
from qqvl_server.engine.cuda.backend import CudaBackend, Recording
from qqvl_server.engine.cuda.decode_inputs import Decode, Inputs
from qqvl_server.engine.cuda.graphs import Capture, Replay, sizes
from qqvl_server.engine.cuda.varlen import VarlenMetadata, VarlenRows
from qqvl_server.engine.forward.sampler import Sampler
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import Request, SamplingParams
from tests.engine.twins import NEW, Twins

Forward = Callable[[], torch.Tensor]


def kernel(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
) -> torch.Tensor:
    """What CUDA's kernels give, request by request."""
    out = torch.empty_like(query)
    starts, group = rows.starts.tolist(), query.shape[1] // keys.shape[2]
    for n, length in enumerate(rows.lengths.tolist()):
        rows_of = slice(starts[n], starts[n + 1])
        k, v = (t[rows.table[n].long()].flatten(0, 1)[:length].repeat_interleave(group, 1) for t in (keys, values))
        weights = torch.einsum("qhd,khd->hqk", query[rows_of], k) * scaling
        count = weights.shape[1]
        seen = torch.ones(count, length, dtype=torch.bool).tril(length - count)
        out[rows_of] = torch.einsum("hqk,khd->qhd", weights.masked_fill(~seen, -torch.inf).softmax(-1), v)
    return out


class Recorder:
    """Counts what is recorded and replayed, but for what the check does."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, forward: Forward) -> Replay:
        self.recorded += 1
        self.replayed -= 1

        def replay() -> torch.Tensor:
            self.replayed += 1
            return forward()

        return replay


def recorded(capture: Capture, *, size: int = 16, requests: int = 8, longest: int = 400) -> CudaBackend:
    return CudaBackend(kernel, size, recording=Recording(capture, requests, longest))


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, [1]), (5, [1, 2, 4, 5]), (16, [1, 2, 4, 8, 16]), (40, [1, 2, 4, 8, 16, 24, 32, 40])],
)
def test_few_sizes_are_recorded_and_the_largest_is_among_them(most: int, expected: list[int]) -> None:
    assert sizes(most) == expected
    assert len(sizes(256)) < 25


@pytest.mark.parametrize(
    "shape",
    [
        {"tokens": 2048},
        {"tokens": 64, "size": 4},
        {"tokens": 64, "size": 8, "blocks": 40},
        {"tokens": 64, "requests": 2},
    ],
    ids=lambda shape: ",".join(f"{k}={v}" for k, v in shape.items()),
)
def test_replies_are_the_same_when_steps_are_replayed(twins: Twins, shape: dict[str, Any]) -> None:
    """Batches of one to five and back, over block edges; with 40 blocks some are put back and computed again."""
    recorder = Recorder()
    backend = recorded(recorder, size=shape.get("size", 16), requests=shape.get("requests", 8))
    engine = twins.engine(**shape, backend=backend)
    assert recorder.recorded == len(sizes(shape.get("requests", 8)))
    assert recorder.replayed == 0
    made = twins.add_all(engine, "a")
    assert twins.run(engine, made) == twins.expected
    assert recorder.replayed >= NEW - 1
    one, patches = twins.request("late", twins.inputs[2], max_new_tokens=3)
    made = twins.add_all(engine, "b")
    for _ in range(3):
        engine.step()
    engine.add(one, patches)
    assert twins.run(engine, [*made, one]) == [*twins.expected, twins.expected[2][:3]]


def told(paged: PagedBatch) -> VarlenMetadata:
    assert isinstance(paged.rows, VarlenRows)
    return paged.rows.rows


def test_rows_that_fill_a_batch_up_write_where_nobody_reads(twins: Twins) -> None:
    cache = KVCache(KVShape(1, 1, 4), 20, 4, dtype=torch.float32, device="cpu")
    inputs = Inputs(4, 5, cache, kernel)
    inputs.fill([Decode(7, 9, [3, 5], 6), Decode(8, 2, [2], 3)], 4)
    ids, positions, paged = inputs.first(4)
    assert ids.tolist() == [[7, 8, 0, 0]]
    assert positions.tolist() == [[[9, 2, 0, 0]]] * 3
    assert paged.new_slots.tolist() == [5 * 4 + 1, 2 * 4 + 2, 20 * 4, 20 * 4]
    rows = told(paged)
    assert rows.starts.tolist() == [0, 1, 2, 3, 4]
    assert rows.lengths.tolist() == [6, 3, 1, 1]
    assert rows.key_starts.tolist() == [0, 6, 9, 10, 11]
    assert rows.table[:, 0].tolist() == [3, 2, 20, 20]
    assert rows.table[0, :2].tolist() == [3, 5]
    assert (rows.most_rows, rows.longest) == (1, 20)
    assert {t.dtype for t in (rows.starts, rows.lengths, rows.key_starts, rows.table)} == {torch.int32}


def test_block_tables_follow_requests_that_grow_leave_and_come() -> None:
    cache = KVCache(KVShape(1, 1, 4), 20, 4, dtype=torch.float32, device="cpu")
    inputs = Inputs(2, 3, cache, kernel)
    first, second = [3], [2, 9]

    def tables(*lists: list[int]) -> list[list[int]]:
        inputs.fill([Decode(1, 1, blocks, len(blocks) * 4) for blocks in lists], 2)
        rows = told(inputs.first(2)[2])
        return [rows.table[n, : max(-(-length // 4), 1)].tolist() for n, length in enumerate(rows.lengths.tolist())]

    for _ in range(3):
        assert tables(first, second) == [[3], [2, 9]]
    first.append(4)
    assert tables(first, second) == [[3, 4], [2, 9]]
    second += [5]
    for _ in range(3):
        assert tables(first, second) == [[3, 4], [2, 9, 5]]
    for _ in range(3):
        assert tables(second) == [[2, 9, 5], [20]]
    # Put back and admitted again: the same request with other blocks.
    for _ in range(3):
        assert tables(first, [7, 8, 6]) == [[3, 4], [7, 8, 6]]


@pytest.mark.parametrize("fault", [RuntimeError, ImportError, AttributeError, "stale", "nan"])
def test_what_cannot_be_recorded_or_is_not_what_the_plain_step_is_runs_plainly(twins: Twins, fault: Any) -> None:
    """FP8 layers raise ImportError at their first forward where a package is missing."""

    def capture(forward: Forward) -> Replay:
        if isinstance(fault, type):
            raise fault("operation not permitted when stream is capturing")
        logits = forward()
        return lambda: logits if fault == "stale" else logits * torch.nan

    engine = twins.engine(backend=recorded(capture))
    request, patches = twins.request("one", twins.inputs[0])
    engine.add(request, patches)
    assert twins.run(engine, [request]) == twins.expected[:1]


def test_a_kernel_that_is_wrong_in_the_model_is_not_used_though_its_recordings_agree_with_it(twins: Twins) -> None:
    def forgetful(
        query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
    ) -> torch.Tensor:
        """Right for short requests only, as splits of the keys that nobody puts together."""
        found = kernel(query, keys, values, rows, scaling)
        found[(rows.lengths > 200).repeat_interleave(rows.starts.diff())] = 0.5
        return found

    recorder = Recorder()
    engine = twins.engine(backend=CudaBackend(forgetful, 16, recording=Recording(recorder, 4, 400)))
    assert recorder.recorded == 0
    made = twins.add_all(engine, "a")
    assert twins.run(engine, made) == twins.expected


def test_replies_stay_with_their_recording_while_prompts_are_read(twins: Twins) -> None:
    """Steps of both are computed as two; which comes first in the batch does not matter."""
    recorder = Recorder()
    engine = twins.engine(backend=recorded(recorder), tokens=32)
    first, patches = twins.request("first", twins.inputs[0])
    engine.add(first, patches)
    while not first.output:
        engine.step()
    before = recorder.replayed
    others = [twins.request(f"r{n}", twins.inputs[n], **({"min_new_tokens": 1} if n % 2 else {})) for n in (1, 2, 3)]
    for request, patches in others:
        engine.add(request, patches)
    made = first.made
    while any(not request.output for request, _ in others) and first.made < NEW:
        engine.step()
    assert recorder.replayed - before == first.made - made >= 4
    assert twins.run(engine, [first, *(request for request, _ in others)]) == twins.expected[:4]


def test_longer_or_larger_batches_than_recorded_run_plainly(twins: Twins) -> None:
    for limits, most in (({"requests": 2, "longest": 400}, NEW - 2), ({"requests": 8, "longest": 4}, 0)):
        recorder = Recorder()
        engine = twins.engine(backend=recorded(recorder, **limits))
        made: list[Request] = twins.add_all(engine, "a")
        assert twins.run(engine, made) == twins.expected
        assert recorder.replayed <= most


class Questions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operators that make the host wait for the device, and tensors made of the host's numbers."""

    WAITING = frozenset(
        {"item", "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique_dim"}
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waiting: list[str] = []
        self.from_host = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_truths = name in ("index", "index_put", "index_put_") and any(
            at is not None and at.dtype in (torch.bool, torch.uint8) for at in args[1]
        )
        if name in self.WAITING or by_truths:
            self.waiting.append(name)
        self.from_host += name == "lift_fresh"
        return func(*args, **(kwargs or {}))


def test_the_operators_that_wait_are_told() -> None:
    with torch.inference_mode(), Questions() as asked:
        numbers = torch.tensor([1, 2])
        numbers[numbers > 1].sum().item()
    assert (asked.waiting, asked.from_host) == (["index", "item"], 1)


def test_a_recorded_step_asks_the_device_nothing_and_brings_nothing_along(twins: Twins) -> None:
    """Else it could not be recorded on CUDA."""
    seen = []

    recording = False

    def capture(forward: Forward) -> Replay:
        nonlocal recording
        recording = True
        with Questions() as asked:
            forward()
        recording = False
        seen.append((asked.waiting, asked.from_host))
        return forward

    def still(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        """Reads its rows like ``kernel`` while it is checked; recorded it stands for a kernel."""
        return query + 0 if recording else kernel(query, *rest)

    twins.engine(backend=CudaBackend(still, 16, recording=Recording(capture, 4, 400)))
    assert seen == [([], 0)] * 3


def test_sampling_without_the_host_asks_the_device_nothing() -> None:
    wishes = [
        SamplingParams(9),
        SamplingParams(9, temperature=1.0, top_k=20, top_p=0.8, min_p=0.1),
        SamplingParams(9, temperature=1.0, top_p=0.8, logit_bias=((1, 2.0),), seed=3),
        SamplingParams(9, min_new_tokens=5, end_token_ids=frozenset({3})),
    ]
    requests = [Request(str(n), "c", [1, 2], one) for n, one in enumerate(wishes)]
    with Questions() as asked:
        drawn = Sampler("cpu", never=[7]).draw(torch.randn(6, 100), [0, 2, 3, 5], requests)
    assert asked.waiting == []
    assert len(drawn.wait()) == 4


def test_rows_come_in_the_batchs_order_where_a_prompt_stands_before_a_reply(twins: Twins) -> None:
    """Two replies go on; the prompt's last chunk stands between them, before or after them."""
    expected = dict(zip("012", twins.expected, strict=False))
    for order in permutations("012"):
        engine = twins.engine(backend=recorded(Recorder()))
        runner, requests = engine.runner, {}
        for name in "012":
            request, patches = twins.request(name, twins.inputs[int(name)])
            runner.add(request, patches)
            first = 20 * int(name)
            request.blocks = list(range(first, first + 19))
            requests[name] = request
        for name in "01":
            request = requests[name]
            step = runner.prepare(ScheduledBatch((ScheduledChunk(request, 0, len(request.prompt)),)))
            request.put(len(request.tokens), int(step.compute().argmax()))
        spans = {name: (len(requests[name].prompt), 1) for name in "01"} | {"2": (0, len(requests["2"].prompt))}
        chunks = {name: ScheduledChunk(requests[name], *span) for name, span in spans.items()}
        logits = runner.prepare(ScheduledBatch(tuple(chunks[name] for name in order))).compute()
        wanted = [expected[name][1 if name in "01" else 0] for name in order]
        assert logits.argmax(-1).tolist() == wanted, order
