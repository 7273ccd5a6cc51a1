"""Colours the demo can name: class order, exact anchors, shade ranges, and the distance that keeps objects visible."""

from __future__ import annotations

import colorsys
import math
from random import Random

Rgb = tuple[int, int, int]

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")
COLOURS_ZH = ("红", "绿", "蓝", "黄", "黑", "白", "紫", "橙")

ANCHORS: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (255, 0, 0), (220, 20, 20), (200, 0, 0), (178, 34, 34), (139, 0, 0), (230, 40, 40)),
    "green": ((0, 128, 0), (0, 255, 0), (0, 200, 0), (34, 139, 34), (50, 205, 50), (0, 100, 0), (46, 160, 67)),
    "blue": ((0, 0, 255), (0, 0, 255), (30, 60, 220), (0, 0, 139), (30, 144, 255), (65, 105, 225), (0, 0, 205)),
    "yellow": ((255, 255, 0), (255, 255, 0), (255, 215, 0), (255, 230, 0), (240, 230, 40), (250, 220, 20)),
    "black": ((0, 0, 0), (0, 0, 0), (10, 10, 10), (20, 20, 20), (30, 30, 30)),
    "white": ((255, 255, 255), (255, 255, 255), (250, 250, 250), (245, 245, 245)),
    "purple": (
        (128, 0, 128),
        (128, 0, 128),
        (160, 32, 240),
        (148, 0, 211),
        (75, 0, 130),
        (138, 43, 226),
        (150, 50, 200),
    ),
    "orange": ((255, 165, 0), (255, 165, 0), (255, 140, 0), (255, 128, 0), (250, 150, 30), (245, 130, 10)),
}

# Hue in degrees, saturation and value in 0..1; the gaps between ranges are shades people do not agree on.
RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-8, 8), (0.72, 1.0), (0.55, 1.0)),
    "green": ((90, 155), (0.45, 1.0), (0.35, 1.0)),
    "blue": ((203, 245), (0.55, 1.0), (0.48, 1.0)),
    "yellow": ((51, 62), (0.6, 1.0), (0.88, 1.0)),
    "black": ((0, 360), (0.0, 0.4), (0.0, 0.12)),
    "white": ((0, 360), (0.0, 0.04), (0.94, 1.0)),
    "purple": ((268, 303), (0.45, 1.0), (0.42, 1.0)),
    "orange": ((24, 40), (0.8, 1.0), (0.88, 1.0)),
}


def shade(colour: str, rng: Random) -> Rgb:
    """One RGB shade that people would call `colour`: half exact well-known values, half drawn from its range."""
    if rng.random() < 0.5:
        return rng.choice(ANCHORS[colour])
    (h0, h1), (s0, s1), (v0, v1) = RANGES[colour]
    saturation = rng.uniform(s0, s1)
    value = rng.uniform(v0, v1)
    if colour == "red" and value < 0.65:
        saturation = max(saturation, 0.88)  # dull dark reds are brown
    red, green, blue = colorsys.hsv_to_rgb((rng.uniform(h0, h1) % 360) / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def any_colour(rng: Random) -> Rgb:
    """Any background colour: neutral, pastel, deep or fully random RGB (0..255)."""
    kind = rng.random()
    if kind < 0.3:
        grey = rng.randrange(256)
        return grey, grey, grey
    if kind < 0.6:
        red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.8, 1.0))
    elif kind < 0.75:
        red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 1.0), rng.uniform(0.1, 0.5))
    else:
        red, green, blue = rng.random(), rng.random(), rng.random()
    return round(red * 255), round(green * 255), round(blue * 255)


def distance(first: Rgb, second: Rgb) -> float:
    """Euclidean RGB distance (0..441)."""
    return math.dist(first, second)


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Blend of two colours; share 0 gives the first, 1 the second."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )
