"""A model over several devices: each part's cache and tables lie with its layers, and what crosses between them.

torch knows one CPU. So places are told apart by the meta device, where whatever mixes it with the CPU is seen; and
what comes out is told by layers that count as elsewhere although they lie here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from qqvl_server.engine import build
from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cuda.backend import CudaBackend
from qqvl_server.engine.cuda.layers import fuse
from qqvl_server.engine.forward.backend import Backend
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.forward.split import layer_devices, relay
from qqvl_server.engine.steps.batch import ScheduledBatch
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.engine import meta, wide
from tests.engine.by_torch import ByTorch
from tests.engine.test_launches import one_launch
from tests.engine.twins import Twins

CPU, FAR = torch.device("cpu"), torch.device("meta")


class Both(meta.Watch):  # type: ignore[no-untyped-call]
    """What comes back from the meta device holds nothing; that it came is counted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        back = func.overloadpacket.__name__ in ("to", "_to_copy") and args[0].device == FAR
        if back and torch.device((kwargs or {}).get("device", FAR)) == CPU:
            self.crossings["to"] += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return super().__torch_dispatch__(func, types, args, kwargs)


def torn(near: int) -> Any:
    """The small random model, its last layers, norm and head far away."""
    made = wide.model()
    text = made.model.language_model
    # A head of its own, as the large models have.
    made.lm_head = torch.nn.Linear(64, wide.VOCABULARY, bias=False, device=FAR)
    for place in (*text.layers[near:], text.norm):
        place.to(FAR)
    return made


def fused() -> CudaBackend:
    return CudaBackend(one_launch, 16, adapt=lambda model: fuse(model, ByTorch()))


@pytest.mark.parametrize("backend", [SdpaBackend(), fused()], ids=["gathered", "fused"])
def test_each_part_has_its_cache_and_tables_and_little_crosses(backend: Backend) -> None:
    """A step's inputs, then what a part hands to the next: nothing is computed across devices."""
    made = torn(1)
    assert layer_devices(made) == [CPU, FAR, FAR]
    run = meta.runner(backend, made)
    batch = meta.decodes(run, 3, length=40)
    longer = meta.decodes(run, 1, length=40)
    # One of several tokens beside them, with something before.
    chunk = longer.chunks[0]
    for n in range(5):
        chunk.request.tokens.append(n)
    chunk.request.id = "longer"
    run.add(chunk.request, {})
    mixed = ScheduledBatch((*batch.chunks, type(chunk)(chunk.request, 35, 5)))
    with Both() as seen, torch.inference_mode():
        logits = run.prepare(mixed).compute()
    assert logits.shape[-1] == wide.VOCABULARY
    assert set(seen.crossings) <= {"to", "_to_copy", "copy_"}, seen.crossings
    # Slots, tables and masks of the second device; hidden states, cosines, sines, what is kept, and the logits back.
    assert seen.crossings.total() <= 16, seen.crossings


def test_a_model_cut_within_a_layer_or_its_head_is_not_paged() -> None:
    made = torn(2)
    made.model.language_model.layers[1].mlp.to(FAR)
    assert layer_devices(made) is None
    assert not build.cut_between_layers(made)
    made = torn(2)
    made.model.visual.to(FAR)
    assert layer_devices(made) is None


class Pretended(SdpaBackend):
    """The last layers' inputs are moved, their tables asked for apart, as if they lay elsewhere."""

    def adopt(self, model: Any, cache: KVCache) -> None:
        far = torch.device("cpu", 0)
        layers = len(cache.layer_devices)
        cache.layer_devices = [CPU] * (layers // 2) + [far] * (layers - layers // 2)
        cache.devices = [CPU, far]
        self.asked: list[torch.device] = []
        super().adopt(model, cache)
        assert far != CPU

    def lay_out(self, chunks: Sequence[Any], device: torch.device) -> Any:
        self.asked.append(device)
        return super().lay_out(chunks, device)


def test_replies_over_two_places_are_generates_and_batched(twins: Twins, demo: Path) -> None:
    # A model of its own, for it is cut.
    made = load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="float32")).model
    backend = Pretended()
    engine = build.assemble(made, backend, blocks=400, step_tokens=64, requests=8)
    asked = twins.add_all(engine, "s")
    assert twins.run(engine, asked) == twins.expected
    assert backend.asked.count(torch.device("cpu", 0)) == backend.asked.count(CPU) > 0


def test_the_fullest_device_says_how_large_the_cache_is() -> None:
    near, far = torch.device("cuda:0"), torch.device("cuda:1")
    free = {near: 3e9, far: 8e9}
    assert build.free_for_cache([near], free.__getitem__) == 3e9
    # Of 36 layers a tenth of the cache lies on the first.
    assert build.free_for_cache([near] * 9 + [far] * 27, free.__getitem__) == pytest.approx(8e9 * 36 / 27)
    assert build.free_for_cache([near] * 18 + [far] * 18, free.__getitem__) == 6e9


def test_layers_are_relayed_once_and_what_accelerate_hung_on_is_taken_off() -> None:
    made = torn(1)
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(made.model.language_model.layers[0], AlignDevicesHook(execution_device=CPU))
    relay(made, [CPU, FAR, FAR])
    layers = made.model.language_model.layers
    assert [type(layer).__name__ for layer in layers][1:] == ["RelayedLayer"] * 2
    assert not hasattr(layers[0], "_hf_hook")
