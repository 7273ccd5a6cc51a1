"""Formulas drawn as a picture, by ziamath and resvg (the extra ``formula``), in a process of their own.

ziamath takes twice as long with every bracket or root inside another; a process can be ended, a thread cannot.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import Final
from xml.etree import ElementTree

# Nobody could read longer ones on a telephone.
_MOST_CHARS: Final = 500
# What defines macros: a few of them, each twice the one before, would grow without end.
_DEFINES: Final = re.compile(
    r"\\(?:[egx]?def|let|(?:re)?newcommand|providecommand|DeclareMathOperator|newenvironment)\b"
)
# ziamath's fonts have no letters from here on (CJK).
_FIRST_UNKNOWN: Final = "\u2e80"
_SIZE: Final = 24.0
_ZOOM: Final = 2.0
_MARGIN: Final = 12.0
# In pixels before the zoom.
_WIDEST: Final = 1200.0
_SVG: Final = "{http://www.w3.org/2000/svg}"


def can_draw() -> bool:
    """Whether the extra is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("ziamath", "resvg_py"))


def is_drawable(latex: str) -> bool:
    """False where it is known without trying that nothing can be drawn."""
    return (
        len(latex.strip()) > 0
        and len(latex) <= _MOST_CHARS
        and max(latex) < _FIRST_UNKNOWN
        and not _DEFINES.search(latex)
    )


def draw(latex: str, patience_s: float = 6) -> bytes | None:
    """A PNG, black on white; None where it cannot be drawn, or not soon enough, or would be too large."""
    if not is_drawable(latex):
        return None
    command = (sys.executable, "-m", __name__)
    try:
        done = subprocess.run(command, input=latex.encode(), capture_output=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 and done.stdout else None


def _drawn(latex: str) -> bytes | None:
    import resvg_py
    from ziamath.zmath import Latex

    svg = ElementTree.fromstring(Latex(latex, size=_SIZE).svg())
    left, top, width, height = map(float, svg.attrib["viewBox"].split())
    if not (0 < width <= _WIDEST and 0 < height <= _WIDEST):
        return None
    if any(svg.find(f".//{_SVG}{tag}") is not None for tag in ("image", "text", "style", "foreignObject")):
        # Nothing but paths is drawn: no file of this machine, no address.
        return None
    width, height = width + 2 * _MARGIN, height + 2 * _MARGIN
    svg.set("viewBox", f"{left - _MARGIN} {top - _MARGIN} {width} {height}")
    svg.set("width", str(width))
    svg.set("height", str(height))
    drawn = resvg_py.svg_to_bytes(svg_string=ElementTree.tostring(svg, "unicode"), zoom=_ZOOM, background="white")
    return bytes(drawn)


if __name__ == "__main__":
    sys.stdout.buffer.write(_drawn(sys.stdin.buffer.read().decode()) or b"")
