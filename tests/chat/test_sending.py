"""A reply's text as it is sent: without Markdown's marks, cut where a person would, told as it grows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import regex
from markdown_it import MarkdownIt

from qqvl_server.chat.outgoing.messages import Drawing, Manner, Node, Outgoing, Record, Sender, Words, messages, plainly
from qqvl_server.chat.outgoing.sheets import Formula, Sheet

REPLIES = (Path(__file__).parents[1] / "fixtures" / "replies.md").read_text("utf-8").split("\n%%%%\n")
WHOLE = Manner(part_chars=1_000_000)
SIZES = (80, 120, 500)


def sent(reply: str, manner: Manner) -> list[str]:
    return [element.text for element in messages(reply, manner) if isinstance(element, Words)]


def whole(reply: str) -> str:
    return "\n".join(sent(reply, WHOLE))


def codes(reply: str) -> list[str]:
    """What stands in the fences, as the parser's own dialect reads them."""
    return [t.content.removesuffix("\n") for t in MarkdownIt().parse(reply) if t.type in ("fence", "code_block")]


def without_code(reply: str) -> str:
    text = whole(reply)
    inline = [c.content for t in MarkdownIt().parse(reply) for c in t.children or () if c.type == "code_inline"]
    for code in sorted((*codes(reply), *inline), key=len, reverse=True):
        text = text.replace(code, "")
    return text


def test_there_are_two_hundred_replies_of_every_construct() -> None:
    assert len(REPLIES) == 200
    for mark in ("# ", "- ", "1. ", "> ", "|---", "```", "~~~", "](", "![", "**", "~~", "$$", "\\[", "<br", "\u200d"):
        assert any(mark in reply for reply in REPLIES), mark


# What CommonMark takes for letters too: no pair, an escape, or no Markdown at all.
LETTERS = (
    "\\*不是",
    "==高亮==",
    "[^1]",
    "[文档][doc]",
    "___ 三个",
    "H~2~O",
    "* 一个",
    "-不是列表",
    "3 * 4",
    "`|` 是",
    "Term\n",
)


@pytest.mark.parametrize("number", range(len(REPLIES)))
def test_no_mark_is_left(number: int) -> None:
    reply = REPLIES[number]
    if any(letters in reply for letters in LETTERS):
        return
    text = without_code(reply)
    for mark in ("**", "~~", "`", "](", "![", "<br", "</", "<!--", "|--", ":--", "$$", "\\[", "\\(", "&lt;", "&amp;"):
        assert mark not in text.replace("vector<int>", ""), (mark, text)
    for line in text.splitlines():
        assert not regex.match(r"\s*(#{1,6}\s|[-*+]\s|>|```|~~~|\|)", line), line


@pytest.mark.parametrize("limit", SIZES)
def test_the_parts_are_the_whole_in_order_and_cut_nothing_that_is_one(limit: int) -> None:
    for reply in REPLIES:
        text, parts = whole(reply), sent(reply, Manner(part_chars=limit))
        place = 0
        for part in parts:
            # Nothing but white space is left out between two messages.
            found = text.index(part, place)
            assert not text[place:found].strip()
            place = found + len(part)
        assert not text[place:].strip()
        assert all(parts)
        for code in filter(str.strip, codes(reply)):
            assert sum(code in part for part in parts) >= 1, (code, parts)
        for address in regex.findall(r"https?://[!-~]+", text):
            assert any(address in part for part in parts)
        for cluster in set(regex.findall(r"\X", text)):
            assert sum(part.count(cluster) for part in parts) >= text.count(cluster) or cluster.isspace()
        for part in parts:
            long_code = any(code and code in part for code in codes(reply))
            assert long_code or len(part) + sum(char > "\uffff" for char in part) <= limit, part


@pytest.mark.parametrize("limit", SIZES)
def test_a_streamed_reply_is_cut_like_one_that_is_there_at_once(limit: int) -> None:
    dice = random.Random(limit)
    manner = Manner(part_chars=limit, record_chars=3 * limit, self_id="7", name="小Q", at="5", quote="m1")
    for reply in REPLIES:
        sender, told, place = Sender(manner), list[Outgoing](), 0
        while place < len(reply):
            step = dice.randint(1, 9)
            told += sender.push(reply[place : place + step])
            place += step
        assert (*told, *sender.finish()) == messages(reply, manner)


def test_a_first_part_is_told_before_the_reply_is_whole() -> None:
    paragraph = "这一段说了一件事，说得很清楚。\n\n"
    sender = Sender(Manner(part_chars=50))
    told = [element for _ in range(5) for element in sender.push(paragraph)]
    assert len(told) == 1


READ = [
    ("# 标题\n正文", "标题\n正文"),
    ("**注意：**请", "注意：请"),
    ("说**“好”**了", "说“好”了"),
    ("2*3*4 和 a_b_c", "234 和 a_b_c"),
    ("[文档](https://a.com/x)在这", "文档 https://a.com/x 在这"),
    ("[https://a.com](https://a.com/)", "https://a.com/"),
    ("[点我](javascript:alert(1))", "点我"),
    ("![猫](https://a.com/c.png)", "[图片：猫] https://a.com/c.png"),
    ("![](data:image/png;base64,AAAA)", "[图片]"),
    ("- a\n- b\n  1. c\n  2. d", "• a\n• b\n  1. c\n  2. d"),
    ("- [x] 做了\n- [ ] 没做", "☑ 做了\n☐ 没做"),
    ("| 甲 | 乙 |\n|---|---|\n| 1 | 2 |", "甲：乙\n1：2"),
    ("| 名 | 年 | 城 |\n|---|---|---|\n| 张 | 3 | 京 |", "张｜年：3；城：京"),
    ("> 一\n> 二", "「一\n二」"),
    ("```py\nx = 1\n```", "【py】\nx = 1"),
    ("```\nx\n\n\ny\n", "x\n\n\ny"),
    ("1. 看：\n   ```sh\n   ls\n     -l\n   ```\n2. 完", "1. 看：\n【sh】\nls\n  -l\n2. 完"),
    ("一\n\n\n\n二\n\n---\n\n三", "一\n\n二\n\n三"),
    ("$x^2$ 和 \\(y_1\\)，$5 到 $10", "x^2 和 y_1，$5 到 $10"),
    ("$$\n- a\n- b\n$$\n完", "- a\n- b\n完"),
    ("\\[ 没写完\n\n下一段", "\\[ 没写完\n\n下一段"),
    ("a<br>b<b>c</b> List<String> &amp; 1 < 2", "a\nbc List<String> & 1 < 2"),
    ('<a href="https://a.com">链</a>接', "链 https://a.com 接"),
    ("<details><summary>问</summary>\n\n**答**\n\n</details>", "问\n\n答"),
]


@pytest.mark.parametrize(("written", "read"), READ)
def test_what_is_written_is_read_so(written: str, read: str) -> None:
    assert whole(written) == read


def test_what_goes_beyond_the_limit_is_one_record_and_one_message_more_is_none() -> None:
    line = "一二三四五六七八九十" * 4 + "。\n\n"
    manner = Manner(part_chars=50, record_chars=100, name="小Q", self_id="7")
    told = messages(line * 5, manner)
    text = line.strip()
    assert told == (Words(text), Words(text), Record((Node("小Q", "7", text),) * 3))
    assert messages(line * 3, manner) == (Words(text),) * 3
    # Nobody could be named in it.
    assert messages(line * 5, Manner(part_chars=50, record_chars=100)) == (Words(text),) * 5


def test_the_first_message_alone_is_for_the_asker() -> None:
    told = messages("一二三四五六七八九十。\n\n" * 9, Manner(part_chars=60, at="5", quote="m1"))
    assert isinstance(told[0], Words)
    assert (told[0].at, told[0].quote) == ("5", "m1")
    assert all(isinstance(one, Words) and one.at is None and one.quote is None for one in told[1:])


def test_what_is_no_markdown_stays_as_it_is() -> None:
    assert plainly("/mode <名字> *\n- 一", Manner()) == (Words("/mode <名字> *\n- 一"),)
    assert messages(" \n\n ", Manner()) == plainly("", Manner()) == ()
    # Who would be sent nothing would wait for ever.
    assert messages("<!-- 好 -->", Manner()) == (Words("<!-- 好 -->"),)


def test_a_code_block_that_qq_would_refuse_is_cut_between_its_lines() -> None:
    code = "\n".join(f"line_{number} = {number}" for number in range(1000))
    parts = sent(f"```python\n{code}\n```", Manner())
    assert all(len(part) <= 4500 for part in parts)
    assert "\n".join(parts) == f"【python】\n{code}"


# What is drawn -------------------------------------------------------------------------------------------------

LONG_CODE = "```python\n" + "print('好的')\n" * 30 + "```"
TABLE = "| 名字 | 颜色 |\n|---|---|\n" + "".join(f"| **第{n}个** | 红 |\n" for n in range(30))


def test_long_code_and_tables_are_drawn_where_they_stand() -> None:
    reply = f"前面的话。\n\n{LONG_CODE}\n\n中间的话。\n\n{TABLE}\n后面的话。`short` 和\n\n```\n短的\n```"
    told = messages(reply, Manner(draw_chars=100, at="5", quote="6"))
    assert [type(element).__name__ for element in told] == ["Words", "Drawing", "Words", "Drawing", "Words"]
    code, table = (element for element in told if isinstance(element, Drawing))
    assert isinstance(code.sheet, Sheet)
    assert isinstance(table.sheet, Sheet)
    assert (code.sheet.title, code.sheet.rows[0], len(code.sheet.rows)) == ("python", ("print('好的')",), 30)
    assert (table.sheet.is_table, table.sheet.rows[:2]) == (True, (("名字", "颜色"), ("第0个", "红")))
    assert [element.words.at for element in (code, table)] == [None, None]
    # In words it is what it is where nothing is drawn.
    assert [code.text] == sent(LONG_CODE, WHOLE)
    assert messages(reply, Manner()) == messages(reply, Manner(draw_chars=100_000))
    first = messages(LONG_CODE, Manner(draw_chars=100, at="5", quote="6"))
    assert [(e.words.at, e.words.quote) for e in first if isinstance(e, Drawing)] == [("5", "6")]


def test_formulas_on_lines_of_their_own_are_drawn() -> None:
    reply = "求和：\n\n$$\n\\sum_{n=1}^{9} n = 45\n$$\n\n其中 $\\pi$ 不在内。\n\n\\[ x^2 \\]\n\n$$\na = b\n$$"
    told = messages(reply, Manner(draw_chars=100))
    # What holds no command reads as well in words.
    assert [type(element).__name__ for element in told] == ["Words", "Drawing", "Words"]
    assert isinstance(told[1], Drawing)
    assert isinstance(told[1].sheet, Formula)
    assert told[1].sheet.latex == told[1].text == r"\sum_{n=1}^{9} n = 45"
    assert all(isinstance(element, Words) for element in messages(reply, Manner()))


def test_what_is_drawn_is_told_as_it_grows_as_well() -> None:
    for reply in (reply for reply in REPLIES if "```" in reply or "|---" in reply or "$$" in reply):
        manner = Manner(part_chars=80, draw_chars=40, record_chars=400, self_id="7")
        sender = Sender(manner)
        grown = [element for letter in reply for element in sender.push(letter)]
        assert (*grown, *sender.finish()) == messages(reply, manner) or not grown


def test_in_a_record_all_is_text() -> None:
    reply = f"{'很长的话。' * 200}\n\n{LONG_CODE}"
    *_, last = messages(reply, Manner(part_chars=100, record_chars=300, self_id="7", draw_chars=100))
    assert isinstance(last, Record)
    assert "print" in last.nodes[-1].text
