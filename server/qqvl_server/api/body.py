"""Strict JSON: no NaN or Infinity, no lone surrogates, not deeper than 64 levels, an object at the top."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final, NoReturn

from starlette.requests import Request

from qqvl_server.errors import InvalidRequest

MAX_DEPTH: Final = 64
# Parsing less than this is quicker than handing it to a thread.
_INLINE_BYTES: Final = 64_000


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; large ones are parsed off the event loop.

    Raises:
        InvalidRequest: anything else.
    """
    body = await request.body()
    return parse_object(body) if len(body) < _INLINE_BYTES else await asyncio.to_thread(parse_object, body)


def parse_object(body: bytes) -> dict[str, Any]:
    """As ``read_object``, of bytes."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        # ValueError covers bad UTF-8, bad JSON and integers of thousands of digits.
        raise InvalidRequest("请求体不是合法的 JSON（UTF-8，不含 NaN 和 Infinity）") from error
    if not isinstance(value, dict):
        raise InvalidRequest("请求体应是一个 JSON 对象")
    _check(value)
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(word)
    return value


def _check(root: Any) -> None:
    waiting: list[tuple[Any, int]] = [(root, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"JSON 嵌套太深，最多 {MAX_DEPTH} 层")
        if isinstance(value, dict):
            waiting += [(key, depth) for key in value]
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, str) and not value.isascii():
            _check_text(value)


def _check_text(value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest("文字里有不成对的 UTF-16 代理字符") from error
