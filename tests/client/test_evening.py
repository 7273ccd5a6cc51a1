"""A whole evening in four groups, through client and server as they come: in order, apart, once, and nothing lost."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from evening import COLOURS, DRAWN, FREE, GROUPS, OWN, PARROT, Group, Step, evening
from onebot.events import SELF_ID, at, group_message, recall, text
from onebot.events import reply as quote
from onebot.pictures import PictureHost, drawn
from onebot.process import ClientProcess
from onebot.server import OneBotServer
from onebot.world import TOKEN
from test_end_to_end import MISSING, PATIENT, ChatServerProcess

from tests.running import RunningServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
CAP = 5
MODES: dict[int, dict[str, Any]] = {
    GROUPS[0]: {},
    FREE: {"group_reply": "all", "max_active_per_hour": CAP, "cooldown_s": 0},
    GROUPS[2]: {"group_reply": "addressed"},
    OWN: {"group_reply": "smart"},
}
OUTCOME = re.compile(r"消息 (\d+)（\S+）(并入消息|已有答复|不用回复)")
PARROTED = 8
"""So often the parrot speaks at most. Two programs are to have stopped long before."""


@dataclass(frozen=True)
class Reply:
    """All parts of one answer: the first of them quotes what it answers."""

    asked: str
    parts: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n\n".join(self.parts)


class Evening:
    """Plays what is said, then reckons."""

    def __init__(self, onebot: OneBotServer, client: ClientProcess, groups: list[Group]) -> None:
        self.onebot = onebot
        self.client = client
        self.groups = groups
        self.parroted: list[str] = []

    async def play(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for group in self.groups:
                tasks.create_task(self.talk(group))

    async def talk(self, group: Group) -> None:
        asked: list[str] = []
        for step in group.steps:
            if step.recalls:
                await self.onebot.event(recall(step.event))
            else:
                await self.say(group, step)
            if step.expected in ("answered", "command") and not step.recalls:
                asked.append(_id(step))
            if step.settles:
                await self.onebot.until(partial(self.settled, group, tuple(asked)), f"answers to {asked}", within=120)
                asked.clear()
            if step.is_parroted:
                await self.parrot(group)
            await asyncio.sleep(step.pause_s)

    async def say(self, group: Group, step: Step) -> None:
        step.event["time"] = int(time.time())
        ours = [e for e in self.onebot.history if e["user_id"] == SELF_ID and e.get("group_id") == group.id]
        if step.quotes_ours:
            step.event["message"].insert(0, quote(ours[-1]["message_id"]))
        await self.onebot.event(step.event)
        if step.twice:
            await self.onebot.again(step.event)

    def replies(self, group: int) -> list[Reply]:
        """What was sent into a group, answer by answer."""
        found: list[Reply] = []
        # The other side names what it is sent in the order in which it comes.
        for number, sent in enumerate(self.onebot.sent, 1):
            if sent.id != str(group):
                continue
            part = str(2_000_000_000 + number)
            if sent.quoted is None:
                last = found.pop()
                found.append(Reply(last.asked, (*last.parts, sent.text), (*last.ids, part)))
            else:
                found.append(Reply(sent.quoted, (sent.text,), (part,)))
        return found

    def settled(self, group: Group, asked: tuple[str, ...]) -> bool:
        """Whether each of these is answered in its group, or another of it that covers it."""
        quoted = {sent.quoted for sent in self.onebot.to(group.id)}
        return all(
            one in quoted or f"消息 {one}（{SELF_ID}/group:{group.id}）并入消息" in self.client.log for one in asked
        )

    async def parrot(self, group: Group) -> None:
        heard = len(self.onebot.to(group.id))
        for number in range(PARROTED):
            said = group_message([at(SELF_ID), text(f" 你说得对 {number}")], group.id, user_id=PARROT)
            self.parroted.append(str(said["message_id"]))
            await self.onebot.event(said)
            done = f"消息 {said['message_id']}（"
            await self.client.until(lambda d=done: d in self.client.log, "the parrot is heard", within=60)  # type: ignore[misc]
            if "不用回复" in self.client.log.partition(done)[2].partition("\n")[0]:
                return
            await self.onebot.until(lambda n=number: len(self.onebot.to(group.id)) > heard + n, "it is answered", 60)  # type: ignore[misc]

    # The reckoning ----------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, str]:
        return dict(OUTCOME.findall(self.client.log))

    def check_answers(self) -> None:
        """Each line had what it was to have, once, and nothing was said but that."""
        outcomes = self.outcomes()
        answers = Counter(reply.asked for group in GROUPS for reply in self.replies(group))
        assert set(answers.values()) == {1}, [one for one, count in answers.items() if count > 1]
        allowed: dict[str, set[str | None]] = {
            "answered": {"已有答复", "并入消息"},
            "command": {"已有答复"},
            "refused": {"已有答复", "不用回复"},
            "silent": {"不用回复"},
            "either": {"已有答复", "并入消息", "不用回复", None},
            "nothing": {None},
        }
        wrong = [
            (group.colour, step.expected, outcomes.get(_id(step)), step.event["message"])
            for group in self.groups
            for step in group.steps
            if not step.recalls and outcomes.get(_id(step)) not in allowed[step.expected]
        ]
        assert not wrong, wrong[:10]

    def check_places(self) -> None:
        """Every answer stands in the chat of its question, in the order of the questions, and tells what was shown
        there."""
        for group in self.groups:
            place = {_id(step): number for number, step in enumerate(group.steps) if not step.recalls}
            sent = [reply for reply in self.replies(group.id) if reply.asked not in self.parroted]
            assert {reply.asked for reply in sent} <= place.keys()
            order = [place[reply.asked] for reply in sent if not group.steps[place[reply.asked]].unfinished]
            assert order == sorted(order), group.id
            others = set(COLOURS) - {group.colour}
            mixed = [reply.text for reply in sent if any(colour in reply.text for colour in others)]
            assert not mixed, (group.colour, mixed)
            asked = [_id(step) for step in group.steps if step.names_colour]
            told = [reply.text for reply in sent if reply.asked in asked]
            assert told, "nobody asked"
            assert all(group.colour in words for words in told), (group.colour, told)

    def check_own_accord(self) -> None:
        (free,) = (group for group in self.groups if group.id == FREE)
        unasked = {_id(step) for step in free.steps if step.expected == "either" and not step.recalls}
        spoken = [one for one in self.replies(FREE) if one.asked in unasked - self.taken_back()]
        assert 0 < len(spoken) <= CAP

    def taken_back(self) -> set[str]:
        return {_id(step) for group in self.groups for step in group.steps if step.recalls}

    def check_withdrawn(self) -> None:
        """What answered a line that was taken back is taken back as well, and nothing else is."""
        assert set(self.onebot.withdrawn) == self.to_withdraw()

    def to_withdraw(self) -> set[str]:
        gone, replies = self.taken_back(), [reply for group in GROUPS for reply in self.replies(group)]
        return {part for reply in replies if reply.asked in gone for part in reply.ids}

    async def check_history(self, http: httpx.AsyncClient) -> None:
        """The server has every line of a chat once, in order, and none of another's; so with what it said itself."""
        gone, outcomes = self.taken_back(), self.outcomes()
        for group in self.groups:
            said = [s for s in group.steps if not s.recalls and s.expected not in ("command", "nothing")]
            lines = await history(http, group.id)
            kept = [
                line["message_id"] for line in lines if line["role"] == "user" and line["speaker"]["id"] != str(PARROT)
            ]
            assert set(kept) == {_id(s) for s in said if _id(s) not in gone and _id(s) in outcomes}
            finished = {_id(s) for s in said if not s.unfinished}
            in_order = [_id(s) for s in said if _id(s) in set(kept) & finished]
            assert [one for one in kept if one in finished] == in_order, group.id
            commands = {_id(s) for s in group.steps if s.expected in ("command", "refused")}
            spoken = [reply.text for reply in self.replies(group.id) if reply.asked not in commands | gone]
            assert [line["content"] for line in lines if line["role"] == "assistant"] == spoken


def _id(step: Step) -> str:
    return str(step.event["message_id"])


async def history(http: httpx.AsyncClient, group: int) -> list[dict[str, Any]]:
    """All lines of a chat, oldest first."""
    found: list[dict[str, Any]] = []
    while True:
        params = {"limit": 1000} | ({"before": found[0]["seq"]} if found else {})
        answer = await http.get(f"/admin/chats/group/{group}/messages", params=params)
        page = answer.raise_for_status().json()["messages"]
        if not page:
            return found
        found = page + found


async def spend(folder: Path, server_url: str, data_dir: Path, scenes: int) -> int:
    """Spend an evening with the server that keeps its things in ``data_dir``; gives how much was said."""
    owner = {"Authorization": f"Bearer {(data_dir / 'page.key').read_text().strip()}"}
    async with (
        OneBotServer(TOKEN) as onebot,
        PictureHost() as pictures,
        httpx.AsyncClient(base_url=server_url, headers=owner, trust_env=False, timeout=60) as http,
    ):
        for group, own in MODES.items():
            (await http.post(f"/admin/chats/group/{group}/settings", json=own)).raise_for_status()
        groups = evening([pictures.put(drawn(colour, size=160)) for colour in DRAWN], scenes)
        settings = {"server_url": server_url, "napcat_ws_url": onebot.url, "napcat_token": TOKEN, **PATIENT}
        async with ClientProcess(folder, settings) as client:
            await onebot.line()
            spent = Evening(onebot, client, groups)
            await spent.play()
            heard = sum(len({_id(s) for s in group.steps if s.expected != "nothing"}) for group in groups)
            heard += len(spent.parroted)
            await client.until(lambda: len(spent.outcomes()) >= heard, "all is over", within=60)
            await asyncio.sleep(1)  # what is said twice has no event
            await onebot.until(lambda: spent.to_withdraw() <= set(onebot.withdrawn), "all is withdrawn", within=30)
            assert await client.stop(60) == 0
            assert "Traceback" not in client.log
        spent.check_answers()
        spent.check_places()
        spent.check_own_accord()
        spent.check_withdrawn()
        await spent.check_history(http)
        assert not spent.parroted or sum(reply.asked in spent.parroted for reply in spent.replies(OWN)) <= 4
    return sum(not step.recalls for group in groups for step in group.steps)


async def test_an_hour_of_talk_in_four_groups(tmp_path: Path, server: RunningServer) -> None:
    assert await spend(tmp_path, server.base, server.data_dir, 1) > 100


@pytest.mark.long
async def test_an_evening_of_talk_in_four_groups(tmp_path: Path) -> None:
    async with ChatServerProcess(tmp_path, "--max-new-tokens", "64") as server:
        await server.healthy()
        assert await spend(tmp_path, server.url, tmp_path / "server", 20) >= 2000
        await server.stop(30)
        assert "Traceback" not in server.log
