"""Processes that decode: ended when too slow, gone with their owner, and never a reason for more than a refusal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qqvl_server.errors import Busy, Draining, ImageRejected
from qqvl_server.media.decoder import Decoder
from qqvl_server.media.image import ImageLimits, look
from qqvl_server.media.library import ImageLibrary
from tests.media.hostile import slow_jpeg
from tests.pictures import encoded, picture

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=50_000_000, max_frames=4, max_tokens=1024)
# Within what is begun at all, and several seconds of work.
SLOW = slow_jpeg(7000, 7000, 60)
SMALL = encoded(picture(size=(64, 64)))


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    opened = Decoder(LIMITS)
    yield opened
    opened.close()


def decoding() -> set[psutil.Process]:
    """This process's children that decode and have not ended."""
    found = set()
    for child in psutil.Process().children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "qqvl_server.media.worker" in " ".join(child.cmdline()):
                found.add(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "WEBP"])
def test_what_comes_back_is_what_was_decoded(decoder: Decoder, format_: str) -> None:
    data = encoded(picture(size=(300, 200)), format_)
    here, there = look(data, LIMITS), decoder.look(data)
    assert there.ref == here.ref
    assert [frame.tobytes() for frame in there.frames] == [frame.tobytes() for frame in here.frames]
    shown = decoder.frames(data, there.ref)
    assert [frame.tobytes() for frame in shown] == [frame.tobytes() for frame in here.frames]


def test_no_process_is_there_before_a_picture_is_and_none_after(decoder: Decoder) -> None:
    before = decoding()
    with pytest.raises(ImageRejected):
        decoder.look(b"hello")
    assert len(decoding() - before) == 1
    decoder.look(SMALL)
    assert len(decoding() - before) == 1, "one serves them all"
    decoder.close()
    psutil.wait_procs(list(decoding() - before), timeout=30)
    assert not decoding() - before


def test_a_decode_that_runs_too_long_is_refused_and_never_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ImageLibrary(tmp_path, 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024, cpu_s=1))
    try:
        with pytest.raises(ImageRejected, match="太慢"):
            library.add(SLOW)
        with monkeypatch.context() as without:
            # No process could be started for it, and none is.
            without.setattr(sys, "executable", "/bin/false")
            with pytest.raises(ImageRejected, match="太慢"):
                library.add(SLOW)
        sha256 = library.add(SMALL).sha256
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [sha256]
    finally:
        library.close()


def test_a_slow_picture_holds_no_small_one_up(decoder: Decoder) -> None:
    done: list[str] = []

    def slow() -> None:
        decoder.look(SLOW)
        done.append("slow")

    decoding_slowly = threading.Thread(target=slow)
    decoding_slowly.start()
    for _ in range(5):
        decoder.look(SMALL)
        done.append("small")
    decoding_slowly.join()
    assert done == ["small"] * 5 + ["slow"]


def test_a_process_that_dies_between_pictures_is_replaced_and_one_that_dies_over_a_picture_refuses_it(
    decoder: Decoder,
) -> None:
    before = decoding()
    decoder.look(SMALL)
    (process,) = decoding() - before
    process.kill()
    process.wait()
    assert decoder.look(SMALL).ref.width == 64
    others = decoding()
    refusals: list[str] = []

    def refused() -> None:
        with pytest.raises(ImageRejected) as error:
            decoder.look(SLOW)
        refusals.append(error.value.message)

    asking = threading.Thread(target=refused)
    asking.start()
    while not (heavy := decoding() - others):
        time.sleep(0.01)
    (process,) = heavy
    while process.cpu_times().user < 0.7:
        time.sleep(0.01)
    process.kill()
    asking.join()
    assert refusals
    assert decoder.look(SMALL).ref.width == 64


def test_closing_ends_a_decode_and_tells_who_waits(decoder: Decoder) -> None:
    others = decoding()
    told: list[str] = []

    def ask() -> None:
        with pytest.raises(Draining):
            decoder.look(SLOW)
        told.append("stopping")

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    while len(decoding() - others) < 2:
        time.sleep(0.01)
    decoder.close()
    for thread in asking:
        thread.join()
    assert told == ["stopping"] * 3
    with pytest.raises(Draining):
        decoder.look(SMALL)


def test_a_process_that_cannot_start_is_no_fault_of_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ImageLibrary(tmp_path, 10**9, LIMITS)
    with monkeypatch.context() as without:
        without.setattr(sys, "executable", str(tmp_path / "no python"))
        with pytest.raises(Busy):
            library.add(SMALL)
        without.setattr(sys, "executable", "/bin/false")
        with pytest.raises(Busy):
            library.add(SMALL)
    assert library.add(SMALL).width == 64
    library.close()
