"""Is the bot called by name? Names are matched as words, also where Chinese puts no spaces. Pure.

A name is what stands between its first and its last letter or digit (``✨小Q✨`` is called ``小Q``); case and width do
not matter. On either side of the place where it is found stands one of

- nothing of a word: an end, a space, punctuation, an emoji. That is a border.
- a letter or digit of a spaced script beside another of a spaced script: the same word goes on, no call (``小QQ``,
  ``小Q2``, ``robot``); so do ``.``, ``-``, ``_`` and ``@`` with a letter behind them (``qq.com``).
- a character of a script without spaces. Without a dictionary nobody can tell ``小Q糖`` from ``小Q唱``, so the name
  counts if what follows reads like talk to or about somebody (``小Q你好``, ``小Q在吗``, ``小Q的``), or if the name
  begins a clause or stands behind a greeting and two characters or more follow that do not make it another noun
  (``小Q翻译一下``, ``请小Q翻译``; not ``小Q糖``, ``小Q粉丝``, ``我家小Q糖``).

A name of one character is a call only between borders: ``豆，在吗``, never ``土豆``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

# Nobody calls a bot in the middle of a novel, and the event loop waits for this.
_MAX_TEXT: Final = 10_000
# Letters of any script where a part of an address may begin; not those that follow it without a space.
_URL = re.compile(r"https?://[!-~]+(?:(?<=[/=?&#_-])\w+[!-~]*)*", re.IGNORECASE)
_JOINS: Final = frozenset("._-@")
# What sets a name off from what is said to its bearer, after ``_plain``.
_PAUSES: Final = " \t\r\n,、:;!?~.。-"
# What begins the rest of a sentence behind a name: persons, particles, adverbs, and the verbs of asking.
_FOLLOWS: Final = frozenset(
    "你您我他她它咱俺大谁这那哪啥什怎为几多是在有会能可要想该应得肯敢愿请帮给让叫教说讲聊问答回告诉唱念背听看瞧查搜找"
    "写画翻译算猜记忘来去过走快慢别不没甭也都就再又还真太很好最更才只先后早晚今明昨现刚啊呀吧呢吗嘛么哦噢哈嘿喂诶欸哎唉"
    "啦咯哟呗嗯的了地着和跟与同对把被比从到向用拿当做干滚停关开醒睡吃喝认知觉喜爱生辛谢晚午上下中救加闭原抱出变如若"
)
# Behind a name these make it the name of something else.
_NOUNS: Final = frozenset("糖群号版牌店车币粉家族们")
_GREETINGS: Final = (
    "你好", "您好", "哈喽", "哈啰", "嗨", "嘿", "喂", "早", "早安", "早上好", "中午好", "下午好", "晚上好", "晚安",
    "谢谢", "多谢", "请", "请问", "麻烦", "拜托", "亲爱的", "快", "问问", "叫", "让",
)  # fmt: skip


def is_called(text: str, names: Iterable[str]) -> bool:
    """Whether one of ``names`` stands in ``text`` as a word."""
    words = _URL.sub(" ", _plain(text[:_MAX_TEXT]))
    return any(_stands(words, name) for name in map(_core, names) if name)


def says_one_of(text: str, words: Iterable[str]) -> bool:
    """Whether one of ``words`` stands in ``text``, by itself where it is of a script with spaces: not ``bot`` in
    ``robot``."""
    said = _URL.sub(" ", _plain(text[:_MAX_TEXT]))
    return any(
        _is_apart(said, start, start + len(word)) for word in map(_plain, words) for start in _places(said, word)
    )


def _is_apart(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    return not any(
        inner and outer and _kind(inner) == _kind(outer) == "spaced"
        for inner, outer in ((text[start], before), (text[end - 1], after))
    )


def without_call(text: str, names: Iterable[str]) -> str:
    """``text`` in plain letters, without a name at its beginning or end: ``小Q，重置`` is ``重置``."""
    words = _plain(text).strip()
    for name in map(_core, names):
        called = words.removeprefix("@")
        if name and called.startswith(name):
            return called.removeprefix(name).strip(_PAUSES)
        if name and words.endswith(name):
            return words.removesuffix(name).strip(_PAUSES + "@")
    return words


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _core(name: str) -> str:
    """The name from its first to its last letter or digit; the whole of a name that has none."""
    plain = " ".join(_plain(name).split())
    letters = [place for place, letter in enumerate(plain) if _kind(letter)]
    return plain[letters[0] : letters[-1] + 1] if letters else plain


def _kind(letter: str) -> str:
    """``spaced`` for letters and digits of scripts with spaces, ``joined`` for those without, empty for all else."""
    category = unicodedata.category(letter)
    # Lo is what has no case: Han, kana, hangul, Thai (and a few scripts with spaces, which may do without these rules).
    if category == "Lo" or letter in "々ー":
        return "joined"
    return "spaced" if category[0] in "LN" else ""


def _stands(text: str, name: str) -> bool:
    return any(_is_word(text, start, start + len(name)) for start in _places(text, name))


def _places(text: str, name: str) -> Iterator[int]:
    start = text.find(name)
    while start >= 0:
        yield start
        start = text.find(name, start + 1)


def _is_word(text: str, start: int, end: int) -> bool:
    first, last = _kind(text[start]), _kind(text[end - 1])
    if not first:
        return True  # A name of symbols has no borders.
    before, after = text[max(start - 8, 0) : start], text[end : end + 2]
    left, right = _neighbour(before[::-1]), _neighbour(after)
    if left == first == "spaced" or (right == "spaced" and (last == "spaced" or after[0].isdigit())):
        return False
    if end - start == 1:
        return not left and not right
    if right != "joined" or after[0] in _FOLLOWS:
        return True
    begins = before.endswith(_GREETINGS) or (left != "joined" and not before.endswith("@"))
    return begins and after[0] not in _NOUNS and len(after) == 2 and _kind(after[1]) == "joined"


def _neighbour(beside: str) -> str:
    """The kind of the nearest character, or of the one a joining sign ties to the name."""
    if not beside:
        return ""
    if beside[0] in _JOINS and len(beside) > 1 and _kind(beside[1]) == "spaced":
        return "spaced"
    return _kind(beside[0])
