"""Quantised layers as checkpoints store them, and how they become the layouts that products are computed from.

GPTQ's as AutoGPTQ and GPTQModel write it, AWQ's as AutoAWQ's "gemm", compressed-tensors' "pack-quantized",
"float-quantized" and "int-quantized", and the official FP8 ones (``weight_scale_inv``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from qqvl_server.quantised.eights import ByteLinear
from qqvl_server.quantised.integers import IntLinear, packed, unpacked

# Which column of eight each four bits of an AWQ number are of, the lowest bits first.
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class Format:
    """What a checkpoint's tensors do not tell by themselves.

    ``awq``: numbers are packed along outputs and in AWQ's order. ``zeros_less_one``: zeros were stored less one, as the
    first version of GPTQ's format has them. ``block``: of FP8's scales.
    """

    awq: bool = False
    zeros_less_one: bool = False
    block: tuple[int, int] = (128, 128)


class StoredLinear(nn.Module):
    """Where a linear layer's quantised tensors are loaded to: buffers of their names, types and shapes."""

    def __init__(self, parts: Mapping[str, torch.Tensor], in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)

    def settled(self, by: Format) -> nn.Module:
        """The layer that computes.

        Raises:
            ValueError: tensors that do not fit each other.
        """
        parts = {name: tensor for name, tensor in self.named_buffers() if tensor is not None}
        if "qweight" in parts:
            return (_awq if by.awq else _gptq)(parts, self.in_features, by)
        if "weight_packed" in parts:
            return _packed_by_rows(parts, self.in_features)
        return _bytes(parts, by)


def bits_of(parts: Mapping[str, Any], in_features: int, by: Format) -> int:
    """How many a weight has, by the shapes of ``parts`` (tensors, or anything with ``shape``); 8 of bytes."""
    if "qweight" in parts:
        rows, columns = parts["qweight"].shape
        # Packed along inputs, or along outputs as scales tell them.
        return int(32 * columns // parts["scales"].shape[1] if by.awq else 32 * rows // in_features)
    return int(32 * parts["weight_packed"].shape[1] // in_features) if "weight_packed" in parts else 8


def _gptq(parts: Mapping[str, torch.Tensor], in_features: int, by: Format) -> IntLinear:
    bits = bits_of(parts, in_features, by)
    weight, scales = parts["qweight"], parts["scales"]
    zeros = unpacked(parts["qzeros"].T, bits).T[:, : scales.shape[1]]
    if by.zeros_less_one:
        # Of 4 bits, zero less one is fifteen.
        zeros = zeros + 1 & (1 << bits) - 1
    group = _group(in_features, len(scales))
    order = _order(parts.get("g_idx"), in_features, group)
    if order is not None:
        weight = packed(unpacked(weight, bits)[order], bits)
    return IntLinear(weight, scales, zeros.contiguous(), bits=bits, order=order, bias=parts.get("bias"))


def _order(groups: torch.Tensor | None, in_features: int, group: int) -> torch.Tensor | None:
    """Inputs put so that each group's follow one another; None where they do (``desc_act`` off)."""
    if groups is None:
        return None
    usual = torch.arange(in_features, device=groups.device) // group
    if torch.equal(groups.to(usual), usual):
        return None
    order = torch.argsort(groups, stable=True)
    if not torch.equal(groups[order].to(usual), usual):
        raise ValueError(f"g_idx 里有的组不是 {group} 个")
    return order


def _awq(parts: Mapping[str, torch.Tensor], in_features: int, by: Format) -> IntLinear:
    bits = bits_of(parts, in_features, by)
    _group(in_features, len(parts["scales"]))
    weight, zeros = (_awq_columns(parts[name], bits) for name in ("qweight", "qzeros"))
    return IntLinear(packed(weight, bits), parts["scales"], zeros.contiguous(), bits=bits, bias=parts.get("bias"))


def _awq_columns(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """(R, N · bits / 32) int32 → (R, N) uint8."""
    rows = numbers.shape[0]
    every = unpacked(numbers.T, bits).T.reshape(rows, -1, len(_AWQ_ORDER))
    return every[..., torch.tensor(_AWQ_ORDER, device=numbers.device).argsort()].reshape(rows, -1)


def _packed_by_rows(parts: Mapping[str, torch.Tensor], in_features: int) -> IntLinear:
    bits = bits_of(parts, in_features, Format())
    weight, scales = parts["weight_packed"].T, parts["weight_scale"].T.contiguous()
    group = _group(in_features, len(scales))
    zero_points = parts.get("weight_zero_point")
    if zero_points is None:
        zeros = torch.full(scales.shape, 1 << bits - 1, dtype=torch.uint8, device=scales.device)
    else:
        zeros = unpacked(zero_points, bits)[: scales.shape[1]].T.contiguous()
    order = _order(parts.get("weight_g_idx"), in_features, group)
    if order is not None:
        weight = packed(unpacked(weight, bits)[order], bits)
    return IntLinear(weight.contiguous(), scales, zeros, bits=bits, order=order, bias=parts.get("bias"))


def _group(in_features: int, groups: int) -> int:
    if in_features % groups:
        raise ValueError(f"{in_features} 个输入分不成 {groups} 组")
    return in_features // groups


def _bytes(parts: Mapping[str, torch.Tensor], by: Format) -> ByteLinear:
    weight = parts["weight"]
    scales = parts["weight_scale_inv"] if "weight_scale_inv" in parts else parts["weight_scale"]
    if scales.numel() == 1:
        scales = scales.reshape(1, 1).expand(len(weight), 1).contiguous()
    if scales.dim() == 1:
        scales = scales.unsqueeze(1)
    high = 1 if len(scales) == len(weight) else by.block[0]
    wide = weight.shape[1] // scales.shape[1] if high == 1 else by.block[1]
    if (-(-len(weight) // high), -(-weight.shape[1] // wide)) != tuple(scales.shape):
        raise ValueError(f"{tuple(weight.shape)} 的权重配不上 {tuple(scales.shape)} 的比例")
    return ByteLinear(weight, scales, block=(high, wide), bias=parts.get("bias"))
