"""Logging set up once. Nothing a user wrote is logged by default: no text, picture, key or query string."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import structlog

MAX_CHARACTERS = 200


def _bounded(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Client strings are escaped and cut, so that none forges a line or floods the log."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("event", "exception"):
            safe = value.encode("unicode_escape").decode() if not value.isprintable() else value
            event[key] = safe if len(safe) <= MAX_CHARACTERS else safe[:MAX_CHARACTERS] + "…"
    return event


def configure(level: str, log_format: str) -> None:
    """Send structlog's and the standard library's records to stderr in one form.

    Args:
        level: debug, info, warning or error.
        log_format: ``console`` for people, ``json`` for one object a line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        _bounded,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "alembic", "aiosqlite", "PIL", "httpx", "httpcore", "asyncio", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Pillow warns of every odd picture, with the path of its own file: what is wrong is told to the sender.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


class Seldom:
    """When to say again what may happen thousands of times a second: ``due`` once in ``every_s`` seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = -math.inf

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True


def logger() -> structlog.typing.FilteringBoundLogger:
    """A logger whose first argument is a short Chinese event and whose keywords are its facts."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger("qqvl")
    return bound
