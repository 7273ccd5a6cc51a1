"""A request as its body: one place that knows both the port and OpenAI's protocol."""

from __future__ import annotations

import json
from typing import Any, Final

from qqvl_server.errors import InvalidRequest
from qqvl_server.generation.engines.upstream import forcing, messages
from qqvl_server.generation.engines.upstream.kinds import Continuing, Kind
from qqvl_server.generation.engines.upstream.messages import Show
from qqvl_server.generation.port import GenerationRequest, Sampling, ToolMode, Urgency

# Fields of ``Sampling`` that not every server takes, and the value of each that asks for nothing.
_WISHES: Final[dict[str, Any]] = {
    "top_k": None, "min_p": None, "repetition_penalty": None, "stop_token_ids": (), "min_new_tokens": 0,
    "ignore_eos": False, "bad_words": (),
}  # fmt: skip
# What our callers call them.
_PARAMS: Final = {"min_new_tokens": "min_tokens"}


def chat(request: GenerationRequest, kind: Kind, model: str, show: Show, most: int, salt: str | None) -> bytes:
    """The body for ``/chat/completions``; ``most`` tokens may be generated.

    Raises:
        InvalidRequest: something that this kind of server cannot be asked for.
    """
    body = _common(request, kind, model, most, salt)
    body["messages"] = messages.told(request, show, tool_pictures=kind.tool_pictures)
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    # Not all servers know how to offer tools of which only some may be called.
    if request.callable_tools:
        body["tools"] = messages.tools(request.callable_tools)
        choice = messages.tool_choice(request.tool_choice)
        if choice is not None:
            body["tool_choice"] = choice
        if not request.tool_choice.parallel:
            body["parallel_tool_calls"] = False
    elif request.tool_choice.mode is ToolMode.REQUIRED:
        raise InvalidRequest("tool_choice 要求调用的工具不在 tools 里")
    if request.opening:
        body |= _opening(request, kind)
        body["messages"] = [*body["messages"], {"role": "assistant", "content": request.opening}]
    return _encoded(body | _thinking(request, kind))


def completion(request: GenerationRequest, kind: Kind, model: str, most: int, salt: str | None) -> bytes:
    """The body for ``/completions``, a prompt that no template touches. Raises as ``chat``."""
    assert request.raw is not None
    body = _common(request, kind, model, most, salt)
    body["prompt"] = request.raw if isinstance(request.raw, str) else list(request.raw)
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return _encoded(body)


def _common(request: GenerationRequest, kind: Kind, model: str, most: int, salt: str | None) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body[kind.reply_field] = most
    body |= {
        name: value for name, value in _openais(sampling).items() if value not in (None, 0.0) or _is_meant(name, value)
    }
    body |= _wishes(request, kind)
    if len(sampling.stop) <= kind.most_stops and sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.choices > 1:
        body["n"] = request.choices
    if request.grammar is not None:
        body |= forcing.fields(request.grammar, kind)
    if salt is not None and kind.salts:
        body["cache_salt"] = salt
    return body


def _openais(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
    }


def _is_meant(name: str, value: Any) -> bool:
    """A temperature of nothing is greedy, and a seed of 0 a seed; a penalty of nothing is none."""
    return value is not None and name in ("temperature", "seed")


def _wishes(request: GenerationRequest, kind: Kind) -> dict[str, Any]:
    """What a chat's settings wish for is left out where it cannot be had; a caller of the API is told."""
    found: dict[str, Any] = {}
    for name, nothing in _WISHES.items():
        value = getattr(request.sampling, name)
        if value == nothing:
            continue
        if name in kind.sampling:
            found[kind.sampling[name]] = list(value) if isinstance(value, tuple) else value
        elif request.urgency is Urgency.API:
            param = _PARAMS.get(name, name)
            raise InvalidRequest(f"上游（{kind.title}）不支持 {param}（is not supported by the upstream）", param=param)
    return found


def _thinking(request: GenerationRequest, kind: Kind) -> dict[str, Any]:
    """Where there is no template to be told, the effort is all that can be said."""
    wanted = request.thinking
    if not kind.template:
        effort = "none" if wanted.enabled is False else wanted.effort
        return {} if effort is None or request.urgency is not Urgency.API else {"reasoning_effort": effort}
    arguments: dict[str, Any] = dict(request.template)
    if wanted.enabled is not None:
        arguments["enable_thinking"] = wanted.enabled
    if wanted.effort is not None:
        arguments["reasoning_effort"] = wanted.effort
    if wanted.budget is not None:
        arguments["thinking_budget"] = wanted.budget
    return {"chat_template_kwargs": arguments} if arguments else {}


def _opening(request: GenerationRequest, kind: Kind) -> dict[str, Any]:
    match kind.continuing:
        case Continuing.FLAG:
            return {"add_generation_prompt": False, "continue_final_message": True}
        case Continuing.LAST:
            return {}
    raise InvalidRequest(f"上游（{kind.title}）不支持续写，最后一条消息不能是助手的")


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
