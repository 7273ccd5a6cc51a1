"""The log's file under the data folder: one JSON object a line, written by a thread of its own, rotated by size."""

from __future__ import annotations

import logging
import os
import queue
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any, Final

# What waits for a slow disk; more is not kept.
_MOST_WAITING: Final = 10_000


class _File(RotatingFileHandler):
    """For its owner's eyes. What cannot be written (a full disk) is in the console's log, and ends nothing."""

    def _open(self) -> Any:
        return open(
            self.baseFilename, self.mode, encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        return


class _Queue(QueueHandler):
    """Hands records on as they are: whoever logs, the event loop above all, does not wait for their text."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        return


class LogFile:
    """``handler`` belongs on a logger; ``size_mb`` is a file's, ``count`` how many older ones stay beside it.

    Raises OSError: the folder cannot be made or the file not be opened.
    """

    def __init__(self, path: Path, formatter: logging.Formatter, *, size_mb: float, count: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _File(path, maxBytes=int(size_mb * 1e6), backupCount=count)
        file.setFormatter(formatter)
        waiting: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        self.handler = _Queue(waiting)
        self._listener = QueueListener(waiting, file)
        self._file = file
        self._listener.start()

    def close(self) -> None:
        """All that was handed over is written."""
        self._listener.stop()
        self._file.close()
