"""Backgrounds for drawings: plain, gradient, noisy, striped; every one keeps away from the object's colour."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .palette import Rgb, any_colour, distance, mix

PLAIN: tuple[Rgb, ...] = (
    (255, 255, 255),
    (255, 255, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 128, 128),
    (200, 200, 200),
    (240, 240, 240),
    (220, 220, 220),
    (173, 216, 230),
    (245, 245, 220),
    (255, 228, 225),
    (64, 64, 64),
    (30, 30, 60),
)


def _far(colour: Rgb, background: tuple[Rgb, ...], least: float) -> bool:
    return all(distance(colour, other) >= least for other in background)


def _choose(colour: Rgb, how_many: int, least: float, rng: Random) -> tuple[Rgb, ...]:
    """Background colours at least `least` RGB units from the object's colour, blends between them included."""
    for _ in range(40):
        picked = [rng.choice(PLAIN) if rng.random() < 0.5 else any_colour(rng) for _ in range(how_many)]
        if how_many == 2 and rng.random() < 0.5:
            picked[1] = mix(picked[0], picked[1], rng.uniform(0.1, 0.6))
        between = [mix(picked[0], picked[-1], step / 4) for step in (1, 2, 3)] if how_many == 2 else []
        if _far(colour, tuple(picked + between), least):
            return tuple(picked)
    safe: Rgb = (128, 128, 128) if distance(colour, (128, 128, 128)) > 120 else (255, 255, 255)
    if distance(colour, safe) < 120:
        safe = (0, 0, 0)
    return (safe,) * how_many


def _ramp(width: int, height: int, rng: Random) -> NDArray[np.float32]:
    """A 0..1 field of shape (height, width): linear in a random direction, or radial."""
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    if rng.random() < 0.2:
        field = np.hypot(across - rng.random(), down - rng.random())
    else:
        weight = rng.choice((0.0, 1.0, rng.random()))
        field = weight * across + (1 - weight) * down
        if rng.random() < 0.5:
            field = 1 - field
    field = field - field.min()
    return np.asarray(field / max(float(field.max()), 1e-6), dtype=np.float32)


def _stripes(width: int, height: int, rng: Random) -> NDArray[np.float32]:
    """A 0/1 field of shape (height, width): stripes, checks or two halves."""
    period = rng.uniform(0.04, 0.6) * max(width, height)
    across = (np.arange(width, dtype=np.float32) // period % 2)[None, :]
    down = (np.arange(height, dtype=np.float32) // period % 2)[:, None]
    kind = rng.randrange(3)
    if kind == 0:
        field = np.broadcast_to(across, (height, width))
    elif kind == 1:
        field = np.broadcast_to(down, (height, width))
    else:
        field = (across + down) % 2
    return np.asarray(field, dtype=np.float32)


def _blend(field: NDArray[np.float32], first: Rgb, second: Rgb) -> NDArray[np.float32]:
    low, high = np.array(first, dtype=np.float32), np.array(second, dtype=np.float32)
    return low + field[..., None] * (high - low)


def _noise(width: int, height: int, rng: Random) -> NDArray[np.float32]:
    """Noise of shape (height, width, 3), fine or in blobs, up to 30 grey levels of standard deviation."""
    generator = np.random.default_rng(rng.randrange(2**32))
    channels = rng.choice((1, 3))
    scale = rng.choice((1, 1, 1, 2, 4, 8))
    shape = (max(1, height // scale), max(1, width // scale), channels)
    grain = generator.standard_normal(shape, dtype=np.float32) * rng.uniform(4, 30)
    if scale > 1:
        grain = np.repeat(np.repeat(grain, scale, axis=0), scale, axis=1)
        grain = np.pad(
            grain, ((0, max(0, height - grain.shape[0])), (0, max(0, width - grain.shape[1])), (0, 0)), "edge"
        )
    return np.broadcast_to(grain[:height, :width], (height, width, 3))


def _blobs(width: int, height: int, rng: Random) -> NDArray[np.float32]:
    """A soft 0..1 field of shape (height, width): patches of light and shade of any size."""
    generator = np.random.default_rng(rng.randrange(2**32))
    cells = rng.choice(((2, 2), (3, 2), (4, 5), (8, 8), (16, 12), (40, 40)))
    coarse = Image.fromarray(generator.integers(0, 256, cells, dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / np.float32(255)


def _scrawl(image: Image.Image, colour: Rgb, rng: Random) -> None:
    """Thin straight lines, loose or in parallel, or dots; faint against the ground and far from the object's colour."""
    painter = ImageDraw.Draw(image)
    width, height = image.size
    red, green, blue = np.asarray(image)[0, 0].tolist()
    ink = mix((red, green, blue), any_colour(rng), rng.uniform(0.1, 0.5))
    if distance(ink, colour) < 85:
        return
    long, thick = max(width, height), max(1, round(min(width, height) * rng.uniform(0.003, 0.012)))
    kind, step = rng.randrange(3), long * rng.uniform(0.04, 0.2)
    if kind == 0:
        for _ in range(rng.randint(2, 14)):
            ends = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(2)]
            painter.line(ends, fill=ink, width=thick)
    elif kind == 1:
        lean = rng.choice((0.0, 0.0, rng.uniform(-1, 1)))
        flat = rng.random() < 0.6
        for i in range(-25, 50):
            a, b = i * step, i * step + lean * long
            painter.line([(0, a), (long, b)] if flat else [(a, 0), (b, long)], fill=ink, width=thick)
    else:
        dot = step * rng.uniform(0.05, 0.15)
        for i in range(int(width / step) + 1):
            for j in range(int(height / step) + 1):
                x, y = i * step, j * step
                painter.ellipse((x - dot, y - dot, x + dot, y + dot), fill=ink)


def background(width: int, height: int, colour: Rgb, rng: Random) -> Image.Image:
    """An RGB picture of width × height pixels on which an object of `colour` stays visible."""
    image = _ground(width, height, colour, rng)
    if rng.random() < 0.12:
        _scrawl(image, colour, rng)
    return image


def _ground(width: int, height: int, colour: Rgb, rng: Random) -> Image.Image:
    kind = rng.random()
    if kind < 0.4:
        return Image.new("RGB", (width, height), _choose(colour, 1, 75, rng)[0])
    if kind < 0.7:
        first, second = _choose(colour, 2, 85, rng)
        field = _blobs(width, height, rng) if rng.random() < 0.35 else _ramp(width, height, rng)
        pixels = _blend(field, first, second)
        if rng.random() < 0.25:
            pixels = pixels + _noise(width, height, rng)
    elif kind < 0.92:
        first = _choose(colour, 1, 115, rng)[0]
        pixels = np.array(first, dtype=np.float32) + _noise(width, height, rng)
    else:
        first, second = _choose(colour, 2, 95, rng)
        if rng.random() < 0.6:
            second = mix(first, second, 0.3)
        pixels = _blend(_stripes(width, height, rng), first, second)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
