"""What each person and each group had of the bot today, and whether that is all they may have. Knows no SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from qqvl_server.chat.books import Books
from qqvl_server.chat.decision import Charge, Usage
from qqvl_server.chat.message import ChatKey, ChatKind, Incoming
from qqvl_server.errors import StorageFailed
from qqvl_server.generation.port import Voice
from qqvl_server.settings import ChatSettings

USER: Final = "user"
GROUP: Final = "group"
_NOT_SHARED: Final = "（这个引擎一次只答一条，时间从开始算到说完）"


class Ledger:
    """The voice knows what each chat's requests took; who asked for it is known here."""

    def __init__(self, books: Books, voice: Callable[[], Voice]) -> None:
        self._books = books
        self._voice = voice
        self._listened: dict[ChatKey, float] = {}

    def listening_ends(self, chat: ChatKey) -> None:
        """What was computed for a chat until now nobody had asked for."""
        seconds = self._voice().take_seconds(str(chat))
        if seconds and not chat.is_trial:
            self._listened[chat] = self._listened.get(chat, 0.0) + seconds

    def listened(self, chat: ChatKey) -> tuple[Charge, ...]:
        """All of that which is in no charge yet."""
        self.listening_ends(chat)
        seconds = 0.0 if chat.is_trial else self._listened.pop(chat, 0.0)
        return _of_chat(chat, Usage(0, seconds)) if seconds else ()

    def answered(self, chat: ChatKey, speakers: Sequence[str], *, said: bool) -> tuple[Charge, ...]:
        """What was computed since ``listening_ends``, for ``speakers``, one for each message that is answered; and what
        was listened to. ``said`` is false where nothing came of it: no message then counts.
        """
        before = self._listened.pop(chat, 0.0)
        seconds = self._voice().take_seconds(str(chat))
        if chat.is_trial:
            return ()
        shares = Counter(speakers)
        charges = [
            Charge(USER, who, Usage(count * said, seconds * count / len(speakers))) for who, count in shares.items()
        ]
        if chat.kind is ChatKind.GROUP:
            charges += _of_chat(chat, Usage(len(speakers) * said, seconds + before))
        elif before:
            charges += _of_chat(chat, Usage(0, before))
        return tuple(charges)

    def joined(self, chat: ChatKey, *, said: bool) -> tuple[Charge, ...]:
        """The same of what nobody had asked for: it is the group's alone."""
        before = self._listened.pop(chat, 0.0)
        return _of_chat(chat, Usage(int(said), self._voice().take_seconds(str(chat)) + before))

    async def keep(self, charges: Sequence[Charge]) -> None:
        """Best effort: whoever waits has been told how it ended."""
        with suppress(StorageFailed):
            await self._books.charge(charges)

    async def is_used_up(self, incoming: Incoming, settings: ChatSettings, asking: Sequence[str]) -> str | None:
        """What is told to whoever has had all of today's; None while there is more. Owners always have more.

        ``asking`` are those who are answered before him and not in the books yet.
        """
        if incoming.speaker.id in settings.owners or incoming.chat.is_trial:
            return None
        for kind, one, most in _quotas(incoming, settings):
            if not any(most):
                continue
            used = await self._books.used(kind, one)
            ahead = len(asking) if kind == GROUP else asking.count(one)
            if (most[0] and used.messages + ahead >= most[0]) or (most[1] and used.seconds >= most[1]):
                return "你今天的额度用完了，明天再聊。" if kind == USER else "本群今天的额度用完了，明天再聊。"
        return None

    async def report(self, incoming: Incoming, settings: ChatSettings) -> str:
        """Today's use, against what there is."""
        lines = []
        for kind, one, most in _quotas(incoming, settings):
            used = await self._books.used(kind, one)
            whose = "你" if kind == USER else "本群"
            lines.append(
                f"{whose}今天：{used.messages} 条（{_most(most[0], '条')}），"
                f"用模型 {used.seconds:.1f} 秒（{_most(most[1], '秒')}）。"
            )
        if not self._voice().shares_steps:
            lines.append(_NOT_SHARED)
        return "\n".join(lines)


def _quotas(incoming: Incoming, settings: ChatSettings) -> list[tuple[str, str, tuple[int, float]]]:
    """Whose day it is, and the most messages and seconds of it; 0 is no limit."""
    found: list[tuple[str, str, tuple[int, float]]] = [
        (USER, incoming.speaker.id, (settings.user_messages_per_day, settings.user_seconds_per_day))
    ]
    if incoming.chat.kind is ChatKind.GROUP:
        found.append((GROUP, incoming.chat.id, (settings.group_messages_per_day, settings.group_seconds_per_day)))
    return found


def _of_chat(chat: ChatKey, usage: Usage) -> tuple[Charge, ...]:
    return (Charge(GROUP if chat.kind is ChatKind.GROUP else USER, chat.id, usage),)


def _most(most: float, unit: str) -> str:
    return f"最多 {most:g} {unit}" if most else "不限"
