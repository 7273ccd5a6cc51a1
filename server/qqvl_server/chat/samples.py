"""Lines of old talk that somebody may label for the gate, and what stood around them. Knows SQL."""

from __future__ import annotations

import random
from typing import Final

from sqlalchemy import func, or_, select

from qqvl_server.chat.database import Database
from qqvl_server.chat.decision import Reason
from qqvl_server.chat.gate.features import LOOK_BACK
from qqvl_server.chat.gate.scenes import Line, QuotedLine
from qqvl_server.chat.message import ChatKey, ChatKind, Picture, Quote, StoredMessage, Text
from qqvl_server.chat.prompt import LEFT_OUT, LOST
from qqvl_server.chat.rows import chats
from qqvl_server.chat.tables import CHATS, DECISIONS, MESSAGES

# The newest lines are those that a person still understands.
_MOST: Final = 20000
_PAUSE_S: Final = 1.5
_CALLED: Final = tuple(
    reason.value for reason in (Reason.ADDRESSED, Reason.NAME, Reason.REPLY, Reason.MERGED, Reason.COMMAND)
)

Place = tuple[str, int]
"""A group and the number of a line in it."""


async def places(database: Database, group: str | None) -> list[Place]:
    """Lines of members that end a burst and call nobody of us, in an order that mixes them, the same each time.

    Raises StorageFailed.
    """
    following = func.lead(MESSAGES.c.created_at).over(partition_by=MESSAGES.c.chat_id, order_by=MESSAGES.c.seq)
    lines = (
        select(MESSAGES.c.chat_id, MESSAGES.c.seq, MESSAGES.c.role, MESSAGES.c.created_at, following.label("next"))
    ).subquery()
    called = (
        select(DECISIONS.c.id)
        .where(DECISIONS.c.chat_id == lines.c.chat_id, DECISIONS.c.seq == lines.c.seq, DECISIONS.c.reason.in_(_CALLED))
        .exists()
    )
    wanted = (
        select(CHATS.c.external_id, lines.c.seq)
        .join(CHATS, CHATS.c.id == lines.c.chat_id)
        .where(
            CHATS.c.kind == ChatKind.GROUP.value,
            lines.c.role == "user",
            or_(lines.c.next.is_(None), lines.c.next - lines.c.created_at >= _PAUSE_S),
            ~called,
        )
        .order_by(lines.c.created_at.desc())
        .limit(_MOST)
    )
    if group is not None:
        wanted = wanted.where(CHATS.c.external_id == group)
    async with database.read() as connection:
        found = [(row.external_id, row.seq) for row in await connection.execute(wanted)]
    # By the line itself: what is said later moves none of the others.
    return sorted(found, key=lambda place: random.Random(f"{place[0]} {place[1]}").random())


async def excerpt(database: Database, place: Place) -> tuple[Line, ...]:
    """The line at ``place`` and what stood before it, without labels. Raises StorageFailed."""
    group, seq = place
    async with database.read() as connection:
        found = await chats.page(connection, ChatKey(ChatKind.GROUP, group), seq + 1, LOOK_BACK) or ()
    return tuple(_line(message, name_of(place), found[0].created_at) for message in found)


def name_of(place: Place) -> str:
    """The scene's."""
    return f"group:{place[0]}#{place[1]}"


def _line(message: StoredMessage, scene: str, began: float) -> Line:
    text, quote = "", None
    for part in message.parts:
        match part:
            case Text():
                text += part.text
            case Quote():
                quote = QuotedLine(text=part.text, speaker=part.speaker)
            case Picture():
                text += LEFT_OUT
            case _:
                text += LOST
    ours = message.role == "assistant"
    at = round(max(message.created_at - began, 0.0), 1)
    if ours:
        return Line(scene=scene, text=text or LEFT_OUT, at=at, ours=True)
    speaker = message.speaker
    return Line(scene=scene, text=text or LEFT_OUT, at=at, speaker=speaker.name, user_id=speaker.id, quote=quote)
