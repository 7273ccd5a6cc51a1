"""How much the model shall think before it answers, as the doors are asked for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qqvl_server.api.fields import Model
from qqvl_server.generation.port import Thinking

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Budget = Annotated[int, Field(ge=0)]


class ThinkingFields(Model):
    """Fields of ``vllm serve`` and Qwen's own service; OpenAI has but the effort, which each door spells its way."""

    enable_thinking: bool | None = None
    thinking_budget: Budget | None = None
    thinking_token_budget: Budget | None = None

    @property
    def budget(self) -> int | None:
        return self.thinking_token_budget if self.thinking_budget is None else self.thinking_budget


class TemplateArguments(ThinkingFields):
    """``chat_template_kwargs``: nothing in it changes more than what the caller's own prompt looks like."""

    reasoning_effort: Effort | None = None
    add_vision_id: bool | None = None


def wished(enabled: bool | None, budget: int | None, effort: str | None) -> Thinking:
    """An effort of none, like a budget of 0, is the wish for no thought, but for one who says what is wanted."""
    if enabled is None and (effort is not None or budget == 0):
        enabled = effort != "none" and budget != 0
    return Thinking(enabled, budget, None if effort == "none" else effort)


def wished_by(fields: ThinkingFields, inner: TemplateArguments | None, effort: str | None) -> Thinking:
    """A field of the request's own counts before its double in ``chat_template_kwargs``."""
    inner = inner or TemplateArguments()
    enabled = inner.enable_thinking if fields.enable_thinking is None else fields.enable_thinking
    budget = inner.budget if fields.budget is None else fields.budget
    return wished(enabled, budget, effort or inner.reasoning_effort)
