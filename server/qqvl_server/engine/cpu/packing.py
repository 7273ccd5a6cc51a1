"""Weights laid out for the CPU's bf16 matrix kernels, once, when the model is taken over.

A plain bf16 ``F.linear`` reads its weight at half of what memory gives when few rows are multiplied; the layout
oneDNN asks for reaches the limit. Layers that multiply the same rows become one product, because starting a product
costs as much as a small one takes. The plain weight is dropped where nothing else holds it (a tied head's stays: it
is the embedding), and its pages are given back where it was read from a mapped file, layer by layer, so that the two
layouts of a model never stand in memory together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

from qqvl_server.engine.cpu import four_bits
from qqvl_server.engine.cpu.mapped import MappedFiles

# oneDNN's kernels for one to three rows are slower than the one for four.
_FEWEST_ROWS: Final = 4
# Names, in Transformers' attention and MLP modules, of layers that are given the same rows one after another.
_TOGETHER: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinear(nn.Module):
    """Takes the place of bf16 ``nn.Linear`` layers; the same up to the order in which products are summed.

    Several are joined along their outputs.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        weights = [linear.weight.detach() for linear in linears]
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weights[0] if len(weights) == 1 else torch.cat(weights))
        self._bias = torch.cat(biases) if biases else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (..., in_features) → (..., out_features).
        """
        flat = rows.flatten(0, -2)
        count = flat.shape[0]
        if count < _FEWEST_ROWS:
            flat = torch.constant_pad_nd(flat, (0, 0, 0, _FEWEST_ROWS - count))
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._weight, self._bias, "none", [], "")
        return out[:count].view(*rows.shape[:-1], -1)


class FusedProjection:
    """One product for layers that are given the same rows: the first that is called computes it, the last drops it."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._all = PackedLinear(linears)
        self._sizes = [linear.out_features for linear in linears]
        self._rows: torch.Tensor | None = None
        self._parts: Sequence[torch.Tensor] = ()

    def part(self, index: int, rows: torch.Tensor) -> torch.Tensor:
        if rows is not self._rows:
            self._rows, self._parts = rows, self._all(rows).split(self._sizes, -1)
        part = self._parts[index]
        if index == len(self._sizes) - 1:
            self._rows, self._parts = None, ()
        return part


class ProjectionSlice(nn.Module):
    """Stands where one of the joined layers stood. Not for several threads at once."""

    def __init__(self, together: FusedProjection, index: int) -> None:
        super().__init__()
        self._together = together
        self._index = index

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._together.part(self._index, rows)


def pack(model: Any) -> int:
    """Swap the model's linear layers for packed ones, where that pays; returns how many were swapped.

    Only for bf16 on a CPU whose oneDNN has the kernels; otherwise plain layers are left alone.
    """
    swapped = four_bits.swap(model)
    if model.device.type != "cpu" or not _available():
        return swapped
    files = MappedFiles()
    return swapped + sum(_pack_children(module, files) for module in list(model.modules()))


def _pack_children(module: nn.Module, files: MappedFiles) -> int:
    linears = {
        name: child
        for name, child in module.named_children()
        # Not for subclasses: quantised layers are some of them.
        if type(child) is nn.Linear and child.weight.dtype is torch.bfloat16
    }
    for names in _TOGETHER:
        joined = [linears[name] for name in names if name in linears]
        if len(joined) == len(names) and len({linear.bias is None for linear in joined}) == 1:
            together = FusedProjection(joined)
            for index, name in enumerate(names):
                setattr(module, name, ProjectionSlice(together, index))
    for name, linear in linears.items():
        if getattr(module, name) is linear:
            setattr(module, name, PackedLinear([linear]))
        files.forget(linear.weight.data_ptr(), linear.weight.nbytes)
    return len(linears)


def pays(weight: torch.Tensor) -> bool:
    """Whether such a weight is better packed here."""
    return weight.dtype is torch.bfloat16 and weight.device.type == "cpu" and _available()


@functools.cache
def _available() -> bool:
    """Tried rather than looked up: builds have the operators without kernels for this processor."""
    try:
        with torch.inference_mode():
            PackedLinear([nn.Linear(32, 32, bias=False, dtype=torch.bfloat16)])(
                torch.zeros(1, 32, dtype=torch.bfloat16)
            )
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True
