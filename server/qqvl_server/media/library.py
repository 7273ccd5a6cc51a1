"""Pictures on disk, each stored once under the hash of its bytes. Knows files; no chat, no model.

History holds ``ImageRef`` only; the bytes live here, bounded by size, the longest unused deleted first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, TypeVar

from PIL import Image

from qqvl_server.errors import ImageRejected, StorageFailed
from qqvl_server.media.animations import BROKEN
from qqvl_server.media.decoder import Decoder, TooSlow
from qqvl_server.media.image import ImageLimits, ImageRef, decode_base64
from qqvl_server.media.shared import SharedPictures, Unreachable
from qqvl_server.observe.logs import logger

Frames = tuple[Image.Image, ...]
T = TypeVar("T")

EXPIRED: Final = "图片已过期"
UNREACHABLE: Final = "它在合用的图片库里，这台服务器现在连不上"
DAMAGED: Final = "磁盘上的图片已损坏，重新发一次就能看到"
_SCRATCH: Final = "tmp"
# No picture takes longer to be written.
_HALF_WRITTEN_S: Final = 600
_HASH: Final = re.compile("[0-9a-f]{64}")
# Hashes of pictures that cost too much; a word each.
_REMEMBERED_SLOW: Final = 10_000
# A picture that has just come is most often shown at once: some four of the largest.
_FRESH_BYTES: Final = 48_000_000


class ImageLibrary:
    """Blocking by nature: callers run it in a worker thread. Safe to call from several threads. ``close`` it."""

    def __init__(
        self, folder: Path, capacity_bytes: int, limits: ImageLimits, shared: SharedPictures | None = None
    ) -> None:
        """``shared`` is where other servers look, too; ``folder`` then holds what was looked at lately."""
        self._folder = folder
        self._shared = shared
        self._capacity = capacity_bytes
        self.limits = limits
        self._lock = threading.Lock()
        self._decoder = Decoder(limits)
        self._slow: OrderedDict[str, str] = OrderedDict()
        self._fresh: OrderedDict[ImageRef, Frames] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True)
        # What a kill left half written; of another server on this folder it is not.
        for scratch in folder.glob(f"{_SCRATCH}*"):
            with contextlib.suppress(OSError):
                if time.time() - scratch.stat().st_mtime > _HALF_WRITTEN_S:
                    scratch.unlink()
        self._used = sum(path.stat().st_size for path in folder.glob("*/*"))

    def close(self) -> None:
        """End decodes that run; whoever waits for one is told."""
        self._decoder.close()

    def add_base64(self, text: str) -> ImageRef:
        """Decode, check and keep one picture.

        Raises:
            ImageRejected: the picture cannot be used; the message says why.
            StorageFailed: the disk would not take it.
            Busy, Draining: as ``Decoder``.
        """
        return self.add(decode_base64(text, self.limits.max_bytes))

    def add(self, data: bytes) -> ImageRef:
        """Check and keep the bytes of one picture; raises as ``add_base64``."""
        if len(data) > self.limits.max_bytes:
            raise ImageRejected(f"图片太大，最多 {self.limits.max_bytes / 1_000_000:g} MB")
        sha256 = hashlib.sha256(data).hexdigest()
        looked = self._decoded(sha256, lambda: self._decoder.look(data))
        # The decoder's word counts for what is seen, not for which file it was.
        if (looked.ref.sha256, looked.ref.size) != (sha256, len(data)):
            raise ImageRejected(BROKEN)
        path = self._path(sha256)
        try:
            if _is_whole(path, sha256, len(data)):
                os.utime(path)
            else:
                if self._shared is not None:
                    # First, so that what is here is there as well.
                    self._shared.put(sha256, data)
                self._write(path, data)
        except OSError as error:
            raise StorageFailed("磁盘写不进去，图片没有保存，请检查剩余空间") from error
        except Unreachable as error:
            raise StorageFailed("合用的图片库连不上，图片没有保存，请稍后再试") from error
        self._keep_fresh(looked.ref, looked.frames)
        return looked.ref

    def holds(self, ref: ImageRef) -> bool:
        """Whether the bytes are still kept, not aged out and not cut short.

        True also where that cannot be told: whoever opens it hears why it is not seen.
        """
        try:
            return self._is_here(ref) or self._fetch(ref.sha256)
        except Unreachable:
            return True

    def read(self, sha256: str) -> bytes | None:
        """The bytes of a kept picture as they came; None where it has aged out, or for what is no hash."""
        if not _HASH.fullmatch(sha256):
            return None
        with contextlib.suppress(OSError, Unreachable):
            if self._path(sha256).exists() or self._fetch(sha256):
                return self._path(sha256).read_bytes()
        return None

    def open(self, ref: ImageRef) -> Frames:
        """Frames of a kept picture as upright RGB.

        Raises:
            ImageRejected: aged out, damaged on disk, too slow, or only where other servers look, which is away.
            Busy, Draining: as ``Decoder``.
        """
        path = self._path(ref.sha256)
        try:
            if not path.exists() and not self._fetch(ref.sha256):
                raise ImageRejected(EXPIRED)
        except Unreachable as error:
            raise ImageRejected(UNREACHABLE) from error
        if self._is_here(ref) and (fresh := self._taken_fresh(ref)) is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
            return fresh
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError as error:
            raise ImageRejected(EXPIRED) from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            # Out of the way, so that the next sending is kept, and nobody is told twice.
            self._drop(path)
            logger().warning("磁盘上的一张图片已损坏，已删除", bytes=len(data))
            raise ImageRejected(DAMAGED)
        return self._decoded(ref.sha256, lambda: self._decoder.frames(data, ref))

    def drop(self, before: float, keep: Collection[str] = ()) -> int:
        """Delete pictures that were not used since ``before``, in seconds since the epoch, and are not among ``keep``.

        Gives how many. Raises OSError.
        """
        gone = 0
        for path in self._folder.glob("*/*"):
            with self._lock, contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime < before and path.name not in keep:
                    path.unlink()
                    self._used -= found.st_size
                    gone += 1
        return gone

    def _is_here(self, ref: ImageRef) -> bool:
        try:
            return self._path(ref.sha256).stat().st_size == ref.size
        except OSError:
            return False

    def _fetch(self, sha256: str) -> bool:
        """Whether it is here now: another server may have kept it. Raises Unreachable."""
        data = self._shared.get(sha256) if self._shared is not None else None
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            return False
        with contextlib.suppress(OSError):
            self._write(self._path(sha256), data)
            return True
        return False

    def _decoded(self, sha256: str, work: Callable[[], T]) -> T:
        """What ``work`` gives, unless the picture was found too slow before."""
        with self._lock:
            told = self._slow.get(sha256)
        if told is not None:
            raise ImageRejected(told)
        try:
            return work()
        except TooSlow as error:
            with self._lock:
                self._slow[sha256] = error.message
                if len(self._slow) > _REMEMBERED_SLOW:
                    self._slow.popitem(last=False)
            raise

    def _keep_fresh(self, ref: ImageRef, frames: Frames) -> None:
        with self._lock:
            self._fresh[ref] = frames
            while sum(3 * f.width * f.height for kept in self._fresh.values() for f in kept) > _FRESH_BYTES:
                self._fresh.popitem(last=False)

    def _taken_fresh(self, ref: ImageRef) -> Frames | None:
        with self._lock:
            return self._fresh.pop(ref, None)

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _write(self, path: Path, data: bytes) -> None:
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True)
            _sync(self._folder)
        before = path.stat().st_size if path.exists() else 0
        # Written beside and renamed, so that a kill never leaves half a picture under a full hash.
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=_SCRATCH)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        # The name, too, must be there after a power cut: the message that names the picture will be.
        _sync(path.parent)
        with self._lock:
            self._used += len(data) - before
            if self._used > self._capacity:
                self._age_out(keep=path)

    def _drop(self, path: Path) -> None:
        with self._lock, contextlib.suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            self._used -= size

    def _age_out(self, keep: Path) -> None:
        """Delete the longest unused until nine tenths of the capacity are left; the newest always stays."""
        files = sorted((p for p in self._folder.glob("*/*") if p != keep), key=lambda p: p.stat().st_mtime)
        for path in files:
            if self._used <= self._capacity * 0.9:
                return
            self._used -= path.stat().st_size
            path.unlink(missing_ok=True)


def _is_whole(path: Path, sha256: str, size: int) -> bool:
    try:
        return path.stat().st_size == size and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
