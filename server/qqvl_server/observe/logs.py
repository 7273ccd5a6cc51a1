"""Logging set up once. Nothing a user wrote is logged by default: no text, picture, key or query string."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from qqvl_server.language import told
from qqvl_server.observe.log_file import LogFile
from qqvl_server.settings import ObserveSettings

MAX_CHARACTERS = 200
# What people and the bot said: left out unless the owner wants it.
TEXTS: Final = ("text", "reply")
FILE: Final = "server.log"
_QQ_ID = re.compile(r"-?\d{1,20}")


def named(external_id: str) -> str:
    """An id as the log has it: QQ's are numbers, and of any other word only a digest is kept."""
    if _QQ_ID.fullmatch(external_id) and external_id.isascii():
        return external_id
    return "~" + hashlib.sha256(external_id.encode("utf-8", "replace")).hexdigest()[:12]


def _bounded(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Client strings are escaped and cut, so that none forges a line or floods the log."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("event", "exception"):
            safe = value.encode("unicode_escape").decode() if not value.isprintable() else value
            event[key] = safe if len(safe) <= MAX_CHARACTERS else safe[:MAX_CHARACTERS] + "…"
    return event


def _translated(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # The facts beside it hold what callers sent, and errors, which are translated already.
    if isinstance(event.get("event"), str):
        event["event"] = told(event["event"])
    return event


def _without_texts(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in TEXTS:
        event.pop(key, None)
    return event


def _dated(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """``at`` in seconds since the epoch: what ``qqvl trace`` puts lines of several files in order by."""
    record = event.get("_record")
    return {"at": round(record.created, 3) if record is not None else round(time.time(), 3), **event}


class _Logs:
    """What is set up now. One a process, as the standard library's root logger is."""

    def __init__(self) -> None:
        self.file: LogFile | None = None
        self.folder: Path | None = None


_LOGS = _Logs()


def configure(observe: ObserveSettings) -> None:
    """Send structlog's and the standard library's records to stderr in one form, and to the file where one is kept."""
    level = observe.log_level.upper()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        _translated,
        _bounded,
    ]
    if observe.log_text == "off":
        shared.append(_without_texts)
    to_json = structlog.processors.JSONRenderer(ensure_ascii=False)
    renderer: structlog.typing.Processor = (
        to_json
        if observe.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        cache_logger_on_first_use=False,
    )
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_formatter(shared, renderer))
    root = logging.getLogger()
    root.handlers[:] = [console]
    root.setLevel(level)
    if _LOGS.folder is not None and (handler := _in_file(_LOGS.folder, observe, _formatter(shared, to_json, _dated))):
        root.addHandler(handler)
    for noisy in ("uvicorn", "uvicorn.error", "alembic", "aiosqlite", "PIL", "httpx", "httpcore", "asyncio", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Pillow warns of every odd picture, with the path of its own file: what is wrong is told to the sender.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


@contextmanager
def kept_in(folder: Path, observe: ObserveSettings) -> Iterator[None]:
    """Meanwhile, a file in ``folder`` holds the log as well. A folder that cannot be written to costs a warning."""
    _LOGS.folder = folder
    configure(observe)
    try:
        yield
    finally:
        _LOGS.folder = None
        close()


def close() -> None:
    """What is logged until now is in the file; what comes after is not."""
    file, _LOGS.file = _LOGS.file, None
    if file is not None:
        logging.getLogger().removeHandler(file.handler)
        file.close()


def _in_file(folder: Path, observe: ObserveSettings, formatter: logging.Formatter) -> logging.Handler | None:
    close()
    if not observe.log_file_mb:
        return None
    try:
        _LOGS.file = LogFile(folder / FILE, formatter, size_mb=observe.log_file_mb, count=observe.log_files)
    except OSError as error:
        logger().warning("日志文件写不了，只写到屏幕上", folder=str(folder), reason=error.strerror)
        return None
    return _LOGS.file.handler


def _formatter(
    shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor, *before: structlog.typing.Processor
) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            *before,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )


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
