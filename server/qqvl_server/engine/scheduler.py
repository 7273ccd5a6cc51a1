"""Which tokens of which requests run in the next step. Plain Python over ints; imports no torch.

Decodes first, then prefills in chunks, under one token budget. Waiting requests are picked by priority class and,
within a class, by deficit round robin over chats weighted by tokens (Shreedhar and Varghese, 1995), so that a chat
that floods delays a quiet one by no more than a quantum per round. When blocks run out the least urgent, latest
running request is put back to be computed again; nothing fails and nothing waits for ever.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from qqvl_server.engine.batch import ScheduledBatch, ScheduledChunk, StepOutput
from qqvl_server.engine.block_pool import BlockPool, block_hash
from qqvl_server.engine.request import FinishReason, Priority, Request, Status


class WaitingQueue:
    """Deficit round robin over chats within each priority class; costs are prompt tokens still to compute."""

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._classes: dict[Priority, OrderedDict[str, deque[Request]]] = {p: OrderedDict() for p in Priority}
        self._deficit: dict[tuple[Priority, str], int] = {}

    def __len__(self) -> int:
        return sum(len(queue) for chats in self._classes.values() for queue in chats.values())

    def __iter__(self) -> Iterator[Request]:
        return (r for chats in self._classes.values() for queue in chats.values() for r in queue)

    def push(self, request: Request, *, front: bool = False) -> None:
        queue = self._classes[request.priority].setdefault(request.chat, deque())
        if front:
            queue.appendleft(request)
        else:
            queue.append(request)

    def peek(self) -> Request | None:
        """The next to run. Chats that cannot afford their first request yet gain a quantum as the round passes."""
        for priority, chats in self._classes.items():
            while chats:
                chat, queue = next(iter(chats.items()))
                key = (priority, chat)
                if self._deficit.setdefault(key, self._quantum) >= min(queue[0].pending, self._quantum):
                    return queue[0]
                self._deficit[key] += self._quantum
                chats.move_to_end(chat)
        return None

    def pop(self, request: Request) -> None:
        """Take ``request``, the head of its chat's queue, and charge its chat."""
        chats = self._classes[request.priority]
        queue = chats[request.chat]
        assert queue[0] is request
        queue.popleft()
        self._deficit[(request.priority, request.chat)] -= request.pending
        self._drop_if_empty(request)

    def remove(self, request: Request) -> None:
        self._classes[request.priority][request.chat].remove(request)
        self._drop_if_empty(request)

    def _drop_if_empty(self, request: Request) -> None:
        chats = self._classes[request.priority]
        if not chats[request.chat]:
            # An idle chat saves nothing up: its deficit starts anew.
            del chats[request.chat]
            self._deficit.pop((request.priority, request.chat), None)


class Scheduler:
    def __init__(self, pool: BlockPool, *, max_tokens: int, max_requests: int, quantum: int = 512) -> None:
        self._pool = pool
        self._max_tokens = max_tokens
        self._max_requests = max_requests
        self.waiting = WaitingQueue(quantum)
        # Insertion order is admission order; the last of the lowest class is preempted first.
        self.running: list[Request] = []

    @property
    def capacity_tokens(self) -> int:
        """The longest prompt and reply together that can ever run."""
        return self._pool.total * self._pool.block_size

    def add(self, request: Request) -> None:
        """Raises ValueError when the request can never fit the cache."""
        if len(request.prompt) + request.sampling.max_new_tokens > self.capacity_tokens:
            raise ValueError("request is larger than the KV cache")
        self.waiting.push(request)

    def abort(self, request: Request) -> None:
        """Forget a request at once; its blocks are free for others. Harmless when it has ended."""
        if request.status is Status.WAITING:
            self.waiting.remove(request)
        elif request.status is Status.RUNNING:
            self.running.remove(request)
            self._release(request)
        else:
            return
        request.status, request.finish_reason = Status.FINISHED, FinishReason.ABORTED

    def schedule(self) -> ScheduledBatch:
        """The next step's work; empty only when there is none."""
        budget = self._max_tokens
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
        while budget > 0 and len(self.running) < self._max_requests:
            admitted = self._admit(budget)
            if admitted is None:
                break
            chunks.append(admitted)
            budget -= admitted.count
        return ScheduledBatch(tuple(chunks))

    def _make_room(self, request: Request, count: int, protected: list[Request]) -> bool:
        """Give ``request`` blocks for ``count`` more tokens, preempting others, itself last."""
        needed = self._blocks_for(request.computed + count) - len(request.blocks)
        while needed > self._pool.available:
            victims = [r for r in self.running if r not in protected]
            victim = max(reversed(victims), key=lambda r: r.priority)
            self._preempt(victim)
            if victim is request:
                return False
        request.blocks += self._pool.allocate(needed) or []
        return True

    def _admit(self, budget: int) -> ScheduledChunk | None:
        request = self.waiting.peek()
        if request is None:
            return None
        matched = self._pool.match(self._prefix_hashes(request))
        start = len(matched) * self._pool.block_size
        count = min(len(request.tokens) - start, budget)
        fresh = self._pool.allocate(self._blocks_for(start + count) - len(matched))
        if fresh is None:
            self._pool.release(matched)
            return None
        self.waiting.pop(request)
        request.blocks = matched + fresh
        request.hashes = request.hashes[: len(matched)]
        request.computed = request.cached = start
        request.status = Status.RUNNING
        self.running.append(request)
        return ScheduledChunk(request, start, count)

    def _prefix_hashes(self, request: Request) -> list[bytes]:
        """Names of the full blocks before the last token, which is always computed for its logits."""
        full = (len(request.tokens) - 1) // self._pool.block_size
        for index in range(len(request.hashes), full):
            request.hashes.append(self._name_of_block(request, index))
        return request.hashes[:full]

    def _name_of_block(self, request: Request, index: int) -> bytes:
        size = self._pool.block_size
        start, end = index * size, (index + 1) * size
        parent = request.hashes[index - 1] if index else b""
        return block_hash(parent, request.hash_key(start, end), b"" if end <= request.shared_tokens else request.salt)

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.computed = 0
        request.status = Status.WAITING
        self.waiting.push(request, front=True)

    def update(self, batch: ScheduledBatch, sampled: Iterable[int]) -> list[StepOutput]:
        """Book a finished step. ``sampled`` has one token for each chunk that samples, in order."""
        tokens = iter(sampled)
        outputs = []
        for chunk in batch.chunks:
            request = chunk.request
            token = next(tokens) if chunk.samples else None
            if request.status is not Status.RUNNING:
                continue  # aborted while the step ran
            request.computed = chunk.end
            self._name_full_blocks(request)
            if token is not None:
                request.tokens.append(token)
                outputs.append(StepOutput(request, token, self._finish_if_done(request, token)))
        return outputs

    def _name_full_blocks(self, request: Request) -> None:
        for index in range(request.computed // self._pool.block_size):
            if index >= len(request.hashes):
                request.hashes.append(self._name_of_block(request, index))
            self._pool.name(request.blocks[index], request.hashes[index])

    def _finish_if_done(self, request: Request, token: int) -> bool:
        if token in request.sampling.stop_token_ids:
            request.finish_reason = FinishReason.STOP
        elif len(request.tokens) - len(request.prompt) >= request.sampling.max_new_tokens:
            request.finish_reason = FinishReason.LENGTH
        else:
            return False
        request.status = Status.FINISHED
        self.running.remove(request)
        self._release(request)
        return True

    def _release(self, request: Request) -> None:
        self._pool.release(request.blocks)
        request.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_size)

    def check_integrity(self) -> None:
        """Raise AssertionError when the books do not balance."""
        self._pool.check_integrity([request.blocks for request in self.running])
        assert all(r.status is Status.RUNNING for r in self.running)
        assert all(r.status is Status.WAITING and not r.blocks for r in self.waiting)
        for request in self.running:
            assert request.computed <= len(request.tokens)
            assert len(request.blocks) * self._pool.block_size >= request.computed
