"""Several upstreams: which of them a talk is asked of, and which are left alone for a while. Knows no HTTP.

A talk stays with its own by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and
Schomaker 2005): when one goes only its own talks move, and they come back with it, to the cache that knows them.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from qqvl_server.generation.engines.upstream.kinds import Kind

# Requests in a row.
_MOST_FAULTS: Final = 3
_FIRST_REST_S: Final = 5.0
_LONGEST_REST_S: Final = 60.0
# Questions in a row that nobody answers: one may be lost while a large prompt is read.
MOST_MISSED: Final = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """What an upstream was found to be. ``context_tokens`` None: it does not say.

    ``counts``: ``/tokenize`` counts all that is sent, pictures included; ``frame`` is what it counts of a message
    beside its text, ``header`` what stands before an answer.
    """

    kind: Kind
    model: str
    context_tokens: int | None
    sees: bool
    logprobs: bool
    counts: bool
    frame: int = 0
    header: int = 0


class Upstream:
    """One address. ``profile`` is None until it was looked at; used on the event loop only."""

    def __init__(self, url: str, weight: float) -> None:
        self.url = url
        self.weight = weight
        place = urllib.parse.urlsplit(url)
        self.name = place.netloc
        self.root = f"{place.scheme}://{place.netloc}{place.path.removesuffix('/v1')}"
        self.profile: Profile | None = None
        self.heard_at = -math.inf
        self._missed = MOST_MISSED
        # Requests that failed since one last succeeded: one that nobody could answer is no sign.
        self._faulty: set[str] = set()
        self._rest_s = _FIRST_REST_S
        self._rests_until = -math.inf
        self._waiting: set[asyncio.Timeout] = set()

    @property
    def is_reachable(self) -> bool:
        return self._missed < MOST_MISSED and self.profile is not None

    @property
    def is_usable(self) -> bool:
        """Neither away nor resting; one that has rested may show whether it can again."""
        return self.is_reachable and time.monotonic() >= self._rests_until

    def heard(self) -> None:
        """Something came from it: whatever else, it is there."""
        self._missed = 0
        self.heard_at = time.monotonic()

    def missed(self, since: float) -> None:
        """A question asked at ``since`` (``time.monotonic``) was not answered. Once it is away, those wait no more who
        wait for its first word."""
        if self.heard_at > since:
            return
        self._missed += 1
        if not self.is_reachable:
            for waiting in self._waiting:
                waiting.reschedule(0)

    def succeeded(self) -> None:
        self._faulty.clear()
        self._rest_s = _FIRST_REST_S

    def failed(self, request_id: str) -> None:
        """A call broke. After its rest the next that breaks makes it rest for longer."""
        self._faulty.add(request_id)
        if len(self._faulty) >= _MOST_FAULTS:
            self._rests_until = time.monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
            self._faulty.pop()

    def waits(self, patience: asyncio.Timeout) -> None:
        self._waiting.add(patience)

    def waits_no_more(self, patience: asyncio.Timeout) -> None:
        self._waiting.discard(patience)


class Fleet:
    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.upstreams = tuple(upstreams)

    @property
    def is_away(self) -> bool:
        return not any(upstream.is_usable for upstream in self.upstreams)

    @property
    def profiles(self) -> list[Profile]:
        return [upstream.profile for upstream in self.upstreams if upstream.profile is not None]

    def chosen(self, talk: str, tried: Sequence[Upstream] = ()) -> Upstream | None:
        """Its own of those that are usable: one that was not ``tried`` where there is one; None where there is none."""
        usable = [upstream for upstream in self.upstreams if upstream.is_usable]
        fresh = [upstream for upstream in usable if upstream not in tried]
        return max(fresh or usable, key=lambda upstream: _rank(talk, upstream), default=None)


def _rank(talk: str, upstream: Upstream) -> float:
    word = f"{upstream.url}\0{talk}".encode("utf-8", "replace")
    drawn = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest())
    return -upstream.weight / math.log((drawn + 0.5) / 2**64)
