"""Formulas as pictures: what can be read is drawn; what cannot be drawn, or not soon, is left to words."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from qqvl_server.media import formulas


def picture(png: bytes | None) -> Image.Image:
    assert png is not None
    image = Image.open(io.BytesIO(png))
    image.load()
    return image.convert("L")


def test_a_formula_is_drawn_dark_on_white_with_room_around_it() -> None:
    wide = picture(formulas.draw(r"f(x)=\begin{cases}x^2 & x>0\\ -x & x<0\end{cases} = \sum_{n=1}^{9}\frac{1}{n^2}"))
    tones = wide.histogram()
    assert sum(tones[:40]) > 100
    assert tones[255] > sum(tones[:255])
    border = [wide.getpixel((x, y)) for x in range(wide.width) for y in (0, wide.height - 1)]
    assert set(border) == {255}
    assert wide.width > picture(formulas.draw(r"\pi")).width


@pytest.mark.parametrize("latex", [
    "", " ", r"\frac{1}{", "x < y & z", r"\text{否则}", r"\rule{99999em}{1em}", r"\alpha" * 200,
    r"\text{<script>&amp;</script>}", r"\def\a{xx}\def\b{\a\a}\def\c{\b\b}\c",
])  # fmt: skip
def test_what_cannot_be_drawn_is_none(latex: str) -> None:
    assert formulas.draw(latex) is None


def test_one_that_would_take_for_ever_is_given_up() -> None:
    assert formulas.draw(r"\sqrt{" * 30 + "x" + "}" * 30, patience_s=1) is None
