"""Log lines: one console handler, one rotating file, and no secret in either."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import quote, quote_plus

LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class RedactingFormatter(logging.Formatter):
    """Formats whole records, tracebacks included, then blots out every secret."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(LINE)
        forms = {form for secret in secrets if secret for form in (secret, quote(secret), quote_plus(secret))}
        self._secrets = sorted(forms, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def install(level: str, secrets: Iterable[str], folder: Path) -> None:
    """Own the root logger, whatever a framework put there before."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    formatter = RedactingFormatter(secrets)
    console = logging.StreamHandler(sys.stderr)
    file = RotatingFileHandler(folder / "client.log", maxBytes=5_000_000, backupCount=3, encoding="utf-8")
    for handler in (console, file):
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "websockets", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
