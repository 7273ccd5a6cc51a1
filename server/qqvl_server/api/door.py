"""A door as a value: which paths are its own, what a key must be good for, what answers there, how it tells an error.

Guard, error table and server are given the doors and name none: a page or a router is one value more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from qqvl_server.errors import QqvlError
from qqvl_server.keys import Scope

Endpoint = Callable[[Request], Awaitable[Response]]
# The body of an error, and the id of the request that met it.
ErrorBody = Callable[[QqvlError, str], dict[str, Any]]


class Lock(StrEnum):
    """What of a door wants a key, a cookie or the owner's token even where no key is set."""

    NOTHING = "nothing"
    WRITES = "writes"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Door:
    """``name`` labels it in figures. It owns its ``prefixes`` and what is below, but for a longer one of another door.

    ``scope`` is what a key must be good for; Scope.ADMIN is for this machine only where no key is set. The paths
    ``in_the_open`` are answered without a key, as are all of a door that ``is_public``. A door that
    ``counts_by_itself`` tells whose its requests are, by ``scope["qqvl.count"]``; else each is its caller's.

    Raises ValueError: a route of ``router`` is not below a prefix, so that nobody has said who may come in by it, or
    its paths cannot be seen (a router inside of it, a mounted application).
    """

    name: str
    prefixes: tuple[str, ...]
    scope: Scope
    router: APIRouter
    error_body: ErrorBody
    in_the_open: frozenset[str] = frozenset()
    counts_by_itself: bool = False
    lock: Lock = Lock.NOTHING
    is_public: bool = False

    def __post_init__(self) -> None:
        hidden = [route for route in self.router.routes if not isinstance(route, Route)]
        stray = [path for path in (*self.paths, *self.in_the_open) if not self.reach(path)]
        if hidden or stray:
            raise ValueError(f"the door {self.name} has routes outside its prefixes: {hidden or stray}")

    @property
    def paths(self) -> tuple[str, ...]:
        """As the OpenAPI document spells them: ``/v1/models/{name}``."""
        return tuple(dict.fromkeys(route.path_format for route in self._routes()))

    def posts(self) -> Mapping[str, Endpoint]:
        """What answers a POST, by its path, where that holds no parameter."""
        return {
            route.path: route.endpoint
            for route in self._routes()
            if "POST" in (route.methods or ()) and not route.param_convertors
        }

    def reads_body(self, path: str) -> bool:
        """Whether a POST to ``path`` finds a route."""
        asked = {"type": "http", "method": "POST", "path": path, "headers": []}
        return any(route.matches(asked)[0] is Match.FULL for route in self._routes())

    def reach(self, path: str) -> int:
        """How long its prefix of ``path`` is; 0 where it has none."""
        below = (one for one in self.prefixes if path == one or (one != "/" and path.startswith(one + "/")))
        return max(map(len, below), default=0)

    def is_open(self, path: str) -> bool:
        return self.is_public or path in self.in_the_open

    def is_locked(self, method: str) -> bool:
        return self.lock is Lock.ALL or (self.lock is Lock.WRITES and method not in ("GET", "HEAD"))

    def _routes(self) -> list[Route]:
        return [route for route in self.router.routes if isinstance(route, Route)]


def at(doors: Sequence[Door], path: str) -> Door | None:
    """Whose ``path`` is: the longest prefix decides, whatever the order."""
    found = max(doors, key=lambda door: door.reach(path), default=None)
    return found if found is not None and found.reach(path) else None
