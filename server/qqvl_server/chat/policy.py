"""The gate: is this message answered, and who may do what? Knows settings and the message, nothing else.

First what would be answered at all, then the local gates in order, each with the word that tells why it shut.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from qqvl_server.chat import commands, waking
from qqvl_server.chat.commands import Given
from qqvl_server.chat.decision import NO_ACTIVITY, Activity, Decision, Reason
from qqvl_server.chat.message import ChatKind, EncodedPicture, Incoming, Quote
from qqvl_server.generation.port import Urgency
from qqvl_server.settings import ChatSettings

_WEEK_S: Final = 7 * 86400
_UNASKED: Final = frozenset({Reason.ALWAYS, Reason.SMART})
_MENTION = re.compile(r"@\S{1,64}")
# What may stand beside a name without adding a word to it.
_PAUSES: Final = " \t\r\n\u2005,，、:：;；.。~～…"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what nobody has asked for. None is no limit."""

    cooldown_s: float | None
    per_hour: int | None
    per_day: int | None


# Who joins a talk by his own judgement is seldom missed.
_SMART: Final = Limits(60, 12, 60)
_FREE: Final = Limits(None, None, None)
_LONGEST_REST_S: Final = 6 * 3600


@dataclass(frozen=True, slots=True)
class Case:
    """A message whose turn has come. ``now`` is in seconds since the epoch; ``settings`` are those of its chat.

    ``quotes_ours``: it quotes a line that we know to be ours. ``is_machine``: its speaker answers us as only a program
    does. ``muted``: the chat has told us to be silent. ``used_up``: what is told to whoever has had all of today's.
    ``has_gate``: there is a calibrated gate for what the loaded model says of joining in.
    """

    incoming: Incoming
    settings: ChatSettings
    now: float
    quotes_ours: bool = False
    is_machine: bool = False
    activity: Activity = NO_ACTIVITY
    muted: bool = False
    used_up: str | None = None
    has_gate: bool = False


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


def is_left_out(case: Case) -> bool:
    """The lists leave it out. Owners are never left out."""
    settings, chat, who = case.settings, case.incoming.chat, case.incoming.speaker.id
    if who in settings.owners:
        return False
    if chat.kind is ChatKind.GROUP and not _is_let_in(chat.id, settings.allow_groups, settings.deny_groups):
        return True
    return not _is_let_in(who, settings.allow_users, settings.deny_users)


def _is_let_in(one: str, allowed: Sequence[str], denied: Sequence[str]) -> bool:
    return one not in denied and (not allowed or one in allowed)


def _is_quiet(case: Case) -> bool:
    """Within the hours of quiet, by this machine's clock."""
    local = time.localtime(case.now)
    minute = local.tm_hour * 60 + local.tm_min
    return any(_is_within(minute, word) for word in case.settings.quiet_hours)


def _is_within(minute: int, hours: str) -> bool:
    begins, ends = (int(hour) * 60 + int(rest) for hour, rest in (word.split(":") for word in hours.split("-")))
    return begins <= minute < ends if begins <= ends else minute >= begins or minute < ends


def limits(settings: ChatSettings) -> Limits:
    """What is not set hangs on the mode: who said ``all`` meant all."""
    own = _SMART if settings.group_reply == "smart" else _FREE
    return Limits(
        own.cooldown_s if settings.cooldown_s is None else settings.cooldown_s,
        own.per_hour if settings.max_active_per_hour is None else settings.max_active_per_hour,
        own.per_day if settings.max_active_per_day is None else settings.max_active_per_day,
    )


def _is_enough(case: Case) -> bool:
    """It has said enough for now that nobody asked for."""
    most, said = limits(case.settings), case.activity
    rests = (
        most.cooldown_s is not None
        and said.last is not None
        and 0 <= case.now - said.last < _rest_s(most.cooldown_s, said.unanswered)
    )
    return (
        rests
        or (most.per_hour is not None and said.in_hour >= most.per_hour)
        or (most.per_day is not None and said.in_day >= most.per_day)
    )


def _rest_s(cooldown_s: float, unanswered: int) -> float:
    """Twice as long each time that nobody took up what it said of itself, from the second on."""
    return max(cooldown_s, min(cooldown_s * 2.0 ** min(max(unanswered - 1, 0), 20), _LONGEST_REST_S))


Gates = tuple[tuple[Reason, Callable[[Case], bool]], ...]
GATES: Final[Gates] = ((Reason.STALE, _is_stale), (Reason.BOT, _is_bot), (Reason.LISTED, is_left_out))
"""In order; the first that is true shuts."""
GATES_TALK: Final[Gates] = ((Reason.QUIET, lambda case: case.muted),)
"""Behind those, for all but commands."""
GATES_UNASKED: Final[Gates] = ((Reason.QUIET, _is_quiet), (Reason.COOLDOWN, _is_enough))
"""Behind those, for what is plainly said to nobody of us."""
_QUOTA: Final = (Reason.QUOTA, lambda case: case.used_up is not None)


def decide(case: Case) -> Decision:
    """Whether the message is answered by the model. Commands are asked for by ``is_heeded``."""
    reason = _wanted(case)
    if reason is None:
        return Decision(False, Reason.SILENT)
    unasked = GATES_UNASKED if _is_unasked(case, reason) else ()
    gates = (*GATES, *GATES_TALK, *unasked, _QUOTA)
    shut = _shut_by(case, gates)
    return Decision(True, reason) if shut is None else Decision(False, shut)


def joins(case: Case) -> Decision | None:
    """Whether the model is asked if it should join a talk that nobody called it into; None where it never is."""
    incoming, settings = case.incoming, case.settings
    if not (case.has_gate and settings.group_reply == "smart" and incoming.at_me is False) or incoming.context_only:
        return None
    # Who writes as if to a program means another one.
    is_command = incoming.text.startswith(settings.command_prefix) or commands.given(
        incoming, names(incoming, settings), settings, muted=case.muted
    )
    if is_command or _wanted(case) is not None:
        return None
    shut = _shut_by(case, (*GATES, *GATES_TALK, *GATES_UNASKED, _QUOTA))
    return Decision(shut is None, shut or Reason.SMART)


def is_heeded(case: Case) -> bool:
    """Whether a command in it counts: it is said to the bot, now, by a person; while we are muted, by an admin."""
    incoming, settings = case.incoming, case.settings
    if incoming.context_only or not is_addressed(incoming, settings) or _shut_by(case, GATES) is not None:
        return False
    return not case.muted or commands.role_of(incoming, settings) >= commands.Role.ADMIN


def is_asked(case: Case) -> bool:
    """Whether somebody waits for what it would be answered."""
    reason = _wanted(case)
    return reason is not None and not _is_unasked(case, reason)


def command(case: Case) -> Given | None:
    """The command in it that counts, whoever may give it."""
    found = commands.given(case.incoming, names(case.incoming, case.settings), case.settings, muted=case.muted)
    return found if found is not None and is_heeded(case) else None


def needs_activity(case: Case) -> bool:
    """Whether what the bot has said of itself matters."""
    reason = _wanted(case)
    is_of_itself = joins(case) is not None if reason is None else _is_unasked(case, reason)
    return is_of_itself and limits(case.settings) != _FREE


def _is_unasked(case: Case, reason: Reason) -> bool:
    """A client that does not tell whether we are meant cannot say so."""
    return reason in _UNASKED and case.incoming.at_me is False


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
    if settings.group_reply == "all" or (settings.group_reply == "auto" and incoming.at_me is None):
        return Reason.ALWAYS
    return None


def _shut_by(case: Case, gates: Gates) -> Reason | None:
    return next((reason for reason, shuts in gates if shuts(case)), None)


def names(incoming: Incoming, settings: ChatSettings) -> tuple[str, ...]:
    """What the bot is called in this chat: the operator's names for it, and the account's own."""
    return (*settings.bot_names, *incoming.self_names)


def _is_called(incoming: Incoming, settings: ChatSettings) -> bool:
    text = incoming.text if incoming.typed is None else incoming.typed
    return waking.wakes(text, names(incoming, settings), settings)


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
    called = {name.strip().casefold() for name in (*names(incoming, settings), *settings.wake_words)}
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
