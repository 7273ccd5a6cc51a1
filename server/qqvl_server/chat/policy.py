"""The gate: is this message answered? Knows settings and the message, nothing else."""

from __future__ import annotations

from qqvl_server.chat.message import ChatKind, Incoming
from qqvl_server.generation.port import Urgency
from qqvl_server.settings import ChatSettings


def urgency(incoming: Incoming, settings: ChatSettings) -> Urgency:
    """Who is called by name or talks in private goes before talk that the bot joins of itself."""
    if incoming.chat.kind is ChatKind.PRIVATE:
        return Urgency.PRIVATE
    called = incoming.at_me is not False or any(name in incoming.text for name in settings.bot_names)
    return Urgency.ADDRESSED if called else Urgency.ACTIVE_SPEECH


def is_answered(incoming: Incoming, settings: ChatSettings) -> bool:
    """Private messages always; group messages by ``group_reply``. A client that cannot tell ``at_me`` is answered."""
    if incoming.context_only:
        return False
    if incoming.chat.kind is ChatKind.PRIVATE or settings.group_reply == "all" or incoming.at_me is None:
        return True
    return incoming.at_me or any(name in incoming.text for name in settings.bot_names)
