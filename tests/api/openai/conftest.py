"""One server for all that speaks OpenAI's protocol to a real model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.running import RunningServer

NAMES = ("qqvl-demo", "Qwen/Qwen3-VL-8B-Instruct")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The paged engine on the demo checkpoint, under two names."""
    folder = tmp_path_factory.mktemp("bare")
    flags = ("--engine", "paged", "--served-model-name", ",".join(NAMES))
    with RunningServer(folder / "data", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def client(bare: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{bare.base}/v1", api_key="EMPTY", max_retries=0, timeout=60) as opened:
        yield opened
