"""The QQ door's JSON, as ``spec/qq-server.md`` fixes it, plus optional fields that a bare client leaves out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field


def _as_id(value: Any) -> Any:
    """Ids come as strings or numbers; a bool is a number to Python but never an id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else value


def _absent(value: Any) -> Any:
    return "" if value is None else value


def _absent_id(value: Any) -> Any:
    """Clients without an id for something send null, an empty string, zero, or nothing."""
    value = _as_id(value)
    return None if isinstance(value, str) and not value.strip("0") else value


def _role(value: Any) -> Any:
    """What is not told is null, an empty string, or left out."""
    value = value.strip().lower() if isinstance(value, str) else value
    return None if value == "" else value


def _not_told(value: Any) -> Any:
    return False if value is None else value


def _no_list(value: Any) -> Any:
    return () if value is None else value


Id = Annotated[str, BeforeValidator(_as_id), Field(min_length=1, max_length=64)]
OptionalId = Annotated[Annotated[str, Field(max_length=128)] | None, BeforeValidator(_absent_id)]
Name = Annotated[str, BeforeValidator(_absent), Field(max_length=1000)]
Content = Annotated[str, BeforeValidator(_absent), Field(max_length=1_000_000)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class ImageData(Model):
    """``format`` is only a hint: the bytes say what they are."""

    data: str
    format: str = ""


# The first bad item decides: collecting the errors of a long list would hold the event loop.
Images = Annotated[tuple[ImageData, ...], FailFast(), Field(strict=False, max_length=1000), BeforeValidator(_no_list)]


class QuotedMessage(Model):
    id: Annotated[str, BeforeValidator(_as_id), Field(max_length=128)] = ""
    text: Content = ""
    user_id: Annotated[str, BeforeValidator(_as_id), Field(max_length=64)] = ""
    user_nickname: Name = ""
    images: Images = ()


class Segment(Model):
    """One piece of the message in order; unknown types are read as their ``text``, if any.

    ``user_id`` of type ``at``: who is mentioned.
    """

    type: str
    text: Content = ""
    index: int | None = None
    user_id: Any = None


Segments = Annotated[tuple[Segment, ...], FailFast(), Field(strict=False, max_length=2000), BeforeValidator(_no_list)]


class ForwardNode(Model):
    """One line of a forwarded record."""

    speaker: Name = ""
    user_id: Annotated[str, BeforeValidator(_as_id), Field(max_length=64)] = ""
    text: Content = ""
    images: Images = ()


Forward = Annotated[
    tuple[ForwardNode, ...], FailFast(), Field(strict=False, max_length=1000), BeforeValidator(_no_list)
]


class ChatMessageBody(Model):
    user_id: Id
    user_nickname: Name = ""
    content: Content = ""
    images: Images = ()
    timestamp: Annotated[float | None, Field(strict=False)] = None
    message_id: OptionalId = None
    self_id: OptionalId = None
    self_nickname: Name = ""
    self_card: Name = ""
    at_me: bool | None = None
    reply_to: QuotedMessage | None = None
    segments: Segments = ()
    forward: Forward = ()
    sender_is_bot: Annotated[bool, BeforeValidator(_not_told)] = False
    message_type: str | None = None
    context_only: Annotated[bool, BeforeValidator(_not_told)] = False
    stream: Annotated[bool, BeforeValidator(_not_told)] = False


class GroupMessage(ChatMessageBody):
    type: Literal["group"] = "group"
    group_id: Id
    group_name: Name = ""
    user_card: Name = ""
    at_all: Annotated[bool, BeforeValidator(_not_told)] = False
    sender_role: Annotated[Annotated[str, Field(max_length=64)] | None, BeforeValidator(_role)] = None


class PrivateMessage(ChatMessageBody):
    type: Literal["private"] = "private"


class UsageBody(Model):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SegmentData(Model):
    """Of a ``text``, ``at``, ``reply`` or ``image`` segment, as OneBot v11 names it."""

    text: str | None = None
    qq: str | None = None
    id: str | None = None
    file: str | None = None


class OutgoingSegment(Model):
    type: Literal["text", "at", "reply", "image"]
    data: SegmentData


class OutgoingNode(Model):
    name: str
    user_id: str
    text: str


class OutgoingBody(Model):
    """One message to send: one of its plain text, its segments, or the lines of a forward record."""

    text: str | None = None
    segments: tuple[OutgoingSegment, ...] | None = None
    forward: tuple[OutgoingNode, ...] | None = None


class PrivateReply(Model):
    """What is None is left out."""

    status: Literal["success"] = "success"
    reply: str
    request_id: str
    warnings: tuple[str, ...] = ()
    usage: UsageBody
    messages: tuple[OutgoingBody, ...] = ()
    reason: str | None = None
    merged_into: str | None = None


class GroupReply(PrivateReply):
    should_reply: bool


MessageId = Annotated[str, BeforeValidator(_as_id), Field(min_length=1, max_length=128)]
_SentIds = Annotated[tuple[MessageId, ...], FailFast(), Field(strict=False, max_length=1000)]


class GroupReport(Model):
    group_id: Id
    message_id: MessageId
    self_id: OptionalId = None


class PrivateReport(Model):
    user_id: Id
    message_id: MessageId
    self_id: OptionalId = None


class GroupRecall(GroupReport):
    operator_id: OptionalId = None


class PrivateRecall(PrivateReport):
    pass


class GroupSent(GroupReport):
    sent_ids: _SentIds


class PrivateSent(PrivateReport):
    sent_ids: _SentIds


class RecallReply(Model):
    """Ids of our own messages that are to be withdrawn in QQ."""

    status: Literal["success"] = "success"
    withdraw: tuple[str, ...] = ()


class SentReply(Model):
    """``withdraw`` only where what was answered has been recalled in between."""

    status: Literal["success"] = "success"
    withdraw: tuple[str, ...] | None = None
