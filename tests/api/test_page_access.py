"""Who may use the page: links that work once, cookies, keys; nothing for strangers, other pages, and other machines."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import httpx
import pytest

from tests.api.conftest import ADMIN_KEY, OPENAI_KEY, QQ_KEY
from tests.api.wire import check_error
from tests.running import RunningServer, run_cli

SESSION = "/api/page/session"
WRITING = "/admin/chats/group/page-access/settings"


@pytest.fixture
def browser(server: RunningServer) -> Iterator[httpx.Client]:
    """One that keeps cookies, and sends what browsers send with what a page of ours asks."""
    sent = {"Origin": server.base, "Sec-Fetch-Site": "same-origin"}
    with httpx.Client(base_url=server.base, timeout=60, trust_env=False, headers=sent) as opened:
        yield opened


def fresh_link(server: RunningServer) -> str:
    told = run_cli("page", "--data-dir", str(server.data_dir))
    assert told.returncode == 0, told.stderr
    (line,) = told.stdout.splitlines()
    assert line.startswith(f"{server.base}/?token=")
    return line.removeprefix(server.base)


def test_the_printed_link_lets_in_once_and_leaves_the_address(server: RunningServer, browser: httpx.Client) -> None:
    assert len([line for line in server.log().splitlines() if line.startswith("网页：")]) == 1
    for link in (server.link(), fresh_link(server)):
        browser.cookies.clear()
        let_in = browser.get(link)
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
        cookie = let_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        told = browser.get(SESSION).json()
        assert told["signed_in"]
        assert told["owner"]
        assert told["who"] == "local"
        assert told["model"] == "qqvl-demo"
        browser.cookies.clear()
        again = browser.get(link)
        assert again.headers["location"] == "/?denied=1"
        assert "set-cookie" not in again.headers
        assert not browser.get(SESSION).json()["signed_in"]
    assert link.partition("=")[2] not in server.log()


def test_a_link_opens_the_page_that_it_names(server: RunningServer, browser: httpx.Client) -> None:
    assert browser.get(fresh_link(server).replace("/?", "/bot?")).headers["location"] == "/bot"
    assert browser.post(WRITING, json={}).status_code == 200
    assert browser.delete(SESSION).json() == {"signed_in": False}
    check_error(browser.post(WRITING, json={}), 401)


def test_strangers_are_told_how_to_come_in_and_nothing_else(server: RunningServer, browser: httpx.Client) -> None:
    told = browser.get(SESSION).json()
    assert set(told) == {"signed_in", "loopback", "keys_set", "command", "version"}
    assert told["command"].endswith(" page")
    for answer in (browser.post(WRITING, json={}), server.http.post(WRITING, json={})):
        error = check_error(answer, 401)
        assert "qqvl page" in str(error["message"])
    assert browser.get(SESSION, headers={"Via": "1.1 x"}).json()["command"] is None
    # Reading is this machine's, as it was.
    assert server.http.get("/admin/chats").status_code == 200


def test_tokens_are_neither_guessed_nor_taken_from_afar(server: RunningServer, browser: httpx.Client) -> None:
    link = fresh_link(server)
    token = link.partition("=")[2]
    parts = token.split(".")
    wrong = ("", ".", "x", "....", token[:-1], f"{token}x", ".".join((*parts[:1], "9999999999", *parts[2:])), "令.牌")
    for bad in wrong:
        assert browser.get("/", params={"token": bad}).headers["location"] == "/?denied=1", bad
        check_error(browser.post(SESSION, json={"token": bad}), 401)
    far = {"X-Forwarded-For": "203.0.113.9"}
    assert browser.get(link, headers=far).headers["location"] == "/?denied=1"
    check_error(browser.post(SESSION, json={"token": token}, headers=far), 401)
    for body in ({}, {"token": token, "key": "x"}, {"token": 1}):
        check_error(browser.post(SESSION, json=body), 400)
    assert browser.post(SESSION, json={"token": token}).json()["signed_in"]
    # The cookie stays on this machine as well.
    assert not browser.get(SESSION, headers=far).json()["signed_in"]
    check_error(browser.post(WRITING, json={}, headers=far), 403)


def test_a_forged_or_foreign_cookie_is_none(server: RunningServer, browser: httpx.Client) -> None:
    browser.get(fresh_link(server))
    ((name, good),) = browser.cookies.items()
    browser.cookies.clear()
    for bad in ("", "x", good[:-1], good.replace("local", "admin"), f"local.9999999999.{good[-43:]}", "..", "\xff"):
        sent = {b"Cookie": f"{name}={bad}".encode("latin-1")}
        assert not browser.get(SESSION, headers=sent).json()["signed_in"], bad
    assert browser.get(SESSION, headers={"Cookie": f"x=1; {name}={good}"}).json()["signed_in"]


def test_other_pages_cannot_use_the_cookie(server: RunningServer) -> None:
    """Another port of this host is the same site to a browser: its cookie comes along."""
    with httpx.Client(base_url=server.base, timeout=60, trust_env=False) as browser:
        browser.get(fresh_link(server))
        for headers in (
            {},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            check_error(browser.post(WRITING, json={}, headers=headers), 403)
            check_error(browser.delete("/admin/chats", headers=headers), 403)
        assert not browser.get(SESSION, headers={"Sec-Fetch-Site": "same-site"}).json()["signed_in"]
        assert browser.post(WRITING, json={}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
        assert browser.post(WRITING, json={}, headers={"Origin": server.base}).status_code == 200


def test_a_key_opens_what_it_is_for(keyed: RunningServer) -> None:
    own = {"Origin": keyed.base}
    for key, scopes in ((ADMIN_KEY, ["admin"]), (OPENAI_KEY, ["openai"])):
        with httpx.Client(base_url=keyed.base, timeout=60, trust_env=False, headers=own) as browser:
            for headers in ({}, {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}):
                told = browser.post(SESSION, json={"key": key}, headers=headers)
                assert told.json()["scopes"] == scopes
                assert told.json()["owner"] == ("admin" in scopes)
                assert ("Secure" in told.headers["set-cookie"]) == bool(headers)
                assert key not in told.text + told.headers["set-cookie"]
            browser.cookies.clear()
            browser.post(SESSION, json={"key": key})
            assert browser.get("/admin/chats").status_code == (200 if "admin" in scopes else 403)
            assert browser.get("/v1/models").status_code == (200 if "openai" in scopes else 403)
    with httpx.Client(base_url=keyed.base, timeout=60, trust_env=False, headers=own) as browser:
        for wrong in (QQ_KEY, "x", "", "密钥", "\ud800"[:0]):
            check_error(browser.post(SESSION, json={"key": wrong}), 401, hidden=(QQ_KEY,))
        assert set(browser.get(SESSION).json()) == {"signed_in", "loopback", "keys_set", "command", "version"}
        check_error(browser.get("/admin/chats"), 401)


def test_the_owners_token_is_a_key_on_this_machine_only(server: RunningServer, keyed: RunningServer) -> None:
    for one in (server, keyed):
        assert one.http.get("/admin/chats", headers=one.owner).status_code == 200
        assert one.http.post(WRITING, json={}, headers=one.owner).status_code == 200
        check_error(one.http.get("/admin/chats", headers=one.owner | {"Via": "1.1 x"}), 401, 403)
        for name in ("page.key", "page.address"):
            assert stat.S_IMODE(os.stat(one.data_dir / name).st_mode) == 0o600
        assert one.owner["Authorization"][7:] not in one.log()


def test_there_is_no_link_without_a_server(server: RunningServer) -> None:
    nothing = run_cli("page", "--data-dir", str(server.data_dir / "nothing"))
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("错误：没有服务器在用数据目录")
    assert nothing.stdout == ""
