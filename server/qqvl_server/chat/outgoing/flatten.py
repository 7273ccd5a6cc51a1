"""Markdown without its marks: what is read in a QQ message, where nothing is rendered.

Text comes as runs, so that whoever cuts it knows where it may not be cut: code, addresses, formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.common.html_blocks import block_names
from markdown_it.tree import SyntaxTreeNode

_INDENT: Final = "  "
_SHOWN_SCHEMES: Final = ("http://", "https://", "ftp://", "magnet:", "mqqapi://")
# Fences that name no language.
_NO_LANGUAGE: Final = frozenset({"", "text", "txt", "plain", "plaintext", "none"})
_TASKS: Final = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}
# Tags that are dropped; whatever else stands between angle brackets was meant as it is: ``List<String>``.
_INLINE_TAGS: Final = (
    *("a", "abbr", "b", "big", "br", "cite", "code", "del", "dfn", "em", "font", "hr", "i", "img", "ins", "kbd"),
    *("label", "mark", "picture", "pre", "q", "s", "samp", "script", "small", "span", "strike", "strong", "style"),
    *("sub", "sup", "tt", "u", "var", "video", "audio", "button", "form", "input"),
)
_TAGS: Final = frozenset((*_INLINE_TAGS, *block_names))
_BREAKS: Final = frozenset(("p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "summary"))


@dataclass(frozen=True, slots=True)
class Run:
    """A piece of text. A ``solid`` one is never cut; a ``verbatim`` one, code on lines of its own, not indented."""

    text: str
    solid: bool = False
    verbatim: bool = False


Runs = tuple[Run, ...]


def text_of(runs: Iterable[Run]) -> str:
    return "".join(run.text for run in runs)


def flatten(node: SyntaxTreeNode) -> Runs:
    """One block; nothing where it shows nothing."""
    match node.type:
        case "paragraph" | "heading":
            return _trimmed(_inline(node.children[0].children if node.children else ()))
        case "fence" | "code_block":
            return _code(node)
        case "math_block":
            return (Run(node.content, solid=True),)
        case "bullet_list" | "ordered_list":
            return _list(node)
        case "blockquote":
            inside = _joined(map(flatten, node.children))
            return (Run("「"), *inside, Run("」")) if inside else ()
        case "table":
            return _table(node)
        case "hr":
            return ()
        case _:
            return (Run(node.content),) if not node.children else _joined(map(flatten, node.children))


def _joined(blocks: Iterable[Runs], between: str = "\n") -> Runs:
    runs: list[Run] = []
    for block in filter(None, blocks):
        runs += [Run(between), *block] if runs else block
    return tuple(runs)


def _code(node: SyntaxTreeNode) -> Runs:
    words = node.info.split()
    language = words[0].strip("{}.") if words else ""
    lead = "" if language.lower() in _NO_LANGUAGE else f"【{language}】\n"
    text = lead + node.content.removesuffix("\n")
    return (Run(text, solid=True, verbatim=True),) if text.strip() else ()


def _list(node: SyntaxTreeNode) -> Runs:
    items = []
    for item in node.children:
        mark = f"{item.info}{item.markup} " if node.type == "ordered_list" else "• "
        inside = _joined(map(flatten, item.children))
        task = next((box for box in _TASKS if inside and inside[0].text.startswith(box)), None)
        if task is not None and node.type == "bullet_list":
            mark = _TASKS[task]
            inside = (replace(inside[0], text=inside[0].text.removeprefix(task)), *inside[1:])
        if inside and inside[0].verbatim:
            mark = mark.rstrip() + "\n"
        items.append((Run(mark), *_indented(inside)))
    return _joined(items)


def _indented(runs: Runs) -> Runs:
    """All lines but the first, and but code."""
    return tuple(
        run if run.verbatim else replace(run, text=run.text.replace("\n", "\n" + _INDENT)) for run in _outdented(runs)
    )


def _outdented(runs: Runs) -> Iterable[Run]:
    """Line ends before code stand with it: what follows them is not indented."""
    for place, run in enumerate(runs):
        if not run.verbatim and run.text.endswith("\n") and place + 1 < len(runs) and runs[place + 1].verbatim:
            if run.text != "\n":
                yield replace(run, text=run.text[:-1])
            yield Run("\n", verbatim=True)
        else:
            yield run


def cells(table: SyntaxTreeNode) -> list[list[Runs]]:
    """Row by row, the head first."""
    return [
        [_inline(cell.children[0].children) for cell in row.children]
        for part in table.children
        for row in part.children
    ]


def _table(node: SyntaxTreeNode) -> Runs:
    """A line per row, each cell with its column's name; of two columns the first names the second."""
    rows = cells(node)
    head, body = rows[0], rows[1:]
    if not body:
        return _joined(head, "，")
    lines = []
    for row in body:
        if len(head) == 2:
            lines.append(_joined(row, "："))
            continue
        named = [
            (*name, Run("："), *cell) if name and cell else cell for name, cell in zip(head[1:], row[1:], strict=False)
        ]
        lines.append(_joined((row[0], _joined(named, "；")), "｜" if row[0] else ""))
    if len(head) == 2 and all(map(text_of, head)):
        lines.insert(0, _joined(head, "："))
    return _joined(lines)


def _inline(nodes: Sequence[SyntaxTreeNode]) -> Runs:
    runs: list[Run] = []
    address = ""
    for node in nodes:
        shown: Runs
        match node.type:
            case "text" | "text_special":
                shown = (Run(node.content),)
            case "softbreak" | "hardbreak":
                shown = (Run("\n"),)
            case "code_inline" | "math_inline":
                shown = (Run(node.content, solid=True),)
            case "link":
                shown = _link(node)
            case "image":
                shown = _image(node)
            case "html_inline":
                tag = _Tag.read(node.content)
                shown = tag.shown(address)
                address = tag.address if tag.opens else "" if tag.name == "a" else address
            case _:
                shown = _inline(node.children)
        if runs and shown and _is_address(runs[-1]) and shown[0].text[:1].strip():
            # Else an address would go on into the words after it.
            runs.append(Run(" "))
        runs += shown
    return tuple(run for run in runs if run.text)


def _is_address(run: Run) -> bool:
    return run.solid and run.text.startswith(_SHOWN_SCHEMES)


def _link(node: SyntaxTreeNode) -> Runs:
    words = _inline(node.children)
    return _with_address(words, str(node.attrs.get("href", "")))


def _with_address(words: Runs, address: str) -> Runs:
    shown = address if address.lower().startswith(_SHOWN_SCHEMES) else ""
    if shown and _bare(text_of(words)) == _bare(shown):
        return (Run(shown, solid=True),)
    if not shown:
        return words
    return (*words, Run(" "), Run(shown, solid=True)) if words else (Run(shown, solid=True),)


def _bare(address: str) -> str:
    return address.strip().lower().partition("://")[2].rstrip("/") or address.strip().lower().rstrip("/")


def _image(node: SyntaxTreeNode) -> Runs:
    said = text_of(_inline(node.children)).strip()
    return _with_address((Run(f"[图片：{said}]" if said else "[图片]"),), str(node.attrs.get("src", "")))


def _trimmed(runs: Runs) -> Runs:
    """No white space at the ends; what else is white stays."""
    if runs and not runs[0].solid:
        runs = (replace(runs[0], text=runs[0].text.lstrip()), *runs[1:])
    if runs and not runs[-1].solid:
        runs = (*runs[:-1], replace(runs[-1], text=runs[-1].text.rstrip()))
    return tuple(run for run in runs if run.text)


class _Tag(HTMLParser):
    """One tag, comment or the like, as it stands between words."""

    def __init__(self) -> None:
        super().__init__()
        self.source = ""
        self.name = ""
        self.opens = False
        self.address = ""
        self.said = ""

    @classmethod
    def read(cls, source: str) -> _Tag:
        tag = cls()
        tag.source = source
        tag.feed(source)
        return tag

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.name = tag
        self.opens = tag == "a"
        self.address = given.get("href" if tag == "a" else "src") or ""
        self.said = given.get("alt") or ""

    def handle_endtag(self, tag: str) -> None:
        self.name = tag

    def shown(self, address: str) -> Runs:
        """``address``: of the link that it may end."""
        if self.name and self.name not in _TAGS:
            return (Run(self.source),)
        if self.name == "img":
            return _with_address((Run(f"[图片：{self.said}]" if self.said else "[图片]"),), self.address)
        if self.name == "a" and not self.opens and address.startswith(_SHOWN_SCHEMES):
            return (Run(" "), Run(address, solid=True))
        is_break = self.name in ("br", "hr") or (self.name in _BREAKS and self.source.startswith("</"))
        return (Run("\n"),) if is_break else ()


def plain(parser: MarkdownIt, line: str) -> str:
    """A line as it is read, by itself."""
    (token,) = parser.parseInline(line)
    return text_of(_inline(SyntaxTreeNode([token]).children[0].children)) if token.children else ""
