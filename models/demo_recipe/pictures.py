"""A pool of preprocessed training pictures: patches as the processor cuts them, labels, and per-token targets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from .drawing import FORMATS, Drawing, decode, draw, encode, random_label

PATCH = 16
CELL = 32  # a merged token covers 32 × 32 pixels
LEAST_PIXELS = 192 * 192
MOST_PIXELS = 224 * 224
IGNORE = -100
PIXELS = 3 * PATCH * PATCH
# What a 4 × 4 px square holds: part of an object, part of an object's contour, an object's centre.
COVERED, CONTOUR, CENTRE = 1, 2, 4


@dataclass(frozen=True)
class Picture:
    """One preprocessed picture.

    patches: uint8 (rows × cols, 768), pixels in the processor's merge order; grid: (rows, cols) in patches.
    label: (colour, shape, count − 1), IGNORE where there is none; local: int16 (tokens, 2) colour, shape;
    mask: uint8 (tokens, 64), bits COVERED, CONTOUR and CENTRE for each 4 × 4 px square of a cell.
    """

    patches: NDArray[np.uint8]
    grid: tuple[int, int]
    label: tuple[int, int, int]
    local: NDArray[np.int16]
    mask: NDArray[np.uint8]


def cut(image: Image.Image) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Resize and patchify exactly as the PIL image processor does, without its normalisation."""
    height, width = smart_resize(image.height, image.width, CELL, LEAST_PIXELS, MOST_PIXELS)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    rows, cols = height // PATCH, width // PATCH
    patches = pixels.reshape(3, rows // 2, 2, PATCH, cols // 2, 2, PATCH).transpose(1, 4, 2, 5, 0, 3, 6)
    return np.ascontiguousarray(patches).reshape(rows * cols, PIXELS), (rows, cols)


def _local_targets(drawing: Drawing, rows: int, cols: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Per cell: colour 0..8 and shape 0..4 (last = background), and the bits of its 8 × 8 squares.

    Cells that are barely touched are ignored for colour and shape. Later objects hide the contours of earlier ones.
    """
    fine = 8
    high, wide = rows // 2, cols // 2
    targets = np.zeros((high, wide, 2), dtype=np.int16)
    targets[..., 0], targets[..., 1] = 8, 4
    if not drawing.outlines:
        targets[..., :] = (drawing.label.colour, IGNORE)
        return targets.reshape(-1, 2), np.full((high * wide, fine * fine), COVERED, dtype=np.uint8)
    sheet = Image.new("L", (wide * fine, high * fine), 0)
    painter = ImageDraw.Draw(sheet)
    for points in drawing.outlines:
        corners = [(x * wide * fine, y * high * fine) for x, y in points]
        painter.polygon(corners, fill=COVERED, outline=COVERED | CONTOUR)
    flat = np.asarray(sheet).copy()
    for points in drawing.outlines:
        x, y = sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)
        flat[min(high * fine - 1, int(y * high * fine)), min(wide * fine - 1, int(x * wide * fine))] |= CENTRE
    squares = flat.reshape(high, fine, wide, fine).transpose(0, 2, 1, 3)
    share = (squares & COVERED).mean(axis=(2, 3))
    targets[share >= 0.3, 0] = drawing.label.colour
    targets[share >= 0.12, 1] = drawing.label.shape
    targets[(share > 0) & (share < 0.3), 0] = IGNORE
    targets[(share > 0) & (share < 0.12), 1] = IGNORE
    return targets.reshape(-1, 2), np.ascontiguousarray(squares.reshape(high * wide, fine * fine))


def prepare(drawing: Drawing, rng: Random) -> Picture:
    """Through a file format for two pictures in five, then cut, with the targets of training."""
    image = drawing.image
    if rng.random() < 0.4:
        image = decode(encode(image, rng.choice(FORMATS[1:]), rng))
    patches, (rows, cols) = cut(image)
    label = drawing.label
    shape, count = (label.shape, label.count - 1) if label.count else (IGNORE, IGNORE)
    return Picture(patches, (rows, cols), (label.colour, shape, count), *_local_targets(drawing, rows, cols))


def _make_many(job: tuple[int, int]) -> list[Picture]:
    seed, how_many = job
    rng = Random(seed)
    return [prepare(draw(random_label(rng), rng), rng) for _ in range(how_many)]


def make_pool(how_many: int, seed: int, processes: int = 2) -> list[Picture]:
    """`how_many` pictures (about 150 kB each), the same for the same seed whatever the number of processes."""
    share = 100
    jobs = [(seed * 1_000_003 + start, min(share, how_many - start)) for start in range(0, how_many, share)]
    pool: list[Picture] = []
    with multiprocessing.get_context("spawn").Pool(processes) as workers, tqdm(total=how_many, desc="drawing") as bar:
        for pictures in workers.imap(_make_many, jobs):
            pool.extend(pictures)
            bar.update(len(pictures))
    return pool


@dataclass(frozen=True)
class PictureBatch:
    """Padded pictures.

    pixels: float (batch, patches, 768) in −1..1; grids: int (batch, 2); valid: bool (batch, patches);
    label: int (batch, 3); local: int (batch, patches / 4, 2), IGNORE in the padding; cover, contour: float (…, 64) and
    centre: float (…, 16) of 0 and 1, for squares of 4 × 4 and 8 × 8 pixels.
    """

    pixels: torch.Tensor
    grids: torch.Tensor
    valid: torch.Tensor
    label: torch.Tensor
    local: torch.Tensor
    cover: torch.Tensor
    contour: torch.Tensor
    centre: torch.Tensor


def turned(picture: Picture, way: int) -> Picture:
    """One of the eight ways a sheet can lie: bit 1 of `way` mirrors left and right, bit 2 top and bottom, bit 4 swaps
    the axes. Nothing that is asked about a picture changes, and a pool is worth eight of its size."""
    high, wide = picture.grid[0] // 2, picture.grid[1] // 2
    patches = picture.patches.reshape(high, wide, 2, 2, 3, PATCH, PATCH)
    local, mask = picture.local.reshape(high, wide, 2), picture.mask.reshape(high, wide, 8, 8)
    if way & 1:
        patches, local, mask = np.flip(patches, (1, 3, 6)), np.flip(local, 1), np.flip(mask, (1, 3))
    if way & 2:
        patches, local, mask = np.flip(patches, (0, 2, 5)), np.flip(local, 0), np.flip(mask, (0, 2))
    if way & 4:
        patches, local = patches.transpose(1, 0, 3, 2, 4, 6, 5), local.transpose(1, 0, 2)
        mask = mask.transpose(1, 0, 3, 2)
    grid = (picture.grid[1], picture.grid[0]) if way & 4 else picture.grid
    return Picture(
        patches.reshape(-1, PIXELS), grid, picture.label, local.reshape(-1, 2), mask.reshape(high * wide, -1)
    )


def collate(pictures: list[Picture]) -> PictureBatch:
    """Pad a list of pictures to its longest."""
    longest = max(len(p.patches) for p in pictures)
    pixels = np.zeros((len(pictures), longest, PIXELS), dtype=np.uint8)
    local = np.full((len(pictures), longest // 4, 2), IGNORE, dtype=np.int64)
    mask = np.zeros((len(pictures), longest // 4, 64), dtype=np.uint8)
    valid = np.zeros((len(pictures), longest), dtype=bool)
    for row, picture in enumerate(pictures):
        pixels[row, : len(picture.patches)] = picture.patches
        local[row, : len(picture.local)] = picture.local
        mask[row, : len(picture.mask)] = picture.mask
        valid[row, : len(picture.patches)] = True
    centre = (mask & CENTRE > 0).reshape(*mask.shape[:2], 4, 2, 4, 2).any(axis=(3, 5)).reshape(*mask.shape[:2], 16)
    return PictureBatch(
        torch.from_numpy(pixels).float().div_(127.5).sub_(1.0),
        torch.tensor([p.grid for p in pictures]),
        torch.from_numpy(valid),
        torch.tensor([p.label for p in pictures]),
        torch.from_numpy(local),
        *(torch.from_numpy(bits).float() for bits in (mask & COVERED > 0, mask & CONTOUR > 0, centre)),
    )


def batches(pool: list[Picture], size: int, rng: Random) -> Iterator[PictureBatch]:
    """Endless shuffled batches, each picture lying some way or other."""
    while True:
        order = list(range(len(pool)))
        rng.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            yield collate([turned(pool[i], rng.randrange(8)) for i in order[start : start + size]])
