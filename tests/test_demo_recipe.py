"""The demo is taught pictures exactly as the chat writes them for a model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from qqvl_server.chat import prompt
from qqvl_server.chat.captions import WISH
from qqvl_server.chat.message import ChatKey, ChatKind, Incoming, MessagePart, Picture, Speaker, StoredMessage, Text
from qqvl_server.chat.pointing import pointed_at
from qqvl_server.generation.port import ChatMessage, TextPart
from qqvl_server.media.image import ImageRef

GROUP = ChatKey(ChatKind.GROUP, "1")
RECIPE = Path(__file__).parent.parent / "models"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Modules of the recipe that need no torch."""
    monkeypatch.syspath_prepend(str(RECIPE))
    drawing, episode, galleries, wordings = (
        importlib.import_module(f"demo_recipe.{name}") for name in ("drawing", "episode", "galleries", "wordings")
    )

    yield (drawing, episode, galleries, wordings)
    for name in [name for name in sys.modules if name.partition(".")[0] == "demo_recipe"]:
        del sys.modules[name]


def picture(number: int, *, quoted: bool = False, caption: str = "") -> Picture:
    return Picture(ImageRef(f"{number:064}", "png", 64, 64, (0,), 1), quoted, caption)


def taught(messages: list[dict[str, Any]]) -> list[str]:
    return ["".join(part.get("text", "<image>") for part in message["content"]) for message in messages]


def written(message: ChatMessage) -> str:
    return "".join(part.text if isinstance(part, TextPart) else "<image>" for part in message.parts)


def shown(*lines: tuple[MessagePart, ...]) -> list[str]:
    history = [StoredMessage(n, "user", Speaker("10001", "张三"), parts, None, 1.0) for n, parts in enumerate(lines)]
    captions = {p.image.sha256: prompt.CAPTIONED.format(p.caption) for m in history for p in m.parts
                if isinstance(p, Picture) and p.caption}  # fmt: skip
    return [
        written(prompt.render(m, ChatKind.GROUP, lambda ref: captions.get(ref.sha256, ref), numbers))
        for m, numbers in zip(history, prompt.numbering(history), strict=True)
    ]


class Steady(Random):
    """Never quotes by chance."""

    def random(self) -> float:
        return 0.99


def talk(recipe: Any, setting: str = "group") -> Any:
    drawing, episode, *_ = recipe
    album = episode.Album([drawing.Label(n % 8, n % 4, 1) for n in range(8)])
    made = episode.Episode(Steady(1), album, False, setting)
    made.speakers = [episode.Speaker("张三", "10001")]
    return made


def test_pictures_of_one_go_are_numbered_alike(recipe: Any) -> None:
    made = talk(recipe)
    made.user("看", (0,))
    made.user("还有", (1, 2))
    made.user("第二张呢")
    assert taught(made.messages) == shown(
        (Text("看"), picture(0)), (Text("还有"), picture(1), picture(2)), (Text("第二张呢"),)
    )
    made = talk(recipe)
    made.user("第一张呢", (3, 4))
    assert taught(made.messages) == shown((Text("第一张呢"), picture(3), picture(4)))
    made.bot("红色。")
    made.user("", (5,))
    assert taught(made.messages[2:]) == shown((picture(5),))


def test_the_apis_door_numbers_nothing(recipe: Any) -> None:
    made = talk(recipe, "api")
    made.speakers = []
    made.user("第二张呢", (0, 1))
    assert taught(made.messages) == ["<image><image>第二张呢"]


def test_old_pictures_and_those_named_from_the_end_are_written_alike(recipe: Any) -> None:
    *_, galleries, wordings = recipe
    made = talk(recipe)
    made.user("看", (0,), faded=galleries.CAPTION.format("一个红色的圆形"))
    made.user("", (1,), faded=galleries.FADED)
    made.user("倒数第二张呢", (0,), pointed="> 引用 张三: 看" + galleries.AGAIN.format(2) + "\n")
    question = Text("倒数第二张呢")
    asked = Incoming("1", GROUP, Speaker("10001", "张三"), (question,), None)
    lines = ((Text("看"), picture(0, caption="一个红色的圆形")), (picture(1, caption=""),))
    before = [StoredMessage(n, "user", Speaker("10001", "张三"), parts, None, 1.0) for n, parts in enumerate(lines)]
    again = pointed_at(asked, before)
    server = shown(*lines, (*again, question))
    assert taught(made.messages)[0] == server[0]
    assert taught(made.messages)[2] == server[2].replace("[图片：一个红色的圆形]", "<image>")
    assert galleries.FADED == prompt.LEFT_OUT
    assert galleries.CAPTION == prompt.CAPTIONED
    assert wordings.CAPTION_WISH == WISH
