"""Pictures of the exam: half in a plain style that training never uses, half by the drawer with fresh seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from .drawing import FORMATS, Label, draw, encode
from .palette import COLOURS, Rgb, distance

PURE: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (237, 28, 36)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 177, 76)),
    "blue": ((0, 0, 255), (63, 72, 204)),
    "yellow": ((255, 255, 0), (255, 242, 0)),
    "black": ((0, 0, 0), (15, 15, 15)),
    "white": ((255, 255, 255), (252, 252, 252)),
    "purple": ((128, 0, 128), (163, 73, 164)),
    "orange": ((255, 165, 0), (255, 127, 39)),
}
SHEETS: tuple[Rgb, ...] = ((255, 255, 255), (190, 190, 190), (0, 0, 0), (173, 216, 230), (250, 240, 230), (70, 80, 90))
SIZES = (
    (64, 64),
    (100, 100),
    (128, 128),
    (200, 200),
    (256, 256),
    (300, 200),
    (360, 360),
    (512, 512),
    (640, 480),
    (480, 720),
    (1024, 768),
    (1024, 1024),
)


@dataclass(frozen=True)
class ExamPicture:
    """An encoded picture with what it shows and how it was made."""

    data: bytes
    label: Label
    size: tuple[int, int]
    file_format: str


def _object(painter: ImageDraw.ImageDraw, shape: int, x: float, y: float, r: float, fill: Rgb) -> None:
    """Ellipse, rectangle, triangle or star exactly as a short script would draw it."""
    if shape == 0:
        painter.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == 1:
        painter.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == 2:
        painter.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    else:
        points = []
        for i in range(10):
            reach = r if i % 2 == 0 else r * 0.4
            angle = math.radians(-90 + 36 * i)
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        painter.polygon(points, fill=fill)


def _plain(label: Label, size: tuple[int, int], rng: Random) -> Image.Image:
    width, height = size
    fill = rng.choice(PURE[COLOURS[label.colour]])
    sheet = rng.choice([colour for colour in SHEETS if distance(colour, fill) > 90])
    image = Image.new("RGB", size, sheet)
    painter = ImageDraw.Draw(image)
    short = min(size)
    if label.count == 1:
        r = short * rng.uniform(0.12, 0.42)
        _object(painter, label.shape, rng.uniform(r, width - r), rng.uniform(r, height - r), r, fill)
        return image
    cells = [(i, j) for i in range(2) for j in range(2)]
    r = short * rng.uniform(0.11, 0.2)
    for i, j in rng.sample(cells, label.count):
        x, y = width * (0.25 + 0.5 * i), height * (0.25 + 0.5 * j)
        _object(
            painter, label.shape, x + rng.uniform(-0.03, 0.03) * short, y + rng.uniform(-0.03, 0.03) * short, r, fill
        )
    return image


def exam_picture(rng: Random, count: int = 1, colour: int | None = None, index: int | None = None) -> ExamPicture:
    """A new picture; sizes and formats take turns with `index`."""
    label = Label(rng.randrange(8) if colour is None else colour, rng.randrange(4), count)
    number = rng.randrange(1000) if index is None else index
    size = SIZES[number % len(SIZES)]
    file_format = FORMATS[number // 2 % len(FORMATS)]
    image = _plain(label, size, rng) if rng.random() < 0.5 else draw(label, rng, size).image
    return ExamPicture(encode(image, file_format, rng), label, size, file_format)
