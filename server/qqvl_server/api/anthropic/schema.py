"""The fields of Anthropic's Messages API: types, ranges, what is left out and what may go unheeded.

Unknown fields are tolerated and null is as good as absent. Source: Anthropic's reference of POST /v1/messages and
/v1/messages/count_tokens, and what Claude Code sends.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from qqvl_server.api.fields import Model, Name, Objects, Word, words
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.thinking import Effort

# Fields that offer the model what only Anthropic's servers run: left out like the tools of that kind, and told.
LEFT_OUT: Final = ("container", "mcp_servers")
# Fields that go unheeded because the answer is right without them, and why; Claude Code sends most of them always.
UNHEEDED: Final[dict[str, str]] = {
    "cache_control": "every prompt's prefix is cached anyway",
    "context_management": "what leaves the window is the caller's choice",
    "diagnostics": "tells about Anthropic's own cache",
    "inference_geo": "there is one place",
    "metadata": "for abuse reports",
    "service_tier": "there is one tier",
    "speed": "there is one speed",
    "user_profile_id": "an account's own",
    "workspace_id": "an account's own",
}


def unsupported(body: dict[str, Any]) -> LeftOut:
    """The fields of a request that it goes on without."""
    left_out = LeftOut()
    for name in LEFT_OUT:
        if body.get(name):
            left_out.add(name)
    return left_out


Stops = Annotated[tuple[Word, ...], BeforeValidator(words), Field(max_length=64)]


class ThinkingOptions(Model):
    """Kinds that nobody knows yet are taken for ``adaptive``."""

    type: Word | None = None
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Word | None = None


class OutputOptions(Model):
    effort: Effort | None = None
    format: dict[str, Any] | None = None


class PromptBody(Model):
    """What ``/count_tokens`` takes. Messages and tools are read by hand, in ``content`` and ``translate``."""

    model: Name | None = None
    messages: Annotated[Objects, Field(min_length=1, max_length=100_000)]
    system: Any = None
    tools: Annotated[Objects, Field(max_length=512)] = ()
    tool_choice: dict[str, Any] | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputOptions | None = None
    output_format: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    stop_sequences: Stops = ()
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
