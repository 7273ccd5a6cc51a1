"""The fields of OpenAI's Responses: types, ranges, what is refused and what may go unheeded.

Unknown fields are tolerated and null is as good as absent. Source: OpenAI's reference of POST /v1/responses; the
sampling fields that OpenAI lacks are those of ``vllm serve``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from qqvl_server.api.fields import Model, Name, Objects, SamplingFields, listed, refuse
from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.thinking import Effort, TemplateArguments, ThinkingFields
from qqvl_server.api.validation import bad, unfit

# Fields that ask for something this server cannot do, and the values of each that ask for nothing.
REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "background": (False,),
    "conversation": (),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "moderation": (),
    "n": (1,),
    "previous_response_id": (),
    "prompt": (),
}
# Names that chat completions have for what is called otherwise here: passed over, they would quietly do nothing.
MOVED: Final[dict[str, str]] = {
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
}
# Fields that go unheeded because the answer is right without them, and why.
UNHEEDED: Final[dict[str, str]] = {
    "context_management": "what leaves the window is the caller's choice",
    "max_tool_calls": "counts calls of OpenAI's own tools",
    "prompt_cache_key": "every prompt's prefix is cached anyway",
    "prompt_cache_options": "every prompt's prefix is cached anyway",
    "prompt_cache_retention": "every prompt's prefix is cached anyway",
    "reasoning.summary": "thoughts are told whole",
    "safety_identifier": "for abuse reports",
    "service_tier": "there is one tier",
    "store": "nothing is kept; the answer says store: false",
    "stream_options": "about padding against eavesdroppers",
    "text.verbosity": "the model has one verbosity",
    "truncation": "nothing is ever cut",
    "user": "for abuse reports",
}
# What ``include`` may name: log-probabilities are told, the rest belongs to items that never come from here.
LOGPROBS: Final = "message.output_text.logprobs"
INCLUDABLE: Final = (
    LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)


def refuse_unsupported(body: dict[str, Any]) -> None:
    """
    Raises:
        InvalidRequest: a field that would have to be ignored.
    """
    refuse(body, REFUSED)
    for name, right in MOVED.items():
        if body.get(name) is not None:
            raise bad(name, f"在这个接口叫 {right}（is called {right} here）")


def _metadata(value: Any) -> Any:
    """Checked here because an error of pydantic's would name the caller's keys."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise unfit("应是对象（must be an object）")
    if len(value) > 16 or any(len(key) > 64 for key in value):
        raise unfit("最多 16 项，每个键最多 64 个字符（has too many or too long keys）")
    if not all(isinstance(item, str) and len(item) <= 512 for item in value.values()):
        raise unfit("的值应是字符串，最多 512 个字符（values must be strings of at most 512 characters）")
    return value


_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
_INPUT: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "required": ["role", "content"],
                        "properties": {
                            "type": {"const": "message"},
                            "role": {"enum": ["user", "assistant", "system", "developer"]},
                            "content": {"anyOf": [{"type": "string"}, _OBJECTS]},
                        },
                    },
                    {
                        "type": "object",
                        "required": ["type", "call_id"],
                        "properties": {
                            "type": {"enum": ["function_call", "function_call_output"]},
                            "call_id": {"type": "string"},
                            "name": {"type": "string"},
                            "arguments": {"type": "string"},
                            "output": {"anyOf": [{"type": "string"}, _OBJECTS]},
                        },
                    },
                ]
            },
        },
    ]
}
_TOOLS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "name"],
        "properties": {
            "type": {"const": "function"},
            "name": {"type": "string"},
            "description": {"type": "string"},
            "parameters": {"type": "object"},
            "strict": {"type": "boolean"},
        },
    },
}

# Names that nobody knows yet are left out, as items and tools are.
Included = Annotated[str, WithJsonSchema({"enum": list(INCLUDABLE)})]


class TextOptions(Model):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningOptions(Model):
    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseBody(SamplingFields, ThinkingFields):
    """Items, tools and the format are read by hand, in ``items``, ``toolset`` and ``translate``."""

    input: Annotated[Any, WithJsonSchema(_INPUT)]
    model: Name | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[tuple[Included, ...], BeforeValidator(listed)] = ()
    tools: Annotated[Objects, Field(max_length=128), WithJsonSchema(_TOOLS)] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: ReasoningOptions | None = None
    chat_template_kwargs: TemplateArguments | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(_metadata)] = {}
    user: str | None = None
    store: bool | None = None
    stream_options: dict[str, Any] | None = None
    context_management: Any = None

    def unheeded(self) -> LeftOut:
        """What is asked for and will not be, but for what tells nothing that a caller could miss."""
        left_out = LeftOut()
        for name in ("store", "context_management"):
            if getattr(self, name):
                left_out.add(name, "ignored")
        for index, name in enumerate(self.include):
            if name not in INCLUDABLE:
                left_out.add(f"include[{index}]")
        return left_out
