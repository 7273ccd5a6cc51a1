"""The gate: is this message answered, and who may do what? Knows settings and the message, nothing else.

First what would be answered at all, then the local gates in order, each with the word that tells why it shut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from qqvl_server.chat import addressing
from qqvl_server.chat.decision import Decision, Reason
from qqvl_server.chat.message import ChatKind, EncodedPicture, Incoming, Quote
from qqvl_server.generation.port import Urgency
from qqvl_server.settings import ChatSettings

_MAY_COMMAND: Final = frozenset({"owner", "admin"})
_WEEK_S: Final = 7 * 86400
_MENTION = re.compile(r"@\S{1,64}")
# What may stand beside a name without adding a word to it.
_PAUSES: Final = " \t\r\n\u2005,，、:：;；.。~～…"


@dataclass(frozen=True, slots=True)
class Case:
    """A message whose turn has come. ``now`` is in seconds since the epoch.

    ``quotes_ours``: it quotes a line that we know to be ours. ``is_machine``: its speaker answers us as only a program
    does.
    """

    incoming: Incoming
    settings: ChatSettings
    now: float
    quotes_ours: bool = False
    is_machine: bool = False


def sent_at(case: Case) -> float | None:
    """When it was sent, where that can be known: more than a week away is no time but a mistake."""
    told = case.incoming.sent_at
    return told if told is not None and not case.incoming.is_bare and abs(case.now - told) < _WEEK_S else None


def _is_stale(case: Case) -> bool:
    """Too old when its turn comes."""
    sent = sent_at(case)
    return sent is not None and case.now - sent > case.settings.max_age_s


def is_known_bot(case: Case) -> bool:
    """Without looking at how its speaker talks."""
    incoming = case.incoming
    return not incoming.is_bare and (incoming.from_bot or incoming.speaker.id in case.settings.known_bots)


def _is_bot(case: Case) -> bool:
    return is_known_bot(case) or (case.is_machine and not case.incoming.is_bare)


GATES: Final[tuple[tuple[Reason, Callable[[Case], bool]], ...]] = ((Reason.STALE, _is_stale), (Reason.BOT, _is_bot))
"""In order; the first that is true shuts."""


def decide(case: Case) -> Decision:
    """Whether the message is answered by the model. Commands are asked for by ``is_heeded``."""
    reason = _wanted(case)
    if reason is None:
        return Decision(False, Reason.SILENT)
    shut = _shut_by(case)
    return Decision(True, reason) if shut is None else Decision(False, shut)


def is_heeded(case: Case) -> bool:
    """Whether a command in it counts: it is said to the bot, now, by a person."""
    incoming = case.incoming
    return not incoming.context_only and is_addressed(incoming, case.settings) and _shut_by(case) is None


def _wanted(case: Case) -> Reason | None:
    """Why it would be answered, were it not for the gates."""
    incoming, settings = case.incoming, case.settings
    if incoming.context_only:
        return None
    if incoming.chat.kind is ChatKind.PRIVATE:
        return Reason.PRIVATE
    if settings.group_reply == "off":
        return None
    if incoming.quotes_me or case.quotes_ours:
        return Reason.REPLY
    if incoming.at_me:
        return Reason.ADDRESSED
    if _is_called(incoming, settings):
        return Reason.NAME
    if settings.group_reply == "all" or incoming.at_me is None:
        return Reason.ALWAYS
    return None


def _shut_by(case: Case) -> Reason | None:
    return next((reason for reason, shuts in GATES if shuts(case)), None)


def names(incoming: Incoming, settings: ChatSettings) -> tuple[str, ...]:
    """What the bot is called in this chat: the operator's names for it, and the account's own."""
    return (*settings.bot_names, *incoming.self_names)


def _is_called(incoming: Incoming, settings: ChatSettings) -> bool:
    return addressing.is_called(incoming.text if incoming.typed is None else incoming.typed, names(incoming, settings))


def is_addressed(incoming: Incoming, settings: ChatSettings) -> bool:
    """In private always; in groups by mention, quote or name. A client that cannot tell is taken to be addressed."""
    if incoming.chat.kind is ChatKind.PRIVATE or incoming.at_me is not False:
        return True
    return _is_called(incoming, settings)


def is_unfinished(incoming: Incoming, settings: ChatSettings) -> bool:
    """Only pictures, or only a call: its speaker will say what for. Who quotes something has said it."""
    if any(isinstance(part, Quote) for part in incoming.parts):
        return False
    text = incoming.text
    words = (incoming.typed or "").strip(_PAUSES) or _without_mentions(text, incoming.self_names)
    has_pictures = any(isinstance(part, EncodedPicture) for part in incoming.parts)
    if not words:
        return has_pictures or bool(text)
    called = {name.strip().casefold() for name in names(incoming, settings)}
    return not has_pictures and words.casefold() in called


def _without_mentions(text: str, self_names: Iterable[str]) -> str:
    # A name may hold spaces; where only the letters of a mention are there, it ends at the first.
    for name in sorted(filter(None, self_names), key=len, reverse=True):
        text = text.replace(f"@{name}", "")
    return _MENTION.sub("", text).strip(_PAUSES)


def urgency(incoming: Incoming, settings: ChatSettings) -> Urgency:
    """Who is called by name or talks in private goes before talk that the bot joins of itself."""
    if incoming.chat.kind is ChatKind.PRIVATE:
        return Urgency.PRIVATE
    return Urgency.ADDRESSED if is_addressed(incoming, settings) else Urgency.ACTIVE_SPEECH


def may_reset(incoming: Incoming, settings: ChatSettings) -> bool:
    """In groups: the group's owner and admins, and the bot's own owners.

    A client that tells neither role nor mention can name nobody's rights: everybody has them, until ``owners`` says
    who. One that tells mentions could tell the role too; who has none is a member.
    """
    if incoming.chat.kind is ChatKind.PRIVATE or incoming.speaker.id in settings.owners:
        return True
    if incoming.role is None:
        return incoming.at_me is None and not settings.owners
    return incoming.role in _MAY_COMMAND


def may_stop(incoming: Incoming, settings: ChatSettings) -> bool:
    """Whether somebody else's answer may be stopped."""
    return incoming.speaker.id in settings.owners or incoming.role in _MAY_COMMAND
