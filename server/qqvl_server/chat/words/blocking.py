"""What the operator's word lists keep from the model, and from QQ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from qqvl_server.chat.message import Incoming, Quote, Speaker, Text
from qqvl_server.chat.words.files import folders
from qqvl_server.chat.words.gate import Gate
from qqvl_server.chat.words.lists import WordList
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ChatSettings

_BLOCKED: Final = "[这条消息有屏蔽词，略去]"
# What is longer, or beyond so many, is only looked for in what is said.
_SHORT: Final = 32
_MOST_BANNED: Final = 200


class Blocking:
    """``folder`` is where the page keeps its own lists.

    Raises:
        ConfigError: a list cannot be read.
    """

    def __init__(self, settings: ChatSettings, metrics: Metrics, folder: Path | None = None) -> None:
        self._metrics = metrics
        self._coming_from = folders(folder, "in") if folder is not None else ()
        self._going_from = folders(folder, "out") if folder is not None else ()
        self.heed(settings)

    def heed(self, settings: ChatSettings) -> None:
        """Other lists than before, from now on; where one cannot be read, all stay."""
        pinyin = settings.block_words_pinyin == "on"
        coming = WordList(settings.block_words_in, folders=self._coming_from, pinyin=pinyin)
        going = WordList(settings.block_words_out, folders=self._going_from, pinyin=pinyin)
        self._coming, self._going = coming, going
        self.reply = settings.block_reply.strip()

    async def kept_back(self, incoming: Incoming) -> Incoming | None:
        """What is kept of a message with a blocked word; None for one without."""
        matcher = await self._coming.fresh()
        if matcher is None:
            return None
        said = "\n".join(part.text for part in incoming.parts if isinstance(part, Text | Quote))
        quoted = [part.speaker for part in incoming.parts if isinstance(part, Quote)]
        has_bad_name = matcher.find(incoming.speaker.name) is not None
        if matcher.find(said) is None and not has_bad_name and all(matcher.find(name) is None for name in quoted):
            return None
        self._count("in", incoming)
        speaker = Speaker(incoming.speaker.id, "") if has_bad_name else incoming.speaker
        return replace(incoming, speaker=speaker, parts=(Text(_BLOCKED),))

    async def gate(self) -> Gate | None:
        """For one reply; None where nothing is blocked."""
        matcher = await self._going.fresh()
        return Gate(matcher, self.reply) if matcher is not None else None

    async def banned(self) -> tuple[str, ...]:
        """Words that the model is kept from while it speaks."""
        matcher = await self._going.fresh()
        return (
            tuple(word for word in matcher.words if len(word) <= _SHORT)[:_MOST_BANNED] if matcher is not None else ()
        )

    def answer_was_blocked(self, incoming: Incoming) -> None:
        self._count("out", incoming)

    def _count(self, side: str, incoming: Incoming) -> None:
        # Without the words: logs are read by others than those who wrote the list.
        logger().info("碰到屏蔽词", side=side, chat=str(incoming.chat))
        self._metrics.blocked.labels(side).inc()
