"""Fixtures every room's tests share."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from qqvl_server.openmp import bound_spinning
from tests import environment, published, skips
from tests.running import ASSETS, DEMO, RunningServer

# Before any test, and any library a test imports (torch above all), looks at it.
environment.clear(os.environ)
bound_spinning()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skips-to", metavar="FILE", type=Path, help="count what was skipped in FILE, as JSON")
    parser.addoption("--failed-to", metavar="FILE", type=Path, help="name what failed in FILE, for pytest @FILE")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line that says what was skipped and why: here, or for several runs in what ``--skips-to`` names."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())
    )
    failed: Path | None = config.getoption("--failed-to")
    if failed is not None:
        reports = (*terminalreporter.stats.get("failed", ()), *terminalreporter.stats.get("error", ()))
        failed.write_text("\n".join(dict.fromkeys(report.nodeid for report in reports)), encoding="utf-8")
    file: Path | None = config.getoption("--skips-to")
    if file is not None:
        file.write_text(json.dumps(reasons), encoding="utf-8")
    else:
        terminalreporter.write_line(skips.told(reasons))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server on the demo checkpoint for every test that leaves it running; use chat ids of your own.

    It takes any model's name.
    """
    flags = ("--max-new-tokens", "64", "--any-model-name")
    with RunningServer(tmp_path_factory.mktemp("shared") / "data", *flags) as running:
        yield running


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint with the real tokenizer, template and vocabulary of 151,936, which babbles."""
    from tests.checkpoints import random_words

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
    from tests.checkpoints import open_thought, real_files, reciting

    folder = tmp_path_factory.mktemp("thinking")
    tokenizer = real_files(folder / "m")
    open_thought(folder / "m")
    reciting(folder / "m", tokenizer, tokenizer.encode("hmm</think>\n\n好"), after=tokenizer.encode("\n")[0])
    with RunningServer(folder / "data", "--model-path", str(folder / "m")) as running:
        yield running


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """Logging as it was, whatever a test makes of it: a handler that it leaves writes to a stream that is closed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def demo() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-VL's own tokenizer, template and picture settings: whole where they are at hand, else as far as is said."""
    return ASSETS if ASSETS.is_dir() else published.grown(tmp_path_factory.mktemp("published") / "qwen3-vl")
