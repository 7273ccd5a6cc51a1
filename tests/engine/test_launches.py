"""How much of a step on a card is launching and waiting: counted with the real 8B model, on torch's meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qqvl_server.engine.cuda.backend import CudaBackend
from qqvl_server.engine.cuda.layers import fuse
from qqvl_server.engine.cuda.varlen import VarlenMetadata
from qqvl_server.engine.forward.sampler import Sampler
from qqvl_server.engine.forward.vision import Patches, encode
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import ImageSpan, Request, SamplingParams
from tests.engine import meta
from tests.engine.by_torch import OneLaunch


def one_launch(query: torch.Tensor, keys: Any, values: Any, rows: VarlenMetadata, scaling: float) -> torch.Tensor:
    """In a kernel's place."""
    return query.relu()


@pytest.fixture(scope="module")
def large() -> Any:
    return meta.model()


def two_launches(query: torch.Tensor, keys: Any, values: Any, rows: VarlenMetadata, scaling: float) -> torch.Tensor:
    """A kernel whose splits are joined by another."""
    return query.relu().relu()


@pytest.mark.parametrize("count", [1, 16])
def test_a_step_through_fused_layers_launches_a_quarter(count: int) -> None:
    made = meta.model()
    run = meta.runner(CudaBackend(two_launches, 16, adapt=lambda model: fuse(model, OneLaunch())), made)
    batch = meta.decodes(run, count)
    with meta.Watch() as seen, torch.inference_mode():
        logits = run.prepare(batch).compute()
    assert logits.shape == (count, 151_936)
    assert seen.total <= 430, seen.launches
    assert seen.launches["linear"] + seen.launches["mm"] + seen.launches["addmm"] <= 4 * 36 + 1
    assert sum(seen.crossings.values()) <= 2, seen.crossings


@pytest.mark.parametrize("count", [1, 16])
def test_a_step_of_decodes_sends_little_and_asks_nothing(large: Any, count: int) -> None:
    run = meta.runner(CudaBackend(one_launch, 16), large)
    batch = meta.decodes(run, count)
    with meta.Watch() as seen, torch.inference_mode():
        logits = run.prepare(batch).compute()
    assert logits.shape == (count, 151_936)
    assert seen.total <= 2042
    assert sum(seen.crossings.values()) <= 2, seen.crossings


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize(
    ("wishes", "launches", "sends", "megabytes"),
    [
        ({}, 12, 1, 1),
        ({"temperature": 0.0}, 2, 0, 1),
        ({"min_p": 0.1}, 15, 1, 1),
        ({"top_k": 0, "top_p": 0.9}, 12, 1, 16),
        ({"presence_penalty": 1.5}, 21, 4, 9),
        ({"repetition_penalty": 1.1, "frequency_penalty": 0.5}, 27, 4, 17),
    ],
    ids=str,
)
def test_drawing_sends_little_and_asks_nothing(
    count: int, wishes: dict[str, Any], launches: int, sends: int, megabytes: int
) -> None:
    """``megabytes`` read and written a row; a row of logits takes 0.3."""
    sampler = Sampler("meta", never=[151_655, 151_656])
    requests = [
        Request(str(n), "c", [5] * 100, SamplingParams(8, **{"temperature": 0.7, "top_k": 20, "top_p": 0.8, **wishes}))
        for n in range(count)
    ]
    for _ in range(2):
        # The first one's prompts are new to the penalties.
        logits = torch.empty(count, 151_936, dtype=torch.bfloat16, device="meta")
        with meta.Watch() as seen:
            sampler.draw(logits, range(count), requests)
        for request in requests:
            request.put(len(request.tokens), 7)
    assert seen.total <= launches, seen.launches
    assert seen.crossings.total() <= sends, seen.crossings
    assert set(seen.crossings) <= {"to"}
    assert seen.bytes <= megabytes * 1e6 * count


def test_pictures_are_looked_at_without_a_question_to_the_device(large: Any) -> None:
    """Lengths are read as numbers by every layer of the tower: they stay with the host."""
    grids = [(1, 32, 32), (1, 16, 48), (1, 32, 32)]
    patches = {
        bytes([n]): Patches(torch.zeros(grid[1] * grid[2], 1536), torch.tensor(grid)) for n, grid in enumerate(grids)
    }
    with meta.Watch() as seen, torch.inference_mode():
        found = encode(large, patches)
    assert [len(features.embeddings) for features in found.values()] == [256, 192, 256]
    assert set(seen.crossings) <= {"to", "_to_copy"}
    assert seen.crossings.total() <= 4, seen.crossings


def test_a_prompt_with_pictures_is_read_without_a_question_to_the_device() -> None:
    """Which rows are a picture's is known; looking for them there would wait seven times."""
    made = meta.model()
    run = meta.runner(CudaBackend(two_launches, 16, adapt=lambda model: fuse(model, OneLaunch())), made)
    digest = b"picture"
    request = Request("p", "c", [5, *[meta.IMAGE] * 256, 6, 7], SamplingParams(4), (ImageSpan(1, 256, digest),))
    request.blocks = list(range(17))
    run.add(request, {digest: Patches(torch.zeros(1024, 1536), torch.tensor([1, 32, 32]))})
    with meta.Watch() as seen, torch.inference_mode():
        logits = run.prepare(ScheduledBatch((ScheduledChunk(request, 0, 259),))).compute()
    assert logits.shape == (1, 151_936)
    assert set(seen.crossings) <= {"to", "_to_copy"}
    assert seen.crossings.total() <= 6, seen.crossings
    assert not {"nonzero", "masked_scatter", "index_put_"} & set(seen.launches)
