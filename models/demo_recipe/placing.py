"""Where a drawing's objects lie: sizes of pictures, objects in rows and grids, strewn apart, or crowded together."""

from __future__ import annotations

import math
from random import Random

SIZES = (64, 64, 80, 96, 100, 128, 150, 160, 200, 224, 256, 256, 300, 320, 400, 480, 512, 600, 640, 800, 1024)
# How near to each other crowded objects may come, as a share of their radii's sum: circle, square, triangle, star.
NEAREST = (0.84, 0.76, 0.70, 0.74)

Place = tuple[float, float, float]


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


def places(width: int, height: int, shape: int, count: int, rng: Random) -> tuple[list[Place], bool]:
    """Centre and radius (pixels) of `count` objects inside the picture, and whether some may touch or overlap."""
    if count > 1:
        kind = rng.random()
        if kind < 0.33 and (ordered := _ordered(width, height, count, rng)):
            return ordered, False
        if kind > 0.66 and (crowd := _crowd(width, height, NEAREST[shape], count, rng)):
            return crowd, True
    return _strewn(width, height, count, rng), False


def _largest_radius(width: int, height: int, count: int) -> float:
    short = min(width, height)
    return max(short * (0.49, 0.36, 0.30, 0.26)[count - 1], _smallest_radius(width, height) * 1.05)


def _strewn(width: int, height: int, count: int, rng: Random) -> list[Place]:
    """Objects that neither touch each other nor leave the picture."""
    short = min(width, height)
    least, largest = _smallest_radius(width, height), _largest_radius(width, height, count)
    smallest = max(least, short * 0.07)
    spread = rng.choice((1.0, 0.8, 0.5)) if count > 1 else 1.0
    for attempt in range(200):
        top = max(smallest, largest * 0.985**attempt)
        radius = math.exp(rng.uniform(math.log(min(smallest, top)), math.log(top)))
        if count == 1 and rng.random() < 0.5:
            radius = rng.uniform(smallest, top)
        found: list[Place] = []
        for _ in range(60):
            size = max(min(least, radius), radius * rng.uniform(spread, 1.0))
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


def _crowd(width: int, height: int, nearest: float, count: int, rng: Random) -> list[Place]:
    """Objects of different sizes, each beside an earlier one, close by, touching or slightly over it."""
    least, largest = _smallest_radius(width, height), _largest_radius(width, height, count)
    loose = rng.choice((1.0, 1.15, 1.4))
    for _ in range(40):
        radius = rng.uniform(least, largest)
        sizes = [max(least, radius * rng.uniform(0.5, 1.0)) for _ in range(count)]
        found = [(rng.uniform(sizes[0], width - sizes[0]), rng.uniform(sizes[0], height - sizes[0]), sizes[0])]
        for size in sizes[1:] * 6:
            a, b, r = rng.choice(found)
            far, way = (size + r) * rng.uniform(nearest, loose), rng.uniform(0, math.tau)
            x, y = a + far * math.cos(way), b + far * math.sin(way)
            inside = size <= x <= width - size and size <= y <= height - size
            if inside and all(math.hypot(x - a, y - b) >= (size + r) * nearest * 0.999 for a, b, r in found):
                found.append((x, y, size))
            if len(found) == count:
                return found
    return []


def _ordered(width: int, height: int, count: int, rng: Random) -> list[Place]:
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


def _row(width: int, height: int, count: int) -> list[Place]:
    """Objects evenly along the longer side."""
    step = max(width, height) / count
    radius = min(step, min(width, height)) * 0.4
    spots = [(i + 0.5) * step for i in range(count)]
    return [(s, height / 2, radius) if width >= height else (width / 2, s, radius) for s in spots]
