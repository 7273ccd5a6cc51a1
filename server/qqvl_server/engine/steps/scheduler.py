"""Which tokens of which requests run in the next step. Plain Python over ints; imports no torch.

Decodes first, then prefills in chunks, under one token budget. Waiting requests are picked by priority class and,
within a class, by deficit round robin over chats weighted by tokens (Shreedhar and Varghese, 1995), so that a chat
that floods delays a quiet one by no more than a quantum per round. When blocks run out the least urgent, latest
running request is put back to be computed again; nothing fails and nothing waits for ever. So it is when all places
are taken and a chat that has none comes: one that has several gives one up, whose work stays in the cache. So does
active speech that is still read when somebody comes who asks. Idle prefill runs in small steps when there is nothing
else, and is put back at once when there is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from qqvl_server.engine.steps.batch import Chosen, NoNumbers, Sampled, ScheduledBatch, ScheduledChunk, StepOutput
from qqvl_server.engine.steps.block_pool import BlockPool
from qqvl_server.engine.steps.budget import StepBudget
from qqvl_server.engine.steps.prefix import block_names
from qqvl_server.engine.steps.request import PENDING, FinishReason, Priority, Request, Status
from qqvl_server.engine.steps.waiting_queue import WaitingQueue
from qqvl_server.errors import QqvlError

# What a step of idle prefill may delay somebody who comes in its middle.
_IDLE_STEP: Final = 256
# Why somebody was put back: to make way for who asks, for a chat that has no place, for want of blocks or of memory.
PREEMPTIONS: Final = ("idle", "active_speech", "places", "blocks", "memory")


class Scheduler:
    def __init__(self, pool: BlockPool, *, max_tokens: int, max_requests: int, quantum: int = 512) -> None:
        self._pool = pool
        self._budget = StepBudget(max_tokens, max_requests)
        self.waiting = WaitingQueue(quantum)
        # Insertion order is admission order; the last of the lowest class is preempted first.
        self.running: list[Request] = []
        # Who was put back, by why; read by other threads.
        self.preemptions = dict.fromkeys(PREEMPTIONS, 0)

    @property
    def capacity_tokens(self) -> int:
        """The longest prompt and reply together that can ever run."""
        return self._pool.total * self._pool.block_size

    @property
    def blocks(self) -> tuple[int, int, int]:
        """All there are, those that are used, and those whose content may be found again. From any thread."""
        return self._pool.total, self._pool.total - self._pool.available, self._pool.named

    @property
    def has_urgent(self) -> bool:
        """Whether anything but idle prefill is to be done."""
        return self.waiting.urgent > 0 or any(r.priority is not Priority.IDLE_PREFILL for r in self.running)

    def add(self, request: Request) -> None:
        """Raises ValueError when the request can never fit the cache."""
        if len(request.prompt) + request.sampling.max_new_tokens > self.capacity_tokens:
            raise ValueError("request is larger than the KV cache")
        self.waiting.push(request)

    def abort(self, request: Request) -> None:
        """Forget a request at once; its blocks are free for others. Harmless when it has ended."""
        if request.status is Status.WAITING:
            self.waiting.remove(request)
            request.become(Status.FINISHED)
            request.finish_reason = FinishReason.ABORTED
        elif request.status is Status.RUNNING:
            self._finish(request, FinishReason.ABORTED)

    def is_cached(self, request: Request) -> bool:
        """Whether every full block that ``request`` may reuse is in the cache now."""
        return self._pool.holds(self._prefix_names(request))

    def schedule(self) -> ScheduledBatch:
        """The next step's work; empty only when there is none."""
        budget = self._budget.tokens
        self._share_places()
        if self.has_urgent:
            for request in [r for r in self.running if r.priority is Priority.IDLE_PREFILL]:
                self._preempt(request, "idle")
            self._hold_active_speech()
        else:
            budget = min(budget, _IDLE_STEP)
        chunks: list[ScheduledChunk] = []
        for request in sorted(self.running, key=lambda r: (r.pending > 1, r.priority)):
            if budget == 0:
                break
            if request.status is not Status.RUNNING:
                continue  # preempted for one before it
            count = min(request.pending, budget)
            if self._make_room(request, count, protected=[chunk.request for chunk in chunks]):
                chunks.append(ScheduledChunk(request, request.computed, count))
                budget -= count
        while budget > 0 and len(self.running) < self._budget.requests:
            admitted = self._admit(budget)
            if admitted is None:
                break
            chunks.append(admitted)
            budget -= admitted.count
        return ScheduledBatch(tuple(chunks))

    def continued(self, batch: ScheduledBatch) -> ScheduledBatch | None:
        """The step after ``batch`` while its tokens are not known yet; None where that depends on more than them.

        One more token each of the requests that go on by their length. One that turns out to have ended is computed in
        vain: what it writes lands behind everything of its own that has a name, before anybody else gets the block.
        """
        live = [chunk for chunk in batch.chunks if chunk.request.status is Status.RUNNING]
        if len(live) < len(self.running) or not all(chunk.samples for chunk in live) or self._may_change():
            return None
        going = [c for c in live if c.end + 1 - len(c.request.prompt) < c.request.sampling.max_new_tokens]
        needed = [self._blocks_for(chunk.end + 1) - len(chunk.request.blocks) for chunk in going]
        if not going or sum(needed) > self._pool.available:
            return None
        for chunk, blocks in zip(going, needed, strict=True):
            chunk.request.blocks += self._pool.allocate(blocks) or []
            chunk.request.tokens.append(PENDING)
        return ScheduledBatch(tuple(ScheduledChunk(chunk.request, chunk.end, 1) for chunk in going))

    def _may_change(self) -> bool:
        """Whether somebody who waits may be among those who run next."""
        full = len(self.running) >= self._budget.requests
        return self.waiting.urgent > 0 and (not full or next(self._claims(), None) is not None)

    def _hold_active_speech(self) -> None:
        """What nobody asked for is read on once nobody waits who did: chunks of it would leave him no room."""
        heads = self.waiting.heads() if self.waiting.urgent else []
        if heads and heads[0].priority < Priority.ACTIVE_SPEECH:
            for request in [r for r in self.running if r.priority is Priority.ACTIVE_SPEECH and r.pending > 1]:
                self._preempt(request, "active_speech")

    def _share_places(self) -> None:
        for victim, request in self._claims():
            self._preempt(victim, "places")
            self.waiting.favour(request)

    def _claims(self) -> Iterator[tuple[Request, Request]]:
        """Who gives a place up to whom: when all are taken, crowded chats and the less urgent to those without one."""
        if len(self.running) < self._budget.requests:
            return
        held = Counter(request.chat for request in self.running)
        for request in self.waiting.heads():
            if held[request.chat]:
                continue
            giving = [
                r
                for r in reversed(self.running)
                if r.priority > request.priority or (r.priority == request.priority and held[r.chat] > 1)
            ]
            if not giving:
                return
            victim = max(giving, key=lambda r: (r.priority, held[r.chat]))
            held[victim.chat] -= 1
            held[request.chat] += 1
            yield victim, request

    def _make_room(self, request: Request, count: int, protected: list[Request]) -> bool:
        """Give ``request`` blocks for ``count`` more tokens, preempting others, itself last."""
        needed = self._blocks_for(request.computed + count) - len(request.blocks)
        while needed > self._pool.available:
            victims = [r for r in self.running if r not in protected]
            victim = max(reversed(victims), key=lambda r: r.priority)
            self._preempt(victim, "blocks")
            if victim is request:
                return False
        request.blocks += self._pool.allocate(needed) or []
        return True

    def _admit(self, budget: int) -> ScheduledChunk | None:
        request = self.waiting.peek()
        if request is None or (request.priority is Priority.IDLE_PREFILL and self.has_urgent):
            return None
        matched = self._pool.match(self._prefix_names(request))
        start = len(matched) * self._pool.block_size
        count = min(len(request.tokens) - start, budget)
        fresh = self._pool.allocate(self._blocks_for(start + count) - len(matched))
        if fresh is None:
            self._pool.release(matched)
            return None
        self.waiting.pop(request, len(request.tokens) - start)
        request.blocks = matched + fresh
        request.hashes = request.hashes[: len(matched)]
        request.computed = start
        if request.cached is None:
            request.cached = start
        request.become(Status.RUNNING)
        self.running.append(request)
        return ScheduledChunk(request, start, count)

    def _prefix_names(self, request: Request) -> list[bytes]:
        """Of the full blocks before the first token whose logits are needed."""
        return block_names(request, request.reusable // self._pool.block_size, self._pool.block_size)

    def _preempt(self, request: Request, why: str) -> None:
        self.preemptions[why] += 1
        self.running.remove(request)
        self._release(request)
        if request.tokens[-1] == PENDING:
            request.tokens.pop()
        request.computed = 0
        request.become(Status.WAITING)
        self.waiting.push(request, front=True)

    def shrink(self, batch: ScheduledBatch) -> bool:
        """The step ran out of memory: put its requests back and make the next ones half as large.

        False, and nothing done, when steps are as small as they get.
        """
        if not self._budget.shrink(len(batch.chunks)):
            return False
        for request in reversed(batch.requests):
            if request.status is Status.RUNNING:
                self._preempt(request, "memory")
        return True

    def update(self, batch: ScheduledBatch, sampled: Sampled) -> list[StepOutput]:
        """Book a finished step. ``sampled`` has one entry for each chunk that samples, in order."""
        self._budget.recover()
        entries = iter(sampled)
        outputs = []
        for chunk in batch.chunks:
            request = chunk.request
            entry = next(entries) if chunk.samples else None
            if request.status is not Status.RUNNING:
                continue  # aborted while the step ran
            request.computed = chunk.end
            if entry is None and any(math.isnan(score) for score in request.scores.values()):
                entry = NoNumbers()
            if isinstance(entry, NoNumbers):
                # Whoever began with the same blocks would get the same.
                self._pool.forget(request.blocks)
            else:
                self._name_full_blocks(chunk)
            if isinstance(entry, QqvlError):
                self._finish(request, FinishReason.ABORTED)
                outputs.append(StepOutput(request, None, True, entry))
            elif entry is not None:
                request.put(chunk.end, entry.token)
                outputs.append(StepOutput(request, entry, self._finish_if_done(request, entry)))
            elif not request.pending:
                self._finish(request, FinishReason.LENGTH)
                outputs.append(StepOutput(request, None, True))
        return outputs

    def _name_full_blocks(self, chunk: ScheduledChunk) -> None:
        request, size = chunk.request, self._pool.block_size
        names = block_names(request, chunk.end // size, size)
        for index in range(chunk.start // size, chunk.end // size):
            self._pool.name(request.blocks[index], names[index])

    def _finish_if_done(self, request: Request, chosen: Chosen) -> bool:
        wanted = request.sampling
        if chosen.token in wanted.end_token_ids or chosen.token in wanted.stop_token_ids:
            self._finish(request, FinishReason.STOP)
        elif request.made >= wanted.max_new_tokens:
            self._finish(request, FinishReason.LENGTH)
        return request.status is Status.FINISHED

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.become(Status.FINISHED)
        request.finish_reason = reason
        self.running.remove(request)
        self._release(request)

    def _release(self, request: Request) -> None:
        self._pool.release(request.blocks)
        request.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_size)

    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not balance."""
        self._pool.check_integrity([request.blocks for request in self.running])
        assert len(self.waiting) == sum(1 for _ in self.waiting), "the queue's counts are off"
        assert all(r.status is Status.RUNNING for r in self.running)
        assert all(r.status is Status.WAITING and not r.blocks for r in self.waiting)
        for request in self.running:
            assert request.computed <= len(request.tokens)
            assert len(request.blocks) * self._pool.block_size >= request.computed
