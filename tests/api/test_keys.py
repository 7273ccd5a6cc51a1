"""Keys: how they are written down, which doors each opens, and that none is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from qqvl_server import keys
from qqvl_server.config import resolve
from qqvl_server.errors import ConfigError
from qqvl_server.keys import Scope
from tests.api.conftest import ADMIN_KEY, KEY, OPENAI_KEY, OTHER_KEY, QQ_KEY, TWO_KEY
from tests.api.wire import check_error
from tests.running import RunningServer, run_cli

DOORS = {
    "qq": ("/api/chat/private", "/api/chat/group", "/api/chat/nothing", "/api/chat", "/api/client/status"),
    "openai": (
        "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/nothing", "/v1",
        "/tokenize", "/detokenize",
    ),
    "admin": ("/admin/chats", "/admin/chats/group/1/messages", "/admin", "/metrics", "/openapi.json"),
}  # fmt: skip
OPENED = {QQ_KEY: {"qq"}, OPENAI_KEY: {"openai"}, ADMIN_KEY: {"admin"}, TWO_KEY: {"qq", "openai"}, KEY: set(DOORS)}


@pytest.mark.parametrize("key", OPENED)
def test_a_key_opens_the_doors_it_is_for_and_no_other(keyed: RunningServer, key: str) -> None:
    for door, paths in DOORS.items():
        for path in paths:
            for method in ("GET", "POST"):
                answer = keyed.http.request(method, path, headers={"Authorization": f"Bearer {key}"}, json={})
                if door in OPENED[key]:
                    assert answer.status_code not in (401, 403), (path, answer.text)
                else:
                    assert check_error(answer, 403, hidden=(key,))["message"], path


def test_every_route_there_is_needs_a_scope(keyed: RunningServer) -> None:
    paths = keyed.http.get("/openapi.json", headers={"x-api-key": KEY}).json()["paths"]
    assert len(paths) > 4
    for path in paths:
        opened = []
        for key in (QQ_KEY, OPENAI_KEY, ADMIN_KEY):
            # One of them never ends.
            with keyed.http.stream("GET", path, headers={"x-api-key": key}) as answer:
                opened += [key] if answer.status_code != 403 else []
        assert len(opened) == (3 if path in ("/health", "/ready", "/api/page/session") else 1), path


def test_what_is_nobodys_path_is_told_to_any_key_and_to_no_stranger(keyed: RunningServer) -> None:
    for path in ("/nothing", "/v1x", "/adminx", "/metrics/", "//admin/chats", "/docsx", "/V1/models"):
        assert keyed.http.get(path).status_code == 401
        for key in (QQ_KEY, OPENAI_KEY):
            assert keyed.http.get(path, headers={"x-api-key": key}).status_code in (403, 404)
    for path in ("/v1/../admin/chats", "/api/chat/%2e%2e/%2e%2e/admin/chats", "/v1/models/..%2f..%2fmetrics"):
        answer = keyed.http.get(path, headers={"x-api-key": OPENAI_KEY})
        assert answer.status_code in (403, 404)


def test_one_right_key_is_enough_whichever_header_holds_it(keyed: RunningServer) -> None:
    for headers in (
        {"Authorization": f"Bearer {ADMIN_KEY}"},
        {"x-api-key": ADMIN_KEY},
        {"Authorization": "Bearer x", "x-api-key": ADMIN_KEY},
        {"Authorization": f"Bearer {ADMIN_KEY}", "x-api-key": "x"},
        {"Authorization": "Basic eDp5", "x-api-key": ADMIN_KEY},
    ):
        assert keyed.http.get("/admin/chats", headers=headers).status_code == 200
    for headers in ({"x-api-key": f"admin={ADMIN_KEY}"}, {"api-key": ADMIN_KEY}, {"Cookie": f"x-api-key={ADMIN_KEY}"}):
        check_error(keyed.http.get("/admin/chats", headers=headers), 401)


def test_no_key_is_ever_logged_and_an_open_file_of_keys_is_warned_of(keyed: RunningServer) -> None:
    for key in (*OPENED, OTHER_KEY):
        keyed.http.get("/admin/chats", headers={b"Authorization": f"Bearer {key}".encode()})
        assert key not in keyed.log()
    assert [line for line in keyed.log().splitlines() if '"warning"' in line and "chmod 600" in line]


def test_words_are_read_as_keys() -> None:
    found = keys.parse(("sk-a", "qq=sk-b", "openai+admin=sk-c", "abc==", "qq=sk-d==", "admin=sk-b", "sk:with:colons"))
    everything = frozenset(Scope)
    assert {key.secret: key.scopes for key in found} == {
        b"sk-a": everything,
        b"sk-b": {Scope.QQ, Scope.ADMIN},
        b"sk-c": {Scope.OPENAI, Scope.ADMIN},
        b"abc==": everything,
        b"sk-d==": {Scope.QQ},
        b"sk:with:colons": everything,
    }
    assert len({key.name for key in found}) == len(found)
    assert not [key for key in found if key.secret.decode() in key.name or len(key.name) != 12]


@pytest.mark.parametrize(
    "word", ["opnai=sk-secret", "=sk-secret", "qq+=sk-secret", "QQ=sk-secret", "a b", "sk-\x00secret"]
)
def test_a_key_that_cannot_be_meant_is_refused_without_showing_it(word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve({}, {"QQVL_API_KEYS": word}, None)
    assert "secret" not in refused.value.message
    assert "\n" not in refused.value.message


def test_keys_may_lie_in_a_file_beside_others(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nsk-1\n\n  qq=sk-2\n#sk-3\n", "utf-8")
    file.chmod(0o600)
    resolved = resolve({"api_keys_file": str(file)}, {"QQVL_API_KEYS": "sk-0", "QQVL_HOST": "0.0.0.0"}, None)
    assert resolved.settings.server.api_keys == ("sk-0", "sk-1", "qq=sk-2")
    assert resolved.sources["server.api_keys"] == str(file)
    assert not keys.others_can_read(file)


def test_a_file_of_keys_that_opens_nothing_stops_the_start(tmp_path: Path) -> None:
    empty, odd = tmp_path / "empty", tmp_path / "odd"
    empty.write_text("# sk-1\n\n", "utf-8")
    odd.write_bytes(b"\xff\xfe\x80")
    for path in (empty, odd, tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match="密钥文件"):
            resolve({}, {"QQVL_API_KEYS_FILE": str(path)}, None)


@pytest.mark.parametrize("word", ["", ",", " , "])
def test_an_empty_key_on_the_command_line_stops_the_start(word: str) -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        resolve({"api_keys": word, "host": "0.0.0.0"}, {}, None)


def test_a_list_may_be_typed_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-3", "utf-8")
    flags = ("--api-key", "sk-secret", "--api-keys", "qq=sk-2", "--api-keys-file", str(file), "--media-allow", "a:1")
    shown = run_cli("show-config", *flags, "--media-allow", "b,[::1]:80", "--bot-name", "小Q", "--bot-name", "Q酱")
    assert shown.returncode == 0, shown.stderr
    assert "media.media_allow = ('a:1', 'b', '[::1]:80')" in shown.stdout
    assert "chat.bot_names = ('小Q', 'Q酱')" in shown.stdout
    assert f"server.api_keys = ******    # {file}" in shown.stdout
    assert "sk-" not in shown.stdout


@pytest.mark.parametrize("word", ["http://a", "a/b", "a:0", "a:x", "a:999999", "user@a", "::1", "a b", "[x]:1"])
def test_hosts_that_may_be_fetched_from_are_checked_at_the_start(word: str) -> None:
    with pytest.raises(ConfigError, match="--media-allow"):
        resolve({"media_allow": word}, {}, None)


def test_off_is_a_word_in_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "qqvl.yaml").write_text("media:\n  fetch_remote: off\n", "utf-8")
    assert resolve({}, {}, tmp_path / "qqvl.yaml").settings.media.fetch_remote == "off"
