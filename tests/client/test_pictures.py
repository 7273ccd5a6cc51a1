"""Pictures on their way: the contract's formats and spellings, and what hosts write in their headers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from onebot.events import group_message, image
from onebot.pictures import PictureHost, drawn
from onebot.web import Response
from onebot.world import Stack

from qqvl_client.errors import PictureError, PictureTooLargeError
from qqvl_client.formats import decode_inline, format_of
from qqvl_client.images import PictureFetcher
from qqvl_client.settings import Settings

pytestmark = pytest.mark.anyio
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "contract" / "pictures.json"
CONTRACT: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))
FORMATS = {item["name"]: item for item in CONTRACT["formats"]}
SPELLINGS = CONTRACT["spellings"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_the_server_takes_is_known_by_its_bytes(name: str) -> None:
    assert format_of(base64.b64decode(FORMATS[name]["data"])) == FORMATS[name]["format"]


@pytest.mark.parametrize("data", [b"", b"BM1234", b"RIFFxxxxAVI ", b"<svg/>", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"])
def test_what_is_no_picture_has_no_format(data: bytes) -> None:
    assert format_of(data) is None


@pytest.mark.parametrize("spelling", SPELLINGS["written"])
def test_every_spelling_of_base64_is_the_same_bytes(spelling: str) -> None:
    assert decode_inline(SPELLINGS["written"][spelling], 10_000) == base64.b64decode(SPELLINGS["bytes"])


@pytest.mark.parametrize("text", CONTRACT["not_base64"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(PictureError, match="编码有误"):
        decode_inline(text, 10_000)


def test_an_inline_picture_has_the_same_limit_as_another() -> None:
    word = "data:image/png;base64," + base64.b64encode(bytes(3000)).decode()
    assert len(decode_inline(word, 3000)) == 3000
    for most in (2999, 100):
        with pytest.raises(PictureTooLargeError):
            decode_inline(word, most)


async def test_every_format_reaches_the_server_byte_for_byte(stack: Stack, chat_id: int) -> None:
    files = [base64.b64decode(item["data"]) for item in FORMATS.values()]
    urls = [stack.pictures.put(file) for file in files]
    await stack.onebot.event(group_message([image(url, file=f"{n}.jpg") for n, url in enumerate(urls)], chat_id))
    body = (await stack.chat.asked(chat_id))[0]
    assert [base64.b64decode(item["data"]) for item in body["images"]] == files
    assert [item["format"] for item in body["images"]] == [item["format"] for item in FORMATS.values()]


@pytest.mark.parametrize("spelling", ["data URI in capitals", "base64://, unpadded, with line breaks"])
async def test_inline_pictures_reach_the_server_in_any_spelling(stack: Stack, chat_id: int, spelling: str) -> None:
    await stack.onebot.event(group_message([image(file=SPELLINGS["written"][spelling])], chat_id))
    body = (await stack.chat.asked(chat_id))[0]
    assert [item["data"] for item in body["images"]] == [SPELLINGS["bytes"]]


PICTURE = drawn()
LENGTH = len(PICTURE)
HEADERS: dict[str, tuple[Response, bool]] = {
    "no coding": (Response(PICTURE, headers={"Content-Encoding": "identity"}), True),
    "a character set": (Response(PICTURE, headers={"Content-Encoding": "UTF-8"}), True),
    "an object store's": (Response(PICTURE, headers={"Content-Encoding": "aws-chunked,binary"}), True),
    "empty": (Response(PICTURE, headers={"Content-Encoding": ""}), True),
    "gzip": (Response(PICTURE, headers={"Content-Encoding": "GZIP"}), False),
    "one of two": (Response(PICTURE, headers={"Content-Encoding": "utf-8, br"}), False),
    "a proxy's": (Response(PICTURE, 203), True),
    "a whole part": (Response(PICTURE, 206, {"Content-Range": f"bytes 0-{LENGTH - 1}/{LENGTH}"}), True),
    "half a part": (Response(PICTURE[:90], 206, {"Content-Range": f"bytes 0-89/{LENGTH}"}), False),
    "the other half": (Response(PICTURE[90:], 206, {"Content-Range": f"bytes 90-{LENGTH - 1}/{LENGTH}"}), False),
    "a part of nobody knows what": (Response(PICTURE, 206, {"Content-Range": f"bytes 0-{LENGTH - 1}/*"}), False),
    "a part without a range": (Response(PICTURE, 206), False),
}


@pytest.mark.parametrize("kind", HEADERS)
async def test_only_what_is_not_the_picture_itself_is_refused(kind: str) -> None:
    response, is_good = HEADERS[kind]
    fetcher = PictureFetcher(Settings())
    async with PictureHost() as host:
        host.answers["/odd"] = response
        try:
            picture = await fetcher.fetch({"url": f"{host.url}/odd"}, None)
        except PictureError:
            assert not is_good
        else:
            assert is_good
            assert picture.data == PICTURE
    await fetcher.aclose()
