"""How Ray Serve's handles choose a replica: a chat's own while it lives. Ray's router API is alpha (tried with 2.60).

Ray's ``ConsistentHashRouter`` (``ray.serve.experimental``) keeps a chat's replica until the set of replicas changes.
Whatever takes the place of one that died has a new id and so new points on the ring, which take a share of the chats
of all who survived: with two replicas half of theirs, each of which then reads its whole prompt anew. Nor does it look
at how long the queues are. This one remembers (``Homes``), and lets Ray compare two queues for a chat without a home.
"""

from __future__ import annotations

import random

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from qqvl_server.generation.engines.affinity import Homes, two_for


class ChatRouter(RequestRouter):
    def initialize_state(self, **_: object) -> None:
        self._homes = Homes()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The chat's own first. Where its queue is full, this once, or where it has none: the emptier of two."""
        if not candidate_replicas:
            return []
        there = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if pending_request is None:
            return [candidate_replicas]
        # Those that are full are asked again after a pause, which grows.
        pending_request.routing_context.should_backoff = True
        chat = pending_request.metadata.session_id
        if not chat:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        home = self._homes.of(chat, there)
        if home is None:
            return [[there[name] for name in two_for(chat, there)]]
        others = [name for name in there if name != home]
        return [[there[home]], *([[there[name] for name in two_for(chat, others)]] if others else [])]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        chat = pending_request.metadata.session_id
        if chat and self._homes.of(chat, {replica.unique_id for replica in self.curr_replicas}) is None:
            self._homes.settle(chat, replica_id.unique_id)
