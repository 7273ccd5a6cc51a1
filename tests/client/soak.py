"""The client under random faults: `python tests/client/soak.py --minutes 10 [--adapter nonebot] [--restarts]`.

Chats talk all the time while the line, NapCat, the chat server and the picture host fail at random. At the end
every message the client took has been answered exactly once and in order, its memory has not grown and its log
holds no unhandled exception. Prints one line per minute and a summary; exits 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

# Run as a script, it is not where pytest would have looked.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from onebot.chat import ChatServer, answer_for, error
from onebot.events import group_message, image, private_message, text
from onebot.pictures import PictureHost, drawn
from onebot.process import ClientProcess
from onebot.server import OneBotServer
from onebot.web import HangupError, Response
from onebot.world import TOKEN, World

GROUPS, PEOPLE = range(500_001, 500_009), range(600_001, 600_007)
TAKEN = re.compile(r"收到 \S+ 的消息 (\d+)\n")
ANSWER = re.compile(r"答：(\d+-\d+)")
UNHANDLED = re.compile(r"Traceback|never retrieved|never awaited|ERROR +asyncio|没料到的错")
GROWTH_MB = 15


class Soak:
    """One run: the talkers, the faults, and the reckoning."""

    def __init__(self, world: World, client: ClientProcess, seconds: float, restarts: bool) -> None:
        self.world = world
        self.client = client
        self.end = time.monotonic() + seconds
        self.restarts = restarts
        self.faults: Counter[str] = Counter()
        self.said: dict[str, str] = {}
        self.memory: list[float] = []

    @property
    def running(self) -> bool:
        return time.monotonic() < self.end

    async def talk(self, chat_id: int) -> None:
        number = 0
        while self.running:
            number += 1
            words = f"{chat_id}-{number}"
            message = [text(words)]
            if random.random() < 0.3:
                message.append(image(random.choice(self.pictures())))
            event = (group_message if chat_id in GROUPS else private_message)(message, chat_id)
            self.said[str(event["message_id"])] = words
            await self.world.onebot.event(event)
            if random.random() < 0.1:
                await self.world.onebot.event(event)
            await asyncio.sleep(random.expovariate(1.2))

    def pictures(self) -> list[str]:
        good = list(self.world.pictures.files)
        return [self.world.pictures.url + path for path in good] + [
            self.world.pictures.bad(vice) for vice in ("stall", "loop", "expired", "hang-up", "endless")
        ]

    def answer(self, body: dict[str, Any]) -> Any:
        """The chat server's script: mostly right, now and then in a passing trouble."""
        if random.random() > 0.08:
            return answer_for(body)
        trouble = random.choice(("503", "500", "garbage", "hang-up", "slow"))
        self.faults[f"server {trouble}"] += 1
        if trouble == "hang-up":
            raise HangupError
        if trouble == "slow":
            return self.slowly(body)
        return {"503": error(503, retry_after=1), "500": error(500), "garbage": Response(b"<html>")}[trouble]

    async def slowly(self, body: dict[str, Any]) -> Any:
        await asyncio.sleep(random.uniform(0.5, 2))
        return answer_for(body)

    async def break_things(self) -> None:
        onebot = self.world.onebot
        while self.running:
            await asyncio.sleep(random.uniform(1, 5))
            kinds = ["close", "abort", "half-open", "napcat restart", "server restart", "garbage", "huge", "send"]
            kind = random.choice(kinds + ["client restart"] * self.restarts)
            self.faults[kind] += 1
            match kind:
                case "close":
                    await onebot.close(random.choice((1000, 1001, 1012)))
                case "abort":
                    onebot.abort()
                case "half-open":
                    onebot.half_open()
                case "napcat restart":
                    await self.down_for_a_while(onebot)
                case "server restart":
                    await self.down_for_a_while(self.world.chat)
                case "garbage":
                    await onebot.raw(random.choice(("{x", "[]", b"\x00", '{"post_type": "message"}')))
                case "huge":
                    await onebot.raw('{"pad": "' + "x" * 3_000_000 + '"}')
                case "send":
                    onebot.send_faults.append(
                        random.choice(("1200 delivered", "1200 lost", "mute delivered", "mute lost", "drop lost"))
                    )
                case "client restart":
                    self.client.signal(random.choice((signal.SIGTERM, signal.SIGKILL)))
                    await self.client.ended()
                    await self.client.start()

    async def down_for_a_while(self, side: OneBotServer | ChatServer) -> None:
        await side.stop()
        await asyncio.sleep(random.uniform(0.2, 6))
        await side.start()

    async def watch(self) -> None:
        began = time.monotonic()
        while self.running:
            await asyncio.sleep(5)
            if self.client.returncode is None:
                self.memory.append(psutil.Process(self.client.pid).memory_info().rss / 1e6)
            if len(self.memory) % 12 == 0:
                minutes = (time.monotonic() - began) / 60
                self.say(f"{minutes:4.1f} min  taken {len(self.taken())}  sent {len(self.world.onebot.sent)}")

    def say(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def taken(self) -> set[str]:
        return set(TAKEN.findall(self.client.log))

    def missing(self) -> set[str]:
        answers = [ANSWER.match(sent.text) for sent in self.world.onebot.sent]
        answered = {answer[1] for answer in answers if answer}
        return {number for number in self.taken() if self.said[number] not in answered}

    async def run(self) -> list[str]:
        self.world.chat.script = self.answer
        for colour, kind in (("red", "PNG"), ("blue", "JPEG"), ("green", "GIF")):
            self.world.pictures.put(drawn(colour, kind, 200))
        talkers = (self.talk(chat_id) for chat_id in (*GROUPS, *PEOPLE))
        await asyncio.gather(*talkers, self.break_things(), self.watch())
        self.world.chat.script = answer_for
        self.world.onebot.send_faults.clear()
        with suppress(AssertionError):
            await self.world.onebot.until(lambda: not self.missing(), "the last answers", within=40)
        return self.verdict()

    def verdict(self) -> list[str]:
        """What is wrong; an empty list when nothing is."""
        wrong = []
        if missing := self.missing():
            wrong.append(f"lost: {sorted(self.said[number] for number in missing)[:10]}")
            first = min(missing)
            chat = f":{self.said[first].partition('-')[0]} "
            lines = self.client.log[self.client.log.index(first) - 500 :].splitlines()
            about = [line for line in lines if first in line or chat in line or "line:" in line or "outbox" in line]
            wrong += about[:60]
        texts = Counter((sent.kind, sent.id, sent.text) for sent in self.world.onebot.sent)
        if repeated := [key for key, count in texts.items() if count > 1]:
            wrong.append(f"repeated: {repeated[:10]}")
        for chat_id in (*GROUPS, *PEOPLE):
            mine = re.compile(rf"答：{chat_id}-(\d+)")
            order = [int(found[1]) for sent in self.world.onebot.to(chat_id) if (found := mine.match(sent.text))]
            if order != sorted(order) or len(order) != len(self.world.onebot.to(chat_id)):
                wrong.append(f"out of order, or in the wrong place: {chat_id}")
        third = max(1, len(self.memory) // 3)
        growth = statistics.median(self.memory[-third:]) - statistics.median(self.memory[third : 2 * third] or [0])
        if not self.restarts and growth > GROWTH_MB:
            wrong.append(f"memory grew by {growth:.1f} MB")
        if found := UNHANDLED.search(self.client.log):
            wrong.append(f"in the log: {self.client.log[found.start() - 300 : found.start() + 1500]}")
        self.say(
            f"taken {len(self.taken())} of {len(self.said)} said, sent {len(self.world.onebot.sent)}, "
            f"connections {self.world.onebot.connected}, memory {min(self.memory):.0f}–{max(self.memory):.0f} MB "
            f"(last third against middle third {growth:+.1f}), faults {dict(self.faults)}"
        )
        return wrong


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--adapter", choices=("ncatbot", "nonebot"), default="ncatbot")
    parser.add_argument("--restarts", action="store_true", help="also kill and restart the client itself")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(10**6)
    random.seed(seed)
    sys.stdout.write(f"seed {seed}\n")
    with tempfile.TemporaryDirectory() as folder:
        async with OneBotServer(TOKEN) as onebot, ChatServer() as chat, PictureHost() as pictures:
            world = World(onebot, chat, pictures)
            patience = {
                "lookup_timeout_s": 1,
                "answer_within_s": 120,
                "lost_answer_retries": 50,
                "send_within_s": 300,
                "server_timeout_s": 10,
            }
            async with ClientProcess(Path(folder), world.settings(arguments.adapter) | patience) as client:
                soak = Soak(world, client, arguments.minutes * 60, arguments.restarts)
                wrong = await soak.run()
                stopped = await client.stop()
            if stopped not in (0, -signal.SIGTERM):
                wrong.append(f"exit code {stopped}")
    sys.stdout.write("\n".join(wrong) + "\n" if wrong else "nothing lost, nothing repeated, nothing unhandled\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
