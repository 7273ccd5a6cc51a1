"""Checkpoints quantised on the spot as their makers' tools write them, number by number, beside what they stand for.

A weight is (out, in). Packing is spelt out here anew: one number after the other, from the formats' descriptions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from safetensors.torch import load_file, save_file

# A layer's tensors by the ends of their names, and the weight that they stand for.
Layer = tuple[dict[str, torch.Tensor], torch.Tensor]
GROUP: Final = 32
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


def _along_last(numbers: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """(R, C) numbers below 2^bits → (R, C · bits / 32) int32; nibble i of a word is of the column ``order[i]``."""
    per = 32 // bits
    found = numpy.zeros((numbers.shape[0], numbers.shape[1] // per), numpy.uint32)
    for word in range(found.shape[1]):
        for place, column in enumerate(order or range(per)):
            found[:, word] |= numbers[:, word * per + column].numpy().astype(numpy.uint32) << (bits * place)
    return torch.from_numpy(found.view(numpy.int32))


def _rounded(weight: torch.Tensor, bits: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers (out, in), and zeros and scales (out, groups), of groups of GROUP along the inputs."""
    grouped = weight.double().view(len(weight), -1, GROUP)
    top = 2**bits - 1
    if symmetric:
        scales = (grouped.abs().amax(-1) * 2 / top).half().clamp(min=1e-5)
        zeros = torch.full(scales.shape, 2 ** (bits - 1))
    else:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = ((high - low) / top).half().clamp(min=1e-5)
        zeros = (-low / scales.double()).round().long().clamp(0, top)
    numbers = (grouped / scales.double().unsqueeze(-1)).round().long() + zeros.unsqueeze(-1)
    return numbers.clamp(0, top).flatten(1), zeros, scales


def _stands_for(numbers: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    grouped = numbers.view(len(numbers), -1, GROUP) - zeros.unsqueeze(-1)
    return (grouped.float() * scales.float().unsqueeze(-1)).flatten(1)


def gptq(bits: int = 4, *, act_order: bool = False, symmetric: bool = True, version: int = 1) -> Callable[..., Layer]:
    """As GPTQModel packs: along inputs, zeros along outputs, less one in the first version of the format."""

    def quantised(weight: torch.Tensor) -> Layer:
        order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(weight.shape[1]))
        order = order if act_order else torch.arange(weight.shape[1])
        groups = torch.empty(weight.shape[1], dtype=torch.int32)
        groups[order] = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
        numbers, zeros, scales = _rounded(weight[:, order], bits, symmetric)
        whole, meant = torch.empty_like(numbers), torch.empty(weight.shape)
        whole[:, order], meant[:, order] = numbers, _stands_for(numbers, zeros, scales)
        stored = zeros - 1 & 2**bits - 1 if version == 1 else zeros
        parts = {
            "qweight": _along_last(whole, bits).T.contiguous(), "qzeros": _along_last(stored.T, bits),
            "scales": scales.T.contiguous(), "g_idx": groups,
        }  # fmt: skip
        return parts, meant

    return quantised


def awq(weight: torch.Tensor) -> Layer:
    """As AutoAWQ's "gemm": along outputs, in its order."""
    numbers, zeros, scales = _rounded(weight, 4, symmetric=False)
    parts = {
        "qweight": _along_last(numbers.T, 4, _AWQ_ORDER), "qzeros": _along_last(zeros.T, 4, _AWQ_ORDER),
        "scales": scales.T.contiguous(),
    }  # fmt: skip
    return parts, _stands_for(numbers, zeros, scales)


def pack_quantized(bits: int = 4, *, symmetric: bool = True) -> Callable[..., Layer]:
    """As compressed-tensors: along inputs, outputs first."""

    def quantised(weight: torch.Tensor) -> Layer:
        numbers, zeros, scales = _rounded(weight, bits, symmetric)
        parts = {
            "weight_packed": _along_last(numbers, bits), "weight_scale": scales.bfloat16(),
            "weight_shape": torch.tensor(weight.shape),
        }  # fmt: skip
        if not symmetric:
            parts["weight_zero_point"] = _along_last(zeros.T, bits).T.contiguous()
        return parts, _stands_for(numbers, zeros, scales.bfloat16())

    return quantised


def fp8_blocks(weight: torch.Tensor) -> Layer:
    """As the official FP8 checkpoints: one scale for 128 × 128, those at the edges for what is left."""
    high, wide = (-(-size // 128) for size in weight.shape)
    scales = torch.empty(high, wide)
    kept, meant = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty(weight.shape)
    for row in range(high):
        for column in range(wide):
            at = slice(row * 128, row * 128 + 128), slice(column * 128, column * 128 + 128)
            scales[row, column] = weight[at].abs().max() / 448
            kept[at] = (weight[at] / scales[row, column]).to(torch.float8_e4m3fn)
            meant[at] = kept[at].float() * scales[row, column]
    return {"weight": kept, "weight_scale_inv": scales}, meant


def by_outputs(dtype: torch.dtype) -> Callable[..., Layer]:
    """As compressed-tensors' FP8 and 8-bit integers: one scale an output."""
    top = 448 if dtype is torch.float8_e4m3fn else 127

    def quantised(weight: torch.Tensor) -> Layer:
        scales = weight.abs().amax(1, keepdim=True) / top
        numbers = weight / scales
        kept = (numbers if dtype.is_floating_point else numbers.round()).to(dtype)
        return {"weight": kept, "weight_scale": scales}, kept.float() * scales

    return quantised


def checkpoint(source: Path, into: Path, settings: dict[str, Any], by: Callable[..., Layer]) -> tuple[Path, Path]:
    """The checkpoint at ``source`` with its text layers' products quantised, and a plain one of what they stand for."""
    folders = into / "quantised", into / "plain"
    for folder in folders:
        shutil.copytree(source, folder)
    packed: dict[str, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        whole = tensor.shape[-1] % GROUP == 0
        if ".layers." in name and "visual" not in name and name.endswith("_proj.weight") and whole:
            parts, plain[name] = by(tensor.float())
            stem = name.removesuffix("weight")
            packed |= {stem + part: value for part, value in parts.items()}
        else:
            packed[name], plain[name] = tensor, tensor.float()
    for folder, tensors in zip(folders, (packed, plain), strict=True):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text("utf-8"))
    (folders[0] / "config.json").write_text(json.dumps({**config, "quantization_config": settings}), "utf-8")
    return folders
