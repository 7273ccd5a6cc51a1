"""Fixtures every room's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import ASSETS, DEMO, open_thought, random_words, real_files, reciting
from tests.running import RunningServer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server on the demo checkpoint for every test that leaves it running; use chat ids of your own."""
    with RunningServer(tmp_path_factory.mktemp("shared") / "data", "--max-new-tokens", "64") as running:
        yield running


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint with the real tokenizer, template and vocabulary of 151,936, which babbles."""
    return random_words(tmp_path_factory.mktemp("words") / "words")


@pytest.fixture(scope="session")
def babbling(tmp_path_factory: pytest.TempPathFactory, words: Path) -> Iterator[RunningServer]:
    """A server on that checkpoint, for every test that leaves it running."""
    folder = tmp_path_factory.mktemp("babbling")
    with RunningServer(folder / "data", "--model-path", str(words), "--max-new-tokens", "16") as running:
        yield running


@pytest.fixture(scope="session")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on a checkpoint with a Thinking template: it thinks "hmm", parts it with blanks, and says "好"."""
    folder = tmp_path_factory.mktemp("thinking")
    tokenizer = real_files(folder / "m")
    open_thought(folder / "m")
    reciting(folder / "m", tokenizer, tokenizer.encode("hmm</think>\n\n好"), after=tokenizer.encode("\n")[0])
    with RunningServer(folder / "data", "--model-path", str(folder / "m")) as running:
        yield running


@pytest.fixture(scope="session")
def demo() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real Qwen3-VL tokenizer, template and picture settings, where they are at hand."""
    if not ASSETS.is_dir():
        pytest.skip("the real Qwen3-VL assets are not beside this checkout")
    return ASSETS
