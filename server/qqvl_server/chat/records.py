"""Rows of the database to the chat's values and back; knows JSON columns, no SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Row

from qqvl_server.chat.message import LostPicture, MessagePart, Picture, Quote, Speaker, StoredMessage, Text
from qqvl_server.media.image import ImageRef

_PICTURE: Final = re.compile(r'"sha256": ?"([0-9a-f]{64})"')


def part_to_json(part: MessagePart) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Picture(image, quoted, caption):
            more = {"quoted": quoted, "caption": caption}
            return {"type": "image", **asdict(image), **{name: value for name, value in more.items() if value}}
        case LostPicture():
            return {"type": "lost_image"}
        case Quote(speaker, text, quoted_id):
            return {"type": "quote", "speaker": speaker, "text": text, "id": quoted_id}


def part_from_json(part: dict[str, Any]) -> MessagePart:
    fields = {name: value for name, value in part.items() if name != "type"}
    match part["type"]:
        case "text":
            return Text(**fields)
        case "image":
            quoted, caption = fields.pop("quoted", False), fields.pop("caption", "")
            return Picture(ImageRef(**{**fields, "frames": tuple(fields["frames"])}), quoted, caption)
        case "quote":
            return Quote(**fields)
        case _:
            return LostPicture()


def pictures_in(texts: Iterable[str]) -> set[str]:
    """The SHA-256 of the pictures that rows name, in the JSON they are kept as."""
    return {found for text in texts for found in _PICTURE.findall(text)}


def to_message(row: Row[Any]) -> StoredMessage:
    return StoredMessage(
        seq=row.seq,
        role=row.role,
        speaker=Speaker(row.speaker_id, row.speaker_name),
        parts=tuple(part_from_json(part) for part in row.parts),
        message_id=row.message_id,
        created_at=row.created_at,
    )
