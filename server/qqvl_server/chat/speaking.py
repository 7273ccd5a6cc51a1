"""The voice is asked for a turn's answer; what is finished of it is told at once to who wants it so."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from qqvl_server.chat.decision import Effort, Reason
from qqvl_server.chat.message import Answer, ChatKind, Incoming, StoredMessage
from qqvl_server.chat.outgoing.messages import Manner, Outgoing, Record, Sender, messages, plainly
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.session import Arrival, Turn
from qqvl_server.chat.window import Window
from qqvl_server.chat.words.blocking import Blocking
from qqvl_server.chat.words.gate import Gate
from qqvl_server.generation.port import (
    Finished,
    FinishReason,
    GenerationRequest,
    Reasoning,
    TextDelta,
    Thinking,
    Urgency,
    Usage,
    Voice,
)
from qqvl_server.settings import ChatSettings

_NO_NAME: Final = "机器人"


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer, and all that is to be sent for it."""

    answer: Answer
    messages: tuple[Outgoing, ...]


def manner(incoming: Incoming, settings: ChatSettings) -> Manner:
    """How an answer to a message is sent."""
    is_group = incoming.chat.kind is ChatKind.GROUP
    names = (*reversed(incoming.self_names), *settings.bot_names, _NO_NAME)
    return Manner(
        part_chars=settings.message_chars,
        record_chars=settings.forward_chars,
        name=next(filter(None, map(str.strip, names))),
        self_id=incoming.self_id,
        at=incoming.speaker.id if is_group and settings.at_asker == "on" else None,
        quote=incoming.message_id if settings.quote_asked == "on" else None,
        draw_chars=settings.draw_chars,
    )


def outgoing(incoming: Incoming, answer: Answer, settings: ChatSettings) -> tuple[Outgoing, ...]:
    """The elements of ``messages[]``. What commands say is no Markdown."""
    how = manner(incoming, settings)
    return plainly(answer.reply, how) if answer.reason == Reason.COMMAND else messages(answer.reply, how)


def cut_short(told: list[Outgoing], warning: str = "") -> Answer:
    """The answer that ends with what is out already."""
    words = [
        text
        for element in told
        for text in ([n.text for n in element.nodes] if isinstance(element, Record) else [element.text])
    ]
    return Answer("\n\n".join(words), should_reply=True, warnings=(warning,) if warning else ())


class Speaking:
    """``model`` is the name that is told of what answers."""

    def __init__(
        self, voice: Callable[[], Voice], window: Window, preferences: Preferences, blocking: Blocking, model: str
    ) -> None:
        self._voice = voice
        self._window = window
        self._preferences = preferences
        self._blocking = blocking
        self._model = model
        # Whether the model was seen to think without saying so first: from then on it is heard out.
        self._thinks_aloud = False

    async def ask(self, turn: Turn, asked: Arrival, last: StoredMessage, urgency: Urgency) -> Answer:
        """The whole answer to a turn, told as it grows where ``asked`` wants it so; ``last`` is its newest line.

        Raises: as the voice.
        """
        voice, began = self._voice(), time.monotonic()
        shown = await self._window.messages(voice, turn.chat, last)
        request = GenerationRequest(
            asked.incoming.request_id,
            shown,
            replace(self._window.sampling(voice, turn.chat), bad_words=await self._blocking.banned()),
            turn.deadline,
            owner=str(turn.chat),
            urgency=urgency,
            thinking=Thinking(anywhere=True),
        )
        draft = _Draft(asked, manner(asked.incoming, self._preferences.of(turn.chat)), is_held=self._thinks_aloud)
        draft.gate = await self._blocking.gate()
        usage, reason = Usage(0, 0), FinishReason.STOP
        unseen: tuple[str, ...] = ()
        async with aclosing(voice.generate(request)) as events:
            async for event in events:
                match event:
                    case TextDelta(delta):
                        draft.add(delta)
                    case Reasoning(retracts=True):
                        self._thinks_aloud = True
                        draft.retract(await self._blocking.gate())
                    case Reasoning():
                        draft.may_tell()
                    case Finished(why, used):
                        usage, reason, unseen = used, why, event.unseen
                if draft.is_blocked:
                    # Nothing that would follow gets out.
                    break
        draft.finish()
        if draft.is_blocked:
            self._blocking.answer_was_blocked(asked.incoming)
        lines = sum(message.role != "system" for message in shown)
        took = time.monotonic() - began
        turn.effort = Effort(lines, usage.prompt_tokens, usage.cached_tokens, took, self._model)
        reply = draft.text.strip()
        warnings = tuple(f"聊天记录里有一张图没有看到：{cause}" for cause in unseen)
        if not reply and reason is FinishReason.LENGTH:
            warnings += ("模型没想完就到了回复长度的上限，这次没有说话；可以加大 --max-new-tokens",)
        return Answer(reply, bool(reply), warnings, usage.prompt_tokens, usage.completion_tokens)


class _Draft:
    """An answer as it grows."""

    def __init__(self, asked: Arrival, manner: Manner, *, is_held: bool) -> None:
        self._asked = asked
        self._manner = manner
        self._is_held = is_held
        self._texts: list[str] = []
        self.gate: Gate | None = None
        self._sender: Sender | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def is_blocked(self) -> bool:
        return self.gate is not None and self.gate.is_hit

    def add(self, delta: str) -> None:
        self._add(delta if self.gate is None else self.gate.push(delta))

    def finish(self) -> None:
        if self.gate is not None:
            self._texts.append(self.gate.finish())

    def _add(self, delta: str) -> None:
        if not self._texts:
            # As the whole reply is sent without the white space around it.
            delta = delta.lstrip()
        if not delta:
            return
        self._texts.append(delta)
        telling = self._asked.telling
        if telling is None or self._is_held:
            return
        if self._sender is None:
            self._sender, delta = Sender(self._manner), self.text
        for element in self._sender.push(delta):
            telling.tell(element)

    def retract(self, gate: Gate | None) -> None:
        """All of it so far was thought. What is out is out."""
        self._texts.clear()
        self.gate = gate
        self._sender = None
        self._is_held = False

    def may_tell(self) -> None:
        """What follows a thought is none."""
        self._is_held = False
