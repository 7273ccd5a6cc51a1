"""Which host names and addresses mean this machine alone, and by which of them it finds a server of its own."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a server bound to ``host``, or a caller from there, is on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def near_url(host: str, port: int) -> str:
    """The address at which this machine reaches what listens on ``host``: a loopback one where there is one."""
    return url({"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host), port)
