"""What passes between the server and a process that decodes: a header in JSON and bytes, each with its length in front.

No pickle: whoever took over the decoder by a hostile picture shall not have the server too.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Final

_LENGTHS: Final = struct.Struct(">IQ")
_LONGEST_HEADER: Final = 64_000


def send(wire: socket.socket, header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Raises OSError: the other end is gone, or takes longer than the socket's timeout."""
    head = json.dumps(header).encode()
    wire.sendall(_LENGTHS.pack(len(head), len(body)) + head)
    wire.sendall(body)


def receive(wire: socket.socket, most_bytes: int, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """Args:
        deadline: on the monotonic clock.

    Raises:
        EOFError: the other end is gone.
        TimeoutError: the deadline is over.
        ValueError: it says what it may not, or more than ``most_bytes``.
    """
    header, body = _LENGTHS.unpack(_read(wire, _LENGTHS.size, deadline))
    if header > _LONGEST_HEADER or body > most_bytes:
        raise ValueError("longer than it may be")
    found = json.loads(_read(wire, header, deadline))
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found, _read(wire, body, deadline)


def _read(wire: socket.socket, count: int, deadline: float | None) -> bytearray:
    data = bytearray(count)
    left = memoryview(data)
    while left:
        if deadline is not None:
            wire.settimeout(max(deadline - time.monotonic(), 0.001))
        got = wire.recv_into(left)
        if not got:
            raise EOFError
        left = left[got:]
    return data
