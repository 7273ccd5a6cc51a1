"""The QQ door's JSON to the chat's values and back. The one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
    chat = ChatKey(ChatKind.GROUP, body.group_id)
    incoming = _incoming(body, chat, body.user_card or body.user_nickname, request_id)
    return replace(incoming, role=body.sender_role, typed=_typed(body))


def private_to_incoming(body: PrivateMessage, request_id: str) -> Incoming:
    return _incoming(body, ChatKey(ChatKind.PRIVATE, body.user_id), body.user_nickname, request_id)


def _incoming(body: ChatMessageBody, chat: ChatKey, name: str, request_id: str) -> Incoming:
    return Incoming(
        request_id=request_id,
        chat=chat,
        speaker=Speaker(body.user_id, name),
        parts=(*_quote(body), *_content(body)),
        sent_at=body.timestamp,
        message_id=body.message_id,
        # Who quotes the bot speaks to it, also where the client counts mentions only.
        at_me=_quotes_us(body) if body.at_me is False else body.at_me,
        context_only=body.context_only,
        self_id=body.self_id,
        self_names=(body.self_nickname, body.self_card),
    )


def _quotes_us(body: ChatMessageBody) -> bool:
    return body.reply_to is not None and body.self_id is not None and body.reply_to.user_id == body.self_id


def _typed(body: ChatMessageBody) -> str | None:
    """The segments of plain text; None when the segments hold no words and the content is all that is known."""
    if not any(segment.text for segment in body.segments):
        return None
    return " ".join(segment.text for segment in body.segments if segment.type == "text")


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
