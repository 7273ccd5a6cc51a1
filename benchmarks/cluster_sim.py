"""How far several cards carry many groups, without any card: who waits how long, what is read anew, what breaks first.

Every group talks as those of the invented evening do (tests/client/evening.py), its lines spread over time by an
exponential pause. A turn reads what its card has not in its cache and writes an answer; a card packs the tokens of all
its turns into steps as the engine does. What a step takes is what benchmarks/decode_limit.py holds steps against: the
bytes of the weights and of the keys and values over the memory's bandwidth, the products over the arithmetic's rate,
each divided by the share of that limit which was measured.

    python benchmarks/cluster_sim.py --cards 8 --groups 250,500,1000,2000
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import heapq
import itertools
import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, Literal

from evening_lines import Line, People, lines
from figures import percentile, report

Routing = Literal["affinity", "random"]


@dataclass(frozen=True)
class Card:
    """A card with a model on it: bytes, bytes and operations a second, and what is reached of the two limits."""

    memory: float = 80e9
    bandwidth: float = 2039e9
    rate: float = 312e12
    weights: float = 17.5e9
    layer_weights: float = 6.95e9
    """Parameters that each token of a prompt goes through; the head only reads the last."""
    kv_bytes: float = 36 * 2 * 8 * 128 * 2
    attended: float = 4 * 36 * 32 * 128
    """Operations for each pair of a token that is read and one before it: scores and sums, in all layers."""
    of_bandwidth: float = 0.7
    of_rate: float = 0.5
    step_tokens: int = 1024
    most_running: int = 64

    @property
    def cache_tokens(self) -> int:
        """What is left for keys and values, with a tenth kept for pictures' features and the working set."""
        return max(0, int((self.memory * 0.9 - self.weights) / self.kv_bytes))

    def step_s(self, context: int, tokens: int, pairs: int) -> float:
        """A step over ``context`` keys and values, with so many ``tokens``, which look at ``pairs`` before them."""
        moved = (self.weights + context * self.kv_bytes) / self.bandwidth / self.of_bandwidth
        computed = (2 * self.layer_weights * tokens + self.attended * pairs) / self.rate / self.of_rate
        return max(moved, computed)


@dataclass(eq=False)
class Turn:
    group: int
    asked: float
    prompt: int
    left_to_read: int = 0
    left_to_write: int = 0
    first: float | None = None


@dataclass
class Chat:
    history: int
    heard: int = 0
    """Tokens that no turn has read."""
    asked: float | None = None
    """Since when somebody waits for the turn after the one that is under way."""
    is_busy: bool = False


@dataclass
class Server:
    """A card at work."""

    card: Card
    waiting: deque[Turn] = field(default_factory=deque)
    reading: list[Turn] = field(default_factory=list)
    writing: list[Turn] = field(default_factory=list)
    cache: OrderedDict[int, int] = field(default_factory=OrderedDict)
    cached: int = 0
    busy_s: float = 0
    evicted: int = 0
    is_stepping: bool = False

    def admit(self, people: People) -> int:
        """Take in who waits, as far as there is room; returns the tokens that were found in the cache."""
        hits = 0
        while self.waiting and len(self.reading) + len(self.writing) < self.card.most_running:
            turn = self.waiting.popleft()
            known = min(max(self.cache.get(turn.group, 0), people.system_tokens), turn.prompt - 1)
            hits += known
            turn.left_to_read = turn.prompt - known
            self.keep(turn.group, turn.prompt + turn.left_to_write)
            self.reading.append(turn)
        return hits

    def keep(self, group: int, tokens: int) -> None:
        """The chat's blocks are used last; those used first make room."""
        self.cached += tokens - self.cache.pop(group, 0)
        self.cache[group] = tokens
        busy = {turn.group for turn in (*self.reading, *self.writing)} | {group}
        for other in [one for one in self.cache if one not in busy] if self.cached > self.card.cache_tokens else ():
            self.cached -= self.cache.pop(other)
            self.evicted += 1
            if self.cached <= self.card.cache_tokens:
                return

    def step(self, now: float) -> tuple[float, list[Turn]]:
        """When the next step ends, and whose answers end with it."""
        budget = max(1, self.card.step_tokens - len(self.writing))
        read, context = 0, sum(turn.prompt for turn in self.writing)
        pairs = context
        done_reading = []
        for turn in self.reading:
            part = min(turn.left_to_read, budget - read)
            turn.left_to_read -= part
            read += part
            seen = turn.prompt - turn.left_to_read
            context += seen
            pairs += part * (seen - part // 2)
            if not turn.left_to_read:
                done_reading.append(turn)
            if read == budget:
                break
        taken = self.card.step_s(context, len(self.writing) + read, pairs)
        self.busy_s += taken
        end = now + taken
        for turn in self.writing:
            turn.left_to_write -= 1
        for turn in done_reading:
            turn.first = end
            turn.left_to_write -= 1
            self.reading.remove(turn)
            self.writing.append(turn)
        finished = [turn for turn in self.writing if turn.left_to_write <= 0]
        self.writing = [turn for turn in self.writing if turn.left_to_write > 0]
        return end, finished


def home(group: int, cards: int) -> int:
    """Rendezvous hashing, which spreads as the fronts of deploy/ do."""
    return max(range(cards), key=lambda card: hashlib.blake2b(f"{group}/{card}".encode(), digest_size=8).digest())


class Cluster:
    def __init__(self, cards: int, groups: int, routing: Routing, card: Card, people: People, seed: int = 15) -> None:
        self.servers = [Server(card) for _ in range(cards)]
        dice = random.Random(seed)
        # As after days: each history somewhere between the half to which it was cut and the whole window.
        full = people.window - people.answer_tokens
        self.chats = [Chat(dice.randrange(full // 2, full)) for _ in range(groups)]
        self._people, self._routing, self._dice = people, routing, dice
        self._homes = [home(group, cards) for group in range(groups)]
        self.waits: list[float] = []
        self.prompt_tokens = self.hit_tokens = 0
        self._events: list[tuple[float, int, int]] = []
        self._order = itertools.count()
        self._ending: dict[int, list[Turn]] = {}

    def play(self, said: list[Line], warm_s: float) -> None:
        """All that is said; what begins before ``warm_s`` fills the caches and is not counted."""
        coming = deque(said)
        while coming or self._events:
            if coming and (not self._events or coming[0].at <= self._events[0][0]):
                self._hear(coming.popleft(), warm_s)
            else:
                now, _, number = heapq.heappop(self._events)
                self._stepped(number, now, warm_s)

    def _hear(self, line: Line, warm_s: float) -> None:
        chat = self.chats[line.group]
        chat.heard += line.tokens
        if not line.is_called:
            return
        if chat.is_busy:
            # One answer to all that waits.
            chat.asked = line.at if chat.asked is None else chat.asked
        else:
            self._begin(line.group, line.at, line.at, warm_s)

    def _begin(self, group: int, asked: float, now: float, warm_s: float) -> None:
        chat, people = self.chats[group], self._people
        chat.history += chat.heard
        chat.heard, chat.is_busy, chat.asked = 0, True, None
        is_cut = chat.history + people.answer_tokens > people.window
        if is_cut:
            chat.history = people.window // 2
        number = self._homes[group] if self._routing == "affinity" else self._dice.randrange(len(self.servers))
        if is_cut:
            # Another beginning: nothing that any card knows of it is of use.
            for server in self.servers:
                server.cached -= server.cache.pop(group, 0)
        answer = max(1, int(self._dice.expovariate(1 / people.answer_tokens)))
        server = self.servers[number]
        server.waiting.append(Turn(group, asked, people.system_tokens + chat.history, left_to_write=answer))
        chat.history += answer
        if not server.is_stepping:
            self._step(number, now, warm_s)

    def _step(self, number: int, now: float, warm_s: float) -> None:
        server = self.servers[number]
        prompts = sum(turn.prompt for turn in server.waiting)
        hits = server.admit(self._people)
        if now >= warm_s:
            self.prompt_tokens += prompts - sum(turn.prompt for turn in server.waiting)
            self.hit_tokens += hits
        else:
            server.busy_s, server.evicted = 0, 0
        server.is_stepping = bool(server.reading or server.writing)
        if server.is_stepping:
            end, self._ending[number] = server.step(now)
            heapq.heappush(self._events, (end, next(self._order), number))

    def _stepped(self, number: int, now: float, warm_s: float) -> None:
        for turn in self._ending.pop(number):
            assert turn.first is not None
            if turn.asked >= warm_s:
                self.waits.append(turn.first - turn.asked)
            chat = self.chats[turn.group]
            chat.is_busy = False
            if chat.asked is not None:
                self._begin(turn.group, chat.asked, now, warm_s)
        self._step(number, now, warm_s)


def simulate(
    groups: int, cards: int, routing: Routing, card: Card, people: People, seconds: float, warm_s: float
) -> dict[str, Any]:
    """One row of the table; waits from the asking to the first token, in seconds."""
    cluster = Cluster(cards, groups, routing, card, people)
    cluster.play(lines(groups, warm_s + seconds, people), warm_s)
    busy = [server.busy_s / seconds for server in cluster.servers]
    return {
        "groups": groups, "routing": routing, "turns_s": len(cluster.waits) / seconds,
        "p50_s": percentile(cluster.waits, 50), "p95_s": percentile(cluster.waits, 95),
        "p99_s": percentile(cluster.waits, 99), "cached": cluster.hit_tokens / max(cluster.prompt_tokens, 1),
        "busy": sum(busy) / cards, "busiest": max(busy), "evicted_s": sum(s.evicted for s in cluster.servers) / seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="在纸上试几块卡带得动多少个群：等多久、多少要重算、先坏在哪里")
    parser.add_argument("--groups", default="250,500,1000,2000", help="多少个群，逗号隔开")
    parser.add_argument("--cards", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=20, help="量多久（群里的时间）")
    parser.add_argument("--warm-minutes", type=float, default=20, help="之前先过多久，不算")
    for kind in (Card, People):
        for one in dataclasses.fields(kind):
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    given = vars(parser.parse_args())
    card = Card(**{one.name: given[one.name] for one in dataclasses.fields(Card)})
    people = People(**{one.name: given[one.name] for one in dataclasses.fields(People)})
    routings: tuple[Routing, ...] = ("affinity", "random")
    rows = [
        simulate(int(groups), given["cards"], routing, card, people, given["minutes"] * 60, given["warm_minutes"] * 60)
        for groups in given["groups"].split(",")
        for routing in routings
    ]
    report("cluster_sim", rows, cards=given["cards"], cache_tokens=card.cache_tokens, **vars(card), **vars(people))


if __name__ == "__main__":
    main()
