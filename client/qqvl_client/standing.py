"""How the client stands with the chat server: is it there, is it ours, does it let us in."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

import httpx

from qqvl_client.bodies import words_of
from qqvl_client.settings import Settings, is_loopback


@dataclass(frozen=True)
class Standing:
    """`words` is what it said: an error's name where it is away, its refusal where it is locked, else its health.

    `clock` is its time in seconds, where it tells.
    """

    kind: Literal["away", "locked", "foreign", "fine"]
    words: str
    clock: float | None = None


def connected(settings: Settings) -> httpx.AsyncClient:
    """A client of the chat server: its address, our key, and no proxy of the environment's."""
    key = settings.api_key.get_secret_value()
    local = is_loopback(urlsplit(settings.server_url).hostname)
    return httpx.AsyncClient(
        base_url=settings.server_url,
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=httpx.Timeout(settings.server_timeout_s, connect=settings.connect_timeout_s, pool=None),
        trust_env=False,
        proxy=None if local else settings.proxy or None,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.parallel_chats),
    )


async def standing_with(http: httpx.AsyncClient, settings: Settings) -> Standing:
    """Ask it. `http` knows its address and brings the key.

    A GET of the door that takes messages is refused for its method, after the key was looked at.
    """
    patience = settings.connect_timeout_s
    try:
        health = await http.get("/health", timeout=patience)
        door = await http.get("/api/chat/private", timeout=patience)
    except httpx.HTTPError as error:
        return Standing("away", type(error).__name__)
    if door.status_code in (401, 403):
        return Standing("locked", words_of(door.content))
    said = _health(health)
    if door.status_code == 404 or said is None:
        return Standing("foreign", "")
    return Standing("fine", said, _date(health))


def _health(answer: httpx.Response) -> str | None:
    try:
        return str(answer.json()["status"])
    except (ValueError, TypeError, KeyError):
        return None


def _date(answer: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
