"""Connections: how many there may be at a time, how long one may take to ask, and what happens at the limit.

uvicorn takes whatever comes. Once the process has no descriptor left, asyncio writes a trace for each try to accept, a
thousand at a time, and neither a picture nor the database can be opened: it must never come to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import resource
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from qqvl_server.observe.logs import Seldom, logger

MOST: Final = 4096
# Accepted before one of them is counted: asyncio takes so many from the queue at once.
ACCEPTED_AT_ONCE: Final = 32
# Descriptors for everything but connections: the database, pictures, far servers, the log, and those just accepted.
_OURS: Final = 192
_WANTED_LIMIT: Final = 65_536
# Clients that never read must not hold the process: uvicorn drops them after this many seconds.
_STUCK_CLIENT_S: Final = 5
_OUT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_limit() -> None:
    """As many descriptors as the system lets this process have, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _WANTED_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def quieted(loop: asyncio.AbstractEventLoop) -> None:
    """What may fail a thousand times a second is told once a minute; whatever else fails is told as before."""
    telling = Seldom(60)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF:
            loop.default_exception_handler(context)
        elif telling.due():
            logger().error("系统不给新连接：打开的文件和连接太多，请调高 ulimit -n", reason=error.strerror)

    loop.set_exception_handler(handle)


class Roster:
    """Every open connection. At the limit the one that has been without a request for longest makes way."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        # In the order in which they became idle.
        self._idle: dict[Connection, None] = {}
        self._telling = Seldom(60)

    def arrived(self, connection: Connection) -> None:
        self._open.add(connection)
        self._idle[connection] = None
        most = _most()
        if len(self._open) <= most:
            return
        if self._telling.due():
            logger().warning("连接太多，关闭最久没有请求的", most=most)
        leaving = next(iter(self._idle))
        # Its descriptor is closed in the next round of the loop; more may arrive in this one.
        self.left(leaving)
        leaving.transport.abort()

    def asked(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        if connection in self._open:
            self._idle.setdefault(connection)

    def left(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)


def _most() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if limit == resource.RLIM_INFINITY else min(MOST, max(limit - _OURS, limit // 4))


class Connection(H11Protocol):
    """uvicorn waits for ever for the end of a request's head; here a connection must bring one within a time."""

    def __init__(self, roster: Roster, head_timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._roster = roster
        self._head_timeout_s = head_timeout_s
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._roster.arrived(self)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._roster.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self._roster.left(self)
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Between requests uvicorn's own limit counts, until the first byte of the next."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
            if not self.cycle.more_body:
                self._roster.asked(self)
        elif self._patience is None:
            self._patience = self.loop.call_later(self._head_timeout_s, self.timeout_keep_alive_handler)

    def _stop_watching(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def web_config(app: object, head_timeout_s: float) -> uvicorn.Config:
    """Args:
    app: an ASGI application.
    head_timeout_s: how long a connection may take to bring the head of a request, in seconds.
    """
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        # h11 caps headers at 64 KB; httptools, taken by default where installed, has no limit.
        http=functools.partial(Connection, Roster(), head_timeout_s),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        # Anyone on this machine could otherwise name the address that limits and logs go by.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_STUCK_CLIENT_S,
        backlog=ACCEPTED_AT_ONCE,
    )
