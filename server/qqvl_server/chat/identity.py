"""Which messages are one: a resend is the same id, account, speaker, words, pictures and time. Pure; no database.

A ``message_id`` alone proves nothing: it is a number of one QQ process, and implementations count from the same
start after a restart, use seconds, or number two accounts alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from qqvl_server.chat.message import EncodedPicture, Incoming
from qqvl_server.errors import ImageRejected
from qqvl_server.media.image import decode_base64


@dataclass(frozen=True, slots=True)
class Identity:
    """``undated`` leaves time and account out: rows written before digests were kept know neither."""

    message_id: str
    digest: str
    undated: str
    sent_at: float | None


def identify(incoming: Incoming) -> Identity | None:
    """None for a message without an id, which is always new. Decodes its pictures: blocking where it has any.

    What it quotes is left out: a client that restarts looks the quoted message up again and may find it recalled.
    """
    if incoming.message_id is None:
        return None
    pictures = [_content_hash(picture) for picture in _own_pictures(incoming)]
    undated = [incoming.speaker.id, incoming.text, pictures]
    return Identity(
        incoming.message_id,
        _digest([*undated, incoming.sent_at, incoming.self_id]),
        _digest(undated),
        incoming.sent_at,
    )


def undated_digest(speaker_id: str, text: str, pictures: Sequence[str]) -> str:
    """``Identity.undated`` of a stored line; ``pictures`` are SHA-256 of their bytes, in order."""
    return _digest([speaker_id, text.strip(), list(pictures)])


def are_one(one: Incoming, other: Incoming) -> bool:
    """The same message twice, as far as can be told without decoding a picture."""
    return (
        one.message_id == other.message_id
        and one.chat == other.chat
        and one.self_id == other.self_id
        and one.speaker.id == other.speaker.id
        and one.sent_at == other.sent_at
        and one.text == other.text
        and _own_pictures(one) == _own_pictures(other)
    )


def has_pictures(incoming: Incoming) -> bool:
    return bool(_own_pictures(incoming))


def _own_pictures(incoming: Incoming) -> list[EncodedPicture]:
    return [part for part in incoming.parts if isinstance(part, EncodedPicture) and not part.quoted]


def _content_hash(picture: EncodedPicture) -> str:
    """Of the bytes, so that two spellings of one base64 are one picture; of the word itself where it is no base64."""
    try:
        data = decode_base64(picture.data, len(picture.data) + 1)
    except ImageRejected:
        data = picture.data.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def _digest(value: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(list(value)).encode("ascii")).hexdigest()
