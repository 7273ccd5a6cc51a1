"""Web pages may use the server only where the operator names them."""

from __future__ import annotations

from pathlib import Path

from tests.running import RunningServer

PAGE = "https://chat.example"
ASK = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


def test_only_named_pages_may_ask_and_read(tmp_path: Path) -> None:
    flags = ("--allowed-origins", PAGE)
    with RunningServer(tmp_path / "data", *flags, env={"QQVL_API_KEYS": "sk-one"}) as server:

        def ask(origin: str, key: str = "sk-one") -> tuple[int, str | None]:
            headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
            answer = server.http.post("/v1/chat/completions", json=ASK, headers=headers)
            return answer.status_code, answer.headers.get("access-control-allow-origin")

        asked_first = server.http.options(
            "/v1/chat/completions",
            headers={
                "Origin": PAGE,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
            },
        )
        assert asked_first.status_code == 200
        assert asked_first.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in asked_first.headers["access-control-allow-headers"]
        assert ask(PAGE) == (200, PAGE)
        # A page must be able to read why it was refused.
        assert ask(PAGE, "sk-wrong") == (401, PAGE)
        assert ask("https://evil.example") == (403, None)
