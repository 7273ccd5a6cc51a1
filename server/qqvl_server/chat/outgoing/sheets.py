"""What of a reply reads better as a picture: code, tables, and formulas on lines of their own. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it.tree import SyntaxTreeNode

from qqvl_server.chat.outgoing.flatten import cells, text_of


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of cells: a table's, of which the first is its head, or the lines of code in its language ``title``."""

    rows: tuple[tuple[str, ...], ...]
    is_table: bool
    title: str = ""


@dataclass(frozen=True, slots=True)
class Formula:
    latex: str


def sheet_of(node: SyntaxTreeNode) -> Sheet | Formula | None:
    """None for a block that reads as well in words."""
    if node.type == "math_block" and "\\" in node.content:
        return Formula(node.content)
    if node.type in ("fence", "code_block"):
        lines = node.content.removesuffix("\n").split("\n")
        words = node.info.split()
        return Sheet(tuple((line,) for line in lines), is_table=False, title=words[0].strip("{}.") if words else "")
    if node.type == "table":
        return Sheet(tuple(tuple(map(text_of, row)) for row in cells(node)), is_table=True)
    return None
