"""What a device must be able to do so that steps can be computed on it: the border between what and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cache.paged_attention import AttentionMetadata
from qqvl_server.engine.forward.positions import Positions
from qqvl_server.engine.forward.vision import RequestPictures
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk


@dataclass(frozen=True, slots=True)
class Step:
    """A scheduled batch with what the runner knows of its requests: ``positions`` by id, and their pictures."""

    batch: ScheduledBatch
    positions: Mapping[str, Positions]
    pictures: RequestPictures


class Prepared(Protocol):
    """A step whose inputs are laid out."""

    def compute(self) -> torch.Tensor:
        """Logits (N, vocabulary) of the positions that the chunks keep, in the batch's order."""
        ...


class Backend(Protocol):
    """One way to compute steps. Belongs to one model and one thread."""

    @property
    def block_size(self) -> int:
        """Tokens in a block of the cache, as this way of attending wants them."""
        ...

    @property
    def facts(self) -> Mapping[str, object]:
        """How it computes, for the log's line at the start; complete once a model is adopted."""
        ...

    def adopt(self, model: Any, cache: KVCache) -> None:
        """Take ``model`` over, before the first step and before anybody owns a block: its layers may be swapped."""
        ...

    def lay_out(self, chunks: Sequence[ScheduledChunk], device: torch.device) -> AttentionMetadata:
        """``chunks`` in the order of their packed rows: those of one token first, the longest before the shorter.

        For the layers on ``device``.
        """
        ...

    def prepare(self, step: Step) -> Prepared:
        """All that needs the interpreter, so that ``compute`` needs little of it."""
        ...

    def release(self) -> None:
        """Give back memory that can be had again, after a step that ran out of it."""
        ...
