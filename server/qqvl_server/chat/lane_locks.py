"""Servers on one PostgreSQL: lanes that all of them share, and news of what one changed.

A lane is an advisory lock of a session (https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS).
All of a server's are held by one connection, so that turns cost none; when that ends, by a kill or a cut line, the
database gives all of them to whoever waits. Hence an answer's transaction asks whether its lane is still held. News
travel by NOTIFY within the transaction that changes something, so that they are there before the lane is free.

Each lane has a door: who waits for the lane holds it, so that a server with much to say lets the others in between.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from qqvl_server.chat import postgres
from qqvl_server.chat.columns import clean
from qqvl_server.chat.coordination import Alone, Coordination, Heard, LaneLost
from qqvl_server.errors import StorageFailed
from qqvl_server.observe.logs import logger

# How often it is looked whether a lane that another server holds is free.
_LOOK_S: Final = 0.05
_BEAT_S: Final = 2.0
_AGAIN_S: Final = 1.0
_NEWS: Final = "qqvl_news"
_IN_DOOR: Final = 1
_IN_LANE: Final = 2
# CASE, because nothing else says what is evaluated first. 0 is neither in the lane nor in the door.
_TRY: Final = """
    SELECT CASE
        WHEN NOT CASE WHEN is_in_door THEN true ELSE pg_try_advisory_lock(door) END THEN 0
        WHEN NOT pg_try_advisory_lock(lane) THEN 1
        WHEN pg_advisory_unlock(door) THEN 2
        ELSE 2
    END
    FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS wish(lane, door, is_in_door)
"""
_FREE: Final = "SELECT pg_advisory_unlock(name) FROM unnest($1::bigint[]) AS held(name)"
# As pg_locks shows them: the name's two halves, and 1 for one name.
_HOLDERS: Final = text("""
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = :high AND objid = :low
""")


@dataclass(eq=False, slots=True)
class _Wish:
    """A lane that somebody waits for, or is in: ``pid`` is of the session that holds it then, None once it is lost."""

    name: str
    entered: asyncio.Future[None]
    is_in_door: bool = False
    pid: int | None = None

    @property
    def lane(self) -> int:
        return number("lane", self.name)

    @property
    def door(self) -> int:
        return number("door", self.name)


class Among:
    """Among other servers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._listening: list[Heard] = []
        # What was begun because of news.
        self._hearing: set[asyncio.Future[None]] = set()
        self._wishes: list[_Wish] = []
        self._held: dict[str, _Wish] = {}
        self._to_free: list[int] = []
        self._wake = asyncio.Event()
        self._pid: int | None = None
        self.is_away = False

    def listen(self, heard: Heard) -> None:
        self._listening.append(heard)

    async def begin(self) -> asyncio.Task[None]:
        """Raises StorageFailed."""
        connection = await self._connected()
        return asyncio.create_task(self._work(connection))

    @asynccontextmanager
    async def lane(self, name: str) -> AsyncIterator[None]:
        wish = _Wish(name, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self._wake.set()
        try:
            await wish.entered
            # What the one before us changed is known before we begin.
            if self._hearing:
                await asyncio.wait(tuple(self._hearing))
            self._held[name] = wish
            yield
        finally:
            if self._held.get(name) is wish:
                del self._held[name]
            self._leave(wish)

    async def confirm(self, connection: AsyncConnection, name: str) -> None:
        wish = self._held.get(name)
        if wish is not None and wish.pid not in await _holders(connection, name):
            raise LaneLost

    async def tell(self, connection: AsyncConnection, news: str) -> None:
        await connection.execute(select(func.pg_notify(_NEWS, f"{self._pid} {clean(news)}")))

    async def is_held(self, connection: AsyncConnection, name: str) -> bool:
        return bool(await _holders(connection, name))

    def _leave(self, wish: _Wish) -> None:
        if wish in self._wishes:
            self._wishes.remove(wish)
            if wish.is_in_door:
                self._to_free.append(wish.door)
        elif wish.pid is not None and wish.pid == self._pid:
            self._to_free.append(wish.lane)
        self._wake.set()

    async def _work(self, connection: Any) -> None:
        while True:
            try:
                await self._serve(connection)
            except postgres.connection_errors() as error:
                self._lose(error)
            finally:
                # Without a word: of whoever is gone the database takes all lanes back.
                connection.terminate()
            while self.is_away:
                await asyncio.sleep(_AGAIN_S)
                try:
                    connection = await self._connected()
                except StorageFailed as failed:
                    self._lose(failed)
            # Whatever was told meanwhile was told to nobody.
            self._hear(None)

    async def _connected(self) -> Any:
        connection = await postgres.connect(self._url)
        try:
            await connection.add_listener(_NEWS, self._told)
            self._pid = connection.get_server_pid()
        except postgres.connection_errors() as error:
            connection.terminate()
            raise postgres.while_running(error) from error
        if self.is_away:
            self.is_away = False
            logger().info("数据库连上了", database=postgres.name_of(self._url))
        return connection

    def _lose(self, error: Exception) -> None:
        """Every lane may be another's from now on; who waits is told."""
        if not self.is_away:
            self.is_away = True
            logger().error("和数据库的连接断了，正在重连", kind=type(error).__name__)
        self._pid = None
        self._to_free.clear()
        for wish in self._held.values():
            wish.pid = None
        waiting, self._wishes = self._wishes, []
        failed = postgres.while_running(OSError() if isinstance(error, StorageFailed) else error)
        for wish in waiting:
            wish.is_in_door = False
            if not wish.entered.done():
                wish.entered.set_exception(failed)

    async def _serve(self, connection: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_S if self._wishes else _BEAT_S):
                    await self._wake.wait()
            except TimeoutError:
                if not self._wishes:
                    await connection.execute("SELECT 1")
            self._wake.clear()
            if self._to_free:
                freed, self._to_free = self._to_free, []
                await connection.execute(_FREE, freed)
            if self._wishes:
                await self._try(connection, tuple(self._wishes))

    async def _try(self, connection: Any, wishes: Sequence[_Wish]) -> None:
        asked = [(wish.lane, wish.door, wish.is_in_door) for wish in wishes]
        rows = await connection.fetch(_TRY, *map(list, zip(*asked, strict=True)))
        for wish, (place,) in zip(wishes, rows, strict=True):
            if wish not in self._wishes:
                # It went away meanwhile, and gave back what it knew of.
                if place == _IN_LANE:
                    self._to_free.append(wish.lane)
                elif place == _IN_DOOR and not wish.is_in_door:
                    self._to_free.append(wish.door)
                continue
            wish.is_in_door = place == _IN_DOOR
            if place == _IN_LANE:
                self._wishes.remove(wish)
                wish.pid = self._pid
                if not wish.entered.done():
                    wish.entered.set_result(None)

    def _told(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        teller, _, news = payload.partition(" ")
        if teller != str(self._pid):
            self._hear(news)

    def _hear(self, news: str | None) -> None:
        hearing = asyncio.ensure_future(self._heard(news))
        self._hearing.add(hearing)
        hearing.add_done_callback(self._hearing.discard)

    async def _heard(self, news: str | None) -> None:
        for heard in self._listening:
            try:
                await heard(news)
            except StorageFailed as failed:
                # What is known stays; a database that is away is asked again once it is back.
                logger().warning("别的服务器改过的设置没有读到", reason=failed.message)


async def _holders(connection: AsyncConnection, name: str) -> Sequence[int]:
    lane = number("lane", name) & (2**64 - 1)
    found = await connection.execute(_HOLDERS, {"high": lane >> 32, "low": lane & (2**32 - 1)})
    return found.scalars().all()


def number(kind: str, name: str) -> int:
    """The lock's name: 64 bits, signed."""
    digest = hashlib.sha256(f"qqvl {kind} {name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@asynccontextmanager
async def coordinated(url: str) -> AsyncIterator[Coordination]:
    """Raises StorageFailed."""
    if not postgres.is_address(url):
        yield Alone()
        return
    among = Among(url)
    working = await among.begin()
    try:
        yield among
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
