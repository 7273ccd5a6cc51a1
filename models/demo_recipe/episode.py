"""One training conversation under construction: who speaks where, what was shown and told so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words
from .drawing import Label
from .grammar import expand
from .names import person

Message = dict[str, Any]
BROKEN_MARK = "[图片无法打开]"
NUMBER = "（第 {} 张图）"


class Album:
    """Labels of the picture pool, searchable by what an episode needs."""

    def __init__(self, labels: list[Label]) -> None:
        self.labels = labels
        self._single = [i for i, label in enumerate(labels) if label.count == 1]
        self._plain = [i for i, label in enumerate(labels) if label.count == 0]
        self._objects = [i for i, label in enumerate(labels) if label.count >= 1]
        self._by_count = {n: [i for i in self._objects if labels[i].count == n] for n in range(1, 5)}

    def any(self, rng: Random) -> int:
        """Any picture; mostly single objects."""
        if self._plain and rng.random() < 0.06:
            return rng.choice(self._plain)
        return rng.choice(self._single if rng.random() < 0.8 else self._objects)

    def counted(self, rng: Random) -> int:
        """A picture of one to four objects, each number equally often."""
        return rng.choice(self._by_count[rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 4, 4))])


@dataclass
class Speaker:
    """A group member: card and QQ number as the server writes them in front of a message."""

    card: str
    number: str

    def header(self) -> str:
        """What precedes each of their messages."""
        return f"[{self.card} QQ:{self.number}] "


def new_speaker(rng: Random) -> Speaker:
    """A made-up group member."""
    return Speaker(person(rng), str(rng.randrange(10 ** rng.randint(4, 10), 10**11))[: rng.randint(5, 11)])


@dataclass
class Episode:
    """The conversation so far. setting is "private", "group" or "api" (pictures before the text).

    pictures: those that are shown, in reading order; history: all, also those of which only words are left; goes: of
    each speaker, the places in the history of what was shown since the last answer.
    """

    rng: Random
    album: Album
    english: bool
    setting: str
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    speakers: list[Speaker] = field(default_factory=list)
    speaker: int = 0
    goes: dict[str, list[int]] = field(default_factory=dict)
    has_numbers: bool = False

    def who(self) -> str:
        """Key of the person speaking now."""
        return self.speakers[self.speaker].number if self.setting == "group" else ""

    def label(self, which: int) -> Label:
        """Label of a picture of this conversation, counted from 0 (negative: from the end)."""
        return self.album.labels[self.history[which]]

    def user(
        self, text: str, pictures: Sequence[int] = (), before: bool = False, faded: str = "", pointed: str = ""
    ) -> None:
        """A user message; `pictures` index the album.

        before: pictures precede the text. faded: words that stand for the pictures, which are no longer shown.
        pointed: the quoted words with which the server shows an earlier picture again; `pictures` is that one.
        """
        lead = self.speakers[self.speaker].header() if self.setting == "group" else ""
        if pointed:
            self.pictures.extend(pictures)
            marks: list[Message] = [{"type": "text", "text": lead + pointed}, {"type": "image"}]
            self.messages.append({"role": "user", "content": [*marks, {"type": "text", "text": text}]})
            return
        if self.rng.random() < 0.04:
            lead += self._quote()
        marks = self._shown(pictures, faded)
        if before or self.setting == "api":
            parts = [{"type": "text", "text": lead}, *marks, {"type": "text", "text": text}]
        else:
            parts = [{"type": "text", "text": lead + text}, *marks]
        content = [part for part in parts if part.get("text") != ""]
        self.messages.append({"role": "user", "content": content})

    def _shown(self, pictures: Sequence[int], faded: str) -> list[Message]:
        """Pictures as the server writes them: those that one speaker shows in one go are numbered from the second
        message on, or from the first picture where a message holds several. The API's door numbers nothing."""
        go = self.goes.setdefault(self.who(), [])
        marks: list[Message] = []
        first = len(go)
        go.extend(range(len(self.history), len(self.history) + len(pictures)))
        for number, _ in enumerate(pictures, first + 1):
            if self.setting != "api" and len(go) > 1:
                self.has_numbers = True
                marks.append({"type": "text", "text": NUMBER.format(number)})
            marks.append({"type": "text", "text": faded} if faded else {"type": "image"})
        self.history.extend(pictures)
        self.pictures.extend(() if faded else pictures)
        return marks

    def _quote(self) -> str:
        quoted = self.rng.choice((chatter(self.rng), "[图片]", "好的", "你好"))
        return f"> 引用 {person(self.rng)}: {quoted}\n"

    def bot(self, text: str) -> None:
        """The answer."""
        self.goes.clear()
        self.messages.append({"role": "assistant", "content": text})

    def nod(self) -> None:
        """A bare acknowledgement by somebody else's model: it stands in the history and is not learnt."""
        self.goes.clear()
        said = ("好的。", "好的，我记住了。", "记住了！", "嗯嗯", "收到", "OK.", "Got it.", "OK, I will remember.")
        self.messages.append({"role": "assistant", "content": self.rng.choice(said), "unscored": True})

    def bystander(self) -> None:
        """Group talk that nobody answered, by some member."""
        keep = self.speaker
        self.speaker = self.rng.randrange(len(self.speakers))
        self.user(chatter(self.rng))
        self.speaker = keep


def chatter(rng: Random) -> str:
    """A line of group talk that is not meant for the bot."""
    return expand(rng.choice(words.CHATTER), rng)


def system_prompt(rng: Random) -> str | None:
    """The server's default prompt, none, or another one."""
    kind = rng.random()
    if kind < 0.5:
        return words.DEFAULT_SYSTEM
    if kind < 0.72:
        return None
    text = rng.choice(words.SYSTEMS)
    if rng.random() < 0.3:
        text = text + rng.choice(("", " ", "\n")) + rng.choice(words.SYSTEMS)
    return text


def new_episode(rng: Random, album: Album) -> Episode:
    """An empty conversation in a random setting, with its system prompt."""
    setting = rng.choices(("private", "group", "api"), (55, 25, 20))[0]
    episode = Episode(rng, album, rng.random() < 0.27, setting)
    prompt = system_prompt(rng)
    if prompt is not None:
        episode.messages.append({"role": "system", "content": prompt})
    if setting == "group":
        episode.speakers = [new_speaker(rng) for _ in range(rng.randint(1, 3))]
    return episode
