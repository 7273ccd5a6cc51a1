"""Pictures for tests, drawn as a stranger would draw them: not by the recipe the demo learned from."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "红": (255, 0, 0),
    "绿": (0, 160, 0),
    "蓝": (0, 0, 255),
    "黄": (255, 255, 0),
    "黑": (0, 0, 0),
    "紫": (128, 0, 128),
    "橙": (255, 140, 0),
}


def picture(
    colour: tuple[int, int, int] = (255, 0, 0),
    shape: str = "circle",
    size: tuple[int, int] = (256, 256),
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """One object in the middle, half as wide as the shorter side."""
    image = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(image)
    x, y, r = size[0] / 2, size[1] / 2, min(size) / 4
    drawers: dict[str, Callable[[], None]] = {
        "circle": lambda: draw.ellipse((x - r, y - r, x + r, y + r), fill=colour),
        "square": lambda: draw.rectangle((x - r, y - r, x + r, y + r), fill=colour),
        "triangle": lambda: draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour),
        "star": lambda: draw.polygon(_star(x, y, r), fill=colour),
    }
    drawers[shape]()
    return image


def _star(x: float, y: float, r: float) -> list[tuple[float, float]]:
    return [
        (
            x + (r if i % 2 == 0 else r * 0.4) * math.sin(math.pi * i / 5),
            y - (r if i % 2 == 0 else r * 0.4) * math.cos(math.pi * i / 5),
        )
        for i in range(10)
    ]


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def base64_picture(colour: tuple[int, int, int] = (255, 0, 0), shape: str = "circle") -> str:
    return base64_of(encoded(picture(colour, shape)))
