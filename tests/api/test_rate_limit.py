"""Callers who ask too often wait; others do not wait with them."""

from __future__ import annotations

from pathlib import Path

from tests.running import RunningServer, private_body

ASK = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


def test_each_key_has_its_own_allowance(tmp_path: Path) -> None:
    keys = {"QQVL_API_KEYS": "sk-one,sk-two"}
    with RunningServer(tmp_path / "data", "--rate-limit", "3/hour", env=keys) as server:

        def ask(key: str) -> int:
            return server.http.post("/v1/chat/completions", json=ASK, headers={"x-api-key": key}).status_code

        assert [ask("sk-one") for _ in range(4)] == [200, 200, 200, 429]
        assert ask("sk-two") == 200
        refused = server.http.post("/v1/chat/completions", json=ASK, headers={"x-api-key": "sk-one"})
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 0 < int(refused.headers["Retry-After"]) <= 3600
        qq = server.http.post("/api/chat/private", json=private_body("你好"), headers={"x-api-key": "sk-one"})
        assert (qq.status_code, qq.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        # Looking after the server is never limited.
        assert server.http.get("/health").status_code == 200
        assert server.http.get("/v1/models", headers={"x-api-key": "sk-one"}).status_code == 200
