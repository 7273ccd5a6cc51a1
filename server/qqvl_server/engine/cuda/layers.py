"""Text layers of a few launches: our own kernels between products, and products of the same rows joined.

A layer of Transformers starts more than fifty operations, each some microseconds of the host's and two of the card's.
Only layers known to consist of exactly these parts are swapped; the others keep Transformers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import linear

from qqvl_server.engine.cache.paged_attention import PagedBatch
from qqvl_server.engine.cuda.own import LayerKernels, Norm
from qqvl_server.engine.cuda.varlen import VarlenRows
from qqvl_server.quantised.joining import joined

_KNOWN: Final = ("Qwen3VLTextDecoderLayer",)
_KNOWN_NORMS: Final = ("Qwen3VLTextRMSNorm",)


class Joined(nn.Module):
    """Plain layers that are given the same rows as one product, along their outputs."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([one.weight.detach() for one in linears]), requires_grad=False)
        biases = [one.bias.detach() for one in linears if one.bias is not None]
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (N, in_features) → (N, out_features of all).
        """
        return linear(rows, self.weight, self.bias)


def _product(linears: Sequence[Any]) -> nn.Module:
    plain = all(type(one) is nn.Linear and one.weight.is_floating_point() for one in linears)
    alike = len({(one.bias is None, one.weight.dtype) for one in linears}) == 1 if plain else False
    return Joined(linears) if alike else joined(linears)


class FusedNorm(nn.Module):
    """Takes the place of an RMS norm of Transformers."""

    def __init__(self, module: Any, kernels: LayerKernels) -> None:
        super().__init__()
        self._by, self._kernels = _norm(module), kernels

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._kernels.norm(rows.flatten(0, -2), self._by).view(rows.shape)


class FusedLayer(nn.Module):
    """Takes the place of ``layer``; the same up to rounding, which happens less often."""

    def __init__(self, layer: Any, kernels: LayerKernels) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._kernels = kernels
        self._layer, self._scaling = attention.layer_idx, attention.scaling
        self._norms = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._head_norms = _norm(attention.q_norm), _norm(attention.k_norm)
        self.heads = _product([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = attention.o_proj
        self.gate_up = _product([mlp.gate_proj, mlp.up_proj])
        self.down = mlp.down_proj

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        paged: PagedBatch,
        **_others: Any,
    ) -> torch.Tensor:
        """Args:
        hidden_states: (1, N, hidden), which is changed and given back.
        position_embeddings: cosines and sines, (1, N, head_dim) each.
        """
        kernels, cache, layer = self._kernels, paged.cache, self._layer
        paged = paged.at(layer)
        rows = hidden_states[0]
        turns = position_embeddings[0][0], position_embeddings[1][0]
        joined = self.heads(kernels.norm(rows, self._norms[0]))
        query = kernels.rotate_and_store(joined, self._head_norms, turns, paged.new_slots, cache, layer)
        attended = self._attended(query, paged)
        normed = kernels.add_and_norm(rows, self.out(attended.flatten(1)), self._norms[1])
        rows += self.down(kernels.silu_multiply(self.gate_up(normed)))
        return hidden_states

    def _attended(self, query: torch.Tensor, paged: PagedBatch) -> torch.Tensor:
        cache, layer, rows = paged.cache, self._layer, paged.rows
        if isinstance(rows, VarlenRows):
            return rows.kernel(query, cache.keys[layer], cache.values[layer], rows.rows, self._scaling)
        stored = (pool[layer].flatten(0, 1)[paged.new_slots] for pool in (cache.keys, cache.values))
        key, value = (t.transpose(0, 1).unsqueeze(0) for t in stored)
        return rows.attend(query.transpose(0, 1).unsqueeze(0), key, value, cache, layer, self._scaling)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def fuse(model: Any, kernels: LayerKernels) -> int:
    """Swap the text layers that are known; returns how many were swapped."""
    text = model.model.language_model
    if model.config.get_text_config().hidden_act != "silu":
        return 0
    swapped = 0
    for place, layer in enumerate(text.layers):
        if type(layer).__name__ in _KNOWN and _like_ours(layer):
            # The plain weights are let go layer by layer: two of each never stand in memory together.
            text.layers[place] = FusedLayer(layer, kernels)
            swapped += 1
    if swapped and type(text.norm).__name__ in _KNOWN_NORMS:
        text.norm = FusedNorm(text.norm, kernels)
    return swapped


def _like_ours(layer: Any) -> bool:
    attention = layer.self_attn
    return bool(attention.q_norm.variance_epsilon == attention.k_norm.variance_epsilon)
