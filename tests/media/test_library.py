"""Pictures on disk: each once, whole, and within the size that was granted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qqvl_server.errors import ImageRejected, StorageFailed
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from tests.pictures import base64_of, encoded, picture

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=50_000_000, max_frames=4, max_tokens=1024)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_same_picture_is_kept_once(tmp_path: Path) -> None:
    library = ImageLibrary(tmp_path, 10**9, LIMITS)
    data = encoded(picture())
    first, second = library.add_base64(base64_of(data)), library.add(data)
    assert first == second
    assert [path.name for path in files(tmp_path)] == [first.sha256]
    assert ImageLibrary(tmp_path, 10**9, LIMITS).open(first)[0].size == (256, 256)


def test_the_longest_unused_go_first_when_the_disk_share_is_full(tmp_path: Path) -> None:
    pictures = [encoded(picture((n * 20, 0, 0)), "BMP") for n in range(8)]
    library = ImageLibrary(tmp_path, len(pictures[0]) * 4, LIMITS)
    refs = []
    for age, data in enumerate(pictures):
        refs.append(library.add(data))
        stamp = 1_000_000 + age
        os.utime(tmp_path / refs[-1].sha256[:2] / refs[-1].sha256, (stamp, stamp))
        if age == 2:
            library.open(refs[0])
    assert sum(path.stat().st_size for path in files(tmp_path)) <= len(pictures[0]) * 4
    assert library.holds(refs[-1])
    assert library.holds(refs[0]), "the one looked at lately stays"
    assert not library.holds(refs[1])
    with pytest.raises(ImageRejected):
        library.open(refs[1])


def test_a_disk_that_refuses_is_told_and_leaves_no_half_file(tmp_path: Path) -> None:
    library = ImageLibrary(tmp_path, 10**9, LIMITS)
    data = encoded(picture())
    ref = library.add(data)
    blocked = files(tmp_path)[0].parent
    for path in files(tmp_path):
        path.unlink()
    blocked.rmdir()
    blocked.write_text("a file where the folder should be")
    with pytest.raises(StorageFailed):
        library.add(data)
    assert not library.holds(ref)
    assert files(tmp_path) == [blocked]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-5] + b"\0\0\0\0\0"),
    "another picture": lambda path: path.write_bytes(encoded(picture((0, 0, 255)))),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 100),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_damaged_on_disk_is_never_shown_and_written_anew_on_the_next_sending(tmp_path: Path, name: str) -> None:
    data = encoded(picture())
    ref = ImageLibrary(tmp_path, 10**9, LIMITS).add(data)
    (path,) = files(tmp_path)
    DAMAGES[name](path)
    library = ImageLibrary(tmp_path, 10**9, LIMITS)
    assert library.holds(ref) == (path.stat().st_size == len(data)), "a stat is enough for a changed size"
    with pytest.raises(ImageRejected) as told:
        library.open(ref)
    assert "重新发" in told.value.message
    assert not library.holds(ref), "and told once only"
    assert library.add(data) == ref
    assert path.read_bytes() == data
    assert library.open(ref)[0].size == (256, 256)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_written_anew_though_nobody_looked_at_it(tmp_path: Path, name: str) -> None:
    data = encoded(picture())
    library = ImageLibrary(tmp_path, 10**9, LIMITS)
    ref = library.add(data)
    (path,) = files(tmp_path)
    DAMAGES[name](path)
    library.add(data)
    assert path.read_bytes() == data
    assert library.holds(ref)
    library.open(ref)
    assert ImageLibrary(tmp_path, 10**9, LIMITS).open(ref)[0].size == (256, 256)


def test_what_a_kill_left_half_written_is_swept_at_the_start(tmp_path: Path) -> None:
    library = ImageLibrary(tmp_path, 10**9, LIMITS)
    ref = library.add(encoded(picture()))
    scratch = tmp_path / "tmpabc123"
    scratch.write_bytes(b"half")
    os.utime(scratch, (1_000_000, 1_000_000))
    being_written = tmp_path / "tmpdef456"
    being_written.write_bytes(b"by another server on this folder")
    again = ImageLibrary(tmp_path, 10**9, LIMITS)
    assert not scratch.exists()
    assert being_written.exists()
    assert again.holds(ref)


def test_what_is_let_in_can_be_shown(tmp_path: Path) -> None:
    """Now, and after a restart, when the file alone is left."""
    noisy = Image.effect_noise((200, 200), 90)
    for whole in (encoded(noisy), encoded(noisy, "GIF"), encoded(noisy, "JPEG")):
        library = ImageLibrary(tmp_path, 10**9, LIMITS)
        ref = library.add(whole[: len(whole) * 9 // 10])
        assert ref.share < 1
        now = library.open(ref)[0].tobytes()
        assert ImageLibrary(tmp_path, 10**9, LIMITS).open(ref)[0].tobytes() == now
