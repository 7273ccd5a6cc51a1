"""Group talk that calls nobody, and after which of its lines a liked, reserved bot would say something.

The server asks the question as one more message behind the talk (`chat/gate/question.py`); `tests/test_demo.py` checks
that the words here are the same. `benchmarks/gate_scenes/README.md` has the rule by which a line gets its label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from . import gate_lines as g
from . import words
from .episode import Message, Speaker, new_speaker, system_prompt
from .grammar import expand
from .names import person, random_hanzi

QUESTION = "（没有人叫你。现在要插话吗？只答一个字：说，或者不。）"
SPEAK, SILENT = "说", "不"
# So many lines after the bot spoke a question may still be meant for it.
NEAR = 3
LONGEST = 11
ONES = "一二三四五六七八九"


@dataclass
class Gathering:
    """A scene under construction.

    messages: as the server renders them; labels: of each message whether to speak after it, None where nobody asks;
    since: lines since the bot spoke, large where it did not; asker: who asked all and got no answer yet.
    """

    rng: Random
    speakers: list[Speaker]
    messages: list[Message] = field(default_factory=list)
    labels: list[bool | None] = field(default_factory=list)
    since: int = 99
    asker: Speaker | None = None

    def say(self, text: str, speak: bool, speaker: Speaker | None = None) -> None:
        """A member's line."""
        who = speaker or self.rng.choice(self.speakers)
        self.messages.append({"role": "user", "content": who.header() + text})
        self.labels.append(speak)
        self.since += 1
        self.asker = who if speak and self.since > 1 else self.asker

    def bot(self, text: str) -> None:
        """A line of the bot's."""
        self.messages.append({"role": "assistant", "content": text, "unscored": True})
        self.labels.append(None)
        self.since, self.asker = 0, None


def _thing(rng: Random) -> str:
    """A noun, sometimes two joined, sometimes characters that mean nothing: new words must not look strange."""
    kind = rng.random()
    if kind < 0.72:
        return rng.choice(g.THINGS)
    if kind < 0.86:
        return rng.choice(g.THINGS) + rng.choice(("", "", "的")) + rng.choice(g.THINGS)
    if kind < 0.9:
        return person(rng, english=True)
    return random_hanzi(rng, rng.choice((1, 2, 2, 2, 3, 4)))


def _amount(rng: Random) -> str:
    """A number in digits or words."""
    digits = str(rng.randrange(2, rng.choice((10, 100, 1000))))
    if rng.random() < 0.65:
        return digits
    forms = (
        rng.choice(ONES),
        "十" + rng.choice(ONES),
        rng.choice(ONES) + "十" + rng.choice(ONES),
        rng.choice(ONES) + "百" + rng.choice(ONES) + "十",
        rng.choice(ONES[:3]) + "千",
        "两百",
        "半",
    )
    return rng.choice(forms)


def _sign(rng: Random) -> str:
    """Something short whose meaning one may ask for."""
    letters = random_hanzi(rng, rng.choice((1, 2))), "".join(rng.sample("ABCDEFGHKLMPRSTVWX", rng.randint(1, 3)))
    return rng.choice(letters)


# Slots with what fills them; those that hold slots themselves come first.
WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("<q>", g.QUESTIONS),
    ("<r>", g.REQUESTS),
    ("<m>", g.SUMS),
    ("<mq>", g.MEMBER_QUESTIONS),
    ("<v>", g.DEEDS),
    ("<s>", g.STATES),
    ("<u>", g.UNITS),
    ("<l>", g.LANGUAGES),
    ("<f>", g.PHRASES),
    ("<t>", g.TEXTS),
    ("<w>", g.WORKS),
    ("<k>", ("", *g.KINDS)),
    ("<k2>", g.KINDS),
    ("<d>", g.ENDS),
)
MAKERS: dict[str, Callable[[Random], str]] = {
    "<n>": _thing,
    "<x>": _sign,
    "<a>": _amount,
    "<b>": _amount,
    "<c>": _amount,
}


def _fill(text: str, rng: Random, names: list[str]) -> str:
    """Every slot with a word of its own, as deep as slots stand in slots."""
    text = expand(text, rng)
    for mark, choices in WORDS:
        while mark in text:
            text = text.replace(mark, expand(rng.choice(choices), rng), 1)
    for mark, make in MAKERS.items():
        while mark in text:
            text = text.replace(mark, make(rng), 1)
    while "<p>" in text:
        text = text.replace("<p>", rng.choice(names), 1)
    return text


def _asked(text: str, rng: Random) -> str:
    return text.rstrip("，：| ") + rng.choices(("", "？", "?", "。", "…", "～", "？？"), (42, 40, 8, 2, 3, 2, 3))[0]


def _knowledge(rng: Random) -> str:
    """A grammar of a question or a request to all."""
    if rng.random() < 0.36:
        return rng.choice(g.REQUESTS) + rng.choice(g.CLOSERS)
    opener = rng.choice(g.OPENERS) if rng.random() < 0.65 else ""
    return opener + rng.choice(g.QUESTIONS) + rng.choice(g.CLOSERS)


def _ask_all(talk: Gathering, names: list[str]) -> None:
    talk.say(_asked(_fill(_knowledge(talk.rng), talk.rng, names), talk.rng), True)


def _small(talk: Gathering, names: list[str]) -> None:
    """A line that is none of the bot's business."""
    rng = talk.rng
    kinds = (g.STATEMENTS, g.REACTIONS, g.ANSWERS, g.TO_MEMBERS, g.MEMBER_QUESTIONS, g.FOR_MEMBERS, words.CHATTER)
    which = rng.choices(kinds, (27, 20, 17, 14, 8, 14, 2))[0]
    text = _fill(rng.choice(which), rng, names)
    if which is g.STATEMENTS and rng.random() < 0.3:
        text += rng.choice(("，", " ", "。")) + _fill(rng.choice(g.STATEMENTS + g.REACTIONS), rng, names)
    elif which is g.STATEMENTS:
        text += rng.choice(("", "", "", "。", "！", "～", "哈哈", "啊", "了"))
    elif which in (g.TO_MEMBERS, g.MEMBER_QUESTIONS, g.FOR_MEMBERS):
        text = _asked(text, rng)
        if which is not g.TO_MEMBERS and rng.random() < 0.15:
            text += rng.choice(("我带", "我先到了", "我在门口", "急用", "谢啦", "老地方", "算我一个"))
    talk.say(text, False)


def _between_members(talk: Gathering, names: list[str]) -> None:
    """A question that would follow up on the bot's word, had it said one: here it follows up on a member's."""
    if talk.since > NEAR + 2:
        talk.say(_asked(_fill(talk.rng.choice(g.FOLLOWS), talk.rng, names), talk.rng), False)
    else:
        _small(talk, names)


def _step(talk: Gathering, names: list[str], eager: float) -> None:
    """The next line. eager: share of questions to all in this talk."""
    rng = talk.rng
    if talk.since == 0 and rng.random() < 0.55:
        follows = rng.random() < 0.6
        text = _fill(rng.choice(g.FOLLOWS if follows else g.TO_BOT), rng, names)
        talk.say(_asked(text, rng) if follows else text, True)
    elif talk.since in (1, 2) and rng.random() < 0.2:
        talk.say(_asked(_fill(rng.choice(g.FOLLOWS + g.TO_BOT), rng, names), rng), True)
    elif talk.asker is not None and rng.random() < 0.16:
        talk.say(_asked(_fill(rng.choice(g.AGAIN), rng, names), rng), True, talk.asker)
    elif talk.labels and talk.labels[-1] and rng.random() < 0.3:
        talk.bot(_fill(rng.choice(g.BOT_SAYS), rng, names))
    elif rng.random() < eager:
        _ask_all(talk, names)
    elif rng.random() < 0.06:
        _between_members(talk, names)
    else:
        _small(talk, names)


def gather(rng: Random) -> Gathering:
    """A scene of some lines, each with its label."""
    speakers = [new_speaker(rng) for _ in range(rng.choices((2, 3, 4, 5), (20, 45, 25, 10))[0])]
    talk = Gathering(rng, speakers)
    prompt = words.DEFAULT_SYSTEM if rng.random() < 0.75 else system_prompt(rng)
    if prompt is not None:
        talk.messages.append({"role": "system", "content": prompt})
        talk.labels.append(None)
    names = [speaker.card for speaker in speakers]
    if rng.random() < 0.12:
        talk.bot(_fill(rng.choice(g.BOT_SAYS), rng, names))
    for _ in range(rng.randint(2, LONGEST)):
        _step(talk, names, rng.choice((0.1, 0.25, 0.4)))
    return talk
