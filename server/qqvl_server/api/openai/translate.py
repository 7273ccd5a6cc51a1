"""OpenAI's requests to the voice's. The one place that knows both."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from qqvl_server.api.drafts import resolve_pictures
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import ModelAccess
from qqvl_server.api.openai import constraints, messages, toolset
from qqvl_server.api.openai.schema import ChatBody, Generate, TokenizeBody
from qqvl_server.api.thinking import TemplateArguments, wished_by
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import GenerationRequest, Sampling, ToolMode, Urgency


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose request it is: ``owner`` as engines know it, ``deadline`` a ``time.monotonic`` instant."""

    request_id: str
    owner: str
    deadline: float


def asker(access: ModelAccess, request_id: str, caller: str) -> Asker:
    return Asker(request_id, f"api:{caller}", time.monotonic() + access.timeout_s)


async def chat(body: ChatBody, access: ModelAccess, who: Asker, context: int, left_out: LeftOut) -> GenerationRequest:
    """``context`` bounds a reply whose caller does not. Raises InvalidRequest, ImageRejected."""
    tools, choice = toolset.read(body.tools, body.tool_choice, body.parallel_tool_calls, left_out)
    grammar = constraints.read(body)
    if choice.mode is ToolMode.REQUIRED and grammar is not None:
        raise bad("tool_choice", "要求调用函数时不能再约束回复（cannot be combined with a response format）")
    drafts = messages.read(body.messages, access.max_images, left_out)
    wanted = sampling(body, body.max_completion_tokens or body.max_tokens or context, _logprobs(body))
    return GenerationRequest(
        who.request_id,
        await resolve_pictures(drafts, access.pictures, left_out),
        wanted,
        who.deadline,
        owner=who.owner,
        urgency=urgency(body),
        tools=tools,
        tool_choice=choice,
        grammar=grammar,
        choices=body.n or 1,
        template=_template(body.chat_template_kwargs),
        thinking=wished_by(body, body.chat_template_kwargs, body.reasoning_effort),
    )


async def prompt_of(body: TokenizeBody, access: ModelAccess, who: Asker, left_out: LeftOut) -> GenerationRequest:
    """What ``/tokenize`` counts. Raises InvalidRequest, ImageRejected."""
    if (body.prompt is None) == (not body.messages):
        raise bad("prompt", "和 messages 要给且只能给一个（exactly one of prompt and messages is required）")
    drafts = messages.read(body.messages, access.max_images, left_out)
    tools, _ = toolset.read(body.tools, None, None, left_out)
    return GenerationRequest(
        who.request_id,
        await resolve_pictures(drafts, access.pictures, left_out),
        Sampling(1),
        who.deadline,
        owner=who.owner,
        tools=tools,
        raw=body.prompt,
        template=_template(body.chat_template_kwargs),
        thinking=wished_by(body, body.chat_template_kwargs, None),
    )


def sampling(body: Generate, max_tokens: int, logprobs: int | None) -> Sampling:
    """Raises InvalidRequest: wishes that exclude each other."""
    if body.best_of not in (None, body.n or 1):
        raise bad("best_of", "只支持和 n 相同（must equal n）")
    if (body.min_tokens or 0) > max_tokens:
        raise bad("min_tokens", "不能大于 max_tokens（must not be greater than max_tokens）")
    return replace(
        body.sampling(max_tokens, logprobs),
        logit_bias=body.logit_bias,
        stop_token_ids=body.stop_token_ids,
        min_new_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
    )


def urgency(body: Generate) -> Urgency:
    """As vLLM's ``priority``: lower is sooner. A caller may stand back behind others but not push before them."""
    return Urgency.ACTIVE_SPEECH if (body.priority or 0) > 0 else Urgency.API


def _logprobs(body: ChatBody) -> int | None:
    if not body.logprobs and body.top_logprobs:
        raise bad("top_logprobs", "要和 logprobs: true 一起用（requires logprobs to be true）")
    return (body.top_logprobs or 0) if body.logprobs else None


def _template(given: TemplateArguments | None) -> tuple[tuple[str, bool | str], ...]:
    """What is no wish about thoughts: those the voice knows of."""
    return () if given is None or given.add_vision_id is None else (("add_vision_id", given.add_vision_id),)
