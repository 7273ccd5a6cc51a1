"""The fields of Anthropic's Messages API: types, ranges, what is not honoured and what may go unheeded.

Unknown fields are tolerated and null is as good as absent. Source: Anthropic's reference of POST /v1/messages and
/v1/messages/count_tokens, and what Claude Code sends.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from qqvl_server.api.validation import bad

# Fields that ask for something this server cannot do, and the values of each that ask for nothing.
REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "container": (),
    "mcp_servers": ([],),
}
# Fields that go unheeded because the answer is right without them, and why; Claude Code sends most of them always.
UNHEEDED: Final[dict[str, str]] = {
    "cache_control": "every prompt's prefix is cached anyway",
    "context_management": "what leaves the window is the caller's choice",
    "diagnostics": "tells about Anthropic's own cache",
    "inference_geo": "there is one place",
    "metadata": "for abuse reports",
    "output_config.effort": "the model has one effort",
    "service_tier": "there is one tier",
    "speed": "there is one speed",
    "thinking": "the model answers without telling its thoughts",
    "user_profile_id": "an account's own",
    "workspace_id": "an account's own",
}


def refuse_unsupported(body: dict[str, Any]) -> None:
    """
    Raises:
        InvalidRequest: a field that would have to be ignored.
    """
    for name, harmless in REFUSED.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise bad(name, "不支持（is not supported）")


def _tuple(value: Any) -> Any:
    return () if value is None else tuple(value) if isinstance(value, list) else value


def _stops(value: Any) -> Any:
    """An empty word would stop at once and is nobody's wish."""
    value = _tuple(value)
    return tuple(word for word in value if word != "") if isinstance(value, tuple) else value


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


Objects = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_tuple)]
Stops = Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], BeforeValidator(_stops), Field(max_length=64)]


class PromptBody(Model):
    """What ``/count_tokens`` takes. Messages and tools are read by hand, in ``content`` and ``translate``."""

    model: Annotated[str, Field(max_length=256)] | None = None
    messages: Annotated[Objects, Field(min_length=1, max_length=100_000)]
    system: Any = None
    tools: Annotated[Objects, Field(max_length=512)] = ()
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    stop_sequences: Stops = ()
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
