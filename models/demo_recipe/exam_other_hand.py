"""Exam pictures by another hand: distance fields instead of polygons, sizes mixed in one picture, strokes, shadows,
objects that touch or slightly overlap, and grounds of paper, squared sheets, washes and speckle.

Nothing here is shared with the drawer of training but the labels, so a score on these says what the eye makes of
drawings it was not taught with. A person counts every one of them without hesitation: see `LEAST` and `CLOSE`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .drawing import FORMATS, Label, encode
from .exam_drawings import ExamPicture
from .palette import COLOURS, Rgb, distance

Field = NDArray[np.float32]

CRAYONS: dict[str, tuple[Rgb, ...]] = {
    "red": ((229, 26, 30), (196, 18, 34), (250, 32, 20)),
    "green": ((26, 148, 56), (66, 190, 72), (10, 110, 44)),
    "blue": ((24, 84, 214), (40, 120, 240), (16, 40, 150)),
    "yellow": ((254, 222, 24), (252, 236, 62), (248, 226, 0)),
    "black": ((18, 17, 20), (28, 26, 28), (4, 4, 6)),
    "white": ((254, 254, 252), (248, 249, 250), (255, 252, 250)),
    "purple": ((122, 32, 160), (150, 60, 190), (98, 20, 140)),
    "orange": ((250, 138, 16), (255, 150, 40), (244, 126, 4)),
}
GROUNDS: tuple[Rgb, ...] = (
    (246, 240, 222), (226, 232, 238), (206, 198, 182), (150, 160, 168), (96, 104, 112), (44, 48, 58),
    (188, 214, 190), (236, 206, 204), (120, 92, 70), (70, 110, 130), (252, 252, 250),
)  # fmt: skip
SIZES = ((90, 120), (140, 140), (176, 144), (220, 220), (330, 250), (280, 420), (450, 450), (560, 400), (720, 540))
LEAST = 0.058  # the smallest radius, as a share of the square root of the picture's area
CLOSE = {0: 0.86, 1: 0.80, 2: 0.74, 3: 0.80}  # overlapping centres are at least this share of the radii's sum apart


@dataclass(frozen=True)
class _Thing:
    """One object: centre, radius of the circle around it (pixels) and its turn (radians)."""

    x: float
    y: float
    r: float
    turn: float


def _star_field(x: Field, y: Field, r: float, inner: float) -> Field:
    """Signed distance (pixels, inside negative) to a five-pointed star, one point up: fold into one half-wedge."""
    angle = np.arctan2(x, -y)
    wedge = math.tau / 5
    angle = np.abs((angle + wedge / 2) % wedge - wedge / 2)
    reach = np.hypot(x, y)
    px, py = reach * np.cos(angle), reach * np.sin(angle)
    ax, ay = r, 0.0
    bx, by = r * inner * math.cos(wedge / 2), r * inner * math.sin(wedge / 2)
    return _edge(px, py, ax, ay, bx, by)


def _edge(px: Field, py: Field, ax: float, ay: float, bx: float, by: float) -> Field:
    """Signed distance to a segment a–b whose inside lies towards the origin."""
    ex, ey = bx - ax, by - ay
    along = np.clip(((px - ax) * ex + (py - ay) * ey) / (ex * ex + ey * ey), 0, 1)
    near = np.hypot(px - ax - along * ex, py - ay - along * ey)
    side = ex * (py - ay) - ey * (px - ax)
    inside = ex * (0 - ay) - ey * (0 - ax)
    return np.asarray(np.where(side * inside > 0, -near, near), dtype=np.float32)


def _field(shape: int, thing: _Thing, across: Field, down: Field, inner: float) -> Field:
    """Signed distance in pixels of a whole sheet to one object."""
    cos, sin = math.cos(thing.turn), math.sin(thing.turn)
    dx, dy = across - thing.x, down - thing.y
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    if shape == 0:
        return np.asarray(np.hypot(x, y) - thing.r, dtype=np.float32)
    if shape == 1:
        half = thing.r / math.sqrt(2)
        qx, qy = np.abs(x) - half, np.abs(y) - half
        outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
        return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0), dtype=np.float32)
    if shape == 2:
        walls = [x * math.sin(a) - y * math.cos(a) for a in (math.pi, math.pi / 3, -math.pi / 3)]
        return np.asarray(np.maximum.reduce(walls) - thing.r / 2, dtype=np.float32)
    return _star_field(x, y, thing.r, inner)


def _places(label: Label, width: int, height: int, closeness: float, rng: Random) -> list[_Thing]:
    """Objects of mixed sizes whose centres are at least `closeness` × the sum of their radii apart; the first pair
    stands just so far apart where `closeness` is one or less."""
    short, least = min(width, height), LEAST * math.sqrt(width * height)
    most = max(least * 1.1, short * (0.4, 0.3, 0.25, 0.22)[label.count - 1])
    slant = rng.choice((0.0, rng.uniform(0, math.tau)))
    for _ in range(4000):
        base = rng.uniform(least, most)
        things: list[_Thing] = []
        for _ in range(60):
            r = min(max(least, base * rng.uniform(0.62, 1.12)), short * 0.47)
            x, y = rng.uniform(r, width - r), rng.uniform(r, height - r)
            if len(things) == 1 and closeness <= 1:
                way, gap = rng.uniform(0, math.tau), (things[0].r + r) * closeness
                x, y = things[0].x + gap * math.cos(way), things[0].y + gap * math.sin(way)
                if not (r <= x <= width - r and r <= y <= height - r):
                    continue
            if all(math.hypot(x - o.x, y - o.y) >= (r + o.r) * closeness * 0.999 for o in things):
                things.append(_Thing(x, y, r, slant + rng.gauss(0, 0.12)))
            if len(things) == label.count:
                return things
    raise AssertionError("four small objects fit on every sheet")


def _cloud(width: int, height: int, cells: int, rng: Random) -> Field:
    """Soft blobs in −1..1 of shape (height, width), about `cells` across."""
    generator = np.random.default_rng(rng.randrange(2**32))
    small = Image.fromarray(generator.integers(0, 256, (cells, cells), dtype=np.uint8))
    soft = small.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(soft, dtype=np.float32) / 127.5 - 1


def _ground(width: int, height: int, fill: Rgb, rng: Random) -> Field:
    """A sheet (height, width, 3): paper, squared paper, a wash between two tones, speckle, or a vignette."""
    far = [tone for tone in GROUNDS if distance(tone, fill) > 130]
    tone = np.array(rng.choice(far), dtype=np.float32)
    sheet = np.broadcast_to(tone, (height, width, 3)).copy()
    kind = rng.randrange(5)
    if kind == 0:
        sheet += _cloud(width, height, 9, rng)[..., None] * 9 + _cloud(width, height, 70, rng)[..., None] * 6
    elif kind == 1:
        pitch, ink = max(6, round(min(width, height) / rng.uniform(7, 14))), rng.uniform(14, 30)
        dark = 1 if tone.mean() > 128 else -1
        sheet[::pitch] -= dark * ink
        sheet[:, ::pitch] -= dark * ink
    elif kind == 2:
        other = rng.choice([t for t in far if distance(t, (round(tone[0]), round(tone[1]), round(tone[2]))) < 190])
        share = (_cloud(width, height, 3, rng) + 1) / 2
        mixed = tone + share[..., None] * 0.7 * (np.array(other, dtype=np.float32) - tone)
        clear = np.linalg.norm(mixed - np.array(fill, dtype=np.float32), axis=-1).min() > 100
        sheet = mixed if clear else sheet
    elif kind == 3:
        generator = np.random.default_rng(rng.randrange(2**32))
        spots = generator.random((height, width)) < 0.02
        sheet[spots] += generator.choice((-45.0, 45.0))
    else:
        rim = np.hypot(np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None])
        sheet *= (1.04 - 0.16 * rim[..., None] ** 2).astype(np.float32)
    return np.asarray(sheet, dtype=np.float32)


def _lay(sheet: Field, colour: Field, cover: Field) -> None:
    sheet += cover[..., None] * (colour - sheet)


def by_another_hand(label: Label, size: tuple[int, int], rng: Random) -> Image.Image:
    """The picture; a third with objects that touch, a third with some that overlap slightly."""
    width, height = size
    fill = rng.choice(CRAYONS[COLOURS[label.colour]])
    sheet = _ground(width, height, fill, rng)
    crowding = rng.randrange(3)
    closeness = (1.12, 1.0, rng.uniform(CLOSE[label.shape], 0.95))[crowding]
    things = _places(label, width, height, closeness, rng)
    across, down = np.meshgrid(np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5)
    # Where equal colours overlap, a stroke tells the objects apart, as whoever draws such a picture sees to.
    has_stroke = crowding == 2 or rng.random() < 0.4
    ink = np.array((250, 250, 250) if sum(fill) < 240 else (36, 30, 34), dtype=np.float32)
    if label.colour == COLOURS.index("black"):
        ink = np.array((178, 178, 184), dtype=np.float32)
    has_shadow, has_light, inner = rng.random() < 0.3, rng.random() < 0.3, rng.uniform(0.4, 0.48)
    rounding = rng.choice((0.0, 0.0, 0.06))
    for thing in things:
        depth = _field(label.shape, thing, across, down, inner) - rounding * thing.r
        if has_shadow:
            slipped = _Thing(thing.x + 0.1 * thing.r, thing.y + 0.12 * thing.r, thing.r, thing.turn)
            far = _field(label.shape, slipped, across, down, inner)
            _lay(sheet, sheet * 0.6, np.clip(0.5 - far / (0.14 * thing.r), 0, 1) * 0.7)
        tint = np.broadcast_to(np.array(fill, dtype=np.float32), sheet.shape)
        if has_light:
            tint = tint * (1 + 0.09 * np.clip((thing.y - down) / thing.r, -1, 1))[..., None]
        _lay(sheet, np.asarray(tint, dtype=np.float32), np.clip(0.5 - depth, 0, 1))
        if has_stroke:
            half = max(0.8, thing.r * 0.045)
            _lay(sheet, ink, np.clip(0.5 + half - np.abs(depth), 0, 1))
    image = Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.6)) if rng.random() < 0.25 else image


def other_hand_picture(rng: Random, count: int, index: int) -> ExamPicture:
    """A new picture; sizes and formats take turns with `index`."""
    label = Label(rng.randrange(8), rng.randrange(4), count)
    size, file_format = SIZES[index % len(SIZES)], FORMATS[index // 3 % len(FORMATS)]
    return ExamPicture(encode(by_another_hand(label, size, rng), file_format, rng), label, size, file_format)
