"""What the engine's tests share: the demo's two models, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.twins import Twins


@pytest.fixture(scope="session")
def twins(demo: Path) -> Twins:
    return Twins(demo)
