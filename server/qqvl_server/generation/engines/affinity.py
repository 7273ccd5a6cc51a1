"""Which of several replicas a chat goes to, and that it stays there. Plain values; knows no cluster.

A chat's prompt is in one replica's cache. A ring or rendezvous hashing alone would move a share of all chats whenever
a replica is replaced, because what takes its place has a new id: chats that are at home stay there instead.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final

from qqvl_server.generation.port import GenerationRequest, Urgency

# Chats whose homes are remembered; those heard of longest ago are placed anew, most often where they were.
_REMEMBERED: Final = 65_536


class Homes:
    """From one thread. Ids are of replicas that take work now; one that is gone must not be named again."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, str] = OrderedDict()

    def of(self, chat: str, replicas: Collection[str]) -> str | None:
        """Where the chat is at home, while that replica is among these."""
        home = self._homes.get(chat)
        return home if home in replicas else None

    def settle(self, chat: str, replica: str) -> None:
        self._homes[chat] = replica
        self._homes.move_to_end(chat)
        if len(self._homes) > _REMEMBERED:
            self._homes.popitem(last=False)


def two_for(chat: str, replicas: Iterable[str]) -> list[str]:
    """The two of them that a chat without a home chooses between, the one to take where they are alike first.

    Every door finds the same two (rendezvous hashing, Thaler and Ravishankar 1998), so that doors that cannot hear of
    each other's placings mostly agree; taking the emptier of two bounds the fullest (Azar et al. 1999).
    """
    return sorted(replicas, key=lambda replica: _weight(chat, replica), reverse=True)[:2]


def _weight(chat: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{chat}\0{replica}".encode(), digest_size=8).digest()


def session_of(request: GenerationRequest) -> str:
    """What a request's replica is chosen by: its chat. A number is not shown to whoever reads the cluster's logs.

    A key has many conversations: theirs are told apart by how they begin, which each of their turns repeats.
    """
    if request.urgency is not Urgency.API:
        return _digest(request.owner)
    if request.raw is not None or not request.messages:
        return ""
    begun = next((at for at, message in enumerate(request.messages, 1) if message.role == "user"), 1)
    return _digest(f"{request.owner}\0{request.messages[:begun]!r}")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
