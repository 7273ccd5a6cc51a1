"""Fixtures of the chat's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import Cluster, cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """One for all tests; take a database of your own from it."""
    with cluster() as started:
        yield started
