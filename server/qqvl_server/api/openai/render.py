"""The voice's words as OpenAI's JSON: envelopes, usage, log-probabilities."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from qqvl_server.api import error_bodies, logprobs
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import TokenLogprob, Usage

DONE: Final = "data: [DONE]\n\n"
FINGERPRINT: Final = "fp_qqvl"
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Envelope:
    """What every chunk of an answer shares: one id, one instant, the name that was asked for."""

    id: str
    kind: str
    created: int
    model: str

    def whole(self, choices: Sequence[dict[str, Any]], used: Usage) -> dict[str, Any]:
        return {**self._head(self.kind), "choices": list(choices), "usage": usage(used)}

    def chunk(self, choices: Sequence[dict[str, Any]], used: Usage | None = None) -> str:
        """One event. ``used`` only in the last, whose choices are empty."""
        rest = "" if used is None else f',"usage":{_JSON.encode(usage(used))}'
        return f"{self._opening}{_JSON.encode(choices)}{rest}}}\n\n"

    @cached_property
    def _opening(self) -> str:
        """What all chunks begin with, written once: a token's own text is but a tenth of its event."""
        head = self._head(f"{self.kind}.chunk" if self.kind == "chat.completion" else self.kind)
        return f'data: {_JSON.encode(head)[:-1]},"choices":'

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }


def chat_envelope(model: str) -> Envelope:
    return Envelope(f"chatcmpl-{uuid.uuid4().hex}", "chat.completion", int(time.time()), model)


def text_envelope(model: str) -> Envelope:
    return Envelope(f"cmpl-{uuid.uuid4().hex}", "text_completion", int(time.time()), model)


def event(body: dict[str, Any]) -> str:
    return f"data: {_JSON.encode(body)}\n\n"


def failure(error: QqvlError) -> str:
    """An error as the last event of a stream; SDKs raise it."""
    return event(error_bodies.openai(error))


def usage(used: Usage) -> dict[str, Any]:
    thought = {"completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens}}
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        **(thought if used.reasoning_tokens else {}),
    }


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": logprobs.entries(tokens), "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob], offsets: Sequence[int]) -> dict[str, Any]:
    """The shape of plain completions. ``offsets`` say where each token's text starts in its choice."""
    return {
        "tokens": [spelt(token.data) for token in tokens],
        "token_logprobs": [logprobs.finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {spelt(top.data): logprobs.finite(top.logprob) for top in token.top} or None for token in tokens
        ],
        "text_offset": list(offsets),
    }


def spelt(data: bytes) -> str:
    """A token as text; half a character as OpenAI writes it, so that two of them do not look alike."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
