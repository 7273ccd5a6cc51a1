"""How callers of the bare model may hand in a picture, spelling by spelling."""

from __future__ import annotations

import base64
import hashlib
import textwrap
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qqvl_server.api.pictures import Pictures
from qqvl_server.errors import ImageRejected
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from tests.pictures import base64_of, encoded, picture

pytestmark = pytest.mark.anyio

PNG = encoded(picture())
WORD = base64_of(PNG)
SPELLINGS = {
    "data URI": f"data:image/png;base64,{WORD}",
    "wrong media type": f"data:image/jpeg;base64,{WORD}",
    "odd media type": f"data:application/octet-stream;base64,{WORD}",
    "no media type": f"data:;base64,{WORD}",
    "a parameter": f"data:image/png;name=a.png;charset=utf-8;base64,{WORD}",
    "upper case": f"DATA:IMAGE/PNG;BASE64,{WORD}",
    "base64 not said": f"data:image/png,{WORD}",
    "bare": WORD,
    "space around": f"\n data:image/png;base64,{WORD} \n",
    "lines": "data:image/png;base64," + "\r\n".join(textwrap.wrap(WORD, 76)),
    "bare lines": "\n".join(textwrap.wrap(WORD, 64)),
    "URL-safe": "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
    "no padding": f"data:image/png;base64,{WORD.rstrip('=')}",
    "percent in base64": "data:image/png;base64," + urllib.parse.quote(WORD, safe=""),
    "percent-encoded": "data:image/png," + urllib.parse.quote(PNG),
}
REFUSED = (
    "", " ", "data:", "data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,!!!!", "data:,%zz",
    "data:image/png," + urllib.parse.quote(PNG[:40]), "data:text/plain,hello%20world", "file:///etc/passwd",
    "FILE:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "C:\\a.png", "ftp://x/a.png", "javascript:alert(1)",
    "gopher://x", "blob:x", "../../a.png", "\\\\host\\share", "\ud800", "好" * 100, "data:" + "x" * 5000,
    WORD[: len(WORD) // 4],
    "data:image/png;base64," + "A" * 5_000_000, "data:image/png," + "%41" * 2_000_000,
)  # fmt: skip


class Web:
    """One picture at one address; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[bytes]:
        self.asked.append(url)
        yield PNG


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def intake(tmp_path: Path, web: Web) -> Pictures:
    return Pictures(ImageLibrary(tmp_path / "images", 10**9, ImageLimits(10**6, 10**7, 4, 256)), web)


@pytest.mark.parametrize("name", SPELLINGS)
async def test_every_spelling_is_the_same_picture(intake: Pictures, web: Web, name: str) -> None:
    ref = await intake.from_url(SPELLINGS[name])
    assert ref.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (ref.format, ref.width) == ("png", 256)
    assert not web.asked


async def test_an_address_is_fetched_and_kept(intake: Pictures, web: Web) -> None:
    for url in ("http://example.org/a.png", "HTTPS://example.org/a?b=c", " https://example.org/ "):
        assert (await intake.from_url(url)).sha256 == hashlib.sha256(PNG).hexdigest()
        assert web.asked.pop() == url.strip()


async def test_base64_alone_never_reaches_the_web(intake: Pictures, web: Web) -> None:
    assert (await intake.from_base64(WORD)).format == "png"
    with pytest.raises(ImageRejected):
        await intake.from_base64("https://example.org/a.png")
    assert not web.asked


async def test_everything_else_is_refused_in_words_of_our_own(intake: Pictures, web: Web) -> None:
    for url in REFUSED:
        with pytest.raises(ImageRejected) as refused:
            await intake.from_url(url)
        assert len(refused.value.message) < 100
        assert "passwd" not in refused.value.message
    assert not web.asked
