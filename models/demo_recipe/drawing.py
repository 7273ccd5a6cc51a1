"""Draws labelled pictures: one to four equal objects of a named colour and shape, or a plain sheet of one colour."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from .backgrounds import background
from .palette import COLOURS, Rgb, distance, mix, shade

SHAPES = ("circle", "square", "triangle", "star")
SHAPES_ZH = ("圆形", "正方形", "三角形", "五角星")
FORMATS = ("png", "jpeg", "webp", "gif")
NO_SHAPE = -1
SIZES = (64, 64, 80, 96, 100, 128, 150, 160, 200, 224, 256, 256, 300, 320, 400, 480, 512, 600, 640, 800, 1024)

Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """What a picture shows: indices into COLOURS and SHAPES; shape is NO_SHAPE and count 0 for a plain sheet."""

    colour: int
    shape: int
    count: int


@dataclass(frozen=True)
class Drawing:
    """A picture, its label, and the outline of each object in coordinates from 0 to 1."""

    image: Image.Image
    label: Label
    outlines: tuple[tuple[Point, ...], ...]


def outline(shape: int, x: float, y: float, radius: float, rng: Random) -> list[Point]:
    """Corner points in pixels of one object around (x, y); radius is that of the circle around it."""
    if shape == 0:
        return [(x + radius * math.cos(a * math.tau / 72), y + radius * math.sin(a * math.tau / 72)) for a in range(72)]
    turn = rng.uniform(0, math.tau) if rng.random() < 0.2 else rng.uniform(-0.15, 0.15) if rng.random() < 0.25 else 0.0
    if shape == 1:
        return _corners(x, y, [radius] * 4, math.pi / 4 + turn)
    if shape == 2:
        return _triangle(x, y, radius, turn, rng)
    inner = radius * (0.382 if rng.random() < 0.4 else rng.uniform(0.34, 0.52))
    return _corners(x, y, [radius, inner] * 5, -math.pi / 2 + turn)


def _corners(x: float, y: float, radii: list[float], start: float) -> list[Point]:
    step = math.tau / len(radii)
    return [(x + r * math.cos(start + i * step), y + r * math.sin(start + i * step)) for i, r in enumerate(radii)]


def _triangle(x: float, y: float, radius: float, turn: float, rng: Random) -> list[Point]:
    """Equilateral, isosceles in its box, right-angled or pointing down."""
    kind = rng.random()
    if kind < 0.4:
        return _corners(x, y, [radius] * 3, -math.pi / 2 + turn)
    if kind < 0.55:
        return _corners(x, y, [radius] * 3, math.pi / 2 + turn)
    half = radius * 0.92
    top = x + half * rng.choice((0.0, 0.0, 0.0, rng.uniform(-0.8, 0.8), -1.0))
    points = [(top, y - half * rng.uniform(0.7, 1.0)), (x + half, y + half * 0.85), (x - half, y + half * 0.85)]
    if rng.random() < 0.25:
        points = [(px, 2 * y - py) for px, py in points]
    return points


def picture_size(rng: Random) -> tuple[int, int]:
    """Width and height in pixels, from 48 to 1100; mostly small, because drawing big ones is slow."""
    if rng.random() < 0.5:
        side = rng.choice(SIZES)
        if side > 512 and rng.random() < 0.5:
            side = rng.choice(SIZES)
    else:
        side = round(math.exp(rng.uniform(math.log(48), math.log(700 if rng.random() < 0.8 else 1100))))
    kind = rng.random()
    if kind < 0.55:
        return side, side
    ratio = rng.choice((0.75, 2 / 3, 9 / 16, 0.5, rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.5)))
    other = max(48, round(side * ratio))
    return (side, other) if kind < 0.78 else (other, side)


def _smallest_radius(width: int, height: int) -> float:
    """Below about ten pixels of radius after the processor's resize (to some 210 × 210 px of area) shapes blur away."""
    return max(5.0, 10.5 * math.sqrt(width * height) / 210)


def _places(width: int, height: int, count: int, rng: Random) -> list[tuple[float, float, float]]:
    """Centre and radius (pixels) of `count` objects that neither touch each other nor leave the picture."""
    if count > 1 and rng.random() < 0.45 and (ordered := _ordered(width, height, count, rng)):
        return ordered
    short = min(width, height)
    least = _smallest_radius(width, height)
    largest = short * (0.49 if count == 1 else (0.36, 0.30, 0.26)[count - 2])
    largest = max(largest, least * 1.05)
    smallest = max(least, short * 0.07)
    for attempt in range(200):
        top = max(smallest, largest * 0.985**attempt)
        radius = math.exp(rng.uniform(math.log(min(smallest, top)), math.log(top)))
        if count == 1 and rng.random() < 0.5:
            radius = rng.uniform(smallest, top)
        found: list[tuple[float, float, float]] = []
        for _ in range(60):
            size = radius * (rng.uniform(0.8, 1.0) if count > 1 and attempt % 2 else 1.0)
            if 2 * size >= short:
                break
            x, y = rng.uniform(size, width - size), rng.uniform(size, height - size)
            if count == 1 and rng.random() < 0.35:
                x, y = width / 2, height / 2
            if all(math.hypot(x - a, y - b) > (size + r) * 1.06 for a, b, r in found):
                found.append((x, y, size))
            if len(found) == count:
                return found
    return _row(width, height, count)


def _ordered(width: int, height: int, count: int, rng: Random) -> list[tuple[float, float, float]]:
    """Objects in a row, a column, a slanted line or a two by two grid; nothing where they would be tiny."""
    kind = rng.random()
    if kind < 0.3:
        cells = rng.sample([(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)], count)
        room = min(width, height) / 4
    else:
        steps = [(i + 0.5) / count for i in range(count)]
        slope = rng.uniform(-0.5, 0.5) if rng.random() < 0.25 else 0.0
        level = 0.5 if rng.random() < 0.6 else rng.uniform(0.3, 0.7)
        down = rng.random() < (0.3 if width >= height else 0.7)
        line = [(step, level + slope * (step - 0.5)) for step in steps]
        cells = [(b, a) for a, b in line] if down else line
        along, across = (height, width) if down else (width, height)
        room = min(along / count / 2, across * min(level, 1 - level))
    radius = room * rng.uniform(0.4, 0.96)
    if radius < _smallest_radius(width, height):
        return []
    jitter = (room - radius) * rng.choice((0.0, 0.0, 0.5))
    return [
        (
            min(max(a * width + rng.uniform(-jitter, jitter), radius), width - radius),
            min(max(b * height + rng.uniform(-jitter, jitter), radius), height - radius),
            radius,
        )
        for a, b in cells
    ]


def _row(width: int, height: int, count: int) -> list[tuple[float, float, float]]:
    """Objects evenly along the longer side."""
    step = max(width, height) / count
    radius = min(step, min(width, height)) * 0.4
    spots = [(i + 0.5) * step for i in range(count)]
    return [(s, height / 2, radius) if width >= height else (width / 2, s, radius) for s in spots]


def _paint(
    image: Image.Image,
    points: list[Point],
    fill: Rgb,
    shape: int,
    rng: Random,
    edge: tuple[Rgb, int] | None,
    hollow: int,
) -> None:
    """One object; `edge` is a contour (colour, pixels), `hollow` a line width in pixels or 0 for a filled object."""
    draw = ImageDraw.Draw(image)
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    box = (min(xs), min(ys), max(xs), max(ys))
    if hollow:
        draw.line([*points, points[0], points[1]], fill=fill, width=hollow, joint="curve")
    elif shape == 0 and rng.random() < 0.8:
        draw.ellipse(box, fill=fill)
    else:
        draw.polygon(points, fill=fill)
    if edge is not None:
        draw.line([*points, points[0], points[1]], fill=edge[0], width=edge[1], joint="curve")


def draw(label: Label, rng: Random, size: tuple[int, int] | None = None) -> Drawing:
    """A new picture of what the label says."""
    width, height = size or picture_size(rng)
    colour = shade(COLOURS[label.colour], rng)
    if label.shape == NO_SHAPE:
        return Drawing(Image.new("RGB", (width, height), colour), label, ())
    scale = rng.choice((2, 3)) if max(width, height) <= 300 and rng.random() < 0.5 else 1
    image = background(width, height, colour, rng)
    if scale > 1:
        image = image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    edge_colour = rng.choice(((0, 0, 0), (0, 0, 0), (255, 255, 255), mix(colour, (0, 0, 0), 0.5), (90, 90, 90)))
    has_edge = rng.random() < 0.1 and distance(edge_colour, colour) > 60
    is_hollow = not has_edge and rng.random() < 0.05
    outlines = []
    for x, y, radius in _places(width * scale, height * scale, label.count, rng):
        fill = mix(colour, shade(COLOURS[label.colour], rng), rng.random()) if rng.random() < 0.03 else colour
        points = outline(label.shape, x, y, radius, rng)
        edge = (edge_colour, max(1, round(radius * rng.uniform(0.03, 0.1)))) if has_edge else None
        hollow = max(3, round(radius * rng.uniform(0.16, 0.3))) if is_hollow and radius / scale > 14 else 0
        _paint(image, points, fill, label.shape, rng, edge, hollow)
        outlines.append(tuple((px / width / scale, py / height / scale) for px, py in points))
    if scale > 1:
        image = image.resize((width, height), rng.choice((Image.Resampling.BOX, Image.Resampling.LANCZOS)))
    return Drawing(image, label, tuple(outlines))


def encode(image: Image.Image, file_format: str, rng: Random) -> bytes:
    """The picture as a file's bytes in png, jpeg, webp or gif."""
    buffer = io.BytesIO()
    if file_format == "jpeg":
        image.save(buffer, "JPEG", quality=rng.randint(45, 95))
    elif file_format == "webp":
        image.save(buffer, "WEBP", quality=rng.randint(45, 95), method=0)
    else:
        image.save(buffer, file_format.upper())
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    """First frame of an encoded picture as RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def random_label(rng: Random, plain_share: float = 0.05) -> Label:
    """Half single objects, half counts of two to four; `plain_share` are sheets of one colour without an object."""
    colour = rng.randrange(len(COLOURS))
    if rng.random() < plain_share:
        return Label(colour, NO_SHAPE, 0)
    count = 1 if rng.random() < 0.45 else rng.randint(2, 4)
    shape = rng.choices(range(4), (1.1, 1.1, 1.1, 1.2))[0]
    return Label(colour, shape, count)
