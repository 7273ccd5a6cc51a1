"""The database under the store: opened and looked over, written to in groups, watched. Knows SQL's engine, no chats.

SQLite in WAL mode with ``synchronous=FULL``: a commit that returned survives a kill and a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). The same code runs on PostgreSQL.

Group commit: whoever comes while the disk still syncs the commit before shares the next one, so that a disk that takes
seconds for each makes everybody wait for two, and nobody for all the others'.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import alembic.command
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from qqvl_server.chat import causes, inspection
from qqvl_server.errors import StorageFailed
from qqvl_server.observe.logs import Seldom, logger

# All in a group wait for each other's statements: never for more than these.
_MOST_IN_GROUP: Final = 64
_LOOK_S: Final = 1.0
# Alembic keeps what it migrates in module globals: two at once, of any threads or tasks, write into each other's.
_MIGRATING: Final = threading.Lock()
_MIGRATING_LOOK_S: Final = 0.01


T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Job:
    """Statements that are durable all or none, and who waits for it; he may go away."""

    work: Work
    done: asyncio.Future[Any]

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Place:
    """Where the database's files were when it was opened: they may be moved away and others put there while it runs.

    What is written then goes to files that nobody will find again, and SQLite does not say so.
    """

    def __init__(self, database: str | None, is_ours: Callable[[], bool]) -> None:
        self._is_ours = is_ours
        names = (database, f"{database}-wal", f"{database}-shm") if database else ()
        self._known = {name: os.stat(name) for name in names if os.path.exists(name)}

    def is_kept(self) -> bool:
        try:
            return self._is_ours() and all(os.path.samestat(os.stat(n), was) for n, was in self._known.items())
        except OSError:
            return False


class Database:
    """Use as ``async with Database.open(url)``; ``write`` and ``read`` raise ``StorageFailed`` when it fails."""

    def __init__(self, engine: AsyncEngine, place: _Place) -> None:
        self._engine = engine
        self._writers = engine.execution_options(writes=True)
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
        engine = create_async_engine(url)
        file = make_url(url).database if engine.dialect.name == "sqlite" else None
        name = Path(file).name if file else engine.dialect.name
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _durable_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        try:
            try:
                if file:
                    await asyncio.to_thread(_look_over, file, sets_aside)
                async with _alone(), engine.execution_options(writes=True).begin() as connection:
                    await connection.run_sync(_migrate, name)
            except (SQLAlchemyError, sqlite3.Error, OSError) as error:
                raise causes.at_start(error, name) from error
            # Never given back: when the last connection closes, SQLite deletes the log that ``_Place`` looks at, and
            # one whose reader was cut short is closed.
            async with engine.connect() as keeper:
                await keeper.rollback()
                database = cls(engine, _Place(file, is_ours))
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
        return "storage_lost" if self._lost else "storage_damaged" if self._damaged else None

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
            async with self._engine.connect() as connection:
                if self._engine.dialect.name == "sqlite":
                    raw = await connection.get_raw_connection()
                    await raw.driver_connection.execute("VACUUM")  # type: ignore[union-attr]
                else:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql("VACUUM FULL")
        except (SQLAlchemyError, sqlite3.Error) as error:
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
        try:
            await self._commit([job], growing=False)
        except Exception as error:
            # The edge of all writing: whatever broke, who waits must hear of it, and the next go on.
            job.fail(self._failure(error) if isinstance(error, SQLAlchemyError) else error)

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
                    if growing and len(jobs) < _MOST_IN_GROUP and not self._jobs.empty():
                        jobs.append(self._jobs.get_nowait())
        except (SQLAlchemyError, OSError) as error:
            if causes.is_of_disk(error):
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
        self._damaged = self._damaged or causes.is_damage(error)
        failed = causes.while_running(error)
        if self._telling.due():
            logger().error(
                "数据库存取失败", kind=type(error).__name__, code=causes.code_of(error), reason=failed.message
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


def _durable_sqlite(connection: Any, _record: Any) -> None:
    # Without this the driver begins transactions when it thinks fit, and savepoints outside of any.
    connection.isolation_level = None
    cursor = connection.cursor()
    # ``secure_delete``: what /reset deletes is overwritten, not left in free pages.
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
    for pragma in (f"busy_timeout={inspection.BUSY_S * 1000}", *pragmas):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that began as a reader is refused when another program has written meanwhile.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(connection: Connection, name: str) -> None:
    """Raises StorageFailed: a later version of this program wrote it."""
    inspection.refuse_later(name, MigrationContext.configure(connection).get_current_revision())
    config = inspection.scripts()[0]
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
