"""PostgreSQL under the store: its address, its connections, and what its errors mean. Knows no tables.

Nothing waits for a server that says no more: a connection, a statement and a place in the pool have their seconds.
Sqlstates: https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

from __future__ import annotations

import asyncio
import importlib.util
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, InterfaceError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoPlace
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from qqvl_server import invocation
from qqvl_server.errors import ConfigError, StorageFailed

# As programs write the scheme: libpq's two, and SQLAlchemy's with a driver.
_SCHEMES: Final = ("postgresql", "postgres")
CONNECT_S: Final = 8.0
COMMAND_S: Final = 10.0
"""How long one statement may take. A frozen server is found out by this."""
# Every server has so many, and one more for its lanes: two servers fit 14 connections. Statements are short; who finds
# none free waits.
_CONNECTIONS: Final = 5
_PLACE_S: Final = 10.0
# A server that stops within a transaction gives its rows back, one whose machine is gone its lanes; and a row that
# another server holds can be told from a frozen database.
_MANNERS: Final = (
    "SET idle_in_transaction_session_timeout = '30s'; SET lock_timeout = '3s'; "
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)
_OPTIONS: Final = {"ssl": "sslmode"}
_NOT_LIBPQS: Final = ("prepared_statement_cache_size", "prepared_statement_name_func", "command_timeout", "timeout")

_AT_START: Final = {
    "28": "{name} 不认这个用户名或密码：请检查 database_url",
    "3D000": "数据库服务器上没有 {name} 这个库：请先建好它（createdb），或改 database_url",
    "42501": "这个用户在 {name} 里没有建表的权限：请把库的主人设成它，或 GRANT CREATE ON SCHEMA public",
    "42P07": "{name} 里的表不是 qqvl 的，没有启动。里面的东西没有动过：请换一个空的库",
    "53300": "{name} 的连接已经用完了：请关掉多余的程序，或加大 max_connections（每台 qqvl 用 6 个）",
    "57P03": "{name} 还在启动或恢复，请稍后再启动",
    "25006": "{name} 是只读的（备机，或被设成了只读），没有启动：请连主机",
}
_WHILE_RUNNING: Final = {
    "53100": "数据库服务器的磁盘满了，这次没有保存；请在那台机器上腾出空间",
    "53": "数据库服务器的连接或内存用完了，这次没有存取成功；请稍后再试",
    "25006": "数据库是只读的（换成了备机？），这次没有保存；请让 database_url 指向主机",
    "42501": "数据库不让这个用户读写，这次没有存取成功；请检查它的权限",
    "08": "和数据库的连接断了，这次没有存取成功；请稍后再试",
    "57P": "数据库正在停止或重启，这次没有存取成功；请稍后再试",
    "57014": "数据库太慢，这次没有存取成功；请稍后再试",
}
_GONE: Final = "和数据库的连接断了，这次没有存取成功；请稍后再试"
_SILENT: Final = "数据库没有回应，这次没有存取成功；请看数据库服务器是不是卡住了"
_CROWDED: Final = "等数据库的连接等了太久，这次没有存取成功；请稍后再试"
# Two wrote at once, and this one came second: done again, it finds what the other wrote.
_RACES: Final = ("23505", "23503", "40001", "40P01", "55P03")
_FOREVER: Final = 86400.0
# A name for the lock: who is about to change the tables.
_MIGRATING: Final = int.from_bytes(b"qqvl-mig", "big")
_MIGRATING_S: Final = 300.0
_LOOK_S: Final = 0.1


def is_address(url: str) -> bool:
    return url.partition(":")[0].partition("+")[0].lower() in _SCHEMES


def name_of(url: str) -> str:
    """A database as people are told of it: without user and password."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2] or dict(urllib.parse.parse_qsl(parts.query)).get("host", "localhost")
    return f"PostgreSQL 数据库 {host}{parts.path}"


def engine(url: str, *, for_migration: bool = False) -> AsyncEngine:
    """Connections to ``url``, in libpq's spelling or SQLAlchemy's; none is made yet.

    Args:
        for_migration: statements may take as long as a large table needs.

    Raises:
        ConfigError: asyncpg is not installed.
    """
    if importlib.util.find_spec("asyncpg") is None:
        raise ConfigError(f"没有装 PostgreSQL 的驱动：运行 {invocation.install('asyncpg')}，或去掉 database_url")

    async def connected() -> Any:
        return await connect(url, _FOREVER if for_migration else COMMAND_S)

    if for_migration:
        return create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=NullPool)
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connected,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_PLACE_S,
        pool_pre_ping=True,
    )


async def rewrite(url: str) -> None:
    """Rewrite every table, so that nothing deleted is left in its files. Others wait meanwhile."""
    alone = engine(url, for_migration=True)
    try:
        async with alone.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql("VACUUM FULL")
    finally:
        await alone.dispose()


async def connect(url: str, command_s: float = COMMAND_S) -> Any:
    """asyncpg's connection, past any pool.

    Raises:
        StorageFailed: there is none to be had; what to do.
    """
    import asyncpg

    try:
        connection = await asyncpg.connect(_for_libpq(url), timeout=CONNECT_S, command_timeout=command_s)
        if command_s < _FOREVER:
            await connection.execute(_MANNERS)
        return connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise at_start(error, name_of(url)) from error


async def migrate(url: str, work: Callable[[Connection, str], None]) -> None:
    """Do ``work`` in one transaction, while no other server does.

    Raises:
        StorageFailed: another has been at it for minutes.
    """
    alone = engine(url, for_migration=True)
    try:
        async with alone.begin() as connection:
            # Asked for again and again: whoever waits within a statement cannot be told from a frozen server.
            for _ in range(int(_MIGRATING_S / _LOOK_S)):
                if (await connection.execute(select(func.pg_try_advisory_xact_lock(_MIGRATING)))).scalar():
                    break
                await asyncio.sleep(_LOOK_S)
            else:
                raise StorageFailed(f"{name_of(url)} 一直被另一台 qqvl 升级着，没有启动：请稍后再启动")
            await connection.run_sync(work, name_of(url))
    finally:
        await alone.dispose()


def connection_errors() -> tuple[type[Exception], ...]:
    """What a connection of asyncpg's raises."""
    import asyncpg

    return asyncpg.PostgresError, asyncpg.InterfaceError, OSError


def at_start(error: Exception, name: str) -> StorageFailed:
    state = code_of(error)
    found = _of(_AT_START, state)
    if found is None and isinstance(_inner(error), TimeoutError):
        found = f"{{name}} 在 {CONNECT_S:g} 秒里没有回应：请看数据库服务器是不是卡住了"
    elif found is None and isinstance(_inner(error), OSError):
        found = "连不上 {name}：请检查 database_url 里的地址和端口，数据库是不是在运行"
    elif found is None and state is None:
        found = "连不上 {name}：请检查 database_url 的写法，如 postgresql://用户:密码@主机/库名"
    return StorageFailed((found or "用不了 {name}：请检查 database_url 和权限").format(name=name))


def while_running(error: Exception) -> StorageFailed:
    inner = _inner(error)
    if isinstance(inner, TimeoutError):
        return StorageFailed(_SILENT)
    if isinstance(inner, NoPlace):
        return StorageFailed(_CROWDED)
    found = _of(_WHILE_RUNNING, code_of(error))
    if found is None and (isinstance(inner, OSError) or _is_cut(error)):
        found = _GONE
    return StorageFailed(found or "数据库存取失败，这次没有保存；请看日志")


def is_of_storage(error: Exception) -> bool:
    """Whether it says nothing about the statement: whatever were written now would fail alike."""
    is_told = _of(_WHILE_RUNNING, code_of(error)) is not None
    return is_told or isinstance(_inner(error), OSError | NoPlace) or _is_cut(error)


def is_race(error: Exception) -> bool:
    """Whether another was first: the same work, done again, sees what that one wrote."""
    return code_of(error) in _RACES


def is_damage(error: Exception) -> bool:
    """Its data cannot be read any more: data_corrupted, index_corrupted."""
    return code_of(error) in ("XX001", "XX002")


def code_of(error: Exception) -> str | None:
    """The server's sqlstate, five letters; None where the server said nothing."""
    state = getattr(_inner(error), "sqlstate", None)
    return state if isinstance(state, str) else None


def _is_cut(error: Exception) -> bool:
    return isinstance(error, InterfaceError) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _inner(error: BaseException) -> BaseException:
    """What the driver raised; SQLAlchemy and its adapter each wrap it once."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    if isinstance(error, SQLAlchemyError) and not isinstance(error, NoPlace) and error.__cause__ is not None:
        return error.__cause__
    return error


def _of(table: dict[str, str], state: str | None) -> str | None:
    """The longest beginning of the state counts."""
    if state is None:
        return None
    return next((table[state[:length]] for length in (5, 3, 2) if state[:length] in table), None)


def _for_libpq(url: str) -> str:
    """The address as asyncpg reads it, which is as libpq does; SQLAlchemy's own options are left out."""
    rest = url.partition(":")[2]
    place, _, query = rest.partition("?")
    options = [
        (_OPTIONS.get(name, name), value)
        for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True)
        if name not in _NOT_LIBPQS
    ]
    return f"postgresql:{place}" + (f"?{urllib.parse.urlencode(options)}" if options else "")
