"""QQ's cards (json and xml): their words, their link, and whether they are a forwarded record in disguise."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from qqvl_client.segments import text_of

# What the apps call their words and links, read off real cards (structmsg, tuwen, miniapp_01, music, map, contact …).
WORDS = frozenset(
    {"title", "desc", "summary", "name", "nickname", "contact", "address", "content", "text", "source", "tag"}
)
LINKS = ("qqdocurl", "jumpUrl", "jump_url", "musicUrl", "pcJumpUrl", "url")
FORWARD_APP = "com.tencent.multimsg"
DEPTH = 6
WORD_CHARS, LINK_CHARS, CARD_CHARS = 300, 1000, 2000
_LINK = re.compile(r"(https?://)?[\w-]+(\.[\w-]+)+(:\d+)?(/\S*)?$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says. `forward_id` names the record behind a forward that came as a card."""

    words: tuple[str, ...] = ()
    link: str = ""
    forward_id: str = ""
    preview: tuple[str, ...] = ()
    """The first lines of that record, as the card shows them."""


def read_card(payload: Any) -> Card:
    """A card from a segment's `data`: JSON or XML as text, or a JSON object; nothing in it when it is neither."""
    if isinstance(payload, str):
        if payload.lstrip().startswith("<"):
            return _xml_card(payload)
        try:
            payload = json.loads(payload)
        except (ValueError, RecursionError):
            return Card()
    return _json_card(payload) if isinstance(payload, Mapping) else Card()


def told(words: tuple[str, ...], link: str = "") -> str:
    """Words and link in one line, without what an earlier word has said already."""
    kept: list[str] = []
    for word in words:
        short = " ".join(word.split())
        short = short[: LINK_CHARS if short.startswith("http") else WORD_CHARS]
        if short and not any(short in said for said in kept):
            kept.append(short)
    text = "｜".join(kept)[:CARD_CHARS]
    return "｜".join(part for part in (text, link[:LINK_CHARS]) if part) if link not in text else text


def _json_card(card: Mapping[str, Any]) -> Card:
    meta = card.get("meta")
    if card.get("app") == FORWARD_APP and isinstance(meta, Mapping):
        return _forward_card(meta.get("detail"), text_of(card.get("prompt")))
    words = [text_of(card.get("prompt")), text_of(card.get("desc"))]
    links: dict[str, str] = {}
    for key, value in _leaves(meta, DEPTH):
        if key in WORDS:
            words.append(value)
        elif key in LINKS and _LINK.match(value):
            links.setdefault(key, value)
    return Card(tuple(words), next((links[key] for key in LINKS if key in links), ""))


def _forward_card(detail: Any, prompt: str) -> Card:
    detail = detail if isinstance(detail, Mapping) else {}
    news = detail.get("news")
    lines = [text_of(item.get("text")) for item in news if isinstance(item, Mapping)] if isinstance(news, list) else []
    words = (prompt, text_of(detail.get("source")), text_of(detail.get("summary")))
    return Card(words, forward_id=text_of(detail.get("resid")), preview=tuple(line for line in lines if line))


def _leaves(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Every named string below `value`; those of a group's notice are base64 and say so."""
    if depth == 0 or not isinstance(value, Mapping | list):
        return
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item, depth - 1)
        return
    encoded = text_of(value.get("encode")) == "1"
    for key, inner in value.items():
        if isinstance(inner, str):
            yield key, text_of(_decoded(inner) if encoded else inner)
        else:
            yield from _leaves(inner, depth - 1)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return text


class _XmlWords(HTMLParser):
    """The texts of an XML card. An HTML parser takes broken XML and knows no entities that grow."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.attributes: dict[str, str] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told_here = {name: value or "" for name, value in attrs}
        if tag == "msg":
            self.attributes = told_here
        elif tag == "source":
            self.words.append(told_here.get("name", ""))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def unknown_decl(self, data: str) -> None:
        if data.startswith("CDATA["):
            self.words.append(data.removeprefix("CDATA["))


def _xml_card(text: str) -> Card:
    parser = _XmlWords()
    parser.feed(text[:100_000])
    parser.close()
    attributes = parser.attributes
    words = tuple(text_of(word.strip()) for word in parser.words if word.strip())
    forward_id, brief = attributes.get("m_resid", ""), text_of(attributes.get("brief"))
    if forward_id:
        return Card((brief,), forward_id=forward_id, preview=words)
    link = attributes.get("url", "")
    return Card((brief, *words), link if _LINK.match(link) else "")
