"""The values that cross the client's borders. Frozen, and strangers to every framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

POKE = "poked"
"""The type of the one segment of a poke, which QQ tells as a notice; a `poke` segment is something that is said."""
Role = Literal["", "owner", "admin", "member"]


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
class Sender:
    """Who said something; what the other side did not tell is empty."""

    id: str = ""
    nickname: str = ""
    card: str = ""
    role: Role = ""
    is_bot: bool = False

    @property
    def name(self) -> str:
        return self.card or self.nickname


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as OneBot tells it anywhere: in a lookup, in a chat's record, in a forward."""

    id: str
    sender: Sender
    segments: tuple[Segment, ...]
    sent_at: float | None = None

    @property
    def quoted_id(self) -> str:
        return next((str(s.data.get("id") or "") for s in self.segments if s.type == "reply"), "")


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """Somebody said something in a chat: the event as the adapter read it, once."""

    chat: Chat
    id: str
    """Empty when the implementation gave none, or 0, its word for "unknown"."""
    sender: Sender
    sent_at: float
    """Seconds since the epoch by the OneBot side's clock."""
    segments: tuple[Segment, ...]
    group_name: str = ""
    sub_type: str = ""

    @property
    def poked_id(self) -> str:
        """Whom the sender poked, where this is a poke and nothing that was said."""
        return next((str(s.data.get("target_id", "")) for s in self.segments if s.type == POKE), "")

    @property
    def is_temporary(self) -> bool:
        """A session through a group, of somebody who is no friend."""
        return self.chat.kind == "private" and self.sub_type == "group"

    @property
    def ats_self(self) -> bool:
        return any(s.type == "at" and str(s.data.get("qq")) == self.chat.self_id for s in self.segments)

    @property
    def ats_all(self) -> bool:
        return any(s.type == "at" and str(s.data.get("qq")) == "all" for s in self.segments)

    @property
    def is_addressed(self) -> bool:
        """Whether the sender meant the bot, as far as the event alone can tell."""
        return self.chat.kind == "private" or self.ats_self


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life: the other side's clock in seconds, and whether the QQ account is online, where told."""

    stamp: float | None
    online: bool | None
    self_id: str = ""


@dataclass(frozen=True, slots=True)
class AccountOffline:
    """QQ has logged the account out."""

    reason: str
    self_id: str = ""


@dataclass(frozen=True, slots=True)
class Recall:
    """A message of a chat, anybody's, was taken back."""

    chat: Chat
    message_id: str
    operator_id: str = ""
    """Who took it back, where told."""


@dataclass(frozen=True, slots=True)
class LineUp:
    """The line to an account stands, for the first time or again; what was said meanwhile nobody reports."""

    self_id: str
    stamp: float | None


@dataclass(frozen=True, slots=True)
class Application:
    """Somebody wants to be a friend of the account, or to take it into a group: OneBot's request."""

    self_id: str
    kind: Literal["friend", "group"]
    user_id: str
    group_id: str
    comment: str
    flag: str
    """What the answer must name."""


Event = Application | MessageEvent | Heartbeat | AccountOffline | Recall | LineUp


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
class ForwardNode:
    """One line of a forwarded record: who said what. Its pictures stand among the message's own, where they stood."""

    speaker: str
    user_id: str
    text: str


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """One QQ message, read: every lookup done, every picture fetched."""

    event: MessageEvent
    content: str
    group_name: str = ""
    pictures: tuple[Picture, ...] = ()
    segments: tuple[dict[str, Any], ...] = field(default=())
    """The content in pieces, as the chat server takes them."""
    forward: tuple[ForwardNode, ...] = ()
    at_me: bool = False
    quote: Quote | None = None
    self_nickname: str = ""
    self_card: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.content.strip() or self.pictures or self.quote)
