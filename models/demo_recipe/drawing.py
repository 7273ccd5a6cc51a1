"""Draws labelled pictures: one to four equal objects of a named colour and shape, or a plain sheet of one colour."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from .backgrounds import background
from .palette import COLOURS, Rgb, any_colour, distance, mix, shade
from .placing import picture_size, places

SHAPES = ("circle", "square", "triangle", "star")
SHAPES_ZH = ("圆形", "正方形", "三角形", "五角星")
FORMATS = ("png", "jpeg", "webp", "gif")
NO_SHAPE = -1

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


def outline(shape: int, x: float, y: float, radius: float, tilt: float, rng: Random) -> list[Point]:
    """Corner points in pixels of one object around (x, y); radius is that of the circle around it, tilt in radians."""
    if shape == 0:
        return [(x + radius * math.cos(a * math.tau / 72), y + radius * math.sin(a * math.tau / 72)) for a in range(72)]
    if shape == 1:
        return _corners(x, y, [radius] * 4, math.pi / 4 + tilt)
    if shape == 2:
        return _triangle(x, y, radius, tilt, rng)
    inner = radius * (0.382 if rng.random() < 0.4 else rng.uniform(0.34, 0.52))
    return _corners(x, y, [radius, inner] * 5, -math.pi / 2 + tilt)


def _corners(x: float, y: float, radii: list[float], start: float) -> list[Point]:
    step = math.tau / len(radii)
    return [(x + r * math.cos(start + i * step), y + r * math.sin(start + i * step)) for i, r in enumerate(radii)]


def _triangle(x: float, y: float, radius: float, tilt: float, rng: Random) -> list[Point]:
    """Equilateral, isosceles in its box, right-angled or pointing down."""
    kind = rng.random()
    if kind < 0.4:
        return _corners(x, y, [radius] * 3, -math.pi / 2 + tilt)
    if kind < 0.55:
        return _corners(x, y, [radius] * 3, math.pi / 2 + tilt)
    half = radius * 0.92
    top = x + half * rng.choice((0.0, 0.0, 0.0, rng.uniform(-0.8, 0.8), -1.0))
    points = [(top, y - half * rng.uniform(0.7, 1.0)), (x + half, y + half * 0.85), (x - half, y + half * 0.85)]
    if rng.random() < 0.25:
        points = [(px, 2 * y - py) for px, py in points]
    return points


@dataclass(frozen=True)
class Style:
    """How the objects of one picture are painted.

    edge: colour of a contour or None, edge_width and hollow (a line instead of a filled object): shares of the radius,
    0 for none; shadow, light: shares of the fill given to black beside and inside the object; tilt, wobble: radians;
    motley: share of a second shade that each object may take.
    """

    edge: Rgb | None
    edge_width: float
    hollow: float
    shadow: float
    light: float
    tilt: float
    wobble: float
    motley: float


def style(colour: Rgb, is_crowded: bool, rng: Random) -> Style:
    """A random style; crowded objects mostly have a contour or shades of their own."""
    edges: tuple[Rgb, ...] = (
        (0, 0, 0), (255, 255, 255), (90, 90, 90), any_colour(rng),
        mix(colour, (0, 0, 0), 0.5), mix(colour, (255, 255, 255), 0.6),
    )  # fmt: skip
    edge = rng.choice(edges)
    has_edge = rng.random() < (0.65 if is_crowded else 0.25) and distance(edge, colour) > 60
    if not has_edge and rng.random() < 0.05:
        has_edge, edge = True, colour  # rounds the corners
    kind = rng.random()
    tilt = 0.0 if kind < 0.5 else rng.uniform(-0.3, 0.3) if kind < 0.75 else rng.uniform(0, math.tau)
    return Style(
        edge=edge if has_edge else None,
        edge_width=rng.uniform(0.02, 0.13),
        hollow=rng.uniform(0.16, 0.3) if not has_edge and rng.random() < (0.02 if is_crowded else 0.06) else 0.0,
        shadow=rng.uniform(0.2, 0.6) if rng.random() < 0.12 else 0.0,
        light=rng.uniform(0.05, 0.2) if rng.random() < 0.15 else 0.0,
        tilt=tilt,
        wobble=rng.choice((0.0, 0.0, 0.06, 0.3, 3.0)),
        motley=rng.uniform(0.2, 1.0) if rng.random() < (0.3 if is_crowded else 0.04) else 0.0,
    )


def _shade_under(image: Image.Image, points: list[Point], share: float, shift: float, rng: Random) -> None:
    """A shadow: the same outline, `shift` pixels beside it, darkens what is there."""
    dx, dy = rng.choice((-1, 1)) * shift, rng.uniform(0.3, 1) * shift
    left, top = math.floor(min(p[0] for p in points) + dx), math.floor(min(p[1] for p in points) + dy)
    right, low = math.ceil(max(p[0] for p in points) + dx), math.ceil(max(p[1] for p in points) + dy)
    mask = Image.new("L", (right - left + 1, low - top + 1), 0)
    ImageDraw.Draw(mask).polygon([(x + dx - left, y + dy - top) for x, y in points], fill=round(255 * share))
    image.paste((0, 0, 0), (left, top), mask)


def _light_over(image: Image.Image, points: list[Point], fill: Rgb, share: float, rng: Random) -> None:
    """The object again, lit from one side: its shade runs from `fill` to a darker or lighter one."""
    left, top = math.floor(min(p[0] for p in points)), math.floor(min(p[1] for p in points))
    box = (math.ceil(max(p[0] for p in points)) - left + 1, math.ceil(max(p[1] for p in points)) - top + 1)
    ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(box)
    other = mix(fill, rng.choice(((0, 0, 0), (255, 255, 255))), share)
    mask = Image.new("L", box, 0)
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], fill=255)
    image.paste(Image.composite(Image.new("RGB", box, other), Image.new("RGB", box, fill), ramp), (left, top), mask)


def _paint(
    image: Image.Image, points: list[Point], fill: Rgb, shape: int, radius: float, how: Style, rng: Random
) -> None:
    """One object in its style; `radius` in pixels."""
    painter = ImageDraw.Draw(image)
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if how.shadow:
        _shade_under(image, points, how.shadow, radius * rng.uniform(0.06, 0.2), rng)
    if how.hollow and radius > 14:
        painter.line(
            [*points, points[0], points[1]], fill=fill, width=max(3, round(radius * how.hollow)), joint="curve"
        )
    elif shape == 0 and rng.random() < 0.8:
        painter.ellipse((min(xs), min(ys), max(xs), max(ys)), fill=fill)
    else:
        painter.polygon(points, fill=fill)
    if how.light and not how.hollow:
        _light_over(image, points, fill, how.light, rng)
    if how.edge is not None:
        width = max(1, round(radius * how.edge_width))
        painter.line([*points, points[0], points[1]], fill=how.edge, width=width, joint="curve")


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
    objects, is_crowded = places(width * scale, height * scale, label.shape, label.count, rng)
    how = style(colour, is_crowded, rng)
    outlines = []
    for x, y, radius in objects:
        fill = mix(colour, shade(COLOURS[label.colour], rng), how.motley * rng.random()) if how.motley else colour
        points = outline(label.shape, x, y, radius, how.tilt + rng.uniform(-how.wobble, how.wobble), rng)
        _paint(image, points, fill, label.shape, radius, how, rng)
        outlines.append(tuple((px / width / scale, py / height / scale) for px, py in points))
    if scale > 1:
        image = image.resize((width, height), rng.choice((Image.Resampling.BOX, Image.Resampling.LANCZOS)))
    if rng.random() < 0.08:
        image = image.filter(ImageFilter.GaussianBlur(max(width, height) / 210 * rng.uniform(0.3, 0.8)))
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
    """Two in five single objects, else two to four; `plain_share` are sheets of one colour without an object."""
    colour = rng.randrange(len(COLOURS))
    if rng.random() < plain_share:
        return Label(colour, NO_SHAPE, 0)
    count = 1 if rng.random() < 0.4 else rng.randint(2, 4)
    shape = rng.choices(range(4), (1.1, 1.1, 1.1, 1.2))[0]
    return Label(colour, shape, count)
