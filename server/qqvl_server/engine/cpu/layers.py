"""Text layers in our own kernels (``kernels.py``), for CPUs; products too, where there is one for type and processor.

A layer of Transformers starts some sixty operations, which on a CPU cost more than a small step's work, and between any
two the engine may wait for the interpreter's lock; this one starts one, or nine where the products are not our own.
Only layers known to consist of exactly these parts are swapped; the others keep Transformers' own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import linear

from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cache.paged_attention import PagedBatch
from qqvl_server.engine.cpu import packing
from qqvl_server.engine.cpu.abi import KINDS, NativeLayer
from qqvl_server.engine.cpu.kernels import Kernels, NativeRows, Norm
from qqvl_server.engine.cpu.mapped import MappedFiles
from qqvl_server.engine.forward.packed import Packed
from qqvl_server.quantised.joining import is_packed, joined

_KNOWN: Final = ("Qwen3VLTextDecoderLayer",)
_KNOWN_TEXTS: Final = ("Qwen3VLTextModel",)


class NativeLinear(nn.Module):
    """Layers that are given the same rows, joined along their outputs; one layer's weight is read where it lies."""

    def __init__(self, linears: Sequence[nn.Linear], kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels
        self.weight = _joined([one.weight for one in linears])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Args:
        rows: (..., in_features) → (..., out_features).
        """
        out = self._kernels.matmul(rows.reshape(-1, rows.shape[-1]), self.weight)
        return out.view(*rows.shape[:-1], -1)


class JoinedLinear(nn.Module):
    """As ``NativeLinear``, by torch."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self._weight = _joined([one.weight for one in linears])
        biases = [one.bias.detach() for one in linears if one.bias is not None]
        self._bias = torch.cat(biases) if biases else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self._weight, self._bias)


def _joined(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    return weights[0].detach() if len(weights) == 1 else torch.cat([weight.detach() for weight in weights])


class FusedLayer(nn.Module):
    """Takes the place of ``layer``; the same up to rounding, which happens less often."""

    def __init__(self, layer: Any, kernels: Kernels) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._kernels = kernels
        self._layer = attention.layer_idx
        self._scaling = attention.scaling
        self._norms = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._head_norms = _norm(attention.q_norm), _norm(attention.k_norm)
        self._heads = _product([attention.q_proj, attention.k_proj, attention.v_proj], kernels)
        self._out = _product([attention.o_proj], kernels)
        self._gate_up = _product([mlp.gate_proj, mlp.up_proj], kernels)
        self._down = _product([mlp.down_proj], kernels)
        self.native = self._native(attention, mlp)

    def _native(self, attention: Any, mlp: Any) -> NativeLayer | None:
        """None where a product is not our own; without its part of the cache."""
        products = self._heads, self._out, self._gate_up, self._down
        weights = [product.weight.data_ptr() for product in products if isinstance(product, NativeLinear)]
        if len(weights) < len(products):
            return None
        heads, out, gate_up, down = weights
        (first, second), (queries, keys) = self._norms, self._head_norms
        width = len(queries.weight)
        return NativeLayer(
            hidden=len(first.weight),
            inner=mlp.down_proj.in_features,
            heads=attention.q_proj.out_features // width,
            kv_heads=attention.k_proj.out_features // width,
            head_dim=width,
            weight_kind=KINDS[mlp.down_proj.weight.dtype],
            first_eps=first.eps,
            head_eps=queries.eps,
            second_eps=second.eps,
            scaling=self._scaling,
            first_norm=first.weight.data_ptr(),
            joined=heads,
            query_norm=queries.weight.data_ptr(),
            key_norm=keys.weight.data_ptr(),
            projection=out,
            second_norm=second.weight.data_ptr(),
            gate_up=gate_up,
            down=down,
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        paged: PagedBatch,
        **_others: Any,
    ) -> torch.Tensor:
        """Args:
        hidden_states: (1, N, hidden), which may be what is given back.
        position_embeddings: cosines and sines, (1, N, head_dim) each.

        Returns:
            (1, N, hidden).
        """
        kernels, cache, layer = self._kernels, paged.cache, self._layer
        assert isinstance(paged.rows, NativeRows)
        rows = hidden_states[0].contiguous()
        turns = position_embeddings[0][0].contiguous(), position_embeddings[1][0].contiguous()
        if self.native is not None:
            kernels.run(with_cache([self.native], cache, layer), rows, turns, paged.new_slots, paged.rows)
            return rows.unsqueeze(0)
        joined = self._heads(kernels.norm(rows, self._norms[0]))
        query = kernels.rotate_and_store(joined, self._head_norms, turns, paged.new_slots, cache, layer)
        attended = kernels.attend(query, cache.keys[layer], cache.values[layer], paged.rows, self._scaling)
        total, normed = kernels.sum_and_norm(rows, self._out(attended), self._norms[1])
        return total.add_(self._down(kernels.silu_multiply(self._gate_up(normed)))).unsqueeze(0)


def with_cache(layers: Sequence[NativeLayer], cache: KVCache, first: int = 0) -> ctypes.Array[NativeLayer]:
    """``layers`` with their parts of ``cache``, in which the first is layer number ``first``."""
    found = (NativeLayer * len(layers))(*layers)
    for number, layer in enumerate(found, first):
        layer.keys, layer.values = cache.keys[number].data_ptr(), cache.values[number].data_ptr()
    return found


class FusedText:
    """The text model with its head, for steps that show no picture: all layers in one call.

    Around the layers Transformers starts some sixty operations more, and the engine may wait at each.
    """

    def __init__(self, model: Any, kernels: Kernels, cache: KVCache, layers: Sequence[NativeLayer]) -> None:
        text = model.model.language_model
        self._kernels = kernels
        self._embedding = text.embed_tokens.weight.detach()
        self._turn = text.rotary_emb
        # They hold addresses only: the weights and the cache must stay where they are, and stay.
        self._held = model, cache
        self._layers = with_cache(layers, cache)
        self._norm = _norm(text.norm)
        self._head = model.lm_head

    def prepare(self, packed: Packed) -> FusedStep:
        hidden = self._embedding[packed.ids]
        cosines, sines = (turn[0].contiguous() for turn in self._turn(hidden, packed.positions))
        return FusedStep(self, packed, hidden, (cosines, sines))

    def compute(self, hidden: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], packed: Packed) -> torch.Tensor:
        """The layers, which leave the interpreter to others, change ``hidden`` (N, hidden) in place."""
        assert isinstance(packed.paged.rows, NativeRows)
        self._kernels.run(self._layers, hidden, turns, packed.paged.new_slots, packed.paged.rows)
        found: torch.Tensor = self._head(self._kernels.norm(hidden[packed.keep], self._norm))
        return found[: packed.wanted]


@dataclass(frozen=True, slots=True)
class FusedStep:
    """A step of words alone: ``hidden`` are its embeddings, ``turns`` its cosines and sines."""

    text: FusedText
    packed: Packed
    hidden: torch.Tensor
    turns: tuple[torch.Tensor, torch.Tensor]

    def compute(self) -> torch.Tensor:
        """Once only: the embeddings do not outlive it."""
        return self.text.compute(self.hidden, self.turns, self.packed)


def natives(model: Any) -> list[NativeLayer]:
    """Of the text layers, swapped by ``fuse``, those that are our own throughout."""
    layers = model.model.language_model.layers
    return [layer.native for layer in layers if isinstance(layer, FusedLayer) and layer.native is not None]


def text_of(model: Any, kernels: Kernels, cache: KVCache) -> FusedText | None:
    """None where not all of ``model``'s text layers are ``natives``."""
    text, layers = model.model.language_model, natives(model)
    if type(text).__name__ not in _KNOWN_TEXTS or len(layers) < len(text.layers):
        return None
    return FusedText(model, kernels, cache, layers)


def _product(linears: Sequence[Any], kernels: Kernels) -> nn.Module:
    """The fastest that this processor has for these layers."""
    if any(is_packed(one) for one in linears):
        return joined(linears)
    if all(kernels.has_matmul(one.weight) and one.bias is None for one in linears):
        return NativeLinear(linears, kernels)
    if all(packing.pays(one.weight) for one in linears):
        return packing.PackedLinear(linears)
    return JoinedLinear(linears)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def fuse(model: Any, kernels: Kernels) -> int:
    """Swap the text layers that are known; returns how many were swapped."""
    layers = model.model.language_model.layers
    if model.config.get_text_config().hidden_act != "silu":
        return 0
    files = MappedFiles()
    swapped = 0
    for place, layer in enumerate(layers):
        if type(layer).__name__ not in _KNOWN or not _plain(layer):
            continue
        layers[place] = FusedLayer(layer, kernels)
        for one in (one for one in _linears(layer) if not is_packed(one)):
            # What was copied is given back; what was not is read again from the file.
            files.forget(one.weight.data_ptr(), one.weight.nbytes)
        swapped += 1
    if swapped and type(model.lm_head) is nn.Linear and kernels.has_matmul(model.lm_head.weight):
        model.lm_head = NativeLinear([model.lm_head], kernels)
    return swapped


def _linears(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj,
        mlp.down_proj,
    ]  # fmt: skip


def _plain(layer: Any) -> bool:
    """Plain or quantised by us, with biases on all of the joined layers or on none, and heads normalised alike."""
    linears, attention = _linears(layer), layer.self_attn
    return (
        attention.q_norm.variance_epsilon == attention.k_norm.variance_epsilon
        and all(type(one) is nn.Linear or is_packed(one) for one in linears)
        and all(len({one.bias is None for one in joined}) == 1 for joined in (linears[:3], linears[4:6]))
    )
