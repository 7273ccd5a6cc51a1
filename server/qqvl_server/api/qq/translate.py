"""The QQ door's JSON to the chat's values and back. The one place that knows both."""

from __future__ import annotations

import time
from collections.abc import Iterator

from qqvl_server.api.qq.schema import (
    ChatMessageBody,
    GroupMessage,
    GroupReply,
    PrivateMessage,
    PrivateReply,
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


def group_to_incoming(body: GroupMessage, request_id: str) -> Incoming:
    return _incoming(body, ChatKey(ChatKind.GROUP, body.group_id), body.user_card or body.user_nickname, request_id)


def private_to_incoming(body: PrivateMessage, request_id: str) -> Incoming:
    return _incoming(body, ChatKey(ChatKind.PRIVATE, body.user_id), body.user_nickname, request_id)


def _incoming(body: ChatMessageBody, chat: ChatKey, name: str, request_id: str) -> Incoming:
    return Incoming(
        request_id=request_id,
        chat=chat,
        speaker=Speaker(body.user_id, name),
        parts=(*_quote(body), *_content(body)),
        sent_at=body.timestamp if body.timestamp is not None else time.time(),
        message_id=body.message_id,
        at_me=body.at_me,
        context_only=body.context_only,
    )


def _quote(body: ChatMessageBody) -> Iterator[IncomingPart]:
    quoted = body.reply_to
    if quoted is None or not (quoted.text or quoted.images):
        return
    yield Quote(quoted.user_nickname or quoted.user_id, quoted.text)
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


def _usage(answer: Answer) -> UsageBody:
    return UsageBody(
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        total_tokens=answer.prompt_tokens + answer.completion_tokens,
    )


def answer_to_group(answer: Answer, request_id: str) -> GroupReply:
    return GroupReply(
        should_reply=answer.should_reply,
        reply=answer.reply,
        request_id=request_id,
        warnings=answer.warnings,
        usage=_usage(answer),
    )


def answer_to_private(answer: Answer, request_id: str) -> PrivateReply:
    return PrivateReply(reply=answer.reply, request_id=request_id, warnings=answer.warnings, usage=_usage(answer))
