"""Fixtures of the chat's tests: a PostgreSQL, and databases with our tables in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qqvl_server.chat.store import Store, sqlite_url
from tests.databases import Cluster, cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """One for all tests; take a database of your own from it."""
    with cluster() as started:
        yield started


@pytest.fixture(scope="session")
def with_tables(postgres: Cluster) -> str:
    """The address of a database that has our tables and nothing in them: to be copied."""
    url = postgres.database()

    async def migrate() -> None:
        async with Store.open(url):
            pass

    asyncio.run(migrate())
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    shared: Callable[[], str] = request.getfixturevalue("shared")
    return shared()


@pytest.fixture
def shared(postgres: Cluster, with_tables: str) -> Callable[[], str]:
    """Makes a PostgreSQL database of its own."""
    return lambda: postgres.database(with_tables)
