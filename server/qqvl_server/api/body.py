"""Strict JSON: no NaN or Infinity, no lone surrogates, not deeper than 64 levels, an object at the top."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

from starlette.requests import Request

from qqvl_server.errors import InvalidRequest

MAX_DEPTH: Final = 64
# A body of 32 MB can spell ten million values, which cost gigabytes and hold the interpreter for minutes.
MAX_VALUES: Final = 100_000
# A string, closed or not, or what opens or parts values. Possessive, so that no input makes it look twice.
_MARK: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL)
# Parsing less than this is quicker than handing it to a thread.
_INLINE_BYTES: Final = 64_000
# Of their own, so that a large text waits for nothing but other large texts. Threads begin with the first.
_PARSING: Final = ThreadPoolExecutor(2, thread_name_prefix="qqvl-json")


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; large ones are parsed off the event loop.

    Raises:
        InvalidRequest: anything else.
    """
    body = await request.body()
    if len(body) < _INLINE_BYTES:
        return parse_object(body)
    return await asyncio.get_running_loop().run_in_executor(_PARSING, parse_object, body)


def parse_object(body: bytes) -> dict[str, Any]:
    """As ``read_object``, of bytes."""
    if _has_too_many_values(body):
        raise InvalidRequest(f"请求体里的值太多，最多 {MAX_VALUES} 个")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        # ValueError covers bad UTF-8, bad JSON and integers of thousands of digits.
        raise InvalidRequest("请求体不是合法的 JSON（UTF-8，不含 NaN 和 Infinity）") from error
    if not isinstance(value, dict):
        raise InvalidRequest("请求体应是一个 JSON 对象")
    _check(value)
    return value


def _has_too_many_values(body: bytes) -> bool:
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) <= MAX_VALUES:
        return False
    # A long text may hold that many commas of its own.
    marks = (match for match in _MARK.finditer(body) if not match[0].startswith(b'"'))
    return next(itertools.islice(marks, MAX_VALUES, None), None) is not None


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
