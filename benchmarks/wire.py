"""The little HTTP that a load needs: one POST a connection, its body read as it comes.

Written by hand because the load shares the machine's cores with the server it measures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit


class Refused(Exception):
    """The server answered with an error status."""


async def post(base: str, path: str, body: dict[str, Any], key: str = "") -> AsyncGenerator[bytes, None]:
    """Pieces of the answer's body.

    Raises:
        Refused: the status is not 200.
        OSError, asyncio.IncompleteReadError: the connection broke.
    """
    where = urlsplit(base)
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(where.hostname, where.port or 80, limit=1 << 22)
    try:
        lines = [
            f"POST {where.path.rstrip('/')}{path} HTTP/1.1", f"Host: {where.netloc}", "Connection: close",
            "Content-Type: application/json", f"Content-Length: {len(payload)}",
        ]  # fmt: skip
        if key:
            lines.append(f"Authorization: Bearer {key}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + payload)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        pieces = _chunked(reader) if "transfer-encoding: chunked" in head else _to_the_end(reader)
        if status != 200:
            said = b"".join([piece async for piece in pieces])
            raise Refused(f"HTTP {status}: {said[:300].decode('utf-8', 'replace')}")
        async for piece in pieces:
            yield piece
    finally:
        writer.close()


async def _chunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        piece = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield piece[:-2]


async def _to_the_end(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(1 << 16):
        yield piece


async def events(base: str, path: str, body: dict[str, Any], key: str = "") -> AsyncGenerator[dict[str, Any], None]:
    """Server-sent events of a streamed answer, ``[DONE]`` left out.

    Raises:
        As ``post``.
        RuntimeError: the stream told of an error.
    """
    rest = b""
    async with aclosing(post(base, path, body, key)) as pieces:
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                    event = json.loads(line[5:])
                    if event.get("error"):
                        raise RuntimeError(str(event["error"])[:300])
                    yield event


async def whole(base: str, path: str, body: dict[str, Any], key: str = "") -> dict[str, Any]:
    """The JSON answer of a request that does not stream.

    Raises:
        As ``post``.
    """
    async with aclosing(post(base, path, body, key)) as pieces:
        said: dict[str, Any] = json.loads(b"".join([piece async for piece in pieces]))
        return said
