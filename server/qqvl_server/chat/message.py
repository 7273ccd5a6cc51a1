"""What was said in a chat, as frozen values. No HTTP, no database, no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from qqvl_server.media.image import ImageRef

# QQ's ids are numbers.
TRIAL: Final = "try-"


class ChatKind(StrEnum):
    GROUP = "group"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class ChatKey:
    """Two fields, never one joined string: ``group:1`` and a user called ``group:1`` must not meet."""

    kind: ChatKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def is_trial(self) -> bool:
        """Played in the browser, no chat of QQ's: it costs nobody's day, keeps a clock of its own, and is soon gone."""
        return self.id.startswith(TRIAL)


@dataclass(frozen=True, slots=True)
class Speaker:
    """``name`` is the group card or the nickname, as sent; rights follow ``id`` alone."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """``quoted`` when it belongs to the quoted message, or to an earlier one that the words point at. ``caption`` is
    the model's own line about it, once it has written one."""

    image: ImageRef
    quoted: bool = False
    caption: str = ""


@dataclass(frozen=True, slots=True)
class LostPicture:
    """A picture that came but could not be opened; the model is told so."""


@dataclass(frozen=True, slots=True)
class Quote:
    """The message this one answers: who said it and what, cut by the sender's client or by us; its id if told."""

    speaker: str
    text: str
    id: str = ""


MessagePart = Text | Picture | LostPicture | Quote


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as it arrived, base64; ``quoted`` when it belongs to the quoted message."""

    data: str
    quoted: bool = False


IncomingPart = Text | EncodedPicture | Quote


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message from QQ, before its pictures are looked at.

    ``at_me`` is None when the client cannot tell, as is ``role``, the speaker's place in the group; ``sent_at`` is the
    sender's own time and None when not told. ``self_id`` and ``self_names`` are those of the bot's account. ``typed``
    are the words the speaker typed where that is known to be less than the text parts: without those he forwarded and
    those that name somebody else. ``context_only`` messages are remembered but never answered. ``quotes_me``: it
    quotes a line of the bot, which counts as ``at_me``; ``quoted_id`` is the quoted line's. ``to_other``: it mentions
    somebody else. ``from_bot``: its client says that no person wrote it.
    """

    request_id: str
    chat: ChatKey
    speaker: Speaker
    parts: tuple[IncomingPart, ...]
    sent_at: float | None
    message_id: str | None = None
    at_me: bool | None = None
    context_only: bool = False
    self_id: str | None = None
    self_names: tuple[str, ...] = ()
    role: str | None = None
    typed: str | None = None
    quotes_me: bool = False
    quoted_id: str | None = None
    to_other: bool = False
    from_bot: bool = False

    @property
    def is_bare(self) -> bool:
        """From a client of the bare interface, whose messages are answered one by one and taken as they are."""
        return self.message_id is None and self.self_id is None and self.at_me is None

    @property
    def text(self) -> str:
        """What the speaker typed, quotes left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text)).strip()


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One line of history. ``seq`` grows by one within its chat and is never used twice."""

    seq: int
    role: Literal["user", "assistant"]
    speaker: Speaker
    parts: tuple[MessagePart, ...]
    message_id: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door gives back for one ``Incoming``. ``reply`` is empty when nothing is to be said.

    ``reason`` is a word of ``decision.Reason``, empty where an older version answered. ``merged_into`` is the id of
    the message whose answer covers this one, where it has one.
    """

    reply: str
    should_reply: bool
    warnings: tuple[str, ...] = field(default=())
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reason: str = ""
    merged_into: str | None = None
