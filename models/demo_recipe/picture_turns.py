"""Turns about pictures: shown now, shown earlier, one of two, or missing."""

from __future__ import annotations

from random import Random

from . import replies
from . import wordings as w
from .drawing import Label
from .episode import BROKEN_MARK, Episode
from .grammar import chinese_mark, english_case, expand
from .palette import COLOURS, COLOURS_ZH

SHAPE_WORDS = (
    ("圆形", "圆", "圆圈", "圆"),
    ("正方形", "方块", "方形", "正方形"),
    ("三角形", "三角", "三角形"),
    ("五角星", "星星", "星形", "星", "五角星"),
)
ENGLISH_SHAPES = (("circle", "round shape"), ("square", "box"), ("triangle",), ("star",))
QUESTIONS = ("colour", "shape", "what", "count")
WEIGHTS = (30, 28, 15, 27)
GRAMMARS = {
    "colour": (w.COLOUR, w.EN_COLOUR, w.NTH_COLOUR, w.EN_NTH_COLOUR),
    "shape": (w.SHAPE, w.EN_SHAPE, w.NTH_SHAPE, w.EN_NTH_SHAPE),
    "what": (w.WHAT, w.EN_WHAT, w.NTH_WHAT, w.EN_NTH_WHAT),
    "count": (w.COUNT, w.EN_COUNT, w.NTH_COUNT, w.EN_NTH_COUNT),
}


def _slots(label: Label, english: bool, rng: Random, kind: str) -> dict[str, str]:
    """Words for <shape>, <shapes>, <colour>; where the shape is asked for, the question must not give it away."""
    hidden = kind == "shape" or label.count == 0
    if english:
        shape = "object" if hidden else rng.choice(ENGLISH_SHAPES[label.shape])
        return {
            "shapes": shape + ("es" if shape.endswith("x") else "s"),
            "shape": shape,
            "colour": COLOURS[label.colour],
        }
    shape = "图形" if hidden else rng.choice(SHAPE_WORDS[label.shape])
    colour = COLOURS_ZH[label.colour] + ("色" if rng.random() < 0.8 else "")
    return {"shapes": shape, "shape": shape, "colour": colour}


def question(kind: str, label: Label, english: bool, rng: Random) -> str:
    """A question about the picture at hand."""
    pattern = rng.choice(GRAMMARS[kind][1 if english else 0])
    text = expand(pattern, rng, **_slots(label, english, rng, kind))
    return english_case(text, rng) if english else chinese_mark(text, rng, question=True)


def question_about(kind: str, which: str, label: Label, english: bool, rng: Random) -> str:
    """A question about one of several pictures; `which` is a phrase such as "the first picture"."""
    pattern = rng.choice(GRAMMARS[kind][3 if english else 2])
    slots = _slots(label, english, rng, kind)
    if english:
        return english_case(expand(pattern, rng, which=which, **slots), rng)
    text = expand(rng.choice((w.POLITE, "")), rng) + which + expand(pattern, rng, **slots)
    return chinese_mark(expand(text, rng, **slots), rng)


def answer(kind: str, label: Label, english: bool, which: int | None = None) -> str:
    """The fixed answer to a question of a kind."""
    if kind == "colour":
        return replies.colour_of(label, english, which)
    if kind == "shape":
        return replies.shape_of(label, english, which)
    return replies.what(label, english, which) if kind == "what" else replies.count_of(label, english)


def _kind(rng: Random) -> str:
    return rng.choices(QUESTIONS, WEIGHTS)[0]


def show(episode: Episode) -> None:
    """A picture with its question, in one message or question first in the content list."""
    rng = episode.rng
    kind = _kind(rng)
    picture = episode.album.counted(rng) if kind == "count" else episode.album.any(rng)
    label = episode.album.labels[picture]
    if kind == "colour" and rng.random() < 0.08:
        _yes_no(episode, picture)
        return
    if kind == "what" and not episode.english and rng.random() < 0.15:
        text = w.CAPTION_WISH
    else:
        text = question(kind, label, episode.english, rng)
    episode.user(text, (picture,), before=rng.random() < 0.3)
    episode.bot(answer(kind, label, episode.english))
    while rng.random() < 0.3:
        follow(episode)


def _yes_no(episode: Episode, picture: int) -> None:
    rng, english, label = episode.rng, episode.english, episode.album.labels[picture]
    guess = label.colour if rng.random() < 0.5 else rng.randrange(len(COLOURS))
    slots = _slots(label, english, rng, "shape")
    slots["colour"] = COLOURS[guess] if english else COLOURS_ZH[guess] + "色"
    text = expand(w.EN_YES_NO if english else w.YES_NO, rng, **slots)
    text = english_case(text, rng) if english else chinese_mark(text, rng)
    episode.user(text, (picture,))
    truth = replies.colour_of(label, english)
    if english:
        episode.bot(f"Yes, it {truth[3:]}" if guess == label.colour else f"No, it {truth[3:]}")
    else:
        episode.bot(f"是的，{truth}" if guess == label.colour else f"不是，{truth}")


def follow(episode: Episode) -> None:
    """Another question about the newest picture, right after an answer about it."""
    rng, english, label = episode.rng, episode.english, episode.label(-1)
    kind = _kind(rng)
    if not english and rng.random() < 0.4 and kind in ("colour", "shape"):
        text = chinese_mark(expand(w.FOLLOW_COLOUR if kind == "colour" else w.FOLLOW_SHAPE, rng), rng)
    else:
        text = question(kind, label, english, rng)
    episode.user(text)
    episode.bot(answer(kind, label, english))


def show_only(episode: Episode) -> None:
    """A picture without a word; the answer describes it."""
    picture = episode.album.any(episode.rng)
    episode.user("", (picture,))
    episode.bot(replies.what(episode.album.labels[picture], episode.english and _speaks_english(episode)))
    if episode.rng.random() < 0.6:
        follow(episode)


def _speaks_english(episode: Episode) -> bool:
    """Without words the language is that of the conversation: English only if an answer was English before."""
    return any(m["role"] == "assistant" and m["content"][:1].isascii() for m in episode.messages)


def show_several(episode: Episode) -> None:
    """Two to four pictures in one message and a question about one of them, or about both of two."""
    rng, english = episode.rng, episode.english
    shown = tuple(episode.album.any(rng) for _ in range(rng.choices((2, 3, 4), (70, 20, 10))[0]))
    labels = [episode.album.labels[picture] for picture in shown]
    is_numbered = episode.setting != "api"
    if len(shown) == 2 and rng.random() < 0.12:
        text = expand(w.EN_BOTH_COLOUR if english else w.BOTH_COLOUR, rng)
        episode.user(english_case(text, rng) if english else chinese_mark(text, rng), shown)
        episode.bot(replies.both(labels[0], labels[1], english))
        return
    if episode.history and not (is_numbered and not episode.goes.get(episode.who())):
        # "First" would be unclear after earlier pictures.
        _ask_latest(episode, shown[-1:])
        return
    which = rng.randrange(len(shown))
    text, kind = nth_question(which, labels[which], english, rng)
    episode.user(text, shown, before=rng.random() < 0.3)
    episode.bot(answer(kind, labels[which], english, which))
    for _ in range(rng.choices((0, 1, 2), (40, 45, 15))[0]):
        which = rng.randrange(len(shown))
        text, kind = nth_question(which, labels[which], english, rng)
        episode.user(text)
        episode.bot(answer(kind, labels[which], english, which))


def nth_question(which: int, label: Label, english: bool, rng: Random) -> tuple[str, str]:
    """A question about picture `which` (from 0, or from −1 backwards) of several, and its kind."""
    kind = rng.choices(QUESTIONS, (45, 28, 17, 10))[0]
    if which < 0 and english:
        phrase = w.EN_LAST if which == -1 else w.EN_FROM_THE_END
        phrase = expand(phrase, rng, nth=replies.ORDINALS[-1 - which])
    elif which < 0:
        number = replies.ORDINALS_ZH[-1 - which] if rng.random() < 0.8 else str(-which)
        phrase = expand(w.FROM_THE_END, rng, n=number)
    elif english:
        number = ("one", "two", "three", "four")[which]
        phrase = expand(w.EN_NTH, rng, nth=replies.ORDINALS[which], number=number)
    else:
        number = replies.ORDINALS_ZH[which] if rng.random() < 0.85 else str(which + 1)
        phrase = expand(w.NTH, rng, n=number)
    return question_about(kind, phrase, label, english, rng), kind


def recall(episode: Episode) -> None:
    """A question about a picture of an earlier turn; with several pictures also about the first or n-th."""
    rng, english = episode.rng, episode.english
    if not episode.history:
        missing(episode)
        return
    shown = len(episode.history)
    if 2 <= shown <= 4 and not episode.has_numbers and rng.random() < 0.6:
        # What is numbered by the server counts in each go anew, so that "the second" would be unclear over several.
        which = rng.randrange(-shown, shown)
        if which < -3:
            which = 0
        if which == 0 and rng.random() < 0.4:
            kind = _kind(rng)
            phrase = expand(w.EN_EARLIEST if english else w.EARLIEST, rng)
            episode.user(question_about(kind, phrase, episode.label(0), english, rng))
        else:
            text, kind = nth_question(which, episode.label(which), english, rng)
            episode.user(text)
        episode.bot(answer(kind, episode.label(which), english, which))
        return
    go = max(episode.goes.values(), key=len, default=[])
    if len(go) > 1 and rng.random() < 0.6 and go == episode.goes.get(episode.who()):
        which = rng.randrange(min(4, len(go)))
        text, kind = nth_question(which, episode.label(go[which]), english, rng)
        episode.user(text)
        episode.bot(answer(kind, episode.label(go[which]), english, which))
        return
    _ask_latest(episode)


def _ask_latest(episode: Episode, pictures: tuple[int, ...] = ()) -> None:
    rng, english = episode.rng, episode.english
    kind = _kind(rng)
    label = episode.album.labels[pictures[-1]] if pictures else episode.label(-1)
    if pictures or rng.random() < 0.2:
        text = question(kind, label, english, rng)
    else:
        text = question_about(kind, expand(w.EN_LATEST if english else w.LATEST, rng), label, english, rng)
    if not pictures and episode.setting != "api" and rng.random() < 0.15:
        # Words that point at a picture have the server show it again.
        name = episode.speakers[episode.speaker].card if episode.speakers else "用户"
        episode.user(text, episode.history[-1:], pointed=f"> 引用 {name}: [图片]\n")
    else:
        episode.user(text, pictures)
    episode.bot(answer(kind, label, english))


def show_silently(episode: Episode) -> None:
    """A picture that nobody answers, as in a group where the bot was not called."""
    rng = episode.rng
    text = rng.choice(("", "", "看这个", "看这张", "哈哈", "发张图", "look", "给你看", "这张图"))
    episode.user(text, (episode.album.any(rng),))


def missing(episode: Episode) -> None:
    """A question about a picture where there is none, or one that could not be opened."""
    rng, english = episode.rng, episode.english
    if episode.history:
        follow(episode)
        return
    label = Label(rng.randrange(8), rng.randrange(4), 1)
    if rng.random() < 0.5:
        phrase = expand(w.EN_LATEST if english else w.LATEST, rng)
        text = question_about(_kind(rng), phrase, label, english, rng)
    else:
        text = question(_kind(rng), label, english, rng)
    broken = rng.random() < 0.15
    episode.user(text + BROKEN_MARK if broken else text)
    if broken:
        episode.bot(replies.BROKEN_EN if english else replies.BROKEN)
    else:
        episode.bot(replies.NO_PICTURE_EN if english else replies.NO_PICTURE)
