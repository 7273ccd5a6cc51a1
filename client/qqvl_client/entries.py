"""What the journal keeps of a message, and what is to be written of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qqvl_client.message import Chat, MessageEvent
from qqvl_client.outgoing import Outgoing

State = Literal["taken", "ready", "answered"]
# The one part of a picture's address that is new whenever the same message is told again.
_VOLATILE = re.compile(r"([?&])rkey=[^&\"]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One taken message, as far as it has come: taken → ready (request body written) → answered (messages known).

    `part_open` is set before a part is handed to the line and cleared after, so a restart knows which part may
    already be in the chat.
    """

    id: int
    event: MessageEvent
    said_at: float
    """When it was said, in seconds since the epoch by our own clock."""
    taken_at: float
    context_only: bool = False
    state: State = "taken"
    messages: tuple[Outgoing, ...] = ()
    next_part: int = 0
    part_open: bool = False

    @property
    def chat(self) -> Chat:
        return self.event.chat

    @property
    def request_id(self) -> str:
        """What names this message's way through client, server and engine; the same after a restart."""
        event = self.event
        told = [event.chat.key, event.id, event.sender.id, event.sent_at, self.taken_at]
        return "qq-" + hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]

    @property
    def facts(self) -> dict[str, str]:
        """What a line of the log says besides its words."""
        event = self.event
        found = {
            "request_id": self.request_id, "chat": f"{event.chat.kind}:{event.chat.id}", "self_id": event.chat.self_id,
            "user": event.sender.id, "message_id": event.id,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value}

    @property
    def message_id(self) -> str:
        return self.event.id


ErrandKind = Literal["recall", "sent", "withdraw", "application"]


@dataclass(frozen=True, slots=True)
class Errand:
    """Something small that must be done once, after a restart too: tell the server, or withdraw in QQ.

    `told`: recall → message_id, operator_id; sent → message_id, sent_ids, request_id; withdraw → ids;
    application → kind, user_id, group_id, comment, flag, and it waits for an owner's word.
    """

    id: int
    kind: ErrandKind
    chat: Chat
    told: Mapping[str, Any]
    made_at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A chat, and when its newest line that was taken was said, by the OneBot side's clock."""

    chat: Chat
    sent_at: float


@dataclass
class Changes:
    """What is to be written, newest state only."""

    entries: dict[int, Entry | None] = field(default_factory=dict)
    """By id; None is finished and forgotten."""
    bodies: dict[int, bytes] = field(default_factory=dict)
    errands: dict[int, Errand | None] = field(default_factory=dict)
    """By id; None is done."""
    known: dict[bytes, float] = field(default_factory=dict)
    """Identities of messages and when they were taken."""
    seen: dict[str, Seen] = field(default_factory=dict)
    """By the chat's key."""
    forget_before: float = 0.0

    def add(self, newer: Changes) -> None:
        self.entries |= newer.entries
        self.bodies |= newer.bodies
        self.errands |= newer.errands
        self.known |= newer.known
        self.seen |= newer.seen
        self.forget_before = max(self.forget_before, newer.forget_before)
        for entry_id, entry in newer.entries.items():
            if entry is None or entry.state != "ready":
                self.bodies.pop(entry_id, None)


def identity_of(event: MessageEvent) -> bytes | None:
    """16 bytes that a resend of this very message shares, and nothing else; none for a message without an id.

    An id alone names a message only within one process of the OneBot implementation: they count from the same start
    after a restart, or from the clock.
    """
    if not event.id:
        return None
    said = [[segment.type, segment.data] for segment in event.segments]
    words = _VOLATILE.sub(r"\1", json.dumps(said, sort_keys=True))
    whole = json.dumps([event.chat.key, event.id, event.sender.id, event.sent_at, words])
    return hashlib.sha256(whole.encode()).digest()[:16]


def dump_errand(errand: Errand) -> tuple[str, str, str, float]:
    """Kind, chat, what it is about and when it was made, as they are kept on disk."""
    return errand.kind, dump_chat(errand.chat), json.dumps(errand.told), errand.made_at


def load_errand(errand_id: int, kind: ErrandKind, chat: str, told: str, made_at: float) -> Errand:
    return Errand(errand_id, kind, load_chat(chat), json.loads(told), made_at)


def dump_chat(chat: Chat) -> str:
    return json.dumps([chat.kind, chat.id, chat.self_id, chat.via_group])


def load_chat(text: str) -> Chat:
    return Chat(*json.loads(text))
