"""One message to send: as the chat server tells it, as the journal keeps it, as OneBot takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qqvl_client.formats import INLINE
from qqvl_client.segments import text_of

FETCHED = ("http://", "https://", *INLINE)
"""Where a picture to send may lie. A path or a file:// address would be read by NapCat from its own disk."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """`text` is what it says; what is more than plain text has OneBot segments or, a record, OneBot nodes besides."""

    text: str
    segments: tuple[dict[str, Any], ...] = ()
    nodes: tuple[dict[str, Any], ...] = ()

    @property
    def is_plain(self) -> bool:
        return not (self.segments or self.nodes)

    def has(self, kind: str) -> bool:
        return any(segment["type"] == kind for segment in self.segments)

    def without(self, kind: str) -> Outgoing:
        return replace(self, segments=tuple(segment for segment in self.segments if segment["type"] != kind))


@dataclass(frozen=True, slots=True)
class Reply:
    """What the chat server wants said; no messages means silence."""

    messages: tuple[Outgoing, ...]
    merged_into: str = ""
    """The message whose answer covers this one."""


def outgoing_of(element: Any) -> Outgoing | None:
    """An element of `messages[]`; nothing where it says nothing that can be sent."""
    if not isinstance(element, Mapping):
        return None
    if isinstance(segments := element.get("segments"), list):
        return _of_segments([found for item in segments if (found := _segment(item))])
    if isinstance(nodes := element.get("forward"), list):
        return _of_nodes([found for item in nodes if (found := _node(item))])
    text = element.get("text")
    return Outgoing(text) if isinstance(text, str) and text.strip() else None


def dump_outgoing(message: Outgoing) -> Any:
    """As the journal keeps it; `load_outgoing` gives back an equal one. Journals of old hold plain texts."""
    return message.text if message.is_plain else [message.text, message.segments, message.nodes]


def load_outgoing(kept: Any) -> Outgoing:
    if isinstance(kept, str):
        return Outgoing(kept)
    text, segments, nodes = kept
    return Outgoing(text, tuple(segments), tuple(nodes))


def to_segments(message: Outgoing, quote_id: str, at_id: str) -> list[dict[str, Any]]:
    """What OneBot is handed. Text goes out as text segments and nothing else: it is never parsed as CQ code."""
    segments = list(message.segments) or [_text(message.text)]
    if at_id:
        segments = [{"type": "at", "data": {"qq": at_id}}, _text(" "), *segments]
    if quote_id:
        segments.insert(0, {"type": "reply", "data": {"id": quote_id}})
    return segments


def _of_segments(segments: list[dict[str, Any]]) -> Outgoing | None:
    text = "".join(segment["data"]["text"] for segment in segments if segment["type"] == "text")
    if all(segment["type"] == "text" for segment in segments):
        return Outgoing(text) if text.strip() else None
    says = text.strip() or any(segment["type"] in ("image", "face", "at") for segment in segments)
    return Outgoing(text, tuple(segments)) if says else None


def _of_nodes(nodes: list[dict[str, Any]]) -> Outgoing | None:
    lines = (f"{node['data']['nickname']}：{node['data']['content'][0]['data']['text']}" for node in nodes)
    return Outgoing("\n".join(lines), nodes=tuple(nodes)) if nodes else None


def _segment(item: Any) -> dict[str, Any] | None:
    """One of ours as OneBot has it, checked: the server's word goes into QQ, not whatever else it may hold."""
    if not isinstance(item, Mapping) or not isinstance(data := item.get("data"), Mapping):
        return None
    read = _SEGMENTS.get(text_of(item.get("type")))
    return read(data) if read else None


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "data": {"text": text}}


def _some_text(data: Mapping[str, Any]) -> dict[str, Any] | None:
    text = data.get("text")
    return _text(text) if isinstance(text, str) and text else None


def _at(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Somebody; everybody is called by people only."""
    qq = text_of(data.get("qq"))
    return {"type": "at", "data": {"qq": qq}} if qq.isdecimal() else None


def _reply(data: Mapping[str, Any]) -> dict[str, Any] | None:
    message_id = text_of(data.get("id"))
    return {"type": "reply", "data": {"id": message_id}} if message_id else None


def _image(data: Mapping[str, Any]) -> dict[str, Any] | None:
    file = text_of(data.get("file"))
    return {"type": "image", "data": {"file": file}} if file.lower().startswith(FETCHED) else None


def _face(data: Mapping[str, Any]) -> dict[str, Any] | None:
    number = text_of(data.get("id"))
    return {"type": "face", "data": {"id": number}} if number.isdecimal() else None


_SEGMENTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "text": _some_text,
    "at": _at,
    "reply": _reply,
    "image": _image,
    "face": _face,
}


def _node(item: Any) -> dict[str, Any] | None:
    if not isinstance(item, Mapping) or not isinstance(text := item.get("text"), str) or not text.strip():
        return None
    user_id, name = text_of(item.get("user_id")), text_of(item.get("name"))
    # NapCat reads user_id and nickname, go-cqhttp and its heirs uin and name.
    who = {"user_id": user_id, "uin": user_id, "nickname": name, "name": name}
    return {"type": "node", "data": {**who, "content": [_text(text)]}}
