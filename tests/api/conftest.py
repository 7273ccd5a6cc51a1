"""Servers that several files of this folder share; each start costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running import RunningServer

KEY, OTHER_KEY = "sk-first-0123456789", "密钥-à-二"


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that wants one of two keys."""
    folder = tmp_path_factory.mktemp("keyed")
    with RunningServer(folder / "data", "--max-new-tokens", "8", env={"QQVL_API_KEYS": f"{KEY},{OTHER_KEY}"}) as server:
        yield server


@pytest.fixture(scope="session")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with little patience and a short queue."""
    folder = tmp_path_factory.mktemp("tight")
    flags = ("--max-new-tokens", "16", "--max-pending", "4", "--body-timeout-s", "2", "--max-body-mb", "2")
    with RunningServer(folder / "data", *flags) as server:
        yield server
