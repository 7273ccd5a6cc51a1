"""What a chat or a key is called upstream: marks that all copies make alike and that show neither number nor key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from qqvl_server.generation.port import GenerationRequest, TextPart, Urgency

_LENGTH: Final = 32
# Messages that tell one conversation of an API caller's from another.
_BEGINNING: Final = 2


@dataclass(frozen=True, slots=True)
class Marks:
    """``secret`` is shared by all copies of this server; ``salt`` as ``upstream_salt``."""

    secret: str
    salt: str

    def session(self, request: GenerationRequest) -> str:
        return self._mark("session", conversation(request))

    def cache_salt(self, request: GenerationRequest) -> str | None:
        """None where caches are not kept apart."""
        if self.salt == "off":
            return None
        shared = self.salt == "key" and request.urgency is not Urgency.API
        return self._mark("salt", "qq" if shared else request.owner)

    def _mark(self, purpose: str, name: str) -> str:
        """HMAC-SHA256 (RFC 2104) in hexadecimal, cut to 128 bits."""
        told = hmac.new(self.secret.encode(), f"{purpose}\0{name}".encode("utf-8", "replace"), hashlib.sha256)
        return told.hexdigest()[:_LENGTH]


def conversation(request: GenerationRequest) -> str:
    """What stays the same for as long as a talk goes on, and is another's for no other talk.

    A chat has a name; an API caller's talk is told by how it began.
    """
    if request.urgency is not Urgency.API:
        return request.owner
    digest = hashlib.blake2b(digest_size=8)
    for message in request.messages[:_BEGINNING]:
        for part in message.parts:
            word = part.text if isinstance(part, TextPart) else part.image.sha256
            digest.update(f"{message.role}\0{word}\0".encode("utf-8", "replace"))
    if request.raw is not None:
        digest.update(repr(request.raw[:256]).encode("utf-8", "replace"))
    return f"{request.owner}\0{digest.hexdigest()}"
