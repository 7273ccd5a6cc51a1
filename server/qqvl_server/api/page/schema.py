"""What the page's conversations are asked with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from qqvl_server.api.fields import Model, SamplingFields, listed

_MAX_TEXT = 1_000_000


class TalkSampling(SamplingFields):
    """What is null or left out is the model's own."""

    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    enable_thinking: bool | None = None


class ConversationBody(Model):
    """Of a new conversation, or what of one is to be changed. ``title`` empty: made of its first words.

    ``head``: a message whose branch is shown, down to its newest.
    """

    title: Annotated[str, Field(max_length=200)] | None = None
    system_prompt: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    sampling: TalkSampling | None = None
    head: Annotated[str, Field(max_length=64)] | None = None


_Picture = Annotated[str, Field(min_length=1)]
_Pictures = Annotated[tuple[_Picture, ...], BeforeValidator(listed)]


class SayBody(Model):
    """``images``: ``data:`` URIs, or ``sha256:…`` of pictures of this conversation. With neither text nor pictures,
    ``parent`` is answered once more."""

    parent: Annotated[str, Field(max_length=64)] | None = None
    text: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    images: _Pictures = ()


class Nothing(Model):
    """An empty object: there is nothing to say, but it is a POST."""


def kept(sampling: TalkSampling) -> dict[str, Any]:
    """As the database keeps it."""
    return sampling.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
