"""Which addresses are everybody's, and which address a name has. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Sequence
from typing import Final

_LOOKUPS: Final = 32
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# What Python's own tables call global, or did in some version that we run on: protocol assignments and documentation,
# local NAT64, 6to4 relays, Teredo, and the address at which a cloud speaks to its own machines.
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "168.63.129.16/32",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
    )
)


def is_public(address: str) -> bool:
    """Whether anybody on the internet could reach ``address`` too."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(value, ipaddress.IPv6Address):
        embedded = value.ipv4_mapped or value.sixtofour
        if value in _NAT64:
            embedded = ipaddress.IPv4Address(int(value) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if value.is_site_local:
            return False
    if any(value in network for network in _NOT_PUBLIC):
        return False
    return value.is_global and not value.is_multicast and not value.is_reserved


def is_address(host: str) -> bool:
    """Whether ``host`` is an address already, no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class SystemResolver:
    """``getaddrinfo`` in a thread of its own: a slow name server must not fill the pool that others work in.

    The threads are daemons, so that a hung lookup does not hold up the end of the process.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_LOOKUPS)

    async def __call__(self, host: str) -> Sequence[str]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()
        threading.Thread(target=self._look_up, args=(host, loop, answer), name="qqvl-dns", daemon=True).start()
        return await answer

    def _look_up(self, host: str, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Sequence[str]]) -> None:
        found: Sequence[str] = ()
        with contextlib.suppress(OSError, UnicodeError):
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))
        with contextlib.suppress(RuntimeError):  # the loop is gone: the server was stopped meanwhile
            loop.call_soon_threadsafe(self._settle, answer, found)

    def _settle(self, answer: asyncio.Future[Sequence[str]], found: Sequence[str]) -> None:
        self._free.release()
        if not answer.done():
            answer.set_result(found)
