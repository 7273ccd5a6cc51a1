"""A backup's file: a tar of plain files, and behind them a list of what they are. Knows files; no database.

The list comes last, so that an archive cut short has none and is refused. POSIX.1-2001 pax, so that any tar reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Final, Self

from qqvl_server.errors import QqvlError

Tell = Callable[[str], None]
MANIFEST: Final = "manifest.json"
FORMAT: Final = "qqvl-backup"
VERSION: Final = 1
ROOMS: Final = ("server", "client", "settings")
"""The folders of an archive."""
_CHUNK: Final = 1 << 20
_MOST_MANIFEST: Final = 256 << 20


@dataclass(slots=True)
class _Hashed:
    """A file that is read once, exactly ``size`` bytes of it, and what they were."""

    file: IO[bytes]
    digest: Any = field(default_factory=hashlib.sha256)

    def read(self, count: int = -1) -> bytes:
        data = self.file.read(count)
        self.digest.update(data)
        return data


class Writer:
    """``with Writer(path) as archive``: the file is there, whole and durable, once ``finish`` was called; else nothing.

    For the owner's eyes only: it holds private chats.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.part")
        self._files: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._draft.unlink(missing_ok=True)
        self._file = os.fdopen(os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._draft.unlink(missing_ok=True)

    def add(self, name: str, path: Path) -> None:
        """A file as it is now; it may grow meanwhile. Raises OSError."""
        with path.open("rb") as file:
            kept = _Hashed(file)
            size = os.fstat(file.fileno()).st_size
            self._tar.addfile(self._entry(name, size), kept)
        self._files[name] = {"size": size, "sha256": kept.digest.hexdigest()}

    def finish(self, told: Mapping[str, Any]) -> int:
        """Write the list, with what is ``told`` beside it; gives the archive's bytes."""
        manifest = {"format": FORMAT, "version": VERSION, **told, "files": self._files}
        data = json.dumps(manifest, ensure_ascii=False, indent=1).encode()
        self._tar.addfile(self._entry(MANIFEST, len(data)), io.BytesIO(data))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        os.replace(self._draft, self._path)
        sync(self._path.parent)
        return size

    @staticmethod
    def _entry(name: str, size: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
        return entry


def unpack(path: Path, into: Path, tell: Tell) -> dict[str, Any]:
    """Write an archive's files below ``into``, each compared with the list; gives the list.

    Raises:
        QqvlError: no archive of ours, cut short, changed, or made by a later version; or no room for it.
    """
    try:
        size = path.stat().st_size
        if shutil.disk_usage(into.parent).free < size:
            raise QqvlError(f"磁盘放不下：解开要 {size / 1e6:.0f} MB，先腾出空间")
        found: dict[str, dict[str, Any]] = {}
        data = b""
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                source = tar.extractfile(entry) if entry.isfile() else None
                if source is None:
                    raise QqvlError(f"{path} 里有不是普通文件的东西，不是 qqvl 的备份")
                if entry.name == MANIFEST and entry.size <= _MOST_MANIFEST:
                    data = source.read()
                    continue
                found[entry.name] = _written(source, into / _checked(path, entry.name))
                tell(f"解开 {len(found)} 个文件")
    except FileNotFoundError as error:
        raise QqvlError(f"没有 {path} 这个文件") from error
    except (tarfile.TarError, EOFError) as error:
        raise QqvlError(f"{path} 不是 qqvl 的备份，或者没有写完：{_SAME}") from error
    except OSError as error:
        raise QqvlError(f"读不了备份 {path}，或写不进数据目录：{error.strerror}") from error
    # All at once: file by file, thousands of pictures would take minutes.
    os.sync()
    return _listed(path, data, found)


_SAME: Final = "换一个备份；现在的数据没有动"


def _written(source: IO[bytes], target: Path) -> dict[str, Any]:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept, size = _Hashed(source), 0
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while chunk := kept.read(_CHUNK):
            size += file.write(chunk)
    return {"size": size, "sha256": kept.digest.hexdigest()}


def _checked(path: Path, name: str) -> PurePosixPath:
    """Raises QqvlError for a name that could lead out of the folder."""
    place = PurePosixPath(name)
    if len(place.parts) < 2 or place.parts[0] not in ROOMS or ".." in place.parts or place.as_posix() != name:
        raise QqvlError(f"{path} 里有不认识的文件名，不是 qqvl 的备份")
    return place


def _listed(path: Path, data: bytes, found: Mapping[str, Any]) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise ValueError
        version, files = int(manifest["version"]), manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise QqvlError(f"{path} 不是 qqvl 的备份，或者没有写完：{_SAME}") from error
    if version > VERSION:
        raise QqvlError(f"{path} 是更新的 qqvl 做的备份（第 {version} 版，这里只认到第 {VERSION} 版）：请先升级 qqvl")
    if files != found:
        raise QqvlError(f"{path} 里的文件和清单对不上，备份坏了：{_SAME}")
    return dict(manifest)


def sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
