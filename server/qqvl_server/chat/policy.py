"""The gate: is this message answered, and who may do what? Knows settings and the message, nothing else."""

from __future__ import annotations

from typing import Final

from qqvl_server.chat import addressing
from qqvl_server.chat.message import ChatKind, Incoming
from qqvl_server.generation.port import Urgency
from qqvl_server.settings import ChatSettings

_MAY_RESET: Final = frozenset({"owner", "admin"})


def names(incoming: Incoming, settings: ChatSettings) -> tuple[str, ...]:
    """What the bot is called in this chat: the operator's names for it, and the account's own."""
    return (*settings.bot_names, *incoming.self_names)


def is_addressed(incoming: Incoming, settings: ChatSettings) -> bool:
    """In private always; in groups by mention, quote or name. A client that cannot tell is taken to be addressed."""
    if incoming.chat.kind is ChatKind.PRIVATE or incoming.at_me is not False:
        return True
    return addressing.is_called(incoming.text if incoming.typed is None else incoming.typed, names(incoming, settings))


def urgency(incoming: Incoming, settings: ChatSettings) -> Urgency:
    """Who is called by name or talks in private goes before talk that the bot joins of itself."""
    if incoming.chat.kind is ChatKind.PRIVATE:
        return Urgency.PRIVATE
    return Urgency.ADDRESSED if is_addressed(incoming, settings) else Urgency.ACTIVE_SPEECH


def is_answered(incoming: Incoming, settings: ChatSettings) -> bool:
    """Private messages always; group messages by ``group_reply``. A client that cannot tell ``at_me`` is answered."""
    if incoming.context_only:
        return False
    return settings.group_reply == "all" or is_addressed(incoming, settings)


def may_reset(incoming: Incoming, settings: ChatSettings) -> bool:
    """In groups: the group's owner and admins, and the bot's own owners.

    A client that tells neither role nor mention can name nobody's rights: everybody has them, until ``owners`` says
    who. One that tells mentions could tell the role too; who has none is a member.
    """
    if incoming.chat.kind is ChatKind.PRIVATE or incoming.speaker.id in settings.owners:
        return True
    if incoming.role is None:
        return incoming.at_me is None and not settings.owners
    return incoming.role in _MAY_RESET
