"""What is being answered now, for whoever sends it again before it has an answer."""

from __future__ import annotations

from qqvl_server.chat.identity import are_one
from qqvl_server.chat.message import ChatKey, Incoming
from qqvl_server.chat.session import Arrival


class Unanswered:
    """The arrivals that have no answer yet, found by their message, for whoever sends it again."""

    def __init__(self) -> None:
        self._by_id: dict[tuple[ChatKey, str], list[Arrival]] = {}

    def find(self, incoming: Incoming) -> Arrival | None:
        if incoming.message_id is None:
            return None
        same_id = self._by_id.get((incoming.chat, incoming.message_id), ())
        return next((arrival for arrival in same_id if are_one(arrival.incoming, incoming)), None)

    def add(self, arrival: Arrival) -> None:
        incoming = arrival.incoming
        if incoming.message_id is not None:
            key = incoming.chat, incoming.message_id
            self._by_id.setdefault(key, []).append(arrival)
            arrival.answer.add_done_callback(lambda _: self._forget(key, arrival))

    def _forget(self, key: tuple[ChatKey, str], arrival: Arrival) -> None:
        same_id = self._by_id[key]
        same_id.remove(arrival)
        if not same_id:
            del self._by_id[key]
