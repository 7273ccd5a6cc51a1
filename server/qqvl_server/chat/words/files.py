"""Files of blocked words that an owner edits in the browser: only those that the settings name. Blocking."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qqvl_server.errors import InvalidRequest, NotFound, StorageFailed

_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class WordFile:
    """``name`` is the file's own, without its folder."""

    name: str
    text: str


def all_files(entries: Sequence[str]) -> tuple[WordFile, ...]:
    """Those among the entries of the lists; one that cannot be read is empty."""
    return tuple(WordFile(path.name, _text(path)) for path in _paths(entries))


def write(entries: Sequence[str], name: str, text: str) -> WordFile:
    """Raises NotFound, InvalidRequest: too long. StorageFailed."""
    path = next((path for path in _paths(entries) if path.name == name), None)
    if path is None:
        raise NotFound("block_words_in 和 block_words_out 里没有这个文件")
    if len(text) > _MOST:
        raise InvalidRequest(f"屏蔽词文件太长，最多 {_MOST} 字", param="text")
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                written.write(text)
            # As the owner made it: other programs may read it.
            os.chmod(draft, path.stat().st_mode & 0o777)
            os.replace(draft, path)
        finally:
            with suppress(OSError):
                os.unlink(draft)
    except OSError as error:
        raise StorageFailed("屏蔽词文件写不进去，请检查权限和剩余空间") from error
    return WordFile(name, _text(path))


def _paths(entries: Sequence[str]) -> list[Path]:
    return [Path(entry) for entry in dict.fromkeys(entries) if entry.endswith(".txt")]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
