"""Log lines: one console handler, one rotating file of JSON, and no secret in either."""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from qqvl_client.language import told
from qqvl_client.settings import Settings

LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
FILE = "client.log"
TEXTS = ("text", "reply")
"""What people and the bot said: left out unless the owner wants it."""


class RedactingFormatter(logging.Formatter):
    """Formats whole records, tracebacks included, then blots out every secret."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(LINE)
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._secrets = sorted(forms, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = self._text(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _text(self, record: logging.LogRecord) -> str:
        return super().format(_translated(record))


class JsonFormatter(RedactingFormatter):
    """One object a line: what the line says, and the facts that its caller put beside it."""

    def __init__(self, secrets: Iterable[str], *, with_texts: bool) -> None:
        super().__init__(secrets)
        self._left_out = () if with_texts else TEXTS

    def _text(self, record: logging.LogRecord) -> str:
        record = _translated(record)
        facts: Mapping[str, Any] = getattr(record, "facts", {})
        line = {
            "at": round(record.created, 3),
            "timestamp": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **{name: value for name, value in facts.items() if name not in self._left_out},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _File(RotatingFileHandler):
    """For its owner's eyes. What cannot be written (a full disk) is on the console, and ends nothing."""

    def _open(self) -> Any:
        return open(
            self.baseFilename, self.mode, encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        return


def _translated(record: logging.LogRecord) -> logging.LogRecord:
    """In the user's language: the line, and the words that fill it."""
    found = copy.copy(record)
    if isinstance(record.msg, str):
        found.msg = told(record.msg)
    if isinstance(record.args, tuple):
        found.args = tuple(told(str(each)) if isinstance(each, str | Exception) else each for each in record.args)
    return found


def _forms(secret: str) -> tuple[str, ...]:
    return secret, quote(secret), quote_plus(secret), json.dumps(secret, ensure_ascii=False)[1:-1]


def install(settings: Settings) -> None:
    """Own the root logger, whatever a framework put there before."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    to_json = JsonFormatter(settings.secrets, with_texts=settings.log_text)
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(to_json if settings.log_format == "json" else RedactingFormatter(settings.secrets))
    root.addHandler(console)
    root.setLevel(settings.log_level)
    for chatty in ("httpx", "httpcore", "websockets", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    if settings.log_file_mb and (file := _file(settings)) is not None:
        file.setFormatter(to_json)
        root.addHandler(file)


def _file(settings: Settings) -> logging.Handler | None:
    path: Path = settings.log_folder / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _File(path, maxBytes=int(settings.log_file_mb * 1e6), backupCount=settings.log_files)
    except OSError as error:
        logging.getLogger("qqvl").warning("日志文件 %s 写不了（%s），只写到屏幕上", path, error.strerror)
        return None
