"""What the page's conversations are asked with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from qqvl_server.api.fields import Model, Objects, SamplingFields, listed
from qqvl_server.api.page import toolset
from qqvl_server.api.validation import bad

_MAX_TEXT = 1_000_000
_MAX_TOOLS = 128


class TalkSampling(SamplingFields):
    """What is null or left out is the model's own."""

    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    enable_thinking: bool | None = None


class ConversationBody(Model):
    """Of a new conversation, or what of one is to be changed. ``title`` empty: made of its first words.

    ``tools`` and ``tool_choice`` are as chat completions have them; an empty list takes the tools away.
    ``head``: a message whose branch is shown, down to its newest.
    """

    title: Annotated[str, Field(max_length=200)] | None = None
    system_prompt: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    sampling: TalkSampling | None = None
    tools: Annotated[Objects, Field(max_length=_MAX_TOOLS)] | None = None
    tool_choice: Any = None
    head: Annotated[str, Field(max_length=64)] | None = None


_Picture = Annotated[str, Field(min_length=1)]
_Pictures = Annotated[tuple[_Picture, ...], BeforeValidator(listed)]


class ResultBody(Model):
    """What a call of ``parent``'s gave."""

    tool_call_id: Annotated[str, Field(min_length=1, max_length=128)]
    content: Annotated[str, Field(max_length=_MAX_TEXT)]


class SayBody(Model):
    """``images``: ``data:`` URIs, or ``sha256:…`` of pictures of this conversation. With neither text, pictures nor
    results, ``parent`` is answered once more. ``key``: any word of the caller's own; the same one again is refused."""

    parent: Annotated[str, Field(max_length=64)] | None = None
    text: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    images: _Pictures = ()
    tool_results: Annotated[tuple[ResultBody, ...], BeforeValidator(listed), Field(max_length=_MAX_TOOLS)] = ()
    key: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class Nothing(Model):
    """An empty object: there is nothing to say, but it is a POST."""


def kept(body: ConversationBody) -> dict[str, Any]:
    """What of it the database keeps as it came. Raises InvalidRequest: tools that cannot be offered."""
    values = body.model_dump(exclude_none=True, include={"system_prompt"})
    if body.sampling is not None:
        values["sampling"] = body.sampling.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if body.tools is not None:
        values["tools"] = {"tools": list(body.tools), "tool_choice": body.tool_choice} if body.tools else {}
        toolset.read(values["tools"])
    elif body.tool_choice is not None:
        raise bad("tool_choice", "要和 tools 一起给（needs tools）")
    return values
