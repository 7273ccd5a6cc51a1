"""Faults planted on purpose, for tests of what happens then. Never on by itself. Imports no torch."""

from __future__ import annotations

import re
import threading
from collections.abc import Set
from typing import Any, Final

from qqvl_server.engine.steps.batch import Prepared, ScheduledBatch
from qqvl_server.engine.steps.core import OutOfMemory, Runner
from qqvl_server.engine.steps.request import Request
from qqvl_server.errors import ConfigError
from qqvl_server.observe.logs import logger

# For tests only: ``step``, ``oom``, ``thread`` or ``hang``, then optionally which steps go wrong: ``:3`` or ``:3-5``.
VARIABLE: Final = "QQVL_PLANT_FAULT"
_WRITTEN: Final = re.compile(r"(step|oom|thread|hang)(?::(\d+)(?:-(\d+))?)?")


class FaultyRunner:
    """Runs as ``runner`` does, but for the planted steps (counted from 1).

    ``step`` raises as a broken model would, ``oom`` as one whose memory ran out, ``thread`` ends the engine's thread
    without a word, ``hang`` never comes back.
    """

    def __init__(self, runner: Runner, kind: str, first: int, last: int) -> None:
        self._runner = runner
        self._kind = kind
        self._faulty = range(first, last + 1)
        self._steps = 0

    def add(self, request: Request, patches: dict[bytes, Any]) -> None:
        self._runner.add(request, patches)

    def forget(self, request: Request) -> None:
        self._runner.forget(request)

    def release_memory(self) -> None:
        self._runner.release_memory()

    def check_integrity(self, live: Set[str]) -> None:
        self._runner.check_integrity(live)

    def prepare(self, batch: ScheduledBatch) -> Prepared:
        self._steps += 1
        prepared = self._runner.prepare(batch)
        return _Faulty(self._kind) if self._steps in self._faulty else prepared


class _Faulty:
    """A step that goes wrong when it is computed."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def compute(self) -> Any:
        if self._kind == "thread":
            raise SystemExit
        if self._kind == "hang":
            threading.Event().wait()
        raise OutOfMemory if self._kind == "oom" else RuntimeError("planted fault")


def plant(runner: Runner, wish: str) -> Runner:
    """``wish`` is the variable's value; empty leaves the runner as it is.

    Raises:
        ConfigError: it cannot be read.
    """
    if not wish:
        return runner
    written = _WRITTEN.fullmatch(wish)
    if written is None:
        raise ConfigError(f"{VARIABLE} 只供测试，写成 step、oom、thread 或 hang，后面可加 :第几步 或 :起-止")
    first = int(written[2] or 1)
    logger().warning("已按测试要求埋下故障，切勿用于正式运行", variable=VARIABLE, fault=wish)
    return FaultyRunner(runner, written[1], first, int(written[3] or first))
