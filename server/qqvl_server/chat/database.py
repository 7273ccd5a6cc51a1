"""The database under the store: opened and looked over, written to in groups, watched. Knows SQL's engine, no chats.

SQLite in WAL mode with ``synchronous=FULL``: a commit that returned survives a kill and a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). On PostgreSQL (``postgres.py``) several servers share one.

Group commit: whoever comes while the disk still syncs the commit before shares the next one, so that a disk that takes
seconds for each makes everybody wait for two, and nobody for all the others'.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

import alembic.command
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from qqvl_server.chat import causes, inspection, postgres, sqlite
from qqvl_server.chat.coordination import Coordination
from qqvl_server.chat.lane_locks import coordinated
from qqvl_server.chat.sqlite import Place
from qqvl_server.errors import StorageFailed
from qqvl_server.observe.logs import Seldom, logger

# All in a group wait for each other's statements: never for more than these. Where there are other servers, they wait
# for the rows, too.
_MOST_IN_GROUP: Final = 64
_MOST_AMONG_OTHERS: Final = 8
_LOOK_S: Final = 1.0
# Alembic keeps what it migrates in module globals: two at once, of any threads or tasks, write into each other's.
_MIGRATING: Final = threading.Lock()
_MIGRATING_LOOK_S: Final = 0.01
# How often what another server came in between of is done again.
_RACES: Final = 5


T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[Any]]


class _Causes(Protocol):
    """What a database's errors mean: SQLite's or PostgreSQL's."""

    def at_start(self, error: Exception, name: str) -> StorageFailed: ...
    def while_running(self, error: Exception) -> StorageFailed: ...
    def is_of_storage(self, error: Exception) -> bool: ...
    def is_damage(self, error: Exception) -> bool: ...
    def is_race(self, error: Exception) -> bool: ...
    def code_of(self, error: Exception) -> int | str | None: ...


@dataclass(frozen=True, slots=True)
class _Job:
    """Statements that are durable all or none, and who waits for it; he may go away."""

    work: Work
    done: asyncio.Future[Any]

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Database:
    """Use as ``async with Database.open(url)``; ``write`` and ``read`` raise ``StorageFailed`` when it fails."""

    def __init__(self, url: str, engine: AsyncEngine, place: Place, means: _Causes, among: Coordination) -> None:
        self._url = url
        self.among = among
        self._engine = engine
        self._writers = engine.execution_options(writes=True)
        self._means = means
        self._most = _MOST_IN_GROUP if means is causes else _MOST_AMONG_OTHERS
        self._place = place
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._lost = False
        self._damaged = False
        self._telling = Seldom(10)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, is_ours: Callable[[], bool], *, sets_aside: bool = True) -> AsyncIterator[Self]:
        """Args:
            is_ours: whether the folder it lies in is still the one that this process has locked.
            sets_aside: a broken file is replaced by a new one; else that is an error.

        Raises:
            StorageFailed: it cannot be used; what is wrong and what to do.
        """
        is_shared = postgres.is_address(url)
        engine = postgres.engine(url) if is_shared else sqlite.engine(url)
        file = None if is_shared else make_url(url).database
        name = postgres.name_of(url) if is_shared else Path(file).name if file else "sqlite"
        means: _Causes = postgres if is_shared else causes
        try:
            try:
                if file:
                    await asyncio.to_thread(_look_over, file, sets_aside)
                async with _alone():
                    if is_shared:
                        await postgres.migrate(url, _migrate)
                    else:
                        async with engine.execution_options(writes=True).begin() as connection:
                            await connection.run_sync(_migrate, name)
            except (SQLAlchemyError, sqlite3.Error, OSError) as error:
                raise means.at_start(error, name) from error
            async with contextlib.AsyncExitStack() as opened:
                if not is_shared:
                    # Never given back: when the last connection closes, SQLite deletes the log that ``Place`` looks
                    # at, and one whose reader was cut short is closed.
                    await (await opened.enter_async_context(engine.connect())).rollback()
                among = await opened.enter_async_context(coordinated(url))
                database = cls(url, engine, Place(file, is_ours), means, among)
                tasks = [asyncio.create_task(work()) for work in (database._commit_groups, database._look)]
                try:
                    yield database
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
        finally:
            await engine.dispose()

    @property
    def trouble(self) -> str | None:
        """A word for what keeps anything from being stored until somebody mends it; None while all is well."""
        if self._lost or self._damaged:
            return "storage_lost" if self._lost else "storage_damaged"
        return "storage_away" if self.among.is_away else None

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What ``work`` returns, once its statements are durable. It may be called twice; it is not cut short."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(work, done))
        return await done

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        self._check_place()
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError, ValueError) as error:
            # ValueError: a row that holds no JSON where it should, as after a repair.
            raise self._failure(error) from error

    async def empty_log(self) -> None:
        """The log still holds what was deleted. Best effort: the deletion itself is committed."""
        if self._engine.dialect.name != "sqlite":
            return
        with contextlib.suppress(SQLAlchemyError, sqlite3.Error):
            async with self._engine.connect() as connection:
                # Past SQLAlchemy, which would begin a transaction: inside of one it is refused.
                raw = await connection.get_raw_connection()
                await raw.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]

    async def compact(self) -> None:
        """Nothing of what was deleted is left in the file, not even between its rows. Rewrites all of it.

        Raises StorageFailed.
        """
        try:
            if postgres.is_address(self._url):
                await postgres.rewrite(self._url)
                return
            async with self._engine.connect() as connection:
                raw = await connection.get_raw_connection()
                await raw.driver_connection.execute("VACUUM")  # type: ignore[union-attr]
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._failure(error) from error
        await self.empty_log()

    async def _commit_groups(self) -> None:
        while True:
            jobs = [await self._jobs.get()]
            try:
                await self._commit(jobs, growing=True)
            except StorageFailed as failed:
                # It may have taken long to fail: those who came meanwhile need not find out one after the other.
                while not self._jobs.empty():
                    jobs.append(self._jobs.get_nowait())
                for job in jobs:
                    job.fail(failed)
            except Exception:
                # It was one of them that failed, not the disk: by itself each answers for its own.
                for job in jobs:
                    await self._commit_alone(job)

    async def _commit_alone(self, job: _Job) -> None:
        for again in range(_RACES, -1, -1):
            try:
                await self._commit([job], growing=False)
            except Exception as error:
                if again and self._means.is_race(error):
                    # Another server was first: done again, it finds what that one wrote.
                    continue
                # The edge of all writing: whatever broke, who waits must hear of it, and the next go on.
                job.fail(self._failure(error) if isinstance(error, SQLAlchemyError) else error)
            return

    async def _commit(self, jobs: list[_Job], *, growing: bool) -> None:
        """Do ``jobs`` in one transaction, and all that come meanwhile where it is ``growing``; tell them what they got.

        Raises:
            StorageFailed: nothing can be written now. Any other error is of one of the jobs.
        """
        results = []
        try:
            async with self._writers.begin() as connection:
                for job in jobs:
                    results.append(None if job.done.done() else await job.work(connection))
                    if growing and len(jobs) < self._most and not self._jobs.empty():
                        jobs.append(self._jobs.get_nowait())
        except (SQLAlchemyError, OSError) as error:
            if self._means.is_of_storage(error):
                raise self._failure(error) from error
            raise
        self._check_place()
        for job, result in zip(jobs, results, strict=True):
            if not job.done.done():
                job.done.set_result(result)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(StorageFailed):
                self._check_place()

    def _check_place(self) -> None:
        kept = self._place.is_kept()
        if kept == self._lost:
            self._lost = not kept
            if kept:
                logger().info("数据目录回来了，继续保存消息")
            else:
                logger().error("数据目录或数据库文件被移走、换掉或删掉了，不再接消息：请停下服务，放回原处再启动")
        if not kept:
            raise StorageFailed("数据目录被移走或换掉了，这条消息没有保存；请停下服务，把它放回原处再启动")

    def _failure(self, error: Exception) -> StorageFailed:
        self._damaged = self._damaged or self._means.is_damage(error)
        failed = self._means.while_running(error)
        if self._telling.due():
            logger().error(
                "数据库存取失败", kind=type(error).__name__, code=self._means.code_of(error), reason=failed.message
            )
        return failed


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    # No event goes from one loop to another, and a thread that waited for whoever is cancelled would keep the lock.
    while not _MIGRATING.acquire(blocking=False):  # noqa: ASYNC110
        await asyncio.sleep(_MIGRATING_LOOK_S)
    try:
        yield
    finally:
        _MIGRATING.release()


def _look_over(file: str, sets_aside: bool) -> None:
    if not sets_aside:
        inspection.look_over(file)
    elif (aside := inspection.set_aside_broken(file)) is not None:
        logger().error(causes.set_aside(Path(file).name, aside.name))


def _migrate(connection: Connection, name: str) -> None:
    """Raises StorageFailed: a later version of this program wrote it."""
    written = MigrationContext.configure(connection).get_current_revision()
    inspection.refuse_later(name, written)
    if inspection.is_newest(written):
        return
    config = inspection.scripts()[0]
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
