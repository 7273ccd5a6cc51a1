"""Names as words: who is called, and who only has the same letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qqvl_server.chat.addressing import is_called, without_call

CALLED = {
    "小Q": (
        "小Q", "小Q 你好", "小Q，在吗", "小Q你好", "小Q在吗", "小Q呀", "@小Q 你好", "@小Q你好", "@小Q", "＠小Ｑ　你好",
        "小q 你好", "你好小Q", "早安小Q！", "大家好，小Q", "我觉得小Q说得对", "问问小Q吧", "小Q翻译一下这句",
        "你好小Q翻译一下", "请小Q唱首歌", "小Q讲个笑话", "小Q😀", "小QQ不是你，小Q才是", "第一行\n小Q 看这个",
        "（小Q）", "hi小Q", "小Q?", "看https://a.cn/x 小Q",
    ),
    "✨小Q✨": ("小Q 你好", "✨小Q✨你好"),
    "小 Q": ("小 Q 你好", "@小 Q"),
    "🐱": ("过来🐱",),
    "Bob": ("hi Bob!", "bob, are you there", "Bob's turn", "@bob", "Bob你好", "问Bob", "I asked Bob."),
    "Q酱": ("Q酱，在吗", "我的Q酱呢"),
    "小助手": ("小助手帮我看看", "小助手help", "https://example.com/a 小助手，看", "https://example.com，小助手在吗"),
    "豆": ("豆，在吗",),
    "é": ("E\u0301, 你好",),
    "ミク": ("ミク、おはよう",),
}  # fmt: skip
NOT_CALLED = {
    "小Q": (
        "我家小QQ糖", "我家小Q糖", "小Q糖", "小Q糖很好吃", "小QQ", "小Qua", "小Q2号", "小Q_x", "小q.com",
        "@小Q粉丝团 你好", "小Q群里有人吗", "小 Q", "", "你好",
    ),
    "Bob": ("bobsled", "kabob", "a@bob.com", "mail bob@x.com", "https://bob.com/bob", "e-bob"),
    "Bot": ("robot", "bots"),
    "Q酱": ("QQ酱",),
    "小助手": (
        "小助手2号", "https://example.com/小助手?x=1，急", "https://example.com/a/小助手/，好", "看https://x.cn/?q=小助手&n=1",
        "https://zh.wikipedia.org/wiki/聊天_小助手",
    ),
    "豆": ("土豆", "我爱吃土豆", "豆浆", "豆你好"),
    "": ("你好",),
    "   ": ("你 好",),
    "12": ("2012年", "12.5"),
}  # fmt: skip


def rows(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(name, text) for name, texts in table.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), rows(CALLED))
def test_a_name_that_stands_as_a_word_is_a_call(name: str, text: str) -> None:
    assert is_called(text, ("别人", name))


@pytest.mark.parametrize(("name", "text"), rows(NOT_CALLED))
def test_the_same_letters_inside_another_word_are_none(name: str, text: str) -> None:
    assert not is_called(text, (name,))


@given(text=st.text(max_size=80), name=st.text(max_size=8))
def test_no_text_and_no_name_break_it(text: str, name: str) -> None:
    if is_called(text, (name,)):
        assert is_called(f"{text} ", (name,))
    without_call(text, (name,))


@pytest.mark.parametrize(
    "text", ["小Q，重置", "小Q 重置", "@小Q 重置", "小Q重置", "重置，小Q", "重置 @小Q", "小Q：重置！", "重置"]
)
def test_the_call_is_left_out_of_a_command(text: str) -> None:
    assert without_call(text, ("小Q",)) == "重置"


def test_the_slash_of_a_command_stays() -> None:
    assert without_call("@小 Q /RESET", ("小 Q",)) == "/reset"
