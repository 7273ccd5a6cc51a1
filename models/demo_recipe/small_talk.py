"""Greetings, thanks, and everything the demo cannot do."""

from __future__ import annotations

import string
from random import Random

from . import replies, words
from .episode import Episode, chatter
from .grammar import expand
from .names import person, random_hanzi


def greet(episode: Episode) -> None:
    """Hello, thanks or goodbye."""
    rng, english = episode.rng, episode.english
    kind = rng.random()
    if kind < 0.6:
        episode.user(expand(rng.choice(words.EN_GREETINGS if english else words.GREETINGS), rng))
        # "hello" inside a Chinese conversation is still answered in English: the answer follows the words.
        episode.bot(replies.greeting(_is_english(episode, english)))
    elif kind < 0.82:
        episode.user(expand(words.EN_THANKS if english else words.THANKS, rng))
        episode.bot(replies.thanks(english))
    else:
        episode.user(expand(words.EN_BYES if english else words.BYES, rng))
        episode.bot(replies.goodbye(english))


def _is_english(episode: Episode, english: bool) -> bool:
    text = " ".join(part.get("text", "") for part in episode.messages[-1]["content"])
    if episode.setting == "group":
        text = text.split("] ", 1)[-1]
    return english or not has_hanzi(text.rsplit("\n", 1)[-1])


def has_hanzi(text: str) -> bool:
    """Whether a text holds a Chinese character (kana alone does not count)."""
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def who_are_you(episode: Episode) -> None:
    """Questions about the bot itself."""
    rng, english = episode.rng, episode.english
    episode.user(expand(words.EN_WHO if english else words.WHO, rng))
    episode.bot(replies.demo(english))


def anything_else(episode: Episode) -> None:
    """What the demo cannot do, from plain questions to word salad; sometimes hundreds of tokens long."""
    rng, english = episode.rng, episode.english
    text = _topic(rng, english)
    kind = rng.random()
    if kind < 0.12:
        text = salad(rng, english)
    elif kind < 0.17:
        text, english = rng.choice(words.FOREIGN), True
        english = not has_hanzi(text)
    elif kind < 0.2:
        text, english = "".join(rng.choice(words.EMOJI) for _ in range(rng.randint(1, 5))), False
    elif kind < 0.27:
        text = _long(rng, english)
    episode.user(text)
    episode.bot(replies.demo(english))


def _topic(rng: Random, english: bool) -> str:
    slots = {"a": str(rng.randrange(1000)), "b": str(rng.randrange(100))}
    pattern = rng.choice(words.EN_OTHERS if english else words.OTHERS)
    text = expand(pattern, rng)
    while "<t>" in text:
        text = text.replace("<t>", rng.choice(words.EN_TOPICS if english else words.TOPICS), 1)
    for name, value in slots.items():
        text = text.replace(f"<{name}>", value)
    if english and rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    if not english and not has_hanzi(text):
        text = "运行 " + text
    return text


def salad(rng: Random, english: bool) -> str:
    """Words or characters without meaning."""
    if english:
        parts = [
            "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(2, 9)))
            for _ in range(rng.randint(1, 8))
        ]
        return " ".join(parts) + rng.choice(("", ".", "?", "!"))
    return "，".join(random_hanzi(rng, rng.randint(2, 9)) for _ in range(rng.randint(1, 4))) + rng.choice(
        ("", "。", "？")
    )


def _long(rng: Random, english: bool) -> str:
    """Up to some three hundred tokens of unrelated sentences."""
    pieces = []
    for _ in range(rng.choice((3, 4, 6, 10, 18))):
        piece = _topic(rng, english) if rng.random() < 0.6 else salad(rng, english)
        if not english and rng.random() < 0.3:
            piece = chatter(rng) + person(rng)
        pieces.append(piece)
    return (" " if english else "，").join(pieces)
