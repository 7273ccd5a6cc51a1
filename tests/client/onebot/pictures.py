"""A picture host with every vice: slow, stalling, lying, redirecting, expired, huge."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter

from PIL import Image, ImageDraw

from onebot.web import HangupError, Request, Response, WebServer

EXPIRED = Response(json.dumps({"retcode": -5503007, "retmsg": "download url has expired"}).encode(), 400)


def drawn(colour: str = "red", kind: str = "PNG", size: int = 96) -> bytes:
    """A filled circle on white, as an image file of `kind`."""
    picture = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(picture).ellipse((size // 6, size // 6, size * 5 // 6, size * 5 // 6), fill=colour)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _part_of(content: bytes, wanted: str) -> Response:
    """The whole, or the one range that was asked for (RFC 9110, 14.2)."""
    if not wanted.startswith("bytes="):
        return Response(content)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, end = (int(first), int(last or len(content)) + 1) if first else (max(len(content) - int(last), 0), None)
    part = content[start:end]
    where = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    return Response(part, 206, {"Content-Range": where})


class PictureHost(WebServer):
    """Serves what was `put`; other paths name the vice to show."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Response] = {}
        self.delay_s: dict[str, float] = {}
        self.hits: Counter[str] = Counter()
        self.picture = drawn()

    def put(self, data: bytes, delay_s: float = 0) -> str:
        """Publish a file; returns its URL."""
        path = f"/file/{len(self.files)}"
        self.files[path] = data
        self.delay_s[path] = delay_s
        return self.url + path

    def bad(self, vice: str) -> str:
        return f"{self.url}/{vice}"

    async def handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        self.hits[request.path] += 1
        self.changed()
        if request.path in self.answers:
            return self.answers[request.path]
        if (found := self.files.get(request.path)) is not None:
            await asyncio.sleep(self.delay_s[request.path])
            return _part_of(found, request.headers.get("range", ""))
        return await self._vice(request.path.strip("/").split("/"), writer)

    async def _vice(self, path: list[str], writer: asyncio.StreamWriter) -> Response | None:
        picture = self.picture
        match path:
            case ["redirect", left] if int(left) > 0:
                return Response(status=302, headers={"Location": f"/redirect/{int(left) - 1}"})
            case ["redirect", _]:
                return Response(picture)
            case ["loop"]:
                return Response(status=302, headers={"Location": "/loop"})
            case ["to-file"]:
                return Response(status=302, headers={"Location": "file:///etc/hostname"})
            case ["expired"]:
                return EXPIRED
            case ["page"]:
                return Response(b"<html>please log in</html>")
            case ["gone"]:
                return Response(b"not found", 404)
            case ["hang-up"]:
                raise HangupError
            case ["packed"]:
                return Response(picture, headers={"Content-Encoding": "gzip"})
            case ["says-more"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + picture)
            case ["says-huge"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + picture)
                await asyncio.sleep(60)
            case ["endless"]:
                await self._pour(writer, picture + bytes(50_000), 0.0)
            case ["drip"]:
                await self._pour(writer, picture[:10], 0.2)
            case ["stall"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + picture[:50])
                await asyncio.sleep(60)
            case _:
                return Response(status=500)
        return None

    async def _pour(self, writer: asyncio.StreamWriter, chunk: bytes, gap_s: float) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(gap_s)
