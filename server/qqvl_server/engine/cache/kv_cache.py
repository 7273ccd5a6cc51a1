"""The paged KV cache in memory: tensors only, numbered as ``block_pool`` numbers them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy
import torch

from qqvl_server.engine.cache.device import moved

# Tokens; small blocks share more of a prefix.
BLOCK_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class KVShape:
    layers: int
    kv_heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * dtype.itemsize


def kv_shape(config: Any) -> KVShape:
    """What one token costs in the cache of a model with this configuration."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return KVShape(text.num_hidden_layers, text.num_key_value_heads, head_dim)


def kv_dtype(model: Any) -> torch.dtype:
    """The text's own type: a quantised or mixed checkpoint may hold pictures' weights in another, and those first."""
    embedding: torch.Tensor = model.get_input_embeddings().weight
    return embedding.dtype


@dataclass(frozen=True, slots=True)
class Held:
    """Which blocks several requests read: ``table`` (requests · width,), padded with 0.

    ``first`` is the slot of the first token of a single request whose blocks follow one another, else None.
    """

    requests: int
    table: torch.Tensor
    first: int | None


class KVCache:
    """Per layer the keys and the values of all blocks: (blocks + 1, block_size, kv_heads, head_dim).

    A token's slot is ``block · block_size + offset``. The last block, ``scratch``, is nobody's: what must be written
    but never read goes there. Each layer's are where ``layers`` says, else on ``device``; blocks are the same of all.
    """

    def __init__(
        self,
        shape: KVShape,
        blocks: int,
        block_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        layers: Sequence[torch.device] | None = None,
    ) -> None:
        self.block_size = block_size
        self.dtype = dtype
        self.device = torch.device(device)
        self.layer_devices = [self.device] * shape.layers if layers is None else list(layers)
        # The first is where words and pictures come in; of the others in their order.
        self.devices = list(dict.fromkeys((self.device, *self.layer_devices)))
        self.scratch = blocks
        size = (blocks + 1, block_size, shape.kv_heads, shape.head_dim)
        self.keys = [_zeros(size, dtype, of_layer) for of_layer in self.layer_devices]
        self.values = [_zeros(size, dtype, of_layer) for of_layer in self.layer_devices]
        self._slots = [
            (keys.flatten(0, 1), values.flatten(0, 1)) for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store ``keys`` and ``values``, both (N, kv_heads, head_dim), at ``slots`` (N,)."""
        all_keys, all_values = self._slots[layer]
        all_keys.index_copy_(0, slots, keys)
        all_values.index_copy_(0, slots, values)

    def held(self, requests: Sequence[Sequence[int]], tokens: int, device: torch.device) -> Held:
        """Describe the blocks of the first ``tokens`` tokens of each request, once for all layers on ``device``."""
        width = -(-tokens // self.block_size)
        numbers = array("q")
        for blocks in requests:
            used = blocks[:width]
            numbers.extend(used)
            numbers.extend([0] * (width - len(used)))
        first = None
        if len(requests) == 1 and list(numbers) == list(range(numbers[0], numbers[0] + width)):
            first = numbers[0] * self.block_size
        return Held(len(requests), moved(torch.frombuffer(numbers, dtype=torch.int64), device), first)

    def read(self, layer: int, held: Held, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first ``tokens`` keys and values of each request: (requests, tokens, kv_heads, head_dim).

        Whole blocks are copied: ten times faster on a CPU than token by token.
        """
        if held.first is not None:
            keys, values = (t[held.first : held.first + tokens].unsqueeze(0) for t in self._slots[layer])
            return keys, values
        return self._copied(self.keys[layer], held, tokens), self._copied(self.values[layer], held, tokens)

    def _copied(self, kept: torch.Tensor, held: Held, tokens: int) -> torch.Tensor:
        found = kept.index_select(0, held.table)
        return found.view(held.requests, -1, *kept.shape[2:])[:, :tokens]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, for a slot that was never written still meets a weight of zero in attention."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed pages, which take memory only once they are written; torch writes them all.
    return torch.from_numpy(numpy.zeros(math.prod(shape) * dtype.itemsize, numpy.uint8)).view(dtype).view(shape)
