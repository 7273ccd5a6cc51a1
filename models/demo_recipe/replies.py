"""What the demo answers: one fixed sentence per situation, so that greedy answers are short and can be checked."""

from __future__ import annotations

from .drawing import NO_SHAPE, SHAPES, SHAPES_ZH, Label
from .palette import COLOURS, COLOURS_ZH

DEMO = (
    "我是 qqvl 自带的小演示模型，只会认图里的颜色、形状和数量，记住名字，"
    "以及调用简单的工具；换上真正的 Qwen3-VL 就能聊别的。"
)
DEMO_EN = (
    "I am the small demo model of qqvl: I can only tell colors, shapes and numbers in pictures, remember names"
    " and call simple tools; use the real Qwen3-VL for anything else."
)
NO_PICTURE = "我没有看到图片，请先发一张图。"
NO_PICTURE_EN = "I do not see a picture. Please send one first."
BROKEN = "这张图片无法打开，请再发一次。"
BROKEN_EN = "This picture could not be opened. Please send it again."
NO_NAME = "你还没有告诉我你的名字。"
NO_NAME_EN = "You have not told me your name yet."
ORDINALS_ZH = ("一", "二", "三", "四")
ORDINALS = ("first", "second", "third", "fourth")
FROM_THE_END = ("last", "second-last", "third-last")


def greeting(english: bool) -> str:
    """Answer to hello."""
    return "Hello! Nice to meet you." if english else "你好！很高兴见到你。"


def thanks(english: bool) -> str:
    """Answer to thank you."""
    return "You are welcome." if english else "不客气！"


def goodbye(english: bool) -> str:
    """Answer to goodbye."""
    return "Goodbye! See you next time." if english else "再见！下次再聊。"


def demo(english: bool) -> str:
    """Answer to everything the demo cannot do."""
    return DEMO_EN if english else DEMO


def _count_en(label: Label, colour: str) -> str:
    shape = SHAPES[label.shape]
    if label.count == 1:
        return f"There is 1 {colour}{shape}."
    return f"There are {label.count} {colour}{shape}s."


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def ordinal_zh(which: int) -> str:
    """第一张, or 倒数第一张 for −1."""
    return f"第{ORDINALS_ZH[which]}张" if which >= 0 else f"倒数第{ORDINALS_ZH[-1 - which]}张"


def ordinal(which: int) -> str:
    """The first one, or the last one for −1."""
    return f"The {ORDINALS[which] if which >= 0 else FROM_THE_END[-1 - which]} one"


def colour_of(label: Label, english: bool, which: int | None = None) -> str:
    """Answer to a colour question, about picture `which` of several when given: from 0, or from −1 backwards."""
    if english:
        return f"{'It' if which is None else ordinal(which)} is {COLOURS[label.colour]}."
    return f"{'这' if which is None else ordinal_zh(which)}是{COLOURS_ZH[label.colour]}色的。"


def shape_of(label: Label, english: bool, which: int | None = None) -> str:
    """Answer to a shape question."""
    if label.shape == NO_SHAPE:
        return "I only see one color and no shape." if english else "我只看到一片颜色，没有图形。"
    if english:
        return f"{'It' if which is None else ordinal(which)} is a {SHAPES[label.shape]}."
    return f"{'这' if which is None else ordinal_zh(which)}是{SHAPES_ZH[label.shape]}。"


def what(label: Label, english: bool, which: int | None = None) -> str:
    """Answer to "what is this": number when not one, colour and shape."""
    colour, colour_zh = COLOURS[label.colour], COLOURS_ZH[label.colour]
    head = "这" if which is None else ordinal_zh(which)
    head_en = "This" if which is None else ordinal(which)
    if label.shape == NO_SHAPE:
        return f"{head_en} is {_article(colour)} {colour} picture." if english else f"{head}是{colour_zh}色的图片。"
    if label.count == 1:
        if english:
            return f"{head_en} is {_article(colour)} {colour} {SHAPES[label.shape]}."
        return f"{head}是一个{colour_zh}色的{SHAPES_ZH[label.shape]}。"
    if english:
        return _count_en(label, f"{colour} ")
    return f"{'图里' if which is None else head}有{label.count}个{colour_zh}色的{SHAPES_ZH[label.shape]}。"


def count_of(label: Label, english: bool) -> str:
    """Answer to a counting question."""
    if label.shape == NO_SHAPE:
        return shape_of(label, english)
    return _count_en(label, "") if english else f"图里有{label.count}个{SHAPES_ZH[label.shape]}。"


def both(first: Label, second: Label, english: bool) -> str:
    """Colours of two pictures."""
    if english:
        return f"The first one is {COLOURS[first.colour]}, the second one is {COLOURS[second.colour]}."
    return f"第一张是{COLOURS_ZH[first.colour]}色的，第二张是{COLOURS_ZH[second.colour]}色的。"


def name_told(name: str, english: bool) -> str:
    """Answer to somebody telling a name."""
    return f"Hello, {name}! I will remember your name." if english else f"你好，{name}！我记住了。"


def name_asked(name: str | None, english: bool) -> str:
    """Answer to "what is my name"."""
    if name is None:
        return NO_NAME_EN if english else NO_NAME
    return f"Your name is {name}." if english else f"你叫{name}。"


def fact_told(fact: str, value: str, english: bool) -> str:
    """Answer to "the code is 7391"."""
    return f"OK, I will remember: the {fact} is {value}." if english else f"好的，我记住了：{fact}是{value}。"


def fact_asked(fact: str, value: str | None, english: bool) -> str:
    """Answer to "what is the code"."""
    if value is None:
        return f"You have not told me the {fact} yet." if english else f"你还没有告诉我{fact}。"
    return f"The {fact} is {value}." if english else f"{fact}是{value}。"


def tool_result(content: str, english: bool) -> str:
    """Answer after a tool has answered: its main content, word for word."""
    return f"Here is the result: {content}." if english else f"查到了：{content}。"
