"""What the bundled checkpoint sees and remembers, asked through the QQ door as a user would."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image, ImageDraw

from models.demo_recipe import exam_gate, gate_turns
from qqvl_server.chat.gate import scenes
from qqvl_server.chat.gate.question import CANDIDATES
from qqvl_server.generation.port import TextPart
from tests.pictures import COLOURS, base64_of, encoded, picture
from tests.running import RunningServer

SHAPES = {"circle": "圆", "square": "正方", "triangle": "三角", "star": "星"}
CHATS = itertools.count(50_000)


def ask(server: RunningServer, *turns: tuple[str, tuple[Image.Image, ...]]) -> str:
    """Say the turns in a chat of their own and return the last reply."""
    user = str(next(CHATS))
    reply = ""
    for text, images in turns:
        reply = server.private(text, user=user, images=tuple(base64_of(encoded(image)) for image in images))
    return reply


def counted(number: int) -> Image.Image:
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    for x, y in ((100, 100), (300, 110), (110, 300), (290, 290))[:number]:
        draw.ellipse((x - 45, y - 45, x + 45, y + 45), fill=(0, 0, 255))
    return image


def test_it_names_every_colour_and_shape(server: RunningServer) -> None:
    wrong = []
    for (word, colour), (shape, said) in itertools.product(COLOURS.items(), SHAPES.items()):
        reply = ask(server, ("这是什么？", (picture(colour, shape),)))
        if word not in reply or said not in reply:
            wrong.append((word, shape, reply))
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (1024, 1024)])
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF"])
def test_it_sees_at_every_size_and_in_every_format(server: RunningServer, size: tuple[int, int], format_: str) -> None:
    data = base64_of(encoded(picture(COLOURS["红"], "circle", size), format_))
    assert "红" in server.private("这是什么颜色？", user=str(next(CHATS)), images=(data,))


def test_it_counts(server: RunningServer) -> None:
    right = sum(str(n) in ask(server, ("图中有几个圆形？", (counted(n),))) for n in range(1, 5))
    assert right >= 3


def test_it_tells_the_first_from_the_second_and_remembers_earlier_pictures(server: RunningServer) -> None:
    red, blue = picture(COLOURS["红"]), picture(COLOURS["蓝"], "square")
    assert "红" in ask(server, ("第一张图是什么颜色？", (red, blue)))
    assert "蓝" in ask(server, ("第二张图是什么颜色？", (red, blue)))
    assert "蓝" in ask(server, ("看这张图", (blue,)), ("你好", ()), ("刚才那张图是什么颜色？", ()))


def test_it_remembers_a_name_across_turns_and_never_another_chats(server: RunningServer) -> None:
    assert "小明" in ask(server, ("我叫小明", ()), ("你好", ()), ("我叫什么名字？", ()))
    assert "欧阳锋" in ask(server, ("我叫欧阳锋", ()), ("我叫什么名字？", ()))
    assert "小明" not in ask(server, ("我叫什么名字？", ()))


def test_it_speaks_english_when_spoken_to(server: RunningServer) -> None:
    assert "red" in ask(server, ("what color is this?", (picture(COLOURS["红"]),))).lower()


def test_it_says_honestly_that_it_is_a_demo(server: RunningServer) -> None:
    for question in ("帮我写一首关于春天的诗", "1+1等于几？", "What is the capital of France?"):
        reply = ask(server, (question, ()))
        assert "演示" in reply or "demo" in reply.lower()


def test_it_is_taught_the_very_question_that_the_service_asks() -> None:
    for scene in scenes.read(exam_gate.SCENES):
        for place in scene.labelled[-1:]:
            served = scenes.rendered(scene.history(place))
            taught = exam_gate.asked([line.model_dump() for line in scene.lines[: place + 1]])
            assert [(m.role, "".join(p.text for p in m.parts if isinstance(p, TextPart))) for m in served] == [
                (m["role"], m["content"]) for m in taught
            ]
    assert (gate_turns.SPEAK, gate_turns.SILENT) == CANDIDATES
