"""A text model whose layers lie on several devices, one part after the other: what must be moved between them.

Transformers has accelerate move whatever a layer is given, at every layer; it knows nothing of the cache. Here hidden
states move where a part begins, and rotations once a step for each device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_submodules
from torch import nn


def device_of(module: nn.Module) -> torch.device | None:
    """Of all that ``module`` holds; None where that is several."""
    found = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return found.pop() if len(found) == 1 else None


def layer_devices(model: Any) -> list[torch.device] | None:
    """Each text layer's; None where ``model`` is cut in another way than between them.

    What pictures are looked at with and words are looked up in is where the model says it is.
    """
    text = model.model.language_model
    devices = [device_of(layer) for layer in text.layers]
    first = device_of(model.model.visual), device_of(text.embed_tokens)
    if set(first) != {model.device} or device_of(text.norm) is None or device_of(model.lm_head) is None:
        return None
    known = [device for device in devices if device is not None]
    return known if len(known) == len(devices) else None


def relay(model: Any, devices: Sequence[torch.device]) -> None:
    """Have ``model``, whose layers lie on ``devices``, move what its parts hand on; its layers are swapped already."""
    remove_hook_from_submodules(model)
    text = model.model.language_model
    turns = {device: _Turns(device) for device in devices}
    for place, (layer, device) in enumerate(zip(list(text.layers), devices, strict=True)):
        if device != model.device:
            text.layers[place] = RelayedLayer(layer, turns[device])
    text.norm, model.lm_head = _Moved(text.norm), _Moved(model.lm_head)


class _Turns:
    """A step's rotations on one device, moved when its first layer asks."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self._moved: tuple[torch.Tensor, torch.Tensor] | None = None

    def of(self, turns: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._moved is None or turns is not self._seen:
            self._seen = turns
            self._moved = turns[0].to(self.device, non_blocking=True), turns[1].to(self.device, non_blocking=True)
        return self._moved


class RelayedLayer(nn.Module):
    """``layer``, given its inputs where it lies."""

    def __init__(self, layer: nn.Module, turns: _Turns) -> None:
        super().__init__()
        self.layer = layer
        self._turns = turns

    def forward(
        self, hidden_states: torch.Tensor, *, position_embeddings: tuple[torch.Tensor, torch.Tensor], **others: Any
    ) -> Any:
        hidden = hidden_states.to(self._turns.device, non_blocking=True)
        return self.layer(hidden, position_embeddings=self._turns.of(position_embeddings), **others)


class _Moved(nn.Module):
    """``inner``, given its rows where it lies."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._device = device_of(inner)

    @property
    def weight(self) -> Any:
        return self.inner.weight

    def forward(self, rows: torch.Tensor) -> Any:
        return self.inner(rows.to(self._device, non_blocking=True))
