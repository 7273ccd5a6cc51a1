"""Fixtures every room's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qqvl_server.openmp import bound_spinning
from tests.running import ROOT, RunningServer

# This file comes before all tests that import torch.
bound_spinning()

DEMO = ROOT / "models" / "qqvl-demo"
ASSETS = ROOT.parent / "shared" / "qwen3-vl-assets"


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
def demo() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real Qwen3-VL tokenizer, template and picture settings, where they are at hand."""
    if not ASSETS.is_dir():
        pytest.skip("the real Qwen3-VL assets are not beside this checkout")
    return ASSETS
