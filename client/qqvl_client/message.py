"""The values that cross the client's borders. Frozen, and strangers to every framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Chat:
    """One QQ group or one private conversation, and the account that takes part in it."""

    kind: Literal["group", "private"]
    id: str
    self_id: str
    via_group: str = ""
    """The group a temporary session comes through; QQ wants it back on sending."""

    @property
    def key(self) -> str:
        return f"{self.self_id}/{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True)
class Segment:
    """One OneBot message segment whose shape has been checked."""

    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    data: bytes
    format: str


@dataclass(frozen=True, slots=True)
class Quote:
    """The message another message replies to."""

    id: str
    text: str = ""
    user_id: str = ""
    user_nickname: str = ""
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """One QQ message, read: every lookup done, every picture fetched."""

    chat: Chat
    message_id: str
    user_id: str
    nickname: str
    card: str
    group_name: str
    content: str
    pictures: tuple[Picture, ...]
    segments: tuple[dict[str, Any], ...]
    at_me: bool
    quote: Quote | None
    sent_at: float
    sub_type: str
    context_only: bool

    @property
    def is_empty(self) -> bool:
        return not (self.content.strip() or self.pictures or self.quote)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the chat server wants said; no texts means silence."""

    texts: tuple[str, ...]
