"""What each kind of server takes beside OpenAI's own fields. One table; values only.

Sources: vLLM's and SGLang's ``protocol.py``, llama.cpp's ``tools/server/README.md``, Ollama's ``docs/openai.md``, LM
Studio's page on its OpenAI endpoints, and our own ``api/openai/schema.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final


class Forcing(StrEnum):
    """How a regular expression, a choice or a grammar is asked for; a JSON schema is ``response_format`` everywhere."""

    NONE = "none"
    STRUCTURED = "structured_outputs"
    GUIDED = "guided"
    SGLANG = "sglang"
    GBNF = "gbnf"


class Continuing(StrEnum):
    """How a reply goes on from words that are said already."""

    NONE = "none"
    FLAG = "continue_final_message"
    LAST = "a last message of the assistant's"


class Counting(StrEnum):
    """How ``/tokenize``, which stands beside ``/v1``, is asked."""

    NONE = "none"
    MESSAGES = "messages or a prompt"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Kind:
    """``sampling``: fields of ``Sampling`` beyond OpenAI's, and what this server calls them.

    ``sessions`` and ``salts``: it, or a router that usually stands before it, takes the session header, and
    ``cache_salt``. ``template``: it takes ``chat_template_kwargs``. ``several``: it makes ``n`` replies.
    ``tool_pictures``: messages of tools may hold pictures. ``most_stops`` texts may end a reply.
    """

    name: str
    title: str
    sampling: Mapping[str, str] = field(default_factory=dict)
    forcing: Forcing = Forcing.NONE
    continuing: Continuing = Continuing.NONE
    counting: Counting = Counting.NONE
    sessions: bool = False
    salts: bool = False
    template: bool = False
    several: bool = False
    tool_pictures: bool = False
    most_stops: int = 4
    reply_field: str = "max_tokens"


_OF_VLLM: Final = {
    name: name for name in ("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos")
} | {"min_new_tokens": "min_tokens"}  # fmt: skip
_VLLM: Final = Kind(
    "vllm",
    "vLLM",
    {**_OF_VLLM, "bad_words": "bad_words"},
    Forcing.STRUCTURED,
    Continuing.FLAG,
    Counting.MESSAGES,
    sessions=True,
    salts=True,
    template=True,
    several=True,
    tool_pictures=True,
    most_stops=16,
)
OLD_VLLM: Final = replace(_VLLM, forcing=Forcing.GUIDED)
"""Before 0.12."""

KINDS: Final = {
    kind.name: kind
    for kind in (
        _VLLM,
        replace(
            _VLLM, name="sglang", title="SGLang", sampling=_OF_VLLM, forcing=Forcing.SGLANG, counting=Counting.NONE,
            tool_pictures=False,
        ),
        replace(
            _VLLM, name="qqvl", title="qqvl", sampling=_OF_VLLM, continuing=Continuing.NONE, salts=False,
        ),
        Kind(
            "llamacpp",
            "llama.cpp",
            {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty", "ignore_eos": "ignore_eos"},
            Forcing.GBNF,
            Continuing.LAST,
            Counting.CONTENT,
            template=True,
            most_stops=16,
        ),
        Kind("ollama", "Ollama", most_stops=16),
        Kind("lmstudio", "LM Studio", {"top_k": "top_k", "repetition_penalty": "repeat_penalty"}, most_stops=16),
        Kind("openai", "OpenAI 兼容的服务", several=True),
    )
}  # fmt: skip
OWNERS: Final = {
    "vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama", "organization_owner": "lmstudio",
    "qqvl": "qqvl",
}  # fmt: skip
"""Who owns a model, as ``/v1/models`` says, by the kind of server that says so."""
