"""The exam's questions, in wordings, names and cities that training does not use, and how an answer is judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import exam_wordings as w
from . import replies, words
from .drawing import SHAPES, SHAPES_ZH, Label
from .exam_drawings import ExamPicture, exam_picture
from .exam_other_hand import other_hand_picture
from .names import HELD_OUT_CITIES, HELD_OUT_NAMES
from .palette import COLOURS, COLOURS_ZH

Judge = Callable[[str], bool]

BETWEEN = (
    ("你好", replies.greeting(False)),
    ("谢谢", replies.thanks(False)),
    ("讲个笑话", replies.DEMO),
    ("我叫阿宝", replies.name_told("阿宝", False)),
    ("hello", replies.greeting(True)),
)


@dataclass(frozen=True)
class Case:
    """One exam conversation that ends with a user turn, its pictures in reading order, and the judge of the answer."""

    task: str
    messages: list[dict[str, Any]]
    judge: Judge
    pictures: list[ExamPicture] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)


def names_only(label: Label, colour: bool, shape: bool) -> Judge:
    """Right word present, no other colour (shape) word beside it."""

    def judge(answer: str) -> bool:
        text = answer.lower()
        right = True
        if colour:
            said = {i for i in range(8) if COLOURS_ZH[i] in text or COLOURS[i] in text}
            right = said == {label.colour}
        if shape:
            said = {i for i in range(4) if SHAPES_ZH[i] in text or SHAPES[i] in text}
            right = right and said == {label.shape}
        return right

    return judge


def _start(rng: Random) -> list[dict[str, Any]]:
    prompt = rng.choice((words.DEFAULT_SYSTEM, words.DEFAULT_SYSTEM, None, "你是一个乐于助人的聊天机器人。"))
    return [] if prompt is None else [{"role": "system", "content": prompt}]


def user(text: str, *pictures: ExamPicture, first: bool = False) -> dict[str, Any]:
    """A user message; first: pictures before the text."""
    marks: list[dict[str, Any]] = [{"type": "image"} for _ in pictures]
    part: list[dict[str, Any]] = [{"type": "text", "text": text}]
    return {"role": "user", "content": marks + part if first else part + marks}


def numbered(text: str, *pictures: ExamPicture) -> dict[str, Any]:
    """A user message with several pictures as the server writes it for the model."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for number, _ in enumerate(pictures, 1):
        parts += [{"type": "text", "text": f"（第 {number} 张图）"}, {"type": "image"}]
    return {"role": "user", "content": parts}


def bot(text: str) -> dict[str, Any]:
    """An earlier answer."""
    return {"role": "assistant", "content": text}


def single_object(rng: Random, number: int) -> Iterator[Case]:
    """Colour, shape and description of one object; the same question about a swapped picture must change the answer."""
    picture = exam_picture(rng, index=number)
    first = rng.random() < 0.5
    for task, questions, colour, shape in (
        ("colour", w.COLOUR, True, False),
        ("shape", w.SHAPE, False, True),
        ("describe", w.WHAT, True, True),
    ):
        yield Case(
            task,
            [*_start(rng), user(rng.choice(questions), picture, first=first)],
            names_only(picture.label, colour, shape),
            [picture],
        )


def counting(rng: Random, number: int) -> Iterator[Case]:
    """How many equal objects; also in drawings by another hand."""
    for task, picture in (
        ("count", exam_picture(rng, count=number % 4 + 1, index=rng.randrange(1000))),
        ("count, other hand", other_hand_picture(rng, number % 4 + 1, rng.randrange(1000))),
    ):
        text = rng.choice(w.COUNT).format(zh=SHAPES_ZH[picture.label.shape], en=SHAPES[picture.label.shape])
        yield Case(task, [*_start(rng), user(text, picture)], _says(picture.label.count), [picture])


def _says(number: int) -> Judge:
    return lambda answer: str(number) in answer


def two_pictures(rng: Random) -> Case:
    """First or second picture, sent in one message, with the server's numbers or without, or one after the other."""
    one, two = rng.sample(range(8), 2)
    pictures = [exam_picture(rng, colour=one), exam_picture(rng, colour=two)]
    which = rng.randrange(2)
    text = rng.choice(w.NTH)[which]
    judge = names_only(pictures[which].label, True, False)
    kind = rng.random()
    if kind < 0.25:
        return Case("first or second", [*_start(rng), user(text, *pictures, first=rng.random() < 0.5)], judge, pictures)
    if kind < 0.5:
        return Case("first or second", [*_start(rng), numbered(text, *pictures)], judge, pictures)
    talk = [
        user("看这张", pictures[0]),
        bot(replies.what(pictures[0].label, False)),
        user("再看这张", pictures[1]),
        bot(replies.what(pictures[1].label, False)),
    ]
    return Case("first or second", [*_start(rng), *talk, user(text)], judge, pictures)


def third_last(rng: Random) -> Iterator[Case]:
    """The third-last of several pictures: in a chat where the oldest are captions and the server shows it once more,
    and in a plain history of three to five pictures."""
    pictures = [exam_picture(rng) for _ in range(rng.randint(4, 12))]
    oldest = rng.randrange(len(pictures) - 2)
    talk, text = [], rng.choice(w.THIRD_LAST)
    for place, picture in enumerate(pictures):
        head = f"[{rng.choice(('老王', '小李', 'Momo'))} QQ:{rng.randrange(10**5, 10**10)}] "
        faded = "[图片]" if rng.random() < 0.4 else f"[图片：{replies.what(picture.label, False).rstrip('。')}]"
        talk.append(user(head + faded) if place < oldest else user(head, picture))
        if rng.random() < 0.3:
            talk.append(bot("哈哈，有意思。"))
    again: list[dict[str, Any]] = [
        {"type": "text", "text": "[Momo QQ:81818181] > 引用 老王: [图片]（倒数第 3 张图）\n"},
        {"type": "image"},
        {"type": "text", "text": text},
    ]
    judge = names_only(pictures[-3].label, True, False)
    shown = [*pictures[oldest:], pictures[-3]]
    yield Case("third-last picture", [*_start(rng), *talk, {"role": "user", "content": again}], judge, shown)
    few = pictures[: rng.randint(3, 5)]
    talk = [message for picture in few for message in (user("看这张", picture), bot("好的。"))]
    judge = names_only(few[-3].label, True, False)
    yield Case("third-last, not shown again", [*_start(rng), *talk, user(rng.choice(w.THIRD_LAST))], judge, few)


def earlier_picture(rng: Random) -> Case:
    """A picture of one to three turns ago."""
    picture = exam_picture(rng)
    talk = [user(rng.choice(w.SHAPE[:3]), picture), bot(replies.shape_of(picture.label, False))]
    for said, answered in rng.sample(BETWEEN, rng.randrange(3)):
        talk += [user(said), bot(answered)]
    return Case(
        "earlier picture",
        [*_start(rng), *talk, user(rng.choice(w.EARLIER))],
        names_only(picture.label, True, False),
        [picture],
    )


def memory(rng: Random) -> Iterator[Case]:
    """A name and a code told earlier."""
    name = rng.choice(sorted(HELD_OUT_NAMES))
    talk = [user(rng.choice(w.TELL).format(name)), bot(replies.name_told(name, False))]
    for said, answered in rng.sample([b for b in BETWEEN if "阿宝" not in b[0]], rng.randrange(4)):
        talk += [user(said), bot(answered)]
    yield Case("name", [*_start(rng), *talk, user(rng.choice(w.ASK))], lambda answer: name in answer)
    value = str(rng.randrange(100, 99999))
    tell, ask = rng.choice(w.FACT)
    talk = [user(tell.format(value)), bot("好的。")]
    yield Case("code", [*_start(rng), *talk, user(ask)], lambda answer: value in answer)
    yield Case(
        "name never told",
        [*_start(rng), user(rng.choice(w.ASK))],
        lambda answer: answer in (replies.NO_NAME, replies.NO_NAME_EN),
    )


def _tool(name: str, key: str, about: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {"type": "string", "description": "城市名"}}, "required": [key]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def tool_call(rng: Random) -> Iterator[Case]:
    """Call the weather tool with the city asked for; answer from its result; no call for a greeting."""
    name, key = rng.choice(
        (
            ("get_weather", "city"),
            ("get_weather", "city"),
            ("query_city_weather", "location"),
            ("weather_now", "city_name"),
        )
    )
    tools = [_tool(name, key, rng.choice(("查询城市天气", "Get the weather for a city")))]
    if rng.random() < 0.4:
        tools.insert(rng.randrange(2), _tool("get_local_time", "city", "查询城市当前时间"))
    city = rng.choice(sorted(HELD_OUT_CITIES))
    ask = [*_start(rng), user(rng.choice(w.ASK_WEATHER).format(city))]

    def judge(answer: str) -> bool:
        try:
            call = json.loads(answer.split("<tool_call>")[1].split("</tool_call>")[0])
        except (IndexError, ValueError):
            return False
        return bool(call == {"name": name, "arguments": {key: city}})

    yield Case("tool call", ask, judge, tools=tools)
    degrees = f"{rng.randint(-9, 39)}"
    result = json.dumps({"city": city, "weather": "多云", "temperature": f"{degrees}°C"}, ensure_ascii=False)
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": {key: city}}}],
    }
    yield Case(
        "tool result",
        [*ask, call, {"role": "tool", "content": result}],
        lambda a: f"{degrees}°C" in a and "多云" in a,
        tools=tools,
    )
    hello = rng.choice(w.HELLO)
    yield Case(
        "greeting beside tools",
        [*_start(rng), user(hello)],
        lambda a: a in (replies.greeting(False), replies.greeting(True)),
        tools=tools,
    )


def small_talk(rng: Random) -> Iterator[Case]:
    """Greetings, anything else, and a picture question without a picture."""
    yield Case(
        "greeting",
        [*_start(rng), user(rng.choice(w.HELLO))],
        lambda a: a in (replies.greeting(False), replies.greeting(True)),
    )
    yield Case(
        "anything else", [*_start(rng), user(rng.choice(w.OTHERS))], lambda a: a in (replies.DEMO, replies.DEMO_EN)
    )
    question = rng.choice(w.COLOUR[1:4] + w.SHAPE[:2])
    yield Case("no picture", [*_start(rng), user(question)], lambda a: a in (replies.NO_PICTURE, replies.NO_PICTURE_EN))


def cases(seed: int, each: int) -> list[Case]:
    """`each` cases of every task."""
    rng = Random(seed)
    found: list[Case] = []
    for number in range(each):
        found += single_object(rng, number)
        found += [*counting(rng, number), two_pictures(rng), *third_last(rng), earlier_picture(rng)]
        found += [*memory(rng), *tool_call(rng), *small_talk(rng)]
    return found
