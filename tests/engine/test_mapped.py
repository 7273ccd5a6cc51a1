"""Pages of a mapped file are given back, read again when they are wanted, and nothing else is ever given up."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qqvl_server.engine.cpu.mapped import MappedFiles
from tests.resident import resident

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")

SIZE = 4 << 20


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[mmap.mmap]:
    (tmp_path / "weights").write_bytes(b"qqvl" * (SIZE // 4))
    with (tmp_path / "weights").open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    yield pages
    pages.close()


def address(pages: mmap.mmap | bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))


def test_a_files_pages_are_given_back_and_read_again(mapped: mmap.mmap, tmp_path: Path) -> None:
    assert mapped[:] == b"qqvl" * (SIZE // 4)
    assert resident(tmp_path / "weights") == SIZE
    assert MappedFiles().forget(address(mapped), SIZE)
    assert resident(tmp_path / "weights") == 0
    assert mapped[:] == b"qqvl" * (SIZE // 4)


def test_a_stretch_within_a_page_is_left(mapped: mmap.mmap, tmp_path: Path) -> None:
    assert mapped[:]
    assert MappedFiles().forget(address(mapped) + 1, mmap.PAGESIZE)
    assert resident(tmp_path / "weights") == SIZE


def test_what_was_written_is_kept(mapped: mmap.mmap) -> None:
    mapped[5 * mmap.PAGESIZE] = ord("!")
    assert not MappedFiles().forget(address(mapped), SIZE)
    assert mapped[5 * mmap.PAGESIZE] == ord("!")


def test_memory_that_is_no_file_is_kept() -> None:
    plain = bytearray(b"x" * SIZE)
    assert not MappedFiles().forget(address(plain), SIZE)
    assert plain == b"x" * SIZE


def test_a_stretch_that_leaves_the_file_is_kept(mapped: mmap.mmap) -> None:
    assert not MappedFiles().forget(address(mapped), SIZE + 1)
