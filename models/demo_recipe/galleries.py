"""Chats full of pictures: the oldest only a word or a caption, and questions that count from the end."""

from __future__ import annotations

from . import replies
from .episode import Episode
from .picture_turns import answer, nth_question, show_silently

FADED = "[图片]"
CAPTION = "[图片：{}]"
# What the server says when it shows an earlier picture again, because a question names it by its place from the end.
AGAIN = "（倒数第 {} 张图）"
MOST_QUESTIONS = 3


def caption(episode: Episode, picture: int) -> str:
    """What the server writes for a picture that it shows no more: a caption of the demo's own, or a word."""
    if episode.rng.random() < 0.3:
        return FADED
    return CAPTION.format(replies.what(episode.album.labels[picture], english=False).rstrip("。"))


def gallery(episode: Episode) -> None:
    """Three to ten pictures by several people, then questions about one of the last three."""
    rng = episode.rng
    shown = rng.choices(range(3, 11), (5, 6, 6, 5, 4, 3, 2, 2))[0]
    faded = rng.randrange(shown - 1) if rng.random() < 0.5 else 0
    words = []
    answers = rng.choice((0.0, 0.25, 1.0))
    for number in range(shown):
        if episode.setting == "group":
            episode.speaker = rng.randrange(len(episode.speakers))
            for _ in range(rng.choices((0, 1, 2), (70, 20, 10))[0]):
                episode.bystander()
        word = ""
        if number < faded:
            picture = episode.album.any(rng)
            word = caption(episode, picture)
            text = rng.choice(("", "", "看这个", "哈哈", "笑死", "给你看"))
            episode.user(text, (picture,), faded=word)
        else:
            show_silently(episode)
        words.append(word)
        if rng.random() < answers:
            if rng.random() < 0.4:
                episode.nod()
            elif word != FADED:
                episode.bot(replies.what(episode.label(-1), english=False))
    shows_again = episode.setting != "api" and rng.random() < 0.65
    for _ in range(rng.randint(1, MOST_QUESTIONS)):
        _ask(episode, words, shows_again)


def _ask(episode: Episode, words: list[str], shows_again: bool) -> None:
    """One question; the server shows the picture again, unless it stands last and nothing came after it."""
    rng, english = episode.rng, episode.english
    which = -rng.choices((1, 2, 3), (20, 30, 50))[0]
    label = episode.label(which)
    text, kind = nth_question(which, label, english, rng)
    if not shows_again or (which == -1 and rng.random() < 0.5):
        if words[which] == FADED:
            return
        episode.user(text)
    else:
        name = rng.choice(episode.speakers).card if episode.speakers else "用户"
        said = rng.choice(("[图片]", "[图片]", "看这个", "哈哈"))
        quote = f"> 引用 {name}: {said}{AGAIN.format(-which)}\n"
        episode.user(text, (episode.history[which],), pointed=quote)
    episode.bot(answer(kind, label, english, which))
