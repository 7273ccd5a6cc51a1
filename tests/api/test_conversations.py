"""Talks in the browser, through the door: kept, answered by events, edited, found again, taken away, deleted."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api.conftest import KEY, OPENAI_KEY, TWO_KEY
from tests.api.wire import check_error
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer

PATH = "/api/page/conversations"
RED = f"data:image/png;base64,{base64_of(encoded(picture(size=(64, 64))))}"
Event = tuple[str, dict[str, Any]]


def events_of(answer: httpx.Response) -> list[Event]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for block in answer.text.strip().split("\n\n"):
        if not block.startswith(":"):
            name, _, data = block.removeprefix("event: ").partition("\ndata: ")
            found.append((name, json.loads(data)))
    return found


class Browser:
    def __init__(self, server: RunningServer, headers: dict[str, str] | None = None) -> None:
        self.http = server.http
        self.headers = server.owner if headers is None else headers

    def get(self, path: str = "", **params: Any) -> httpx.Response:
        return self.http.get(f"{PATH}{path}", headers=self.headers, params=params)

    def post(self, path: str = "", **body: Any) -> httpx.Response:
        return self.http.post(f"{PATH}{path}", headers=self.headers, json=body)

    def delete(self, path: str = "") -> httpx.Response:
        return self.http.delete(f"{PATH}{path}", headers=self.headers)

    def begin(self, **body: Any) -> str:
        made = self.post(**{"sampling": {"temperature": 0, "max_tokens": 40}} | body)
        assert made.status_code == 200, made.text
        return f"/{made.json()['id']}"

    def say(self, at: str, text: str = "", parent: str | None = None, images: tuple[str, ...] = ()) -> dict[str, Any]:
        """The answer, whose events fit together."""
        events = events_of(self.post(f"{at}/reply", text=text, parent=parent, images=list(images)))
        (first, begun), (last, done) = events[0], events[-1]
        assert (first, last) == ("start", "done"), events[-1]
        assert begun["reply"]["status"] == "running"
        assert done["id"] == begun["reply"]["id"]
        assert "".join(data["text"] for name, data in events if name == "delta") == done["text"]
        return done

    def messages(self, at: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(at).json()["messages"]
        return found


@pytest.fixture
def browser(server: RunningServer) -> Browser:
    return Browser(server)


def test_a_talk_is_answered_by_events_and_kept(browser: Browser) -> None:
    at = browser.begin()
    first = browser.say(at, "我叫小明")
    assert first["status"] == "done"
    assert first["finish_reason"] == "stop"
    assert first["model"] == "qqvl-demo"
    assert first["usage"]["prompt_tokens"] > 0
    assert 0 < first["first_token_s"] <= first["seconds"]
    second = browser.say(at, "我叫什么？", parent=first["id"])
    assert "小明" in second["text"]
    assert second["usage"]["cached_tokens"] > 0
    whole = browser.get(at).json()
    assert (whole["title"], whole["titled"], whole["head"]) == ("我叫小明", False, second["id"])
    assert [message["role"] for message in whole["messages"]] == ["user", "assistant"] * 2
    assert whole["messages"][1] == first
    assert whole["messages"][3] == second
    assert not whole["running"]
    (idle,) = events_of(browser.get(f"{at}/events"))
    assert idle == ("idle", {})


def test_a_picture_is_seen_shown_and_said_again(browser: Browser, server: RunningServer) -> None:
    at = browser.begin()
    answer = browser.say(at, "这是什么颜色？", images=(RED,))
    assert "红" in answer["text"]
    shown = browser.messages(at)[0]["images"][0]
    assert (shown["width"], shown["height"]) == (64, 64)
    drawn = server.http.get(shown["url"], headers=server.owner)
    assert drawn.headers["content-type"] == "image/png"
    assert f"data:image/png;base64,{base64_of(drawn.content)}" == RED
    assert "sandbox" in drawn.headers["content-security-policy"]
    again = browser.say(at, "图里是什么颜色？", images=(f"sha256:{shown['sha256']}",))
    assert "红" in again["text"]
    for wrong in (f"sha256:{'0' * 64}", "data:image/png;base64,AAAA", "sha256:../../x"):
        check_error(browser.post(f"{at}/reply", text="看", images=[wrong]), 400)
    for missing in ("0" * 64, "x", "..%2f..%2fpage.key"):
        check_error(server.http.get(f"/api/page/images/{missing}", headers=server.owner), 404)
    check_error(server.http.get(shown["url"]), 401)


TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["北京"]}}, "required": ["city"],
        "additionalProperties": False,
    }}}
]  # fmt: skip


def test_tools_of_a_conversation_are_called_and_what_they_gave_goes_back(browser: Browser) -> None:
    at = browser.begin(tools=TOOLS, tool_choice="required")
    assert (browser.get(at).json()["tools"], browser.get(at).json()["tool_choice"]) == (TOOLS, "required")
    events = events_of(browser.post(f"{at}/reply", text="北京天气怎么样？"))
    called = events[-1][1]
    (call,) = called["tool_calls"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": "北京"}
    assert "".join(data["arguments"] for name, data in events if name == "tool_call") == call["arguments"]
    browser.post(at, tool_choice="none", tools=TOOLS)
    result = {"tool_call_id": call["id"], "content": "晴，二十度"}
    answer = events_of(browser.post(f"{at}/reply", parent=called["id"], tool_results=[result]))[-1][1]
    assert answer["status"] == "done"
    assert answer["tool_calls"] == []
    assert browser.messages(at)[2]["tool_results"] == [result]
    taken = browser.get(f"{at}/export").text
    assert "get_weather" in taken
    assert "晴，二十度" in taken
    assert browser.post(at, tools=[]).json()["tools"] == []
    wrong: list[dict[str, Any]] = [
        {"tools": [{"type": "web_search"}]}, {"tools": [{"function": {"name": "a b"}}]}, {"tools": TOOLS * 2},
        {"tools": TOOLS, "tool_choice": "other"}, {"tool_choice": "required"},
    ]  # fmt: skip
    for body in wrong:
        check_error(browser.post(at, **body), 400)
    unknown = [result | {"tool_call_id": "no"}]
    check_error(browser.post(f"{at}/reply", parent=called["id"], tool_results=unknown), 400)


def test_a_message_that_comes_again_is_not_said_twice(browser: Browser) -> None:
    at = browser.begin()
    assert events_of(browser.post(f"{at}/reply", text="你好", key="k1"))[-1][0] == "done"
    again = browser.post(f"{at}/reply", text="你好", key="k1")
    check_error(again, 409)
    assert again.json()["error"]["code"] == "already_said"
    assert len(browser.messages(at)) == 2


def test_the_list_tells_how_many_and_what_was_last_in_the_branch_that_is_shown(browser: Browser) -> None:
    at = browser.begin()
    first = browser.say(at, "第一支")
    browser.say(at, "第二支")
    browser.post(at, head=first["id"])
    empty = browser.begin()
    listed = {f"/{one['id']}": one for one in browser.get().json()["conversations"]}
    assert listed[at]["messages"] == 4
    assert listed[at]["preview"] == " ".join(first["text"].split())[:80]
    assert (listed[empty]["messages"], listed[empty]["preview"]) == (0, "")


def test_editing_and_answering_again_make_branches(browser: Browser) -> None:
    at = browser.begin()
    first = browser.say(at, "我叫小明")
    other = browser.say(at, "我叫小红")
    again = browser.say(at, parent=other["parent"])
    assert again["parent"] == other["parent"]
    assert again["text"] == other["text"], "greedy"
    asked = [message for message in browser.messages(at) if message["role"] == "user"]
    assert [message["parent"] for message in asked] == [None, None]
    assert "小红" in browser.say(at, "我叫什么？", parent=again["id"])["text"]
    # What is shown goes down to the newest of the branch.
    shown = browser.post(at, head=asked[0]["id"]).json()
    assert shown["head"] == first["id"]
    assert "小明" in browser.say(at, "我叫什么？", parent=first["id"])["text"]
    for parent, text in ((first["id"], ""), (asked[0]["id"], "你好"), ("m_0", "你好"), (None, "  ")):
        check_error(browser.post(f"{at}/reply", parent=parent, text=text), 400)
    check_error(browser.post(at, head="m_0"), 404)


def test_a_conversation_has_a_prompt_and_sampling_of_its_own(browser: Browser) -> None:
    at = browser.begin(
        title="  我的  ", system_prompt="你是一只猫", sampling={"temperature": 0, "max_tokens": 2, "top_p": None}
    )
    kept = browser.get(at).json()
    assert (kept["title"], kept["titled"], kept["system_prompt"]) == ("我的", True, "你是一只猫")
    assert kept["sampling"] == {"temperature": 0, "max_tokens": 2}
    short = browser.say(at, "我叫小明")
    assert (short["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 2)
    longer = short["usage"]["prompt_tokens"]
    changed = browser.post(at, system_prompt="", sampling={}, title="").json()
    assert (changed["title"], changed["titled"]) == ("我叫小明", False)
    assert changed["sampling"] == {}
    assert browser.say(at, "我叫小明")["usage"]["prompt_tokens"] < longer
    wrong: list[dict[str, Any]] = [
        {"sampling": {"temperature": 3}}, {"title": 5}, {"sampling": []}, {"title": "x" * 201},
    ]  # fmt: skip
    for bad in wrong:
        check_error(browser.post(at, **bad), 400)


def test_conversations_are_listed_found_and_taken_away(browser: Browser) -> None:
    browser.delete()
    names = [browser.begin(title=f"第 {number} 个") for number in range(3)]
    at = browser.begin()
    browser.say(at, "我叫<b>50%_小明</b>")
    listed = browser.get().json()["conversations"]
    assert [f"/{one['id']}" for one in listed] == [at, *reversed(names)]
    assert listed[0]["messages"] == 2
    assert listed[0]["preview"]
    page = browser.get(limit=3).json()
    assert [f"/{one['id']}" for one in browser.get(before=page["next"]).json()["conversations"]] == names[:1]
    assert page["next"] is not None
    for words, found in (("50%_小", [at]), ("第 1", [names[1]]), ("%", [at]), ("没有", []), ("5_", [])):
        assert [f"/{one['id']}" for one in browser.get(q=words).json()["conversations"]] == found, words
    text = browser.get(f"{at}/export")
    assert text.headers["content-disposition"].startswith("attachment")
    assert "我叫<b>50%_小明</b>" in text.text
    assert text.headers["content-type"].startswith("text/markdown")
    whole = json.loads(browser.get(f"{at}/export", format="json").text)
    assert whole["messages"] == browser.messages(at)
    assert browser.delete(names[0]).json() == {"deleted": 1}
    check_error(browser.get(names[0]), 404)
    check_error(browser.delete(names[0]), 404)
    assert browser.delete().json() == {"deleted": 3}
    assert browser.get().json() == {"conversations": [], "next": None}


def test_each_key_has_its_own_and_the_owner_the_same_everywhere(keyed: RunningServer) -> None:
    friend = Browser(keyed, {"Authorization": f"Bearer {OPENAI_KEY}"})
    other = Browser(keyed, {"Authorization": f"Bearer {TWO_KEY}"})
    owner, at_home = Browser(keyed, {"Authorization": f"Bearer {KEY}"}), Browser(keyed)
    at = friend.begin()
    friend.say(at, "这是什么颜色？", images=(RED,))
    url = friend.messages(at)[0]["images"][0]["url"]
    assert keyed.http.get(url, headers=friend.headers).status_code == 200
    check_error(keyed.http.get(url, headers=other.headers), 404)
    for stranger in (other, owner, at_home):
        for refused in (
            stranger.get(at), stranger.post(at, title="x"), stranger.delete(at), stranger.post(f"{at}/reply", text="x"),
            stranger.get(f"{at}/events"), stranger.post(f"{at}/stop"), stranger.get(f"{at}/export"),
        ):  # fmt: skip
            check_error(refused, 404)
        assert at[1:] not in stranger.get().text
    mine = owner.begin(title="主人的")
    assert at_home.get(mine).json()["title"] == "主人的"
    check_error(Browser(keyed, {}).get(), 401)
