"""Code and tables as pictures: what fits is drawn, whole; without a font nothing is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from qqvl_server.media.drawing import Painter


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    """With the one font that Pillow brings, under a name that is looked for."""
    folder = tmp_path_factory.mktemp("fonts") / "deep" / "inside"
    folder.mkdir(parents=True)
    font = ImageFont.load_default(24)
    assert isinstance(font, ImageFont.FreeTypeFont)
    (folder / "notosanscjk-regular.TTC").write_bytes(font.font_bytes)
    return Painter([folder.parents[1]])


def picture(png: bytes | None) -> Image.Image:
    assert png is not None
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def inked(image: Image.Image, top: float, bottom: float) -> bool:
    """Whether something is written between two heights, in parts of the whole."""
    band = image.crop((0, int(top * image.height), image.width, int(bottom * image.height)))
    low, _ = band.getextrema()
    return isinstance(low, int | float) and low < 100


def test_every_line_of_code_is_there(painter: Painter) -> None:
    few = picture(painter.draw([["a = 1"], [""], ["b = 2"]], ruled=False, title="python"))
    many = picture(painter.draw([[f"line {n}"] for n in range(40)], ruled=False))
    assert many.height > 5 * few.height
    assert all(inked(many, n / 20, (n + 1) / 20) for n in range(20))
    wide = picture(painter.draw([["x" * 250]], ruled=False))
    assert wide.height > picture(painter.draw([["x" * 90]], ruled=False)).height, "what is too wide goes on below"
    assert wide.width < 2500
    assert picture(painter.draw([["\tx"]], ruled=False)).width > picture(painter.draw([["x"]], ruled=False)).width


def test_a_table_has_its_columns(painter: Painter) -> None:
    rows = [["name", "what"], ["one", "first " * 30], ["two", ""], ["three"]]
    table = picture(painter.draw(rows, ruled=True))
    assert table.width > picture(painter.draw([["name"]], ruled=True)).width
    assert inked(table, 0.5, 1)


def test_what_nobody_could_read_is_not_drawn(painter: Painter) -> None:
    assert painter.draw([["x"]] * 5000, ruled=False) is None
    assert painter.draw([["x" * 100_000]], ruled=False) is None
    assert painter.draw([["long cell " * 9] * 40], ruled=True) is None


def test_without_a_chinese_font_nothing_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "DejaVuSansMono.ttf").write_bytes(b"no font of ours")
    blind = Painter([tmp_path])
    assert not blind.can_draw
    assert blind.draw([["x"]], ruled=False) is None
