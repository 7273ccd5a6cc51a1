"""Products with weights that stay packed, by our own kernels: of few rows in registers, of many a slice at a time.

Each is used for a card once it has given there what unpacking by torch gives; without one, layers unpack by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn

from qqvl_server.engine.cuda.own import on, power
from qqvl_server.observe.logs import logger
from qqvl_server.quantised import eights, integers
from qqvl_server.quantised.eights import ByteLinear
from qqvl_server.quantised.integers import IntLinear

# Of so many rows a product takes longer to compute than its weights to read: unpacked once they serve all.
_FEW: Final = 64
# Weights unpacked at once: 64 MB of halves.
_AT_ONCE: Final = 1 << 25
_LEAST_ROWS: Final = 16
# Of packed numbers along inputs, of inputs of bytes, and of outputs, one program's step.
_WORDS: Final = 32
_INNER: Final = 64
_COLUMNS: Final = 64
_MOST_SPLITS: Final = 16
# Programs for each processor, so that none waits long for the last.
_WAVES: Final = 2
_BLOCK: Final = 1024
# Of how far the results are spread.
_TOLERANCE: Final = {torch.bfloat16: 0.04, torch.float16: 0.01, torch.float32: 1e-3}


class OwnProducts:
    """``integers`` and ``bytes`` are as ``IntProduct`` and ``ByteProduct``. All tensors contiguous and on one device.

    Raises ImportError: Triton is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        from qqvl_server.engine.cuda import triton_products

        self._kernels: Any = triton_products
        self._processors = 1
        # As ``OwnKernels`` has it.
        self._exact = device.type != "cuda"
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count

    def integers(self, rows: torch.Tensor, layer: IntLinear) -> torch.Tensor:
        if len(rows) > _FEW:
            return self._unpacked(rows, layer)

        def launch(grid: tuple[int, int], out: torch.Tensor, splits: int, high: int) -> None:
            self._kernels.by_integers[(*grid, splits)](
                rows, layer.packed, layer.scales, layer.zeros, out, len(rows), layer.in_features, layer.out_features,
                layer.group, BITS=layer.bits, ROWS=high, WORDS=_WORDS, COLUMNS=_COLUMNS, SPLITS=splits,
                EXACT=self._exact,
            )  # fmt: skip

        steps = layer.packed.shape[0] // _WORDS
        return self._by_splits(rows.contiguous(), layer.out_features, steps, launch)

    def bytes(self, rows: torch.Tensor, layer: ByteLinear) -> torch.Tensor:
        if len(rows) > _FEW:
            return eights.by_outputs(rows, layer)
        high_block, wide_block = layer.block

        def launch(grid: tuple[int, int], out: torch.Tensor, splits: int, high: int) -> None:
            self._kernels.by_bytes[(*grid, splits)](
                rows, layer.weight.view(torch.uint8 if layer.weight.is_floating_point() else torch.int8), layer.scales,
                out, len(rows), layer.in_features, layer.out_features, high_block, wide_block, layer.scales.shape[1],
                FLOATS=layer.weight.dtype is torch.float8_e4m3fn, ROWS=high, INNER=_INNER, COLUMNS=_COLUMNS,
                SPLITS=splits, EXACT=self._exact,
            )  # fmt: skip

        return self._by_splits(rows.contiguous(), layer.out_features, layer.in_features // _INNER, launch)

    def _by_splits(
        self,
        rows: torch.Tensor,
        outputs: int,
        steps: int,
        launch: Callable[[tuple[int, int], torch.Tensor, int, int], None],
    ) -> torch.Tensor:
        """Over as many splits of the inputs, which have ``steps`` steps, as the card has processors left for."""
        count, high = len(rows), max(power(len(rows)), _LEAST_ROWS)
        grid = -(-count // high), -(-outputs // _COLUMNS)
        splits = self.splits(grid[1], steps)
        out = rows.new_empty(count, outputs)
        with on(rows.device):
            if splits == 1:
                launch(grid, out, 1, high)
                return out
            parts = rows.new_empty((splits, count, outputs), dtype=torch.float32)
            launch(grid, parts, splits, high)
            size = count * outputs
            self._kernels.add_splits[(-(-size // _BLOCK),)](parts, out, size, SPLITS=splits, BLOCK=_BLOCK)
        return out

    def splits(self, programs: int, steps: int) -> int:
        """A power of two, for each is compiled by itself."""
        wanted = min(self._processors * _WAVES // programs, steps, _MOST_SPLITS)
        return 1 << max(wanted, 1).bit_length() - 1

    def _unpacked(self, rows: torch.Tensor, layer: IntLinear) -> torch.Tensor:
        width = max(_AT_ONCE // layer.in_features // _COLUMNS, 1) * _COLUMNS
        words = layer.packed.shape[0]
        parts = []
        for first in range(0, layer.out_features, width):
            mine = min(width, layer.out_features - first)
            weights = rows.new_empty(layer.in_features, mine)
            with on(rows.device):
                self._kernels.expand[(-(-words // _WORDS), -(-mine // _COLUMNS))](
                    layer.packed, layer.scales, layer.zeros, weights, words, layer.out_features, layer.group, first,
                    mine, BITS=layer.bits, WORDS=_WORDS, COLUMNS=_COLUMNS,
                )  # fmt: skip
            parts.append(rows @ weights)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def use_own(model: Any) -> None:
    """Have the packed layers of a ``model`` on a card computed by our kernels; a warning where they cannot be."""
    if not any(isinstance(layer, IntLinear | ByteLinear) for layer in model.modules()):
        return
    try:
        refused = use(model, model.get_input_embeddings().weight.dtype, OwnProducts(model.device))
    except ImportError as missing:
        refused = {"own Triton": f"{type(missing).__name__}: {missing}"}
    if refused:
        logger().warning(
            "自带的量化乘法在这块显卡上用不了，改为每层先展开再乘：会慢几倍，显存和回答不变", reasons=dict(refused)
        )


def use(model: nn.Module, dtype: torch.dtype, products: OwnProducts) -> Mapping[str, str]:
    """Have ``model``'s packed layers computed by ``products``, as far as they are right; says of the others why not."""
    refused: dict[str, str] = {}
    tried: dict[str, str | None] = {}
    for layer in model.modules():
        if not isinstance(layer, IntLinear | ByteLinear):
            continue
        name = f"{_kind(layer)}, {layer.scales.device}"
        if name not in tried:
            tried[name] = reason = wrong(products, layer, dtype)
            if reason is not None:
                refused[name] = reason
        if tried[name] is None:
            if isinstance(layer, IntLinear):
                layer.product = products.integers
            else:
                layer.product = products.bytes
    return refused


def _kind(layer: IntLinear | ByteLinear) -> str:
    if isinstance(layer, IntLinear):
        return f"{layer.bits} bits, {layer.group} a scale"
    return f"{layer.weight.dtype}".removeprefix("torch.") + f", {layer.block} a scale"


@torch.inference_mode()
def wrong(products: OwnProducts, layer: IntLinear | ByteLinear, dtype: torch.dtype) -> str | None:
    """Why ``products`` are not to be used for layers such as this one; None where they give what torch gives."""
    device = layer.scales.device
    dice = torch.Generator(device).manual_seed(0)
    for count in (1, 5, _FEW, _FEW + 6):
        rows = torch.randn(count, layer.in_features, generator=dice, device=device).to(dtype)
        # Given back at once, it is what the allocator hands out next.
        rows.new_full((count, layer.out_features), torch.nan)
        try:
            if isinstance(layer, IntLinear):
                found, expected = products.integers(rows, layer), integers.by_columns(rows.float(), layer)
            else:
                found, expected = products.bytes(rows, layer), eights.by_outputs(rows.float(), layer)
            worst = float(((found.float() - expected) / expected.std()).abs().max())
        except Exception as error:
            # An edge: Triton, its compiler and the driver raise anything for a card they do not take.
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        # Not less either where it is no number.
        if not worst < _TOLERANCE[dtype]:
            return f"{count} rows: off by {worst:.2g}"
    return None
