"""Word lists as the operator keeps them: words, and files of words that may change while the server runs."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from qqvl_server.chat.words.matching import Matcher
from qqvl_server.errors import ConfigError
from qqvl_server.observe.logs import logger

_LOOK_S: Final = 1.0


class WordList:
    """``entries`` are words; one that ends in ``.txt`` is a file, a word a line, ``#`` begins a remark. ``folders``
    hold more such files, which may come and go while the server runs.

    Raises:
        ConfigError: a file cannot be read, or pinyin was asked for and is not installed.
    """

    def __init__(self, entries: Sequence[str], *, folders: Sequence[Path] = (), pinyin: bool = False) -> None:
        self._words = [entry for entry in entries if not entry.endswith(".txt")]
        self._named = [Path(entry) for entry in entries if entry.endswith(".txt")]
        self._folders = folders
        self._pinyin = pinyin
        if pinyin and entries and importlib.util.find_spec("pypinyin") is None:
            raise ConfigError(
                "block_words_pinyin 要另装 pypinyin：.venv/bin/pip install -c constraints.txt -e '.[pinyin]'"
            )
        self._looked_at = time.monotonic()
        try:
            self._seen = self._stamps()
            self._matcher = self._compiled()
        except OSError as error:
            raise ConfigError(f"屏蔽词文件 {error.filename} 读不了，请检查 block_words_in、block_words_out") from None
        except UnicodeDecodeError:
            raise ConfigError("屏蔽词文件应是 UTF-8 编码的文本，一行一个词") from None

    async def fresh(self) -> Matcher | None:
        """The list as its files have it now; None where it is empty. A file that cannot be read changes nothing."""
        if (self._named or self._folders) and time.monotonic() - self._looked_at >= _LOOK_S:
            self._looked_at = time.monotonic()
            await asyncio.to_thread(self._look)
        return self._matcher

    def _look(self) -> None:
        try:
            stamps = self._stamps()
            if stamps != self._seen:
                self._matcher = self._compiled()
                self._seen = stamps
                logger().info("屏蔽词已重新读入", words=len(self._matcher.words) if self._matcher else 0)
        except (OSError, UnicodeDecodeError) as error:
            logger().warning("屏蔽词文件读不了，继续用原来的", kind=type(error).__name__)

    def _files(self) -> list[Path]:
        return [*self._named, *(file for folder in self._folders for file in sorted(folder.glob("*.txt")))]

    def _stamps(self) -> list[tuple[str, int, int]]:
        return [(str(file), found.st_mtime_ns, found.st_size) for file in self._files() for found in [file.stat()]]

    def _compiled(self) -> Matcher | None:
        lines = [line.strip() for file in self._files() for line in file.read_text("utf-8-sig").splitlines()]
        words = [*self._words, *(line for line in lines if line and not line.startswith("#"))]
        return Matcher(words, _syllables(words) if self._pinyin else None) if words else None


def _syllables(words: Sequence[str]) -> dict[str, list[str]]:
    from pypinyin import lazy_pinyin

    return {word: lazy_pinyin(word) for word in words if not word.isascii()}
