"""Fused text layers, torch between their products: joined weights, order, cache and residuals are real."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from qqvl_server.engine.cache.kv_cache import KVShape
from qqvl_server.engine.cuda.backend import CudaBackend, Recording
from qqvl_server.engine.cuda.checking import refused
from qqvl_server.engine.cuda.layers import FusedLayer, fuse
from qqvl_server.engine.cuda.own import Norm
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.quantised.integers import IntLinear
from qqvl_server.quantised.joining import Beside
from qqvl_server.quantised.stored import Format, StoredLinear
from tests.engine import wide
from tests.engine.by_torch import ByTorch
from tests.engine.test_graphs import Recorder, kernel
from tests.weights import quantising

CPU = torch.device("cpu")


def fused(model: Any) -> int:
    return fuse(model, ByTorch())


def test_logits_are_the_same_by_kernel_and_over_gathered_blocks() -> None:
    plain = wide.plain_logits(wide.model())
    for backend in (CudaBackend(kernel, 16, adapt=fused), SdpaBackend(adapt=fused)):
        for chunk in (1000, 20):
            found = wide.paged_logits(wide.model(), chunk=chunk, backend=backend)
            torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)


def test_a_recording_of_fused_layers_is_checked_and_kept() -> None:
    recorder = Recorder()
    made = wide.model()
    backend = CudaBackend(kernel, 16, adapt=fused, recording=Recording(recorder, 4, 200))
    found = wide.paged_logits(made, backend=backend)
    assert recorder.recorded == 3
    torch.testing.assert_close(found, wide.plain_logits(wide.model()), rtol=1e-3, atol=1e-3)
    assert all(isinstance(layer, FusedLayer) for layer in made.model.language_model.layers)


class Packed(nn.Module):
    """A quantised layer: its weight is no matrix of numbers."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.plain(rows)
        return found


def test_layers_that_cannot_be_joined_are_called_one_by_one() -> None:
    made = wide.model()
    for layer in made.model.language_model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, Packed(child))
    found = wide.paged_logits(made, backend=CudaBackend(kernel, 16, adapt=fused))
    torch.testing.assert_close(found, wide.plain_logits(wide.model()), rtol=1e-3, atol=1e-3)


def test_packed_layers_of_the_same_rows_are_one_product_and_stay_packed() -> None:
    """In order of activations, too: the same rows have the same order. Where an order differs, each is by itself."""
    plain, made = wide.model(), wide.model()
    same, odd = quantising.gptq(act_order=True), quantising.gptq()
    for n, (theirs, ours) in enumerate(
        zip(plain.model.language_model.layers, made.model.language_model.layers, strict=True)
    ):
        for name, child in list(theirs.named_modules()):
            if isinstance(child, nn.Linear):
                by = odd if n == 1 and name.endswith("k_proj") else same
                parts, meant = by(child.weight.detach())
                child.weight.data.copy_(meant)
                stored = StoredLinear(parts, child.in_features, child.out_features)
                ours.set_submodule(name, stored.settled(Format(zeros_less_one=True)))
    found = wide.paged_logits(made, backend=CudaBackend(kernel, 16, adapt=fused))
    torch.testing.assert_close(found, wide.plain_logits(plain), rtol=1e-3, atol=1e-3)
    kinds = [(type(layer.heads), type(layer.gate_up)) for layer in made.model.language_model.layers]
    assert kinds == [(IntLinear, IntLinear), (Beside, IntLinear), (IntLinear, IntLinear)]


def test_weights_do_not_stand_in_memory_twice() -> None:
    made = wide.model()
    before = sum(p.nbytes for p in made.parameters())
    assert fused(made) == len(made.model.language_model.layers)
    # A norm's weight is no parameter of the layer any more.
    assert before - 10_000 < sum(p.nbytes for p in made.parameters()) <= before


def test_what_lies_between_products_is_tried_before_it_is_used() -> None:
    class Wrong(ByTorch):
        def rotate_and_store(self, joined: Any, norms: Any, turns: Any, *rest: Any) -> torch.Tensor:
            return super().rotate_and_store(joined, norms, (turns[0], -turns[1]), *rest)

    class Raising(ByTorch):
        def norm(self, rows: torch.Tensor, by: Norm) -> torch.Tensor:
            raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")

    class Lost(ByTorch):
        def silu_multiply(self, gates: torch.Tensor) -> torch.Tensor:
            return super().silu_multiply(gates) * torch.nan

    check = partial(refused, device=CPU, dtype=torch.bfloat16, hidden=64, inner=80, heads=4, kv=KVShape(1, 2, 32))
    assert check(ByTorch()) is None
    assert "queries" in (check(Wrong()) or "")
    assert "invalid" in (check(Raising()) or "")
    assert "gate" in (check(Lost()) or "")
