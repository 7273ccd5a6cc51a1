"""Blocked words: however they are dressed up they neither reach the model nor leave it, and innocent ones do."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from qqvl_server.chat.message import Quote, Speaker, Text
from qqvl_server.chat.outgoing.messages import Manner, Outgoing, Sender, Words, messages
from qqvl_server.chat.words.folding import fold
from qqvl_server.chat.words.gate import Gate
from qqvl_server.chat.words.lists import WordList
from qqvl_server.chat.words.matching import Matcher
from qqvl_server.errors import ConfigError
from tests.chat.test_streaming import Piecewise, listened, streaming
from tests.chat.test_turns import history, last_prompt, said
from tests.fakes import ScriptedVoice

LINE = "这个我不聊，换个话题吧。"
LIST = ("坏词", "卖假药", "赌博网站", "加V信", "fuck", "scam", "C++", "法輪")
SPELT = {"坏词": ["huai", "ci"], "卖假药": ["mai", "jia", "yao"]}
BEFORE = ("", "你好，", "今天 we talk: ", "他说：“", "1. ", "> ", "好的。\n")
AFTER = ("", "。", "，知道吗", " is it?", "”然后走了", "\n下一行", "！！")


def wide(word: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in word)


def between(word: str, *marks: str) -> str:
    return "".join(char + marks[place % len(marks)] for place, char in enumerate(word[:-1])) + word[-1]


DRESSES = (
    str, str.upper, str.title, wide,
    lambda word: between(word, " "), lambda word: between(word, "\u3000"), lambda word: between(word, "\u200b"),
    lambda word: between(word, "."), lambda word: between(word, "-", "*"), lambda word: between(word, "，", "·"),
    lambda word: between(word, " . "), lambda word: between(word, "\n"), lambda word: between(word, "**"),
    lambda word: between(wide(word), "_"), lambda word: between(word, "\u0336"), lambda word: between(word, "🙈"),
)  # fmt: skip


def variants() -> list[str]:
    """As people write words that they know to be blocked, in the middle of what they say."""
    dice = random.Random(15)
    dressed = []
    for word in LIST:
        for dress in DRESSES if word != "C++" else (str, str.lower, wide):
            dressed += [dice.choice(BEFORE) + dress(word) + dice.choice(AFTER) for _ in range(3)]
    spelt = ("huaici", "HuaiCi", "huai ci", "ｈｕａｉｃｉ", "h.u.a.i.c.i", "mai jia yao", "mài jiǎ yào", "maijiayao")
    return dressed + [before + word for word in spelt for before in BEFORE[:3]]


def test_no_variant_is_missed() -> None:
    matcher, found = Matcher(LIST, SPELT), variants()
    assert len(found) >= 300
    assert [text for text in found if matcher.find(text) is None] == []


INNOCENT = (
    "坏的词典", "卖药", "as soon as", "scamper 跑了", "escamotage", "C 语言", "D++", "加微信",
    "不坏。\n\n\n\n\n词", "huaicity", "huai de ci", "scanner",
)  # fmt: skip


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_alike_passes(text: str) -> None:
    assert Matcher(LIST, SPELT).find(text) is None


@pytest.mark.parametrize("limit", [50, 500])
def test_nothing_of_a_blocked_word_gets_out_of_a_stream_however_it_is_cut(limit: int) -> None:
    matcher, dice = Matcher(LIST, SPELT), random.Random(limit)
    calm = "这里说一点别的，慢慢地说，说得很长很长，长到可以先发出去一条。\n\n"
    for variant in variants():
        reply = calm * 3 + variant + "\n\n" + calm
        told = []
        for step in (1, 7, len(reply)):
            gate, sender = Gate(matcher, LINE), Sender(Manner(part_chars=limit))
            place, out = 0, list[Outgoing]()
            while place < len(reply) and not gate.is_hit:
                size = dice.randint(1, step)
                out += sender.push(gate.push(reply[place : place + size]))
                place += size
            out += (*sender.push(gate.finish()), *sender.finish())
            assert gate.is_hit, variant
            told.append(out)
        assert told[0] == told[1] == told[2]
        texts = [element.text for element in told[0] if isinstance(element, Words)]
        assert all(matcher.find(text) is None for text in texts)
        assert texts[-1].endswith(LINE)
        for word in LIST[:3]:
            assert not any(fold(text).letters.endswith(word[0]) for text in texts)


def test_a_reply_without_one_passes_letter_for_letter() -> None:
    replies = (Path(__file__).parents[1] / "fixtures" / "replies.md").read_text("utf-8").split("\n%%%%\n")
    for reply in replies:
        gate = Gate(Matcher(("坏词", "卖假药", "fuck")), LINE)
        assert "".join(map(gate.push, reply)) + gate.finish() == reply
        assert not gate.is_hit


@pytest.mark.parametrize("reply", ["坏<b></b>词", "&#22351;词", "坏\\词", "坏<b>\n</b>词", "坏\n\n词", "**坏**词"])
def test_what_is_read_counts_not_what_is_written(reply: str) -> None:
    gate = Gate(Matcher(["坏词"]), LINE)
    assert "".join(map(gate.push, reply)) + gate.finish() == LINE


pytestmark = pytest.mark.anyio


async def test_a_message_with_one_never_reaches_the_model(tmp_path: Path) -> None:
    voice = ScriptedVoice(lambda _: "好")
    async with streaming(tmp_path, voice, block_words_in=("坏词",)) as service:
        answer = await service.handle(said("来聊聊坏 词吧", 1), "群")
        assert (answer.reply, answer.should_reply, answer.reason) == (LINE, True, "addressed")
        assert (await service.handle(said("坏.词", 2, at_me=False), "群")).reason == "silent"
        quoting = said("怎么看", 3, parts=(Quote("李四", "说坏词"), Text("怎么看")))
        assert (await service.handle(quoting, "群")).reply == LINE
        named = said("你好", 4, speaker=Speaker("9", "坏词"))
        assert (await service.handle(named, "群")).reply == LINE
        assert not voice.asked
        assert (await service.handle(said("你好", 5), "群")).reply == "好"
        assert "坏" not in last_prompt(voice)
        assert "词" not in last_prompt(voice).replace("屏蔽词", "")


async def test_an_answer_with_one_ends_there_in_a_line_and_is_not_kept(tmp_path: Path) -> None:
    voice = Piecewise("第一段没有问题。\n\n第二段有坏*词*，后面还有。\n\n第三段。")
    async with streaming(tmp_path, voice, block_words_out=("坏词",)) as service:
        message = said("说", 1)
        told, sent = await listened(service, message)
        assert sent.answer.reply == f"第一段没有问题。\n\n{LINE}"
        assert told == list(sent.messages) == list(messages(sent.answer.reply, Manner()))
        assert (await history(service))[-1] == sent.answer.reply
        assert voice.asked[0].sampling.bad_words == ("坏词",)
        assert not voice.running


async def test_an_empty_line_is_silence(tmp_path: Path) -> None:
    chat = {"block_words_in": ("坏词",), "block_words_out": ("脏话",), "block_reply": ""}
    async with streaming(tmp_path, ScriptedVoice(lambda _: "脏 话"), **chat) as service:
        for number, text in enumerate(("坏词", "你好")):
            answer = await service.handle(said(text, number), "群")
            assert (answer.reply, answer.should_reply) == ("", False)


async def test_files_are_read_again_when_they_change_and_kept_when_they_go(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("\ufeff# 备注\n坏词\n\n", "utf-8")
    words = WordList((str(file), "别的"))
    for line, wanted in (
        ("坏词", {"坏词", "别的"}),
        ("新词\n坏词", {"新词", "坏词", "别的"}),
        (None, {"新词", "坏词", "别的"}),
    ):
        if line is None:
            file.unlink()
        else:
            file.write_text(line, "utf-8")
        words._looked_at = -1e9  # it looks once a second
        matcher = await words.fresh()
        assert matcher is not None
        assert set(matcher.words) == wanted
    with pytest.raises(ConfigError, match=r"words\.txt"):
        WordList((str(file),))


def test_pinyin_counts_where_it_is_asked_for() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("pypinyin")
    assert WordList(("坏词",), pinyin=True)._matcher.find("说 huai ci 了") == 2  # type: ignore[union-attr]
    assert WordList(("坏词",))._matcher.find("说 huai ci 了") is None  # type: ignore[union-attr]
