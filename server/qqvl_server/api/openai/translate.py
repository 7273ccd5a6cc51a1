"""OpenAI's requests to the voice's. The one place that knows both."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Final

from qqvl_server.api.drafts import resolve_pictures
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import ModelAccess
from qqvl_server.api.openai import constraints, messages, toolset
from qqvl_server.api.openai.schema import ChatBody, Generate, TokenizeBody
from qqvl_server.api.tools import Toolset
from qqvl_server.api.validation import bad
from qqvl_server.generation.port import GenerationRequest, Grammar, Sampling, Urgency

# Arguments of the chat template that change nothing but what the caller's own prompt looks like.
_TEMPLATE: Final = ("enable_thinking", "add_vision_id")


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose request it is: ``owner`` as engines know it, ``deadline`` a ``time.monotonic`` instant."""

    request_id: str
    owner: str
    deadline: float


def asker(access: ModelAccess, request_id: str, caller: str) -> Asker:
    return Asker(request_id, f"api:{caller}", time.monotonic() + access.timeout_s)


async def chat(
    body: ChatBody, access: ModelAccess, who: Asker, context: int, left_out: LeftOut
) -> tuple[GenerationRequest, Toolset]:
    """``context`` bounds a reply whose caller does not. Raises InvalidRequest, ImageRejected."""
    tools = toolset.read(body.tools, body.tool_choice, body.parallel_tool_calls, left_out)
    grammar = _grammar(constraints.read(body), tools)
    template = _template(body.chat_template_kwargs)
    drafts = messages.read(body.messages, access.max_images, left_out)
    wanted = sampling(body, body.max_completion_tokens or body.max_tokens or context, _logprobs(body))
    request = GenerationRequest(
        who.request_id,
        await resolve_pictures(drafts, access.pictures, left_out),
        wanted,
        who.deadline,
        owner=who.owner,
        urgency=urgency(body),
        tools=tools.shown,
        may_call=tools.may_call,
        grammar=grammar,
        choices=body.n or 1,
        template=template,
    )
    return request, tools


async def prompt_of(body: TokenizeBody, access: ModelAccess, who: Asker, left_out: LeftOut) -> GenerationRequest:
    """What ``/tokenize`` counts. Raises InvalidRequest, ImageRejected."""
    if (body.prompt is None) == (not body.messages):
        raise bad("prompt", "和 messages 要给且只能给一个（exactly one of prompt and messages is required）")
    drafts = messages.read(body.messages, access.max_images, left_out)
    return GenerationRequest(
        who.request_id,
        await resolve_pictures(drafts, access.pictures, left_out),
        Sampling(1),
        who.deadline,
        owner=who.owner,
        tools=toolset.read(body.tools, None, None, left_out).shown,
        raw=body.prompt,
        template=_template(body.chat_template_kwargs),
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


def _grammar(asked: Grammar | None, tools: Toolset) -> Grammar | None:
    if tools.must_call and asked is not None:
        raise bad("tool_choice", "要求调用函数时不能再约束回复（cannot be combined with a response format）")
    return tools.grammar(asked)


def _template(given: dict[str, Any] | None) -> tuple[tuple[str, bool | str], ...]:
    chosen = []
    for name, value in (given or {}).items():
        if name not in _TEMPLATE:
            raise bad("chat_template_kwargs", f"只支持 {' 和 '.join(_TEMPLATE)}（has an unsupported key）")
        if not isinstance(value, bool):
            raise bad(f"chat_template_kwargs.{name}", "应是 true 或 false（must be a boolean）")
        chosen.append((name, value))
    return tuple(chosen)
