"""Pictures are decoded in processes of their own, which can be ended: a slow one holds nobody up, a crash ends none.

Two lanes, each one process and one picture at a time, started when first needed: what is soon done passes by what
takes seconds, and what takes seconds waits for its like. Blocking; callers are in worker threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from PIL import Image

from qqvl_server.errors import Busy, Draining, ImageRejected
from qqvl_server.media.animations import BROKEN
from qqvl_server.media.image import ImageLimits, ImageRef, Looked
from qqvl_server.media.wire import receive, send
from qqvl_server.media.worker import ref_from
from qqvl_server.observe.logs import logger

_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop())\nfrom qqvl_server.media.worker import main; main()"
)
# What one picture took, the next takes again: fetching the pages anew would cost as much as the decode. Given back when
# idle (``worker``).
_MEMORY: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(1024**3),
}
# Of a processor, for a picture that by its headers is soon done; what takes longer goes to the other lane.
_LIGHT_S: Final = 2.0
# Pictures that wait hold their bytes.
_MOST_WAITING: Final = 16
# A machine where others work gives us a part of a processor only.
_PATIENCE: Final = 4
_GREETING_S: Final = 20
_TOO_SLOW: Final = "图片解码太慢，不看"
_HEAVY: Final = {"heavy": True}


class TooSlow(ImageRejected):
    """It used up its time, or ended the decoder: never to be tried again."""


class Decoder:
    """Thread-safe. ``close`` ends a decode that runs; whoever waits for one is told that the server stops."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._light = _Lane(limits, min(_LIGHT_S, limits.cpu_s), light=True)
        self._heavy = _Lane(limits, limits.cpu_s, light=False)
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)

    def look(self, data: bytes) -> Looked:
        """As ``image.look``.

        Raises:
            ImageRejected: as there, or too slow, or what crashes decoders.
            Busy: too many slow pictures wait already. Draining: the decoder was closed.
        """
        header, body = self._ask(data, None)
        try:
            return Looked(ref_from(header["ref"]), self._frames(header, body))
        except (TypeError, ValueError, KeyError) as error:
            raise ImageRejected(BROKEN) from error

    def frames(self, data: bytes, ref: ImageRef) -> tuple[Image.Image, ...]:
        """As ``image.pixels``; raises as ``look``."""
        header, body = self._ask(data, ref)
        try:
            frames = self._frames(header, body)
        except (TypeError, ValueError, KeyError) as error:
            raise ImageRejected(BROKEN) from error
        if len(frames) != len(ref.frames):
            raise ImageRejected(BROKEN)
        return frames

    def close(self) -> None:
        self._light.close()
        self._heavy.close()

    def _ask(self, data: bytes, ref: ImageRef | None) -> tuple[dict[str, Any], bytearray]:
        task = {"ref": None if ref is None else asdict(ref)}
        header, body = self._light.ask(task, data)
        if header == _HEAVY:
            if not self._waiting.acquire(blocking=False):
                raise Busy("要看的大图太多了，请稍后再试", retry_after=5)
            try:
                header, body = self._heavy.ask(task, data)
            finally:
                self._waiting.release()
        if "refused" in header:
            raise ImageRejected(str(header["refused"])[:200])
        return header, body

    def _frames(self, header: dict[str, Any], body: bytearray) -> tuple[Image.Image, ...]:
        """Believes nothing: who says it may be under a hostile picture's hand."""
        frames, at = [], 0
        view = memoryview(body)
        for width, height in header["frames"]:
            end = at + 3 * int(width) * int(height)
            if not at < end <= len(body):
                raise ValueError("no frame")
            frames.append(Image.frombytes("RGB", (width, height), view[at:end]))
            at = end
        return tuple(frames)


class _Process:
    """One decoding process and the socket that it is spoken to by."""

    def __init__(self, limits: ImageLimits) -> None:
        self.popen: subprocess.Popen[bytes]
        self.wire, theirs = socket.socketpair()
        path = [str(Path(__file__).parents[2]), *map(os.path.abspath, filter(None, sys.path))]
        # Nothing of ours in its environment: there may be keys.
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
        try:
            with theirs:
                self.popen = subprocess.Popen(
                    [sys.executable, "-I", "-c", _BOOT, json.dumps(asdict(limits)), str(os.getpid()), json.dumps(path)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=kept | _MEMORY,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError:
            self.wire.close()
            raise

    def end(self) -> int:
        """Its exit status, at once: nothing is waited for but the kernel."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.wire.close()
        return self.popen.wait()


class _Lane:
    def __init__(self, limits: ImageLimits, cpu_s: float, *, light: bool) -> None:
        self._limits = limits
        self._cpu_s = cpu_s
        self._is_light = light
        # One thread speaks with the process from its start to its end: the kernel ends a child with the thread, not
        # with the process, that began it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="qqvl-decode")
        self._running: list[_Process] = []
        self._closed = False
        self._mutex = threading.Lock()
        weakref.finalize(self, _end_all, self._running)

    def ask(self, task: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._thread.submit(
                self._exchange, {**task, "light": self._is_light, "cpu_s": self._cpu_s}, data
            ).result()
        except (CancelledError, RuntimeError):
            raise _stopping() from None

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            for process in self._running:
                process.popen.kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _exchange(self, task: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
        process = self._process()
        deadline = time.monotonic() + _GREETING_S + _PATIENCE * self._cpu_s
        try:
            process.wire.settimeout(_GREETING_S)
            send(process.wire, {**task, "light": self._is_light, "cpu_s": self._cpu_s}, data)
            return receive(process.wire, self._most_bytes(), deadline)
        except TimeoutError:
            self._discard(process)
            # Not for the picture's own work, which is counted: the machine is busy, or was paused.
            raise _busy() from None
        except (OSError, EOFError, ValueError):
            return self._mourn(self._discard(process))

    def _mourn(self, status: int) -> tuple[dict[str, Any], bytearray]:
        if self._closed:
            raise _stopping()
        if status == -signal.SIGPROF and self._is_light and self._cpu_s < self._limits.cpu_s:
            return dict(_HEAVY), bytearray()
        logger().warning("解码图片的进程退出了，这张图不看", status=status)
        if status == -signal.SIGKILL:
            # By somebody who was short of memory: another time there may be enough.
            raise ImageRejected(BROKEN)
        raise TooSlow(_TOO_SLOW if status == -signal.SIGPROF else BROKEN)

    def _process(self) -> _Process:
        if self._running and self._running[0].popen.poll() is None:
            return self._running[0]
        for process in tuple(self._running):
            # Ended between two pictures, by no fault of either: somebody was short of memory.
            self._discard(process)
        with self._mutex:
            if self._closed:
                raise _stopping()
            try:
                process = _Process(self._limits)
            except OSError as error:
                raise _busy() from error
            self._running.append(process)
        try:
            receive(process.wire, 0, time.monotonic() + _GREETING_S)
        except (OSError, EOFError, ValueError):
            # No picture has been near it: this is about memory, descriptors or an installation under way.
            status = self._discard(process)
            if self._closed:
                raise _stopping() from None
            logger().error("解码图片的进程起不来", status=status)
            raise _busy() from None
        return process

    def _discard(self, process: _Process) -> int:
        with self._mutex:
            self._running.remove(process)
        return process.end()

    def _most_bytes(self) -> int:
        limits = self._limits
        # As ``frames`` shrinks them: at most four times what a model is shown, rounded up on each side.
        return limits.max_frames * 3 * (limits.max_tokens * 32 * 32 * 4 + 40_000)


def _end_all(running: list[_Process]) -> None:
    for process in running:
        process.end()


def _busy() -> Busy:
    return Busy("机器太忙，图片没有来得及看，请稍后再试", retry_after=5)


def _stopping() -> Draining:
    return Draining("服务正在停止，请稍后再试", retry_after=5)
