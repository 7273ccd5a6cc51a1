"""Who may end the answer that is being made, and what was told to those who did."""

from __future__ import annotations

from typing import Final

from qqvl_server.chat import commanding, commands, policy
from qqvl_server.chat.loops import Exchanges, Heard
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming
from qqvl_server.chat.notices import Notices
from qqvl_server.chat.policy import Case
from qqvl_server.chat.session import Turn
from qqvl_server.settings import ChatSettings

# So many are known again when they are sent again.
_MOST: Final = 1000
_REFUSALS: Final = frozenset({commanding.STOP_REFUSED, *commanding.REFUSED.values()})


class Stops:
    """Known by id and time alone: a look into the database takes the model some tokens."""

    def __init__(self, refusals: Notices, exchanges: Exchanges) -> None:
        self._refusals = refusals
        self._exchanges = exchanges
        self._told: dict[tuple[ChatKey, str | None, float | None], Answer] = {}

    def find(self, incoming: Incoming) -> Answer | None:
        return None if incoming.message_id is None else self._told.get(_key(incoming))

    def keep(self, incoming: Incoming, answer: Answer) -> None:
        self._told[_key(incoming)] = answer
        if len(self._told) > _MOST:
            self._told.pop(next(iter(self._told)))

    async def told(self, case: Case, words: str) -> str:
        """What is said of it: refusals seldom, and nothing to a program that would stop us for ever.

        Raises:
            StorageFailed
        """
        incoming, sent_at = case.incoming, policy.sent_at(case)
        if incoming.chat.kind is ChatKind.GROUP:
            line = None if sent_at is None else Heard(incoming.speaker.id, case.now, sent_at)
            if self._exchanges.heard(incoming.chat, line, is_command=True):
                return ""
            self._exchanges.spoke(incoming.chat, case.now, on_command=True)
        if words in _REFUSALS and not await self._refusals.is_due(incoming.chat, incoming.speaker.id):
            return ""
        return words


def refusal(incoming: Incoming, settings: ChatSettings, turn: Turn | None) -> str | None:
    """Why a word that stops ends nothing; None where it may end ``turn``, which is there then."""
    role, least = commands.role_of(incoming, settings), commands.needed(commands.BY_WORD["stop"], settings)
    if role < least:
        return commanding.REFUSED[least]
    asked = {a.line.speaker for a in turn.members if not a.is_settled and a.line.asks} if turn is not None else set()
    if not asked:
        return commanding.NOTHING_TO_STOP
    if role < commands.Role.ADMIN and incoming.speaker.id not in asked:
        return commanding.STOP_REFUSED
    return None


def _key(incoming: Incoming) -> tuple[ChatKey, str | None, float | None]:
    return incoming.chat, incoming.message_id, incoming.sent_at
