"""Exact measures: the upstream's ``/tokenize``, or a tokenizer's files beside us. No torch, no Transformers."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from qqvl_server.errors import ConfigError
from qqvl_server.generation.engines.upstream.counting import Bytes, picture_bound
from qqvl_server.generation.engines.upstream.fleet import Upstream
from qqvl_server.generation.engines.upstream.pictures import data_of
from qqvl_server.generation.engines.upstream.probing import Prober

# Letters that are encoded without leaving the event loop: less than a millisecond.
_SHORT: Final = 2000
_AT_ONCE: Final = 16
# A message in ChatML: ``<|im_start|>``, the role, a line's end; ``<|im_end|>``, a line's end.
_CHATML: Final = 5
_CHATML_HEADER: Final = 3


class Served:
    """What an upstream's ``/tokenize`` says; a bound where it does not answer."""

    exact = True

    def __init__(self, prober: Prober, upstream: Upstream) -> None:
        self._prober = prober
        self._upstream = upstream
        self._bound = Bytes()
        self._pictures: dict[tuple[int, int], int] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    @property
    def frame(self) -> int:
        profile = self._upstream.profile
        return profile.frame if profile is not None else self._bound.frame

    @property
    def header(self) -> int:
        profile = self._upstream.profile
        return profile.header if profile is not None else self._bound.header

    async def text(self, text: str) -> int:
        profile = self._upstream.profile
        if not text or profile is None:
            return await self._bound.text(text)
        async with self._places:
            found = await self._prober.text_tokens(self._upstream, profile.kind, profile.model, text)
        return await self._bound.text(text) if found is None else found

    async def picture(self, width: int, height: int) -> int:
        """By a blank one of this size: what a picture takes does not depend on what it shows."""
        size = width, height
        if size not in self._pictures:
            found = await self._asked(width, height)
            if found is None:
                return picture_bound(width, height)
            self._pictures[size] = found
        return self._pictures[size]

    async def _asked(self, width: int, height: int) -> int | None:
        profile = self._upstream.profile
        if profile is None or not profile.sees:
            return 0
        address = await asyncio.to_thread(data_of, width, height)
        talk = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]
        async with self._places:
            found = await self._prober.tokens(self._upstream, profile.model, talk)
        return None if found is None else max(found - profile.frame - profile.header, 1)


@dataclass(frozen=True, slots=True)
class _Sight:
    """How Qwen's processors size a picture: pixels a token's side sees, and the bounds of its area in pixels."""

    edge: int
    least: int
    most: int


class Beside:
    """The tokenizer in ``folder``. Blocking to make; raises ConfigError: there is none, or it cannot be read."""

    exact = True

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            # The edge of a library that raises ``Exception`` itself.
            raise ConfigError(f"读不了 {folder} 里的 tokenizer.json，请检查 model_path，或去掉它") from error
        is_chatml = self._tokenizer.token_to_id("<|im_start|>") is not None
        self.frame = _CHATML if is_chatml else Bytes.frame
        self.header = _CHATML_HEADER if is_chatml else Bytes.header
        self._sight = _sight(folder)

    async def text(self, text: str) -> int:
        if len(text) <= _SHORT:
            return self._encoded(text)
        return await asyncio.to_thread(self._encoded, text)

    async def picture(self, width: int, height: int) -> int:
        """As ``smart_resize`` of Qwen2-VL's processor brings it to its size, and the two marks around it."""
        sight = self._sight
        if sight is None:
            return picture_bound(width, height)
        tall, wide = (max(round(side / sight.edge), 1) * sight.edge for side in (height, width))
        if tall * wide > sight.most:
            scale = math.sqrt(height * width / sight.most)
            tall, wide = (max(int(side / scale / sight.edge), 1) * sight.edge for side in (height, width))
        elif tall * wide < sight.least:
            scale = math.sqrt(sight.least / (height * width))
            tall, wide = (math.ceil(side * scale / sight.edge) * sight.edge for side in (height, width))
        return tall // sight.edge * (wide // sight.edge) + 2

    def _encoded(self, text: str) -> int:
        return len(self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)


def _sight(folder: Path) -> _Sight | None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            told: Any = json.loads((folder / name).read_text(encoding="utf-8"))
            told = told.get("image_processor", told)
            size = told.get("size", {})
            return _Sight(
                int(told["patch_size"]) * int(told["merge_size"]),
                int(size.get("shortest_edge") or told["min_pixels"]),
                int(size.get("longest_edge") or told["max_pixels"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None
