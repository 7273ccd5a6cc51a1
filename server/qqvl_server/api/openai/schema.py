"""The fields of OpenAI's requests, with vLLM's usual additions: types, ranges, and what cannot be honoured.

Unknown fields are tolerated, null is as good as absent, and a field in ``REFUSED`` is answered with 400 by name
unless it asks for nothing. Source: OpenAI's reference of chat completions and completions; ``vllm serve``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from qqvl_server.api.fields import Model, Name, Objects, SamplingFields, listed, refuse
from qqvl_server.api.openai import documented
from qqvl_server.api.thinking import Effort, TemplateArguments, ThinkingFields
from qqvl_server.api.validation import bad, unfit

MAX_CHOICES: Final = 16
MAX_TOKEN_ID: Final = 2**31 - 1

# Fields that this server knows and cannot honour, and the values of each that ask for nothing.
REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (True, False),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "lora_path": (),
    "lora_request": (),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "moderation": (),
    "prediction": (),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_token_strs": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "suffix": ("",),
    "truncate_prompt_tokens": (-1,),
    "use_beam_search": (False,),
    "video": (),
    "web_search_options": (),
}


def refuse_unsupported(body: dict[str, Any], *known: str) -> None:
    """``known`` are names of the set that this route does honour.

    Raises:
        InvalidRequest: a field that would have to be ignored.
    """
    refuse(body, {name: harmless for name, harmless in REFUSED.items() if name not in known})
    modalities = body.get("modalities")
    if modalities not in (None, ["text"]):
        raise bad("modalities", "只支持 text（only text is supported）")


def _biases(value: Any) -> Any:
    """``{"token id": bias}`` as pairs; checked here because an error of pydantic's would name the caller's keys."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise unfit("应是对象（must be an object）")
    if len(value) > 1024:
        raise unfit("最多 1024 项（has too many items）")
    pairs = []
    for key, bias in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= MAX_TOKEN_ID):
            raise unfit("的键应是 token id（keys must be token ids）")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise unfit("的值应在 -100 到 100 之间（values must be between -100 and 100）")
        pairs.append((int(key), float(bias)))
    return tuple(pairs)


def _template(value: Any) -> Any:
    """Checked here because an error of pydantic's would name the caller's keys."""
    if isinstance(value, dict) and not value.keys() <= TemplateArguments.model_fields.keys():
        raise unfit(f"只支持 {'、'.join(TemplateArguments.model_fields)}（has an unsupported key）")
    return value


Positive = Annotated[int, Field(ge=1)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TokenIds = Annotated[tuple[TokenId, ...], BeforeValidator(listed), WithJsonSchema(documented.TOKEN_IDS)]
Biases = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_biases), WithJsonSchema(documented.LOGIT_BIAS)]
TemplateKwargs = Annotated[TemplateArguments | None, BeforeValidator(_template)]
# Parsed by hand in ``messages.py`` and ``toolset.py``, which take more spellings than the document says.
Messages = Annotated[Objects, Field(max_length=10_000), WithJsonSchema(documented.MESSAGES)]
Tools = Annotated[Objects, Field(max_length=128), WithJsonSchema(documented.TOOLS)]


class StreamOptions(Model):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Generate(SamplingFields):
    """What chat and plain completions share."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Positive | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    logit_bias: Biases = ()
    stop_token_ids: Annotated[TokenIds, Field(max_length=128)] = ()
    ignore_eos: bool | None = None
    priority: int | None = None
    best_of: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: Annotated[tuple[str, ...] | None, BeforeValidator(lambda v: v if v is None else listed(v))] = None
    guided_grammar: str | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None


class ChatBody(Generate, ThinkingFields):
    messages: Annotated[Messages, Field(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateKwargs = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None


class CompletionBody(Generate):
    """``prompt``: a text, a list of texts, token ids, or a list of lists of token ids."""

    prompt: Annotated[Any, WithJsonSchema(documented.PROMPT)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TokenizeBody(ThinkingFields):
    """Either ``prompt`` or ``messages``."""

    model: Name | None = None
    prompt: str | None = None
    messages: Messages = ()
    tools: Tools = ()
    chat_template_kwargs: TemplateKwargs = None


class DetokenizeBody(Model):
    model: Name | None = None
    tokens: TokenIds
