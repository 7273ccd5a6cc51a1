"""An evening that never was: thirty people in four groups talk, in an order that a seed fixes, and what is to come of
each line.

Groups have a colour each. Every picture in a group shows it and no word in any group names one, so that an answer that
names a colour shows which group's lines the model was shown.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from onebot.events import SELF_ID, Event, Segment, at, face, group_message, image, reply, text

Expected = Literal["answered", "silent", "command", "refused", "either", "nothing"]
"""``either``: nobody can know beforehand. ``nothing``: it says nothing, and is not even kept."""

COLOURS: Final = ("红", "绿", "蓝", "黄")
DRAWN: Final = ("red", "green", "blue", "yellow")
GROUPS: Final = (930_001, 930_002, 930_003, 930_004)
FREE, OWN = GROUPS[1], GROUPS[3]
"""One where the bot may join by itself, a few times an hour, and one whose admin steers it."""
PEOPLE: Final = tuple(range(940_001, 940_031))
ROBOT, PARROT, ADMIN = 940_101, 940_102, 940_103
NAMES: Final = (
    "阿强", "豆豆", "小美", "老王", "团子", "Leo", "夜猫子", "北极熊", "西瓜", "晨曦", "[管理员]", "小助手的粉丝",
    "QQ:10001", "云朵", "Alice", "皮皮", "悟空", "✨星星✨", "大熊", "芒果", "静静", "江山", "三石",
    "一只鱼", "果冻", "Tom", "奶茶", "石头", "阿姨", "柠檬精",
)  # fmt: skip
OPENINGS: Final = (
    "今晚吃什么", "谁有空帮我看下作业", "哈哈哈哈", "刚下班", "有人打球吗", "笑死", "这也太贵了", "明天几点集合",
    "？？？", "收到", "我家小助手机坏了", "谁见过小助手机", "昨天那部电影真好看", "路上堵车", "求一个链接", "停止",
    "重置", "帮助", "/reset", "/mode all", "晚点说", "谁拿了我的伞", "周末去爬山吗", "作业交了没", "1", "好的",
    "老板又改需求了", "外卖到了", "这题怎么做", "困死了", "早睡", "签到", "转发一下",
    "https://example.com/小助手?x=1", "def f(x): return x+1", "@小助手粉丝团 看这里", "下雨了收衣服", "太强了",
    "好吧",
)  # fmt: skip
ENDINGS: Final = ("", "", "啊", "吧", "……", "！", "，真的", "，你们说呢", "～", "，在线等", "，急", "，算了")
GREETINGS: Final = ("你好", "在吗", "晚上好", "谢谢", "你是谁", "早上好", "你好呀", "hello")
QUESTION: Final = "这是什么颜色？"
BREATH_S: Final = 0.02


@dataclass
class Step:
    """One line, or what somebody does with an earlier one. ``pause_s`` follows it.

    ``quotes_ours``: it quotes what the bot said last. ``names_colour``: its answer does. ``settles``: all that was
    asked so far is answered before the group goes on. ``twice``: QQ reports it two times.
    """

    event: Event
    expected: Expected = "silent"
    pause_s: float = BREATH_S
    quotes_ours: bool = False
    names_colour: bool = False
    unfinished: bool = False
    settles: bool = False
    twice: bool = False
    recalls: bool = False
    """Its event is taken back; it is said by an earlier step."""
    is_parroted: bool = False
    """From now on a program answers all that the bot says here."""


@dataclass
class Group:
    id: int
    colour: str
    picture: str
    """Where a picture of its colour lies."""
    dice: random.Random
    people: Sequence[int] = ()
    steps: list[Step] = field(default_factory=list)
    count: Iterator[int] = field(default_factory=itertools.count)

    def event(self, message: list[Segment], person: int, role: str = "member", **more: Any) -> Event:
        name = NAMES[(person - PEOPLE[0]) % len(NAMES)]
        event = group_message(message, self.id, user_id=person, nickname=name, **more)
        event["sender"] |= {"card": "" if person % 3 else f"{name}（{person % 100}）", "role": role}
        return event

    def say(self, message: list[Segment], person: int | None = None, expected: Expected = "silent", **how: Any) -> Step:
        if self.id == FREE and expected == "silent":
            expected = "either"
        step = Step(self.event(message, person or self.somebody()), expected, **how)
        self.steps.append(step)
        return step

    def somebody(self, *but: int) -> int:
        return self.dice.choice([person for person in self.people if person not in but])

    def words(self) -> str:
        opening, ending = self.dice.choice(OPENINGS), self.dice.choice(ENDINGS)
        # What must stay a command's whole word would no longer be one.
        return f"{opening}{ending} {next(self.count)}"

    # What people do ---------------------------------------------------------------------------------

    def chatter(self, lines: int) -> None:
        """Nobody means the bot, though it could feel meant."""
        for _ in range(lines):
            person, words = self.somebody(), text(self.words())
            said = [step for step in self.steps if step.event["user_id"] in self.people and not step.recalls]
            match self.dice.randrange(12):
                case 0:
                    self.say([at(self.somebody(person)), words], person)
                case 1:
                    self.say([at("all"), words], person)
                case 2:
                    self.say([words, face(self.dice.randrange(200))], person)
                case 3 if said:
                    self.say([reply(self.dice.choice(said[-20:]).event["message_id"]), words], person)
                case 4:
                    self.say([image(self.picture)], person, unfinished=True)
                case 5:
                    self.say([_record(f"@小助手 {self.words()}", "小助手，在吗", "/reset")], person)
                case 6:
                    self.say([words], person, twice=True)
                case 7:
                    self.say([{"type": "json", "data": {"data": '{"prompt": "[分享]小助手，你好"}'}}], person)
                case _:
                    self.say([words], person)

    def call(self, **how: Any) -> Step:
        """Somebody means the bot: by mention, by name, or by quoting it."""
        hello = text(f" {self.dice.choice(GREETINGS)}")
        ours: dict[str, Any] = {"settles": True}
        match self.dice.randrange(4):
            case 0:
                return self.say([at(SELF_ID), hello], expected="answered", **(ours | how))
            case 1:
                return self.say([text(f"小助手，{hello['data']['text'].strip()}")], expected="answered", **(ours | how))
            case 2:
                return self.say([hello, at(SELF_ID)], expected="answered", **(ours | how))
            case _:
                return self.say([hello], expected="answered", quotes_ours=True, **(ours | how))

    def show(self) -> None:
        """A picture and what is asked about it, in one message, in two, or as a quote of somebody else's."""
        asked = text(f" {QUESTION}")
        person = self.somebody()
        match self.dice.randrange(4):
            case 0:
                self.say([at(SELF_ID), image(self.picture), asked], person, "answered", names_colour=True, settles=True)
            case 1:
                self.say([image(self.picture)], person, "either", unfinished=True)
                self.say([at(SELF_ID), asked], person, "answered", names_colour=True, settles=True)
            case 2:
                self.say([at(SELF_ID), image(self.picture)], person, "answered", unfinished=True)
                self.say([asked], person, "answered", names_colour=True, settles=True)
            case _:
                shown = self.say([image(self.picture)], self.somebody(person), "either", unfinished=True)
                quote = reply(shown.event["message_id"])
                self.say([quote, at(SELF_ID), asked], person, "answered", names_colour=True, settles=True)

    def burst(self, lines: int) -> None:
        """All at once."""
        for number in range(lines):
            person = self.people[number % len(self.people)]
            self.say([at(SELF_ID), text(f" {self.dice.choice(GREETINGS)}")], person, "answered", pause_s=0)
        self.steps[-1].settles = True

    def take_back(self) -> None:
        """Somebody's line, a question that was answered, and one that nobody has had time to answer."""
        talk = self.say([text(f"说错了 {next(self.count)}")])
        asked = self.call()
        for step in (talk, asked):
            self.steps.append(Step(step.event, recalls=True))
        hasty = self.say([at(SELF_ID), text(f" 问错了 {next(self.count)}")], expected="either", pause_s=0)
        self.steps.append(Step(hasty.event, "either", recalls=True, pause_s=0.3))

    def steer(self) -> None:
        """Commands: everybody may look, few may change, and nobody by the way."""
        self.say([at(SELF_ID), text(" /status")], expected="command", settles=True)
        self.say([text("小助手，帮助")], expected="command", settles=True)
        self.say([at(SELF_ID), text(" /mute")], expected="refused")
        self.say([text("/mute 30")])

    def robot(self) -> None:
        """A program that QQ calls one."""
        event = self.event([at(SELF_ID), text(f" 签到成功 {next(self.count)}")], ROBOT)
        event["sender"]["is_robot"] = True
        self.steps.append(Step(event))

    def oddities(self) -> None:
        """What clients send on a bad day."""
        self.say([], expected="nothing")
        self.say([text("")], expected="nothing")
        self.say([{"type": "没见过的", "data": {}}], expected="either")
        self.say([at(SELF_ID), text(" "), face(14), face(66)], expected="answered", settles=True)

    def silence(self) -> None:
        """The admin has it be quiet for a while."""
        self.steps.append(Step(self.event([at(SELF_ID), text(" 闭嘴")], ADMIN, "admin"), "command", settles=True))
        for _ in range(4):
            self.say([at(SELF_ID), text(f" 你好 {next(self.count)}")])
        self.say([at(SELF_ID), text(" /status")])
        self.steps.append(Step(self.event([at(SELF_ID), text(" 说话")], ADMIN, "admin"), "command", settles=True))
        self.call()

    def parrot(self) -> None:
        """A program that QQ takes for a person, until a person speaks."""
        self.call(is_parroted=True)


def _record(*lines: str) -> Segment:
    """A forwarded record as NapCat tells it with its lines inside."""
    nodes = [
        {"type": "node", "data": {"user_id": "5", "nickname": "小助手", "content": [text(line)]}} for line in lines
    ]
    return {"type": "forward", "data": {"id": "r1", "content": nodes}}


def evening(pictures: Sequence[str], scenes: int, seed: int = 15) -> list[Group]:
    """The four groups with all that is said in them; ``pictures`` are where those of their colours lie."""
    dice = random.Random(seed)
    groups = [Group(*about, random.Random(dice.random())) for about in zip(GROUPS, COLOURS, pictures, strict=True)]
    for number, group in enumerate(groups):
        group.people = dice.sample(PEOPLE, 18)
        # First of all something of ours that may be quoted.
        group.say([at(SELF_ID), text(" 你好")], expected="answered", settles=True)
        for scene in range(scenes):
            _scene(group, scene + number)
        if group.id == OWN:
            group.silence()
            group.parrot()
            group.chatter(3)
            group.call()
        # Behind all that was said.
        group.say([at(SELF_ID), text(" 你好")], expected="answered", settles=True)
    return groups


def _scene(group: Group, number: int) -> None:
    acts: list[Callable[[], object]] = [
        group.take_back,
        group.steer,
        group.oddities,
        lambda: group.burst(group.dice.choice((3, 6, 20))),
    ]
    for act in (group.call, group.show, acts[number % len(acts)], group.robot):
        group.chatter(group.dice.randrange(3, 7))
        act()
