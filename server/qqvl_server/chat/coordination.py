"""What servers on one database ask of each other: whose turn a chat's lane is, and what another has changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

Heard = Callable[[str | None], Awaitable[None]]


class LaneLost(Exception):
    """Within a transaction: another server may have this lane by now."""


class Coordination(Protocol):
    """``is_away`` is true while other servers cannot be asked."""

    @property
    def is_away(self) -> bool: ...

    def lane(self, name: str) -> AbstractAsyncContextManager[None]:
        """Alone with what has this name, among all servers. Raises StorageFailed."""

    async def confirm(self, connection: AsyncConnection, name: str) -> None:
        """Raises LaneLost: a lane that was entered is not held any more."""

    async def tell(self, connection: AsyncConnection, news: str) -> None:
        """Let the other servers know, if the connection's transaction is committed."""

    async def is_held(self, connection: AsyncConnection, name: str) -> bool:
        """Whether any server is in this lane."""

    def listen(self, heard: Heard) -> None:
        """``heard`` is called with what others tell; with None when all of it should be looked up again."""


class Alone:
    """On SQLite there is nobody else."""

    is_away = False

    @asynccontextmanager
    async def lane(self, _name: str) -> AsyncIterator[None]:
        yield

    async def confirm(self, _connection: AsyncConnection, _name: str) -> None:
        return

    async def tell(self, _connection: AsyncConnection, _news: str) -> None:
        return

    async def is_held(self, _connection: AsyncConnection, _name: str) -> bool:
        return False

    def listen(self, _heard: Heard) -> None:
        return
