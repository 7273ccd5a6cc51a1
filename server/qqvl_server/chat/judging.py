"""What is known of a message when its turn comes is gathered for ``policy``, each piece only where it matters."""

from __future__ import annotations

from dataclasses import replace

from qqvl_server.chat import policy
from qqvl_server.chat.ledger import Ledger
from qqvl_server.chat.loops import Exchanges, Heard
from qqvl_server.chat.message import ChatKind, Incoming
from qqvl_server.chat.policy import Case
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.session import Arrival, Turn
from qqvl_server.chat.store import Store


class Judge:
    def __init__(self, store: Store, preferences: Preferences, ledger: Ledger, exchanges: Exchanges) -> None:
        self._store = store
        self._preferences = preferences
        self._ledger = ledger
        self._exchanges = exchanges

    async def case(self, arrival: Arrival, turn: Turn) -> Case:
        """Raises StorageFailed."""
        incoming = arrival.incoming
        case = self._preferences.case(incoming)
        if incoming.chat.kind is ChatKind.GROUP:
            case = await self._group_case(arrival, case)
        joining = policy.joins(case)
        if not (policy.decide(case).speak or (joining is not None and joining.speak)):
            return case
        # Those before it in the turn are not in the books yet.
        asking = [a.incoming.speaker.id for a in turn.members if a.decision is not None and a.decision.speak]
        return replace(case, used_up=await self._ledger.is_used_up(incoming, case.settings, asking))

    async def _group_case(self, arrival: Arrival, case: Case) -> Case:
        incoming = arrival.incoming
        is_machine = False
        sent_at = policy.sent_at(case)
        # What other bots say is no person's word, which would end their silence.
        if not policy.is_known_bot(case):
            line = None if sent_at is None else Heard(incoming.speaker.id, arrival.came_at, sent_at)
            is_command = policy.command(case) is not None
            is_machine = self._exchanges.heard(incoming.chat, line, is_command=is_command)
        quotes_ours = (
            incoming.at_me is False
            and not incoming.quotes_me
            and incoming.quoted_id is not None
            and await self._store.is_ours(incoming.chat, incoming.quoted_id)
        )
        case = replace(case, is_machine=is_machine, quotes_ours=quotes_ours)
        if not policy.needs_activity(case):
            return case
        return replace(case, activity=await self._store.books.activity(incoming.chat, case.now))

    async def is_worth_reading(self, last: Incoming) -> bool:
        """Whether what was only listened to may be of use soon: not where nobody is answered for now.

        Raises StorageFailed.
        """
        case = self._preferences.case(last)
        silent = last.chat.kind is ChatKind.GROUP and case.settings.group_reply == "off"
        if silent or case.muted or policy.is_left_out(case):
            return False
        return await self._ledger.is_used_up(last, case.settings, ()) is None
