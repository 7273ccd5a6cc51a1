"""Turns about things told earlier: the user's name, a code, a pet's name."""

from __future__ import annotations

from random import Random

from . import replies
from . import wordings as w
from .episode import Episode
from .grammar import chinese_mark, english_case, expand
from .names import code, person


def _fresh(text: str, taken: str | None, rng: Random, english: bool) -> str:
    """Another name than the one already told."""
    while text == taken:
        text = person(rng, english)
    return text


def tell_name(episode: Episode) -> None:
    """The speaker says their name; the newest one counts."""
    rng, english = episode.rng, episode.english
    name = _fresh(person(rng, english), episode.names.get(episode.who()), rng, english)
    pattern = rng.choice(w.TELL_ENGLISH_NAME) if english else w.TELL_NAME[0] if rng.random() < 0.93 else w.TELL_NAME[1]
    text = expand(pattern, rng, name=name)
    mark = rng.choice((".", "", "", "!", "。")) if english else rng.choice(("", "", "。", "！", "!", "～", "."))
    episode.user(text + mark)
    episode.names[episode.who()] = name
    _acknowledge(episode, replies.name_told(name, english))


def _acknowledge(episode: Episode, reply: str) -> None:
    """The usual reply, which repeats what was told; or none, or a bare one, so that the telling itself is read."""
    kind = episode.rng.random()
    if kind < 0.76:
        episode.bot(reply)
    elif kind < 0.88:
        episode.nod()


def ask_name(episode: Episode) -> None:
    """The speaker asks for the name they told, or never told."""
    rng, english = episode.rng, episode.english
    text = expand(rng.choice(w.ASK_ENGLISH_NAME if english else w.ASK_NAME), rng)
    episode.user(english_case(text, rng) if english else chinese_mark(text, rng))
    episode.bot(replies.name_asked(episode.names.get(episode.who()), english))


def tell_and_ask_name(episode: Episode) -> None:
    """Both in one message: "我叫小明，我叫什么名字？"."""
    rng, english = episode.rng, episode.english
    name = person(rng, english)
    joint = rng.choice((". ", ", ", "! ", " ")) if english else rng.choice(("，", "。", "！", " ", ","))
    told = expand(rng.choice(w.TELL_ENGLISH_NAME if english else w.TELL_NAME[:1]), rng, name=name)
    asked = expand(rng.choice(w.ASK_ENGLISH_NAME if english else w.ASK_NAME), rng)
    episode.user(told + joint + asked + ("?" if english else rng.choice(("？", "?", ""))))
    episode.names[episode.who()] = name
    episode.bot(replies.name_asked(name, english))


def tell_fact(episode: Episode) -> None:
    """The speaker tells a code, a number, a pet's name."""
    rng, english = episode.rng, episode.english
    if english:
        fact, value = rng.choice(w.EN_FACTS), code(rng)
        text = expand(w.EN_TELL_FACT if rng.random() < 0.75 else w.EN_TELL_FACT_2, rng, fact=fact, value=value)
    elif rng.random() < 0.75:
        fact, value = rng.choice(w.FACTS), code(rng)
        text = expand(w.TELL_FACT if rng.random() < 0.7 else w.TELL_FACT_2, rng, fact=fact, value=value)
    else:
        fact, value = rng.choice(w.PET_FACTS), person(rng)
        text = expand(w.TELL_PET, rng, fact=fact, value=value)
    episode.user(text + rng.choice(("", "", "。", ".", "！")))
    # Facts are kept per conversation, as a group shares them; the newest value counts.
    episode.facts[fact] = value
    _acknowledge(episode, replies.fact_told(fact.replace("我", "你"), value, english))


def ask_fact(episode: Episode) -> None:
    """Somebody asks for a fact that was told, sometimes for one that was not."""
    rng, english = episode.rng, episode.english
    told = [fact for fact in episode.facts if fact.isascii() == english]
    known = bool(told) and rng.random() < 0.92
    fact = rng.choice(told if known else w.EN_FACTS if english else w.FACTS)
    if english:
        text = english_case(expand(w.EN_ASK_FACT, rng, fact=fact), rng)
    elif fact in w.PET_FACTS:
        text = chinese_mark(expand(w.ASK_PET, rng, fact=fact), rng)
    else:
        text = chinese_mark(
            expand(rng.choice((w.ASK_FACT, w.ASK_FACT, w.ASK_FACT_2, w.ASK_FACT_3)), rng, fact=fact), rng
        )
    episode.user(text)
    episode.bot(replies.fact_asked(fact.replace("我", "你"), episode.facts.get(fact), english))
