"""Pictures on disk, each stored once under the hash of its bytes. Knows files; no chat, no model.

History holds ``ImageRef`` only; the bytes live here, bounded by size, the longest unused deleted first.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path

from PIL import Image

from qqvl_server.errors import ImageRejected, StorageFailed
from qqvl_server.media.image import ImageLimits, ImageRef, check, decode_base64, pixels


class ImageLibrary:
    """Blocking by nature: callers run it in a worker thread. Safe to call from several threads."""

    def __init__(self, folder: Path, capacity_bytes: int, limits: ImageLimits) -> None:
        self._folder = folder
        self._capacity = capacity_bytes
        self.limits = limits
        self._lock = threading.Lock()
        # One decode at a time bounds the memory that hostile pictures can ask for together.
        self._decoding = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._used = sum(path.stat().st_size for path in folder.glob("*/*"))

    def add_base64(self, text: str) -> ImageRef:
        """Decode, check and keep one picture.

        Raises:
            ImageRejected: the picture cannot be used; the message says why.
            StorageFailed: the disk would not take it.
        """
        return self.add(decode_base64(text, self.limits.max_bytes))

    def add(self, data: bytes) -> ImageRef:
        """Check and keep the bytes of one picture; raises as ``add_base64``."""
        with self._decoding:
            ref = check(data, self.limits)
        path = self._path(ref.sha256)
        try:
            if path.exists():
                os.utime(path)
            else:
                self._write(path, data)
        except OSError as error:
            raise StorageFailed("磁盘写不进去，图片没有保存，请检查剩余空间") from error
        return ref

    def holds(self, ref: ImageRef) -> bool:
        """Whether the bytes are still here, not aged out."""
        return self._path(ref.sha256).exists()

    def open(self, ref: ImageRef) -> tuple[Image.Image, ...]:
        """Frames of a kept picture as upright RGB.

        Raises:
            ImageRejected: aged out or damaged on disk.
        """
        path = self._path(ref.sha256)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError as error:
            raise ImageRejected("图片已过期") from error
        with self._decoding:
            return pixels(data, ref, self.limits)

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        # Written beside and renamed, so that a kill never leaves half a picture under a full hash.
        handle, name = tempfile.mkstemp(dir=self._folder)
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
        with self._lock:
            self._used += len(data)
            if self._used > self._capacity:
                self._age_out(keep=path)

    def _age_out(self, keep: Path) -> None:
        """Delete the longest unused until nine tenths of the capacity are left; the newest always stays."""
        files = sorted((p for p in self._folder.glob("*/*") if p != keep), key=lambda p: p.stat().st_mtime)
        for path in files:
            if self._used <= self._capacity * 0.9:
                return
            self._used -= path.stat().st_size
            path.unlink(missing_ok=True)
