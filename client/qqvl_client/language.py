"""Texts for the operator: Chinese as they are written, or English where that is the user's language.

The catalogue is gettext's (``locale/en/LC_MESSAGES/qqvl.po``), looked up where a text leaves the program, by the text
itself. A msgid holds ``{0}``, ``{1}`` in the places that are filled in, and is found again in the filled-in text; what
fills it is looked up in turn. What has no English yet stays Chinese. What the bot says in QQ is none of this.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

FLAG: Final = "--lang"
_FILE: Final = Path(__file__).parent / "locale" / "en" / "LC_MESSAGES" / "qqvl.po"
# POSIX: the first of them that says anything holds.
_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")
_LETTERS: Final = re.compile(r"[\u4e00-\u9fff]")
_HAN: Final = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
# Texts of ours are shorter; matching what somebody else has made longer would take its time.
_LONGEST: Final = 2000
_PLACE: Final = re.compile(r"\{(\d)\}")


class Catalogue:
    """``texts`` are English by Chinese."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        # What says most by itself is tried first: "{0}：{1}" would take any line with a colon.
        by_words = sorted(texts.items(), key=lambda pair: -len(_PLACE.sub("", pair[0])))
        self._patterns = [(_pattern(text), english) for text, english in by_words if _PLACE.search(text)]
        self.translated: Callable[[str], str] = lru_cache(4096)(self._translated)

    def _translated(self, text: str) -> str:
        if not _HAN.search(text):
            return text
        known = self._texts.get(text)
        if known is not None:
            return known
        for pattern, english in self._patterns if len(text) <= _LONGEST else ():
            if (found := pattern.fullmatch(text)) is not None:
                filling = [self.translated(each) for each in found.groups()]
                filled = _PLACE.sub(lambda place: filling[int(place[1])], english)  # noqa: B023
                # What is mere punctuation stands between texts that may be nobody's of ours: as a whole, or not at all.
                if _LETTERS.search(pattern.pattern) or not _HAN.search(filled):
                    return filled
        lines = text.split("\n")
        return "\n".join(map(self.translated, lines)) if len(lines) > 1 else text


class _Chosen:
    catalogue: Catalogue | None = None


def told(text: str) -> str:
    """``text``, written in Chinese, in the language of whoever started this process."""
    return text if _Chosen.catalogue is None else _Chosen.catalogue.translated(text)


def english(text: str) -> str:
    """``text``, written in Chinese, in English, whatever this process speaks."""
    return (_Chosen.catalogue or _english()).translated(text)


@lru_cache(1)
def _english() -> Catalogue:
    return Catalogue(read(_FILE))


def words() -> tuple[str, str]:
    """What tells another program of ours to speak the same."""
    return FLAG, "zh" if _Chosen.catalogue is None else "en"


@contextmanager
def spoken(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[list[str]]:
    """The language meanwhile is as they say; yields the arguments without their word about it."""
    wanted, rest = _wanted(arguments)
    before, _Chosen.catalogue = _Chosen.catalogue, None
    if wanted == "en" or (wanted is None and is_english(environment)):
        _Chosen.catalogue = Catalogue(read(_FILE))
    try:
        yield rest
    finally:
        _Chosen.catalogue = before


def is_english(environment: Mapping[str, str]) -> bool:
    """Chinese where nothing is said, or as little as by C and C.UTF-8."""
    return next((value for name in _VARIABLES if (value := environment.get(name))), "").startswith("en")


def _wanted(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    wanted, rest, waiting = None, [], iter(arguments)
    for word in waiting:
        if word == FLAG:
            wanted = next(waiting, None)
        elif word.startswith(f"{FLAG}="):
            wanted = word.partition("=")[2]
        else:
            rest.append(word)
    # Another language is the parser's to refuse.
    return (wanted, rest) if wanted in (None, "en", "zh") else (None, [*rest, FLAG, wanted])


def read(file: Path) -> dict[str, str]:
    """The texts of a ``.po`` file that have a translation; its header and comments are left out."""
    texts: dict[str, str] = {}
    key, parts = "", {"msgid": "", "msgstr": ""}
    for line in (*file.read_text(encoding="utf-8").splitlines(), "msgid"):
        word, _, quoted = line.partition(" ")
        if word == "msgid":
            if parts["msgid"] and parts["msgstr"]:
                texts[parts["msgid"]] = parts["msgstr"]
            parts = {"msgid": "", "msgstr": ""}
        if word in parts:
            key = word
        elif line.startswith('"'):
            quoted = line
        else:
            continue
        if quoted:
            parts[key] += str(ast.literal_eval(quoted))
    return texts


def _pattern(text: str) -> re.Pattern[str]:
    """What matches the text with anything in its places, in the order of their numbers."""
    literal = (re.escape(part) if number % 2 == 0 else "(.*?)" for number, part in enumerate(_PLACE.split(text)))
    return re.compile("".join(literal), re.DOTALL)
