"""How Ray's handles choose a replica, asked as Ray asks them, without a cluster; Ray's own router beside ours."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

# The import of Ray alone takes seconds; what the choice is made by is in test_replicas.py, without it.
pytestmark = [pytest.mark.anyio, pytest.mark.long]


@pytest.fixture(autouse=True)
def ray() -> None:
    if importlib.util.find_spec("ray") is None:
        assert not os.environ.get("CI"), "ray is not installed: .ci/run installs the extra"
        pytest.skip("没有装 ray（pip install 'ray[serve]'）")


def _named(name: str) -> Any:
    from ray.serve._private.common import DeploymentID, ReplicaID

    return ReplicaID(name, DeploymentID("engine", "qqvl"))


class Running:
    """As much of a replica as Ray's routers look at; it has nothing to do."""

    node_id = "node"
    availability_zone = None
    actor_id = None
    max_ongoing_requests = 10
    multiplexed_model_ids: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self.replica_id = _named(name)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


def routers(names: list[str]) -> tuple[Any, Any]:
    """Ours, and Ray's for the same job."""
    with warnings.catch_warnings():
        # Ray's own modules use what pydantic will not have in its next version.
        warnings.simplefilter("ignore", DeprecationWarning)
        from ray.serve._private.common import DeploymentHandleSource, DeploymentID
        from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

        from qqvl_server.generation.engines.chat_router import ChatRouter

    made = []
    for kind in (ChatRouter, ConsistentHashRouter):
        router: Any = kind(DeploymentID("engine", "qqvl"), DeploymentHandleSource.REPLICA)
        router.initialize_state()
        router.update_replicas([Running(name) for name in names])
        made.append(router)
    ours, rays = made
    return ours, rays


async def placed(router: Any, chat: str) -> list[list[str]]:
    from ray.serve._private.request_router.common import RequestRoutingContext

    pending = SimpleNamespace(
        metadata=SimpleNamespace(session_id=chat, internal_request_id=f"id-{chat}"),
        routing_context=RequestRoutingContext(),
    )
    ranks = await router.choose_replicas(list(router.curr_replicas.values()), pending)
    # Ray takes the emptiest of the first rank; here none has anything to do.
    router.on_request_routed(pending, ranks[0][0].replica_id, None)
    return [[one.replica_id.unique_id for one in rank] for rank in ranks]


async def test_a_chat_stays_where_it_is_when_another_replica_is_replaced() -> None:
    ours, rays = routers(["a", "b", "c"])
    chats = [f"chat-{number}" for number in range(90)]
    before = {chat: [(await placed(router, chat))[0][0] for router in (ours, rays)] for chat in chats}
    for router in (ours, rays):
        router.update_replicas([Running(name) for name in ("a", "new", "c")])
    moved = [0, 0]
    for chat in chats:
        for number, router in enumerate((ours, rays)):
            home = before[chat][number]
            moved[number] += home != "b" and (await placed(router, chat))[0] != [home]
    assert moved[0] == 0
    # Why Ray's own does not do: its ring gives the newcomer a share of the survivors' chats.
    assert moved[1] > 0


async def test_a_chat_without_a_home_chooses_between_two_and_one_with_a_full_home_goes_elsewhere_once() -> None:
    ours, _ = routers(["a", "b", "c"])
    (both,) = await placed(ours, "chat")
    assert len(both) == 2
    own, others = await placed(ours, "chat")
    assert own == both[:1]
    assert len(others) == 2
    assert own[0] not in others


async def test_what_belongs_to_no_chat_is_spread_and_finds_nobody_where_nobody_is() -> None:
    ours, _ = routers(["a", "b", "c"])
    seen = {rank for _ in range(60) for rank in (await placed(ours, ""))[0]}
    assert seen == {"a", "b", "c"}
    ours.update_replicas([])
    assert await asyncio.wait_for(ours.choose_replicas([], None), 5) == []
