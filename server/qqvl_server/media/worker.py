"""The process that decodes pictures for the server: one at a time, confined, and ended with the server.

Started by ``decoder``; without torch or the web framework it takes a tenth of a second and some 30 MB.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from dataclasses import asdict
from typing import Any, Final

from PIL import Image

from qqvl_server.errors import ImageRejected
from qqvl_server.media.image import ImageLimits, ImageRef, Looked, TooHeavy, look, pixels
from qqvl_server.media.wire import receive, send

# Of memory, beside what the interpreter has at its start: libwebp holds four canvases, Pillow some of its own.
_BYTES_A_PIXEL: Final = 24
_BASE_BYTES: Final = 512_000_000
_IDLE_S: Final = 0.5
# The signal of prctl(2) that the kernel sends when the parent is gone, however it went.
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Args (of the process): limits as JSON, the parent's process id. Standard input is a socket."""
    limits = ImageLimits(**json.loads(sys.argv[1]))
    _confine(limits, int(sys.argv[2]))
    with socket.socket(fileno=0) as wire, contextlib.suppress(EOFError, OSError):
        send(wire, {"ready": True})
        while True:
            if not select.select((wire,), (), (), _IDLE_S)[0]:
                _give_memory_back()
            task, data = receive(wire, limits.max_bytes)
            _grant(float(task["cpu_s"]))
            _answer(wire, task, bytes(data), limits)
            del data


def _give_memory_back() -> None:
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _confine(limits: ImageLimits, parent: int) -> None:
    # The server is told to stop by these and goes on for a while, with us; it ends us itself.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        most = held + _BASE_BYTES + 4 * limits.max_bytes + _BYTES_A_PIXEL * limits.max_pixels
        _limit(resource.RLIMIT_AS, most)
    if os.getppid() != parent:
        sys.exit()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # a stricter one is set already
        resource.setrlimit(kind, (most, most if hard == resource.RLIM_INFINITY else min(most, hard)))


def _grant(cpu_s: float) -> None:
    """The kernel ends this process once it has used that many seconds more, whichever library it is in."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _answer(wire: socket.socket, task: dict[str, Any], data: bytes, limits: ImageLimits) -> None:
    light = bool(task["light"])
    try:
        if task["ref"] is None:
            looked = look(data, limits, light=light)
        else:
            ref = ref_from(task["ref"])
            looked = Looked(ref, pixels(data, ref, limits, light=light))
    except ImageRejected as error:
        send(wire, {"refused": error.message})
    except TooHeavy:
        send(wire, {"heavy": True})
    else:
        _send_frames(wire, looked)


def _send_frames(wire: socket.socket, looked: Looked) -> None:
    sizes = [frame.size for frame in looked.frames]
    send(wire, {"ref": asdict(looked.ref), "frames": sizes}, b"".join(map(Image.Image.tobytes, looked.frames)))


def ref_from(fields: dict[str, Any]) -> ImageRef:
    """Raises TypeError, ValueError, KeyError: no picture."""
    return ImageRef(**{**fields, "frames": tuple(map(int, fields["frames"]))})
