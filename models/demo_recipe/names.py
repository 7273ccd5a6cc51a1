"""Made-up names, cities and codes; mostly random, so that copying them is learnt rather than the names."""

from __future__ import annotations

import string
from random import Random

from . import words

HELD_OUT_NAMES = frozenset(
    ("小明", "王小虎", "阿强", "欧阳娜娜", "李雷", "韩梅梅", "司马懿",
     "慕容雪", "鑫鑫", "老王", "赵子龙", "诸葛亮", "翠花", "铁柱", "狗蛋", "佩奇",
     "Robin", "Charlie", "Olivia", "Lucas", "Sophie", "Xavier", "Tom3", "Neo_99")
)  # fmt: skip
HELD_OUT_CITIES = frozenset(
    ("成都", "拉萨", "珠海", "秦皇岛", "连云港", "攀枝花", "景德镇",
     "喀什", "张家口", "中山", "衡阳", "临沂", "咸阳", "敦煌", "义乌", "昆山",
     "Athens", "Lisbon", "Warsaw", "Helsinki", "Denver", "Seattle")
)  # fmt: skip


def common_hanzi() -> tuple[str, ...]:
    """The 3,755 everyday characters of GB 2312 level 1, from Python's own codec."""
    found = []
    for row in range(16, 56):
        for column in range(1, 95):
            try:
                found.append(bytes((row + 0xA0, column + 0xA0)).decode("gb2312"))
            except UnicodeDecodeError:
                continue
    return tuple(found)


class _Hanzi:
    """Characters by how the tokenizer may cut them, so that rare ones are practised as well."""

    everyday = common_hanzi()
    rare = tuple(chr(c) for c in range(0x4E00, 0x9FA5))


def random_hanzi(rng: Random, length: int) -> str:
    """Characters without meaning, one in eight a rare one."""
    return "".join(rng.choice(_Hanzi.rare if rng.random() < 0.12 else _Hanzi.everyday) for _ in range(length))


def _chinese_name(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(words.SURNAMES) + "".join(rng.choice(words.GIVEN) for _ in range(rng.choice((1, 2, 2))))
    if kind < 0.45:
        return rng.choice(words.NICK_HEADS) + rng.choice(words.GIVEN + words.SURNAMES + "".join(_Hanzi.everyday[:400]))
    if kind < 0.52:
        return rng.choice(words.GIVEN + words.SURNAMES) + rng.choice(words.NICK_TAILS)
    if kind < 0.58:
        return rng.choice(words.NICKNAMES)
    if kind < 0.7:
        # Doubled characters are common in names and the hardest to copy.
        twice = rng.choice(words.GIVEN) if rng.random() < 0.5 else random_hanzi(rng, 1)
        return rng.choice(("", rng.choice(words.SURNAMES), random_hanzi(rng, rng.choice((1, 2))))) + twice * 2
    return random_hanzi(rng, rng.choice((1, 2, 2, 3, 3, 4)))


def _english_name(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(words.ENGLISH_NAMES)
    name = _syllables(rng)
    if kind < 0.4:
        return f"{name.capitalize()} {_syllables(rng).capitalize()}"
    if kind < 0.75:
        return name.capitalize()
    if kind < 0.85:
        return name
    return name.capitalize() + rng.choice(("", "_", "-")) + str(rng.randrange(1000))


def _syllables(rng: Random) -> str:
    if rng.random() < 0.25:
        return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(2, 7)))
    parts = [
        rng.choice("bcdfghjklmnprstvwz") + rng.choice(("a", "e", "i", "o", "u", "an", "el", "in", "or", "us", "ie"))
        for _ in range(rng.randint(1, 3))
    ]
    return "".join(parts) + rng.choice(("", "", "n", "r", "s", "l", "th"))


def person(rng: Random, english: bool = False) -> str:
    """A name for training: never one of those the exam uses."""
    while True:
        name = _english_name(rng) if rng.random() < (0.85 if english else 0.2) else _chinese_name(rng)
        if name not in HELD_OUT_NAMES:
            return name


def city(rng: Random, english: bool = False) -> str:
    """A city for training, often an invented one."""
    while True:
        if rng.random() < (0.85 if english else 0.1):
            name = rng.choice(words.ENGLISH_CITIES) if rng.random() < 0.4 else _english_name(rng)
        elif rng.random() < 0.5:
            name = rng.choice(words.CITIES)
        else:
            name = random_hanzi(rng, rng.choice((2, 2, 3, 3, 4)))
        if name not in HELD_OUT_CITIES:
            return name


def code(rng: Random) -> str:
    """Something to remember: digits, letters and digits, or a few characters."""
    kind = rng.random()
    if kind < 0.55:
        # Few different digits half of the time: repeated ones are where copying goes wrong.
        digits = rng.sample(string.digits, 2) if rng.random() < 0.5 else string.digits
        return "".join(rng.choice(digits) for _ in range(rng.randint(1, 8)))
    if kind < 0.75:
        alphabet = (
            string.ascii_letters + string.digits if rng.random() < 0.5 else string.ascii_uppercase + string.digits
        )
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 7)))
    if kind < 0.85:
        return _syllables(rng)
    return random_hanzi(rng, rng.randint(2, 5))
