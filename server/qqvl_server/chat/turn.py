"""What happens to the messages that share a turn, in order: kept, decided on, answered together, committed.

Knows history, gates, window and the voice's port; no HTTP, no SQL, no torch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from qqvl_server.chat import arrivals, policy
from qqvl_server.chat.arrivals import Interruption
from qqvl_server.chat.commanding import Commander
from qqvl_server.chat.commands import Given
from qqvl_server.chat.decision import Charge, Decision, Reason
from qqvl_server.chat.gate.weights import Gate
from qqvl_server.chat.idling import IdleWork
from qqvl_server.chat.joining import Asker, Joining
from qqvl_server.chat.judging import Judge
from qqvl_server.chat.ledger import Ledger
from qqvl_server.chat.loops import Exchanges
from qqvl_server.chat.message import Answer, ChatKey, Speaker, StoredMessage
from qqvl_server.chat.notices import Notices
from qqvl_server.chat.pointing import looks_back, pointed_at
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.receiving import Receiver
from qqvl_server.chat.session import Arrival, Turn
from qqvl_server.chat.speaking import Speaking, cut_short
from qqvl_server.chat.store import Draft, Outcome, Store
from qqvl_server.chat.window import Window
from qqvl_server.chat.words.blocking import Blocking
from qqvl_server.errors import QqvlError
from qqvl_server.generation.port import Voice
from qqvl_server.observe.logs import logger
from qqvl_server.observe.metrics import Metrics

BOT: Final = Speaker("bot", "bot")
SILENT: Final = Answer("", should_reply=False, reason=Reason.SILENT)


class Turns:
    def __init__(
        self,
        store: Store,
        voice: Callable[[], Voice],
        receiver: Receiver,
        window: Window,
        preferences: Preferences,
        ledger: Ledger,
        commander: Commander,
        blocking: Blocking,
        exchanges: Exchanges,
        metrics: Metrics,
        gate: Gate | None = None,
    ) -> None:
        self._store = store
        self._receiver = receiver
        self._preferences = preferences
        self._blocking = blocking
        self._speaking = Speaking(voice, window, preferences, blocking, commander.model)
        asker = Asker(gate, voice, window, store) if gate is not None else None
        self._joining = Joining(asker, self._speaking, preferences, metrics)
        self._ledger = ledger
        self._judge = Judge(store, preferences, ledger, exchanges)
        self._commander = commander
        self._exchanges = exchanges
        self._metrics = metrics
        self.idle = IdleWork(store, voice, window, preferences, metrics)
        self._notices = Notices(store.books, Reason.QUOTA)

    async def run(self, turn: Turn) -> None:
        """Answer a turn's messages, each by its own future; those left without were interrupted.

        Raises whatever went wrong for all of them alike.
        """
        self.idle.make_way(turn.chat)
        await self._preferences.personas.refresh()
        for arrival in tuple(turn.members):
            if arrival.stored is None and not arrival.is_settled and not arrival.is_recalled:
                try:
                    await self._take(arrival, turn)
                except QqvlError as error:
                    # One message's own fault: the others are answered.
                    arrival.fail(error)
        kept = [arrival for arrival in turn.members if not arrival.is_settled and not arrival.is_recalled]
        covered = self._covered(turn.chat, kept)
        talk = [arrival for arrival in kept if arrival not in covered]
        may_join = bool(talk) and talk[-1].may_join and not covered
        if listened := talk[:-1] if may_join else talk:
            await self._keep_silence(turn, listened)
        if covered:
            await self._answer(turn, covered)
        elif may_join:
            await self._join(turn, talk[-1])
        reads = talk and not covered and not may_join and await self._judge.is_worth_reading(talk[-1].incoming)
        self.idle.rests(turn.chat, _stored(talk[-1]) if reads else None)

    async def _take(self, arrival: Arrival, turn: Turn) -> None:
        """Keep a message, unless it was answered before, is a command, or was recalled."""
        incoming = arrival.incoming
        identity = arrival.identity = await self._receiver.identified(incoming)
        if identity is not None:
            same = next((a for a in turn.members if a is not arrival and a.identity == identity), None)
            if same is not None:
                # One message, its picture spelled in two ways.
                turn.members.remove(arrival)
                arrival.share(same)
                return
            earlier = await self._store.find_answer(incoming.chat, identity)
            if earlier is not None:
                arrival.settle(earlier)
                return
        began = time.perf_counter()
        case = await self._judge.case(arrival, turn)
        command = policy.command(case)
        if command is not None and self._commander.is_allowed(incoming, command):
            answer = await self._commander.carry_out(incoming, arrival.chat_name, command, identity)
            decision = Decision(True, Reason.COMMAND, cost_ms=(time.perf_counter() - began) * 1000)
            await self._store.books.note(incoming.chat, incoming.message_id, decision)
            self._count(incoming.chat, decision)
            self._exchanges.spoke(incoming.chat, time.time(), on_command=True)
            arrival.settle(answer)
            return
        decision, joins = policy.decide(case), policy.joins(case)
        if joins is not None:
            arrival.may_join = joins.speak
            decision = decision if joins.speak else joins
        decision = replace(decision, cost_ms=(time.perf_counter() - began) * 1000)
        blocked = await self._blocking.kept_back(incoming)
        shown = blocked or incoming
        received = await self._receiver.received(shown)
        arrival.warnings, parts = received.warnings, received.parts
        if decision.speak and blocked is None and (lines := looks_back(incoming)):
            before = await self._store.messages(incoming.chat, before=None, limit=lines)
            parts = (*pointed_at(incoming, before or ()), *parts)
        arrival.stored = await self._store.add_message(
            Draft(shown.chat, arrival.chat_name, shown.speaker, parts, identity)
        )
        if arrival.stored is None:
            arrival.settle(SILENT)
        elif command is not None:
            await self._refuse(arrival, command)
        else:
            arrival.decision = decision
            arrival.notice = case.used_up if decision.reason is Reason.QUOTA and policy.is_asked(case) else None
            if blocked is not None:
                await self._block(arrival)

    async def _refuse(self, arrival: Arrival, command: Given) -> None:
        """Who may not is told so, but seldom."""
        decision = Decision(False, Reason.COMMAND)
        told = await self._commander.refusal(arrival.incoming, command)
        answer = Answer(told, should_reply=bool(told), warnings=arrival.warnings, reason=decision.reason)
        outcome = Outcome(arrival.identity, answer, _stored(arrival).seq, decision, aside=True)
        (answer,) = await self._store.add_answers(arrival.incoming.chat, [outcome], BOT)
        self._count(arrival.incoming.chat, decision)
        arrival.settle(answer)

    async def _block(self, arrival: Arrival) -> None:
        """Whoever asked is told a line, and the model nothing."""
        decision = _decision(arrival)
        told = self._blocking.reply if decision.speak else ""
        answer = Answer(told, should_reply=bool(told), warnings=arrival.warnings, reason=decision.reason)
        outcome = Outcome(arrival.identity, answer, _stored(arrival).seq, decision)
        (answer,) = await self._store.add_answers(arrival.incoming.chat, [outcome], BOT)
        self._count(arrival.incoming.chat, decision)
        if told:
            self._exchanges.spoke(arrival.incoming.chat, time.time())
        arrival.settle(answer)

    def _covered(self, chat: ChatKey, kept: Sequence[Arrival]) -> list[Arrival]:
        """Those that the reply answers: what is to be answered, and what its speakers said on."""
        lines = [replace(arrival.line, asks=_decision(arrival).speak) for arrival in kept]
        # One that joins no turn is alone in its own.
        covered = [arrival for arrival in kept if not arrival.line.joins and _decision(arrival).speak]
        for group in arrivals.groups(lines, self._preferences.of(chat).merge_wait_s):
            first = kept[group[0]]
            for place in group:
                kept[place].decision = first.decision if not lines[place].asks else kept[place].decision
                covered.append(kept[place])
        return sorted(covered, key=lambda arrival: _stored(arrival).seq)

    async def _answer(self, turn: Turn, covered: list[Arrival]) -> None:
        last = covered[-1]
        settings = self._preferences.of(turn.chat)
        urgency = min(policy.urgency(arrival.incoming, settings) for arrival in covered)
        speakers = [arrival.incoming.speaker.id for arrival in covered]
        self._ledger.listening_ends(turn.chat)
        turn.speaks_for = last
        speaking = asyncio.create_task(self._speaking.ask(turn, last, _stored(last), urgency))
        try:
            said = await turn.spoken(speaking)
        except QqvlError as error:
            if not turn.is_out:
                for arrival in covered:
                    arrival.fail(error)
                await self._ledger.keep(self._ledger.answered(turn.chat, speakers, said=False))
                return
            # To be asked again is no way out: it would be said twice.
            said = cut_short(last.told, f"回答没有说完：{error.message}")
        if said is None and turn.is_out and not last.is_recalled:
            said = cut_short(last.told)
            covered = [arrival for arrival in covered if not arrival.is_recalled]
        charges = self._ledger.answered(turn.chat, speakers, said=said is not None and said.should_reply)
        if said is None:
            await self._ledger.keep(charges)
            if turn.ended_by is Interruption.STOP:
                await self._commit(turn, [await self._silence(arrival) for arrival in covered], covered)
            return
        outcomes = [self._merged(arrival, last) for arrival in covered[:-1]]
        decision = _decision(last)
        answer = replace(said, warnings=last.warnings + said.warnings, reason=decision.reason)
        outcomes.append(Outcome(last.identity, answer, _stored(last).seq, decision, covered=True, effort=turn.effort))
        await self._commit(turn, outcomes, covered, charges)
        if answer.should_reply:
            self._exchanges.spoke(turn.chat, time.time())

    async def _join(self, turn: Turn, arrival: Arrival) -> None:
        """Nobody called us: a silence is what mostly comes of it, and whatever goes wrong is a silence too."""
        said: Answer | None = None
        try:
            question = await self._joining.question(turn, arrival, _stored(arrival))
            if question is not None:
                self._ledger.listening_ends(turn.chat)
                turn.speaks_for, turn.yields = arrival, True
                joining = self._joining.said(turn, arrival, _stored(arrival), question)
                said = await turn.spoken(asyncio.create_task(joining))
        except QqvlError as error:
            logger().debug("没有插话", chat=str(turn.chat), kind=type(error).__name__)
        if arrival.is_recalled:
            return
        if said is None and turn.is_out:
            said = cut_short(arrival.told)
        if said is None or not said.should_reply:
            await self._keep_silence(turn, [arrival])
            return
        decision = _decision(arrival)
        answer = replace(said, warnings=arrival.warnings + said.warnings, reason=decision.reason)
        outcome = Outcome(arrival.identity, answer, _stored(arrival).seq, decision, covered=True, effort=turn.effort)
        await self._commit(turn, [outcome], [arrival], self._ledger.joined(turn.chat, said=True))
        self._exchanges.spoke(turn.chat, time.time())

    async def _keep_silence(self, turn: Turn, listened: Sequence[Arrival]) -> None:
        silences = [await self._silence(arrival) for arrival in listened]
        await self._commit(turn, silences, listened, self._ledger.listened(turn.chat))

    def _merged(self, arrival: Arrival, last: Arrival) -> Outcome:
        decision = replace(_decision(arrival), speak=False, reason=Reason.MERGED)
        covering, warnings = last.incoming.message_id, arrival.warnings
        answer = Answer("", should_reply=False, warnings=warnings, reason=decision.reason, merged_into=covering)
        return Outcome(arrival.identity, answer, _stored(arrival).seq, decision, covered=True)

    async def _silence(self, arrival: Arrival) -> Outcome:
        """Its decision was not to answer, or it was told to stop."""
        decision = _decision(arrival)
        if decision.speak:
            decision = replace(decision, speak=False, reason=Reason.SILENT)
        answer = Answer("", should_reply=False, warnings=arrival.warnings, reason=decision.reason)
        if arrival.notice is not None and await self._notices.is_due(arrival.incoming.chat):
            answer = replace(answer, reply=arrival.notice, should_reply=True)
        return Outcome(arrival.identity, answer, _stored(arrival).seq, decision, aside=True)

    async def _commit(
        self, turn: Turn, outcomes: list[Outcome], members: Sequence[Arrival], charges: Sequence[Charge] = ()
    ) -> None:
        answers = await self._store.add_answers(turn.chat, outcomes, BOT, charges)
        for arrival, outcome, answer in zip(members, outcomes, answers, strict=True):
            if outcome.decision is not None:
                self._count(turn.chat, outcome.decision)
            # Recalled while it was committed: its reply has left already.
            arrival.settle(SILENT if arrival.is_recalled else answer)

    def _count(self, chat: ChatKey, decision: Decision) -> None:
        if chat.is_trial:
            return
        self._metrics.decisions.labels(decision.reason).inc()
        self._metrics.decision_seconds.labels(decision.reason).observe(decision.cost_ms / 1000)


def _stored(arrival: Arrival) -> StoredMessage:
    assert arrival.stored is not None
    return arrival.stored


def _decision(arrival: Arrival) -> Decision:
    assert arrival.decision is not None
    return arrival.decision
