"""Who waits to be computed, and who is next. Plain Python; imports no torch."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from qqvl_server.engine.steps.request import Priority, Request


class WaitingQueue:
    """Deficit round robin over chats within each priority class; a request costs the tokens it has to compute."""

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._classes: dict[Priority, OrderedDict[str, deque[Request]]] = {p: OrderedDict() for p in Priority}
        self._deficit: dict[tuple[Priority, str], int] = {}
        # Plain numbers, so that other threads may read them at any time.
        self.idle = 0
        self.urgent = 0
        self.urgent_tokens = 0

    def __len__(self) -> int:
        return self.urgent + self.idle

    def __iter__(self) -> Iterator[Request]:
        return (r for chats in self._classes.values() for queue in chats.values() for r in queue)

    def push(self, request: Request, *, front: bool = False) -> None:
        queue = self._classes[request.priority].setdefault(request.chat, deque())
        self._count(request, 1)
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

    def heads(self) -> list[Request]:
        """Who is first of each chat, in the most urgent class that has anybody waiting."""
        for chats in self._classes.values():
            if chats:
                return [queue[0] for queue in chats.values()]
        return []

    def favour(self, request: Request) -> None:
        """Let the chat of ``request`` be the next of its class."""
        self._deficit[(request.priority, request.chat)] = self._quantum
        self._classes[request.priority].move_to_end(request.chat, last=False)

    def pop(self, request: Request, cost: int) -> None:
        """Take ``request``, the head of its chat's queue, and charge its chat ``cost`` tokens."""
        chats = self._classes[request.priority]
        queue = chats[request.chat]
        assert queue[0] is request
        queue.popleft()
        self._count(request, -1)
        self._deficit[(request.priority, request.chat)] -= cost
        self._drop_if_empty(request)

    def remove(self, request: Request) -> None:
        self._classes[request.priority][request.chat].remove(request)
        self._count(request, -1)
        self._drop_if_empty(request)

    def _count(self, request: Request, change: int) -> None:
        if request.priority is Priority.IDLE_PREFILL:
            self.idle += change
        else:
            self.urgent += change
            # A reply seldom takes all it may; half is a guess good enough to tell somebody when to come back.
            self.urgent_tokens += change * (len(request.prompt) + request.sampling.max_new_tokens // 2)

    def _drop_if_empty(self, request: Request) -> None:
        chats = self._classes[request.priority]
        if not chats[request.chat]:
            # An idle chat saves nothing up: its deficit starts anew.
            del chats[request.chat]
            self._deficit.pop((request.priority, request.chat), None)
