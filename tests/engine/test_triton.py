"""Our own kernels for cards, by Triton's interpreter: ``TRITON_INTERPRET=1`` where Triton is installed (`.ci/run`)."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch

from qqvl_server.engine.cache.kv_cache import KVShape
from qqvl_server.engine.cuda.backend import CudaBackend
from qqvl_server.engine.cuda.checking import refused
from qqvl_server.engine.cuda.layers import fuse
from qqvl_server.engine.cuda.own import BLOCK_SIZE, OwnKernels
from qqvl_server.engine.cuda.products import OwnProducts, use, wrong
from qqvl_server.engine.cuda.trial import Trial
from qqvl_server.quantised.eights import ByteLinear, by_outputs
from qqvl_server.quantised.integers import IntLinear, by_columns
from tests.engine import wide
from tests.engine.twins import Twins

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("自带的显卡算子要 Triton 和 TRITON_INTERPRET=1 才能在 CPU 上试", allow_module_level=True)

CPU = torch.device("cpu")


class Split(OwnKernels):
    """As on a card of so many processors."""

    def __init__(self, processors: int) -> None:
        super().__init__(CPU)
        self._processors = processors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 1, 64), (2, 2, 32)])
def test_attention_gives_what_sdpa_gives(dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> None:
    """Batches of decodes and of chunks, short and long, lengths as a recorded step tells them."""
    own = Split(8)
    trial = Trial(CPU, dtype, KVShape(1, kv_heads, width), heads, requests=2, context=300)
    assert trial.refuses(own.attend, BLOCK_SIZE) is None


def test_any_number_of_splits_gives_the_same() -> None:
    for processors in (1, 5, 132):
        trial = Trial(CPU, torch.float32, KVShape(1, 1, 32), 4, requests=1, context=150)
        assert trial.refuses(Split(processors).attend, BLOCK_SIZE) is None


def test_a_wrong_kernel_is_refused_for_what_it_gives() -> None:
    class Wrong(OwnKernels):
        def norm(self, rows: torch.Tensor, by: Any) -> torch.Tensor:
            return super().norm(rows, by) * 1.2

    found = refused(Wrong(CPU), CPU, torch.float32, hidden=96, inner=80, heads=3, kv=KVShape(1, 1, 32))
    assert found is not None
    assert found.startswith("norm: off by")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_lies_between_products_gives_what_torch_gives(dtype: torch.dtype) -> None:
    for heads, kv in ((4, KVShape(1, 2, 32)), (3, KVShape(1, 1, 64))):
        assert refused(OwnKernels(CPU), CPU, dtype, hidden=96, inner=1100, heads=heads, kv=kv) is None


def drawn(kind: str, inputs: int, outputs: int) -> IntLinear | ByteLinear:
    dice = torch.Generator().manual_seed(inputs)
    if kind in ("int8", "fp8"):
        block = (128, 128) if kind == "fp8" else (1, inputs)
        scales = torch.rand(-(-outputs // block[0]), -(-inputs // block[1]), generator=dice) / 50 + 0.01
        numbers = torch.randint(-127, 127, (outputs, inputs), generator=dice, dtype=torch.int8)
        weight = (numbers.float() * 3).to(torch.float8_e4m3fn) if kind == "fp8" else numbers
        return ByteLinear(weight, scales, block=block)
    bits, group = {"4 bits": (4, 128), "4 bits, small groups": (4, 32), "8 bits": (8, 64)}[kind]
    packed = torch.randint(-(2**31), 2**31 - 1, (inputs * bits // 32, outputs), generator=dice, dtype=torch.int32)
    scales = (torch.rand(inputs // group, outputs, generator=dice) / 50 + 0.01).half()
    zeros = torch.randint(0, 2**bits, scales.shape, generator=dice, dtype=torch.uint8)
    return IntLinear(packed, scales, zeros, bits=bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["4 bits", "4 bits, small groups", "8 bits", "int8", "fp8"])
def test_products_with_packed_weights_give_what_unpacking_gives(kind: str, dtype: torch.dtype) -> None:
    """Widths that are no multiple of a program's; whole, and in parts that are put together."""
    layer = drawn(kind, 384, 200)
    own = OwnProducts(CPU)
    assert wrong(own, layer, dtype) is None
    own.splits = lambda programs, steps: 2  # type: ignore[method-assign]
    assert wrong(own, layer, dtype) is None


def test_a_wrong_product_is_refused_for_what_it_gives_and_torch_goes_on() -> None:
    class Wrong(OwnProducts):
        def integers(self, rows: torch.Tensor, layer: IntLinear) -> torch.Tensor:
            return super().integers(rows, layer) + 1

    model = torch.nn.ModuleList([drawn("4 bits", 128, 64), drawn("fp8", 128, 128)])
    refused_here = use(model, torch.float32, Wrong(CPU))
    assert list(refused_here) == ["4 bits, 128 a scale, cpu"]
    assert "off by" in refused_here["4 bits, 128 a scale, cpu"]
    four, eight = model
    assert four.product is by_columns
    assert eight.product is not by_outputs


def test_a_model_of_fused_layers_gives_the_same_logits() -> None:
    made = wide.model()
    plain = wide.plain_logits(made)
    own = OwnKernels(CPU)
    backend = CudaBackend(own.attend, BLOCK_SIZE, adapt=lambda model: fuse(model, own))
    for chunk in (1000, 20):
        found = wide.paged_logits(wide.model(), chunk=chunk, backend=backend)
        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)


def test_the_engine_answers_the_same_by_our_kernels(twins: Twins) -> None:
    own = OwnKernels(CPU)
    engine = twins.engine(blocks=60, backend=CudaBackend(own.attend, BLOCK_SIZE))
    made = [twins.request(f"v{n}", twins.inputs[n], max_new_tokens=3) for n in (0, 1)]
    for request, patches in made:
        engine.add(request, patches)
    found = twins.run(engine, [request for request, _ in made])
    assert found == [expected[:3] for expected in twins.expected[:2]]
