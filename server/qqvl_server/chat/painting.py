"""What of an answer is sent as a picture is drawn, off the event loop."""

from __future__ import annotations

import asyncio

from qqvl_server.chat.outgoing.messages import Drawing, Drawn, Outgoing, Record, Words
from qqvl_server.chat.outgoing.sheets import Formula
from qqvl_server.media import formulas
from qqvl_server.media.drawing import Painter
from qqvl_server.observe.logs import logger


class Painting:
    """Fonts are looked for when the first picture is wanted."""

    def __init__(self) -> None:
        self._painter: Painter | None = None
        self._told: set[str] = set()

    async def painted(self, element: Outgoing) -> Words | Drawn | Record:
        """Its words where it cannot be drawn."""
        if not isinstance(element, Drawing):
            return element
        png = await asyncio.to_thread(self._draw, element)
        return element.words if png is None else Drawn(element.words, png)

    def look(self) -> None:
        """Blocking. Says so, once, where something cannot be drawn."""
        if self._painter is None:
            self._painter = Painter()
        if not self._painter.can_draw:
            self._tell(
                "draw_chars：这台机器上没有找到中文字体，代码和表格照旧发文字。"
                "可以装一个，如 Debian、Ubuntu 的 fonts-noto-cjk，再重启"
            )
        if not formulas.can_draw():
            self._tell(
                "draw_chars：公式照旧发文字；要画成图片，"
                "执行 .venv/bin/pip install -c constraints.txt -e '.[formula]' 再重启"
            )

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            logger().warning(text)

    def _draw(self, drawing: Drawing) -> bytes | None:
        self.look()
        assert self._painter is not None
        sheet = drawing.sheet
        if isinstance(sheet, Formula):
            return formulas.draw(sheet.latex) if formulas.can_draw() else None
        return self._painter.draw(sheet.rows, ruled=sheet.is_table, title=sheet.title)
