"""OpenAI's own client, pointed at the server that asks the bare model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.running import RunningServer


@pytest.fixture(scope="session")
def client(bare: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{bare.base}/v1", api_key="EMPTY", max_retries=0, timeout=60) as opened:
        yield opened
