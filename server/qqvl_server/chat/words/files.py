"""Lists of blocked words that an owner edits in the browser. Blocking.

Two kinds: files that flags, environment or settings file name, whose text can be changed, and lists of the page's own
in the data folder, which can also be made and deleted: ``in/``, ``out/`` and ``both/`` there say what they block.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from qqvl_server.errors import InvalidRequest, NotFound, StorageFailed

Side = Literal["in", "out", "both"]
SIDES: Final[tuple[Side, ...]] = get_args(Side)
_MOST: Final = 1_000_000
# Letters of any language; nothing that could leave the folder, be hidden, or be another file elsewhere.
_STEM: Final = re.compile(r"[^\W_](?:[\w -]{0,62}\w)?")


@dataclass(frozen=True, slots=True)
class WordFile:
    """``name`` is the file's own, without its folder; lists of the page's have no ending. ``blocks``: what comes from
    QQ (in), what the model says (out), or both. ``own``: made in the page, and may be deleted there."""

    name: str
    text: str
    blocks: Side
    own: bool


def folders(root: Path, side: Literal["in", "out"]) -> tuple[Path, ...]:
    """Where the page's lists of one side are; none of them need exist."""
    return root / side, root / "both"


class WordFiles:
    """``root`` is the folder of the page's own; ``coming`` and ``going`` are the entries of the settings."""

    def __init__(self, root: Path, coming: tuple[str, ...], going: tuple[str, ...]) -> None:
        self._root = root
        coming, going = (tuple(dict.fromkeys(e for e in side if e.endswith(".txt"))) for side in (coming, going))
        self._named: dict[Path, Side] = {Path(entry): "in" for entry in coming}
        for entry in going:
            self._named[Path(entry)] = "both" if entry in coming else "out"

    def all(self) -> tuple[WordFile, ...]:
        """One that cannot be read is empty."""
        named = [WordFile(path.name, _text(path), side, False) for path, side in self._named.items()]
        own = [WordFile(path.stem, _text(path), side, True) for path, side in self._own()]
        return (*named, *sorted(own, key=lambda one: one.name))

    def get(self, name: str) -> WordFile | None:
        return next((one for one in self.all() if one.name == name), None)

    def write(self, name: str, text: str, blocks: Side | None = None) -> WordFile:
        """The whole text. A name that is not there yet makes a list of the page's own.

        Args:
            blocks: None leaves it as it is; a new list blocks both.

        Raises:
            InvalidRequest: the name, too long, or another side than the settings say.
            StorageFailed
        """
        if len(text) > _MOST:
            raise InvalidRequest(f"屏蔽词文件太长，最多 {_MOST} 字", param="text")
        named = next((path for path in self._named if path.name == name), None)
        if named is not None:
            side = self._named[named]
            if blocks not in (None, side):
                raise InvalidRequest(
                    "这个文件管收到的还是说出的，由 block_words_in、block_words_out 定", param="blocks"
                )
            _replace(named, text)
            return WordFile(name, _text(named), side, False)
        if not _STEM.fullmatch(name):
            raise InvalidRequest("词表的名字只能有字母、数字、汉字、空格、短横，最多 64 个", param="name")
        old = next((path for path, _ in self._own() if path.stem == name), None)
        side = blocks or (old.parent.name if old is not None else "both")  # type: ignore[assignment]
        path = self._root / side / f"{name}.txt"
        _replace(path, text)
        if old is not None and old != path:
            _remove(old)
        return WordFile(name, _text(path), side, True)

    def delete(self, name: str) -> None:
        """Raises NotFound, StorageFailed; InvalidRequest: one that the settings name, without which nothing starts."""
        if any(path.name == name for path in self._named):
            raise InvalidRequest(
                "这个文件写在 block_words_in 或 block_words_out 里：先从设置里去掉再删，不然下次启动会找不到它"
            )
        old = next((path for path, _ in self._own() if path.stem == name), None)
        if old is None:
            raise NotFound("没有这个词表")
        _remove(old)

    def _own(self) -> Iterator[tuple[Path, Side]]:
        for side in SIDES:
            for path in (self._root / side).glob("*.txt"):
                yield path, side


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                written.write(text)
            if path.exists():
                # As the owner made it: other programs may read it.
                os.chmod(draft, path.stat().st_mode & 0o777)
            os.replace(draft, path)
        finally:
            with suppress(OSError):
                os.unlink(draft)
    except OSError as error:
        raise StorageFailed("屏蔽词文件写不进去，请检查权限和剩余空间") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed("屏蔽词文件删不掉，请检查权限") from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
