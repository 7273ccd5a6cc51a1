"""What goes wrong with an upstream, and whether the same may be asked once more. Its words are told without our key."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from qqvl_server.errors import Busy, CapacityError, InvalidRequest, PromptTooLong, QqvlError, UpstreamFailed

_MOST_WORDS: Final = 300
_TOO_LONG: Final = ("context_length", "maximum context", "context length", "exceed_context", "context size", "n_ctx")
# What upstreams ask for at most; whoever asks for more is asked no more.
_LONGEST_PAUSE_S: Final = 120


class Setback(Exception):
    """Not an error yet: before the first token it is tried again.

    ``error`` is what the caller is told where it is not; ``outcome`` is a word of the metrics; ``pause_s`` is how long
    the upstream asks to be left alone, None where it does not say; ``is_fault``: it speaks against the upstream.
    ``stays``: it is worth waiting for this one, whose cache knows the talk, rather than to ask another.
    """

    def __init__(self, error: QqvlError, outcome: str, *, pause_s: float | None = None, is_fault: bool = True) -> None:
        super().__init__(error.message)
        self.error = error
        self.outcome = outcome
        self.pause_s = pause_s
        self.is_fault = is_fault
        self.stays = outcome == "busy"


def unreachable(what: str, *, is_fault: bool = True) -> Setback:
    return Setback(UpstreamFailed(f"连不上上游的模型服务（{what}），请稍后再试"), "unreachable", is_fault=is_fault)


def torn() -> Setback:
    return Setback(UpstreamFailed("上游的模型服务答到一半断了，请重试"), "torn")


def refused(status: int, headers: Mapping[str, str], body: bytes, key: str) -> Setback | QqvlError:
    """What an answer that is not 200 means: a Setback where it may be tried again."""
    said = words(body, key)
    pause = retry_after(headers.get("retry-after", ""))
    if status == 429:
        busy = Busy("上游的模型服务太忙了，请稍后再试", retry_after=max(round(pause or 0), 1))
        return Setback(busy, "busy", pause_s=pause, is_fault=False)
    if status >= 500:
        return Setback(
            UpstreamFailed(f"上游的模型服务出错（{status}{_colon(said)}），请稍后再试"), "error", pause_s=pause,
            is_fault=status != 503,
        )  # fmt: skip
    if status in (401, 403):
        return UpstreamFailed(f"上游不认我们的密钥（{status}），请主人检查 upstream_key")
    if status in (400, 413, 422):
        if any(word in said.lower() for word in _TOO_LONG):
            return PromptTooLong(f"内容太长，上游放不下{_colon(said)}")
        return InvalidRequest(f"上游不接受这个请求{_colon(said)}")
    if 300 <= status < 400:
        return UpstreamFailed(f"上游要我们转到别处（{status}），请主人把 upstream_url 写成最后的网址")
    hint = "，请主人检查 upstream_url 和 upstream_model" if status == 404 else ""
    return UpstreamFailed(f"上游不接受这个请求（{status}{_colon(said)}）{hint}")


def told_in_stream(error: Any, key: str) -> Setback | QqvlError:
    """An error that comes as an event, behind a status of 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return refused(status, {}, json.dumps({"error": error}).encode(), key)


def words(body: bytes, key: str) -> str:
    """What an error's body says, short and on one line, without our key."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = body.decode("utf-8", "replace") if not body.lstrip().startswith(b"<") else ""
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and name in value:
            value = value[name]
    return masked(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), key)


def masked(text: str, key: str) -> str:
    """Masked before it is cut, so that no half of the key is left at its end."""
    text = " ".join(text.split())
    return (text.replace(key, "******") if key else text)[:_MOST_WORDS]


def retry_after(value: str) -> float | None:
    """Seconds of the header of that name, which tells them or a date (RFC 9110, 10.2.3)."""
    if value.isascii() and value.isdecimal():
        return min(float(value), _LONGEST_PAUSE_S)
    try:
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE_S)


def _colon(said: str) -> str:
    return f"：{said}" if said else ""


def outcome_of(error: QqvlError) -> str:
    """The word of the metrics for what is not tried again."""
    if isinstance(error, CapacityError):
        return "late"
    return "rejected" if isinstance(error, InvalidRequest | PromptTooLong) else "denied"
