"""A reply's text becomes what is sent in QQ: the elements of ``messages[]``, in order. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """One QQ message of plain text."""

    text: str


Outgoing = Words


def messages(reply: str) -> tuple[Outgoing, ...]:
    """What to send for a reply; nothing where nothing is said."""
    return (Words(reply),) if reply else ()
