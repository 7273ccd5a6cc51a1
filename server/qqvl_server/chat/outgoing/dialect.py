"""Markdown as models write it: CommonMark with tables and strikethrough, formulas, and emphasis beside CJK letters.

What is written cannot change what was written before it, once a block has ended: there are no reference definitions,
and a formula that its author never closed ends with its paragraph.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token
from markdown_it.utils import EnvType

# What opens a formula of its own lines, and of a line, and what ends it.
_BLOCKS: Final = {"$$": "$$", "\\[": "\\]"}
_SPANS: Final = {"$$": "$$", "\\(": "\\)", "\\[": "\\]", "$": "$"}


def parser() -> MarkdownIt:
    """Not for two threads at once. Tokens of its own: ``math_inline``, ``math_block``."""
    made = _Markdown("commonmark", {"html": True, "maxNesting": 60})
    made.inline = _Inline()
    made.enable(["table", "strikethrough"]).disable(["html_block", "reference"])
    made.inline.add_terminator_char("$")
    made.inline.ruler.before("escape", "math", _math)
    made.block.ruler.before("fence", "math", _math_block, {"alt": ["paragraph", "blockquote", "list"]})
    return made


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802 - its name
        # Nobody can click here: whoever flattens a link shows no address that QQ should not see.
        return True


class _Inline(ParserInline):
    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


class _State(StateInline):
    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803 - its names
        """As CommonMark, but that a mark beside a CJK letter stands as at the edge of a word, for between such
        letters nobody writes spaces: ``**注意：**请`` (github.com/tats-u/markdown-cjk-friendly)."""
        marker, end = self.src[start], start
        while end < self.posMax and self.src[end] == marker:
            end += 1
        before = self.src[start - 1] if start > 0 else " "
        after = self.src[end] if end < self.posMax else " "
        left_free = _is_edge(before) or _is_cjk(before)
        right_free = _is_edge(after) or _is_cjk(after)
        # Two of these are never a letter of a word.
        is_double = marker in "*~" and end - start > 1
        opens = not isWhiteSpace(ord(after)) and (is_double or left_free or not _is_punctuation(after))
        closes = not isWhiteSpace(ord(before)) and (is_double or right_free or not _is_punctuation(before))
        if not canSplitWord:
            left_free = _is_punctuation(before) or _is_cjk(before)
            right_free = _is_punctuation(after) or _is_cjk(after)
            opens, closes = opens and (not closes or left_free), closes and (not opens or right_free)
        return Scanned(opens, closes, end - start)


def _is_punctuation(char: str) -> bool:
    return isMdAsciiPunct(ord(char)) or isPunctChar(char)


def _is_edge(char: str) -> bool:
    return isWhiteSpace(ord(char)) or _is_punctuation(char)


def _is_cjk(char: str) -> bool:
    return unicodedata.east_asian_width(char) in ("W", "F")


def _math(state: StateInline, silent: bool) -> bool:
    r"""A formula in a line: ``$…$``, ``$$…$$``, ``\(…\)``, ``\[…\]``. Prices are none: ``$5 到 $10``."""
    src, at = state.src, state.pos
    opening = next((mark for mark in _SPANS if src.startswith(mark, at)), None)
    if opening is None:
        return False
    closing, begin = _SPANS[opening], at + len(opening)
    end = src.find(closing, begin, state.posMax)
    formula = src[begin:end] if end > begin else ""
    if not formula.strip():
        return False
    if opening == "$" and (
        formula != formula.strip() or src[end + 1 : end + 2].isdigit() or src[at - 1 : at].isdigit()
    ):
        return False
    if not silent:
        token = state.push("math_inline", "math", 0)
        token.content = formula.strip()
    state.pos = end + len(closing)
    return True


def _math_block(state: StateBlock, startLine: int, endLine: int, silent: bool) -> bool:  # noqa: N803 - its names
    """A formula on lines of its own, up to its mark; without one it is words, up to an empty line."""
    if state.is_code_block(startLine):
        return False
    first = state.src[state.bMarks[startLine] + state.tShift[startLine] : state.eMarks[startLine]]
    opening = next((mark for mark in _BLOCKS if first.startswith(mark)), None)
    if opening is None:
        return False
    closing = _BLOCKS[opening]
    if closing in first[2:] and not first.rstrip().endswith(closing):
        # Words go on after it.
        return False
    if silent:
        return True
    line, is_closed = startLine, closing in first[2:]
    while not is_closed and line + 1 < endLine and not state.isEmpty(line + 1):
        line += 1
        if state.sCount[line] < state.blkIndent:
            line -= 1
            break
        is_closed = state.src[state.bMarks[line] : state.eMarks[line]].rstrip().endswith(closing)
    text = state.getLines(startLine, line + 1, state.blkIndent, False).strip()
    state.line = line + 1
    token = state.push("math_block", "math", 0)
    token.block = True
    token.content = text[2:-2].strip() if is_closed else text
    token.map = [startLine, state.line]
    return True
