"""What the log keeps of a QQ message: who, where, answered or why not, and what it took."""

from __future__ import annotations

from typing import Any

from qqvl_server.chat.message import Answer, ChatKey, Incoming
from qqvl_server.observe.logs import named


def asked(incoming: Incoming) -> dict[str, Any]:
    facts = {"chat": chat_named(incoming.chat), "user": named(incoming.speaker.id), "text": incoming.text}
    return facts | ({"message_id": named(incoming.message_id)} if incoming.message_id else {})


def answered(answer: Answer) -> dict[str, Any]:
    facts: dict[str, Any] = {"answered": answer.should_reply, "reason": answer.reason or None, "reply": answer.reply}
    if answer.merged_into:
        facts["merged_into"] = named(answer.merged_into)
    if answer.prompt_tokens:
        facts |= {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return facts


def reported(chat: ChatKey, message_id: str) -> dict[str, Any]:
    return {"chat": chat_named(chat), "message_id": named(message_id)}


def chat_named(chat: ChatKey) -> str:
    """As ``group:123`` names it."""
    return f"{chat.kind}:{named(chat.id)}"
