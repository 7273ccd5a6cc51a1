"""The QQ door's JSON to the chat's values and back. The one place that knows both."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from qqvl_server.api.qq.schema import (
    ChatMessageBody,
    ForwardNode,
    GroupMessage,
    GroupReply,
    OutgoingBody,
    OutgoingNode,
    OutgoingSegment,
    PrivateMessage,
    PrivateReply,
    SegmentData,
    UsageBody,
)
from qqvl_server.chat.message import (
    Answer,
    ChatKey,
    ChatKind,
    EncodedPicture,
    Incoming,
    IncomingPart,
    Quote,
    Speaker,
    Text,
)
from qqvl_server.chat.outgoing.messages import Drawn, Record, Words

# A record may hold dozens; these are looked at.
_FORWARDED_PICTURES: Final = 4


def group_to_incoming(body: GroupMessage, request_id: str) -> Incoming:
    chat = ChatKey(ChatKind.GROUP, body.group_id)
    incoming = _incoming(body, chat, body.user_card or body.user_nickname, request_id)
    at_me = incoming.at_me
    if at_me is None and body.at_all:
        # Everybody was called, and the client would have said if we were besides.
        at_me = incoming.quotes_me
    others = (s for s in body.segments if s.type == "at" and s.user_id not in (None, "", "all"))
    to_other = any(str(segment.user_id) != body.self_id for segment in others)
    return replace(incoming, role=body.sender_role, typed=_typed(body), at_me=at_me, to_other=to_other)


def private_to_incoming(body: PrivateMessage, request_id: str) -> Incoming:
    return _incoming(body, ChatKey(ChatKind.PRIVATE, body.user_id), body.user_nickname, request_id)


def _incoming(body: ChatMessageBody, chat: ChatKey, name: str, request_id: str) -> Incoming:
    return Incoming(
        request_id=request_id,
        chat=chat,
        speaker=Speaker(body.user_id, name),
        parts=(*_quote(body), *_content(body), *_forward(body)) if _says(body) else (*_quote(body), _call(body)),
        sent_at=body.timestamp,
        message_id=body.message_id,
        # Who quotes the bot speaks to it, also where the client counts mentions only.
        at_me=_quotes_us(body) if body.at_me is False else body.at_me,
        context_only=body.context_only,
        self_id=body.self_id,
        self_names=(body.self_nickname, body.self_card),
        quotes_me=_quotes_us(body),
        quoted_id=(body.reply_to and body.reply_to.id) or None,
        from_bot=body.sender_is_bot,
    )


def _says(body: ChatMessageBody) -> bool:
    """False for a mention of us and nothing else, which a client may have left out of the words."""
    return body.at_me is not True or bool(body.content.strip() or body.images or body.segments or body.forward)


def _call(body: ChatMessageBody) -> IncomingPart:
    return Text(f"@{body.self_card or body.self_nickname or '你'}")


def _quotes_us(body: ChatMessageBody) -> bool:
    return body.reply_to is not None and body.self_id is not None and body.reply_to.user_id == body.self_id


def _typed(body: ChatMessageBody) -> str | None:
    """The segments of plain text; the content where the segments hold no words; None where that is all there is."""
    if not any(segment.text for segment in body.segments):
        return body.content if body.forward else None
    return " ".join(segment.text for segment in body.segments if segment.type == "text")


def _quote(body: ChatMessageBody) -> Iterator[IncomingPart]:
    quoted = body.reply_to
    if quoted is None or not (quoted.text or quoted.images):
        return
    yield Quote(quoted.user_nickname or quoted.user_id, quoted.text, quoted.id)
    yield from (EncodedPicture(image.data, quoted=True) for image in quoted.images)


def _content(body: ChatMessageBody) -> Iterator[IncomingPart]:
    """Text and pictures in the order ``segments`` gives, when it names every picture; else text, then pictures."""
    placed = [s.index for s in body.segments if s.type == "image"]
    if sorted(index for index in placed if index is not None) == list(range(len(body.images))) and placed:
        if body.content and not any(segment.text for segment in body.segments):
            yield Text(body.content)
        for segment in body.segments:
            if segment.type == "image" and segment.index is not None:
                yield EncodedPicture(body.images[segment.index].data)
            elif segment.text:
                yield Text(segment.text)
        return
    if body.content:
        yield Text(body.content)
    yield from (EncodedPicture(image.data) for image in body.images)


def _forward(body: ChatMessageBody) -> Iterator[IncomingPart]:
    """The record's lines, unless the content has them already; then only its first pictures."""
    is_told = any(segment.type == "forward" and segment.text for segment in body.segments)
    room = _FORWARDED_PICTURES
    if body.forward and not is_told:
        yield Text(("\n" if body.content else "") + "[聊天记录]")
    for node in body.forward:
        if not is_told:
            yield Text(_line(node))
        yield from (EncodedPicture(image.data) for image in node.images[:room])
        room -= len(node.images[:room])


def _line(node: ForwardNode) -> str:
    unseen = "" if node.text or not node.images else "[图片]"
    return f"\n{node.speaker or node.user_id}: {node.text}{unseen}"


def _usage(answer: Answer) -> UsageBody:
    return UsageBody(
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        total_tokens=answer.prompt_tokens + answer.completion_tokens,
    )


def outgoing(element: Words | Drawn | Record) -> OutgoingBody:
    if isinstance(element, Record):
        nodes = tuple(OutgoingNode(name=n.name, user_id=n.user_id, text=n.text) for n in element.nodes)
        return OutgoingBody(forward=nodes)
    words = element.words if isinstance(element, Drawn) else element
    if isinstance(element, Drawn):
        file = "base64://" + base64.b64encode(element.png).decode("ascii")
        said = OutgoingSegment(type="image", data=SegmentData(file=file))
    elif words.at is None and words.quote is None:
        return OutgoingBody(text=words.text)
    else:
        said = OutgoingSegment(type="text", data=SegmentData(text=words.text if words.at is None else f" {words.text}"))
    segments = (
        OutgoingSegment(type="reply", data=SegmentData(id=words.quote)) if words.quote is not None else None,
        OutgoingSegment(type="at", data=SegmentData(qq=words.at)) if words.at is not None else None,
        said,
    )
    return OutgoingBody(segments=tuple(filter(None, segments)))


def answer_to_group(answer: Answer, messages: Sequence[Words | Drawn | Record], request_id: str) -> GroupReply:
    private = answer_to_private(answer, messages, request_id)
    return GroupReply(should_reply=answer.should_reply, **dict(private))


def answer_to_private(answer: Answer, messages: Sequence[Words | Drawn | Record], request_id: str) -> PrivateReply:
    return PrivateReply(
        reply=answer.reply,
        request_id=request_id,
        warnings=answer.warnings,
        usage=_usage(answer),
        messages=tuple(map(outgoing, messages)),
        reason=answer.reason or None,
        merged_into=answer.merged_into,
    )
