"""The models of other servers: whether each of them answers, takes our key, and has the model that is asked for."""

from __future__ import annotations

from typing import Any, Final

import httpx

from qqvl_server.doctor.finding import Case, Finding, failed, ok

_PATIENCE_S: Final = 5


def is_elsewhere(case: Case) -> bool:
    return case.settings.engine.engine == "upstream"


def models(case: Case) -> Finding:
    ours = case.settings.upstream
    if not ours.upstream_url:
        return failed("engine: upstream 还没有写上游的网址", "upstream.upstream_url", "http://主机:端口/v1")
    headers = {"Authorization": f"Bearer {ours.upstream_key}"} if ours.upstream_key else {}
    told = []
    with httpx.Client(headers=headers, proxy=ours.upstream_proxy or None, timeout=_PATIENCE_S, trust_env=False) as http:
        for url in ours.upstream_url:
            found = _asked(http, url, case)
            if isinstance(found, Finding):
                return found
            told.append(f"{url}：{found}")
    return ok("；".join(told))


def _asked(http: httpx.Client, url: str, case: Case) -> Finding | str:
    """What is wrong with one, or its model's name."""
    where = case.where("upstream.upstream_url")
    try:
        answer = http.get(f"{url}/models")
    except (httpx.HTTPError, OSError) as error:
        return failed(f"连不上 {url}（{type(error).__name__}）", where, "写对的网址，或先启动那边的服务")
    if answer.status_code in (401, 403):
        key = case.where("upstream.upstream_key")
        return failed(f"{url} 不认这把密钥（{answer.status_code}）", key, "那边的密钥")
    if answer.status_code >= 300:
        return failed(f"{url} 回答 {answer.status_code}", where, "写到 /v1 为止的网址；还在加载就等一等")
    names = _names(answer)
    wanted = case.settings.upstream.upstream_model
    if wanted and names and wanted not in names:
        return failed(f"{url} 没有 {wanted} 这个模型", case.where("upstream.upstream_model"), "、".join(names[:5]))
    return wanted or (names[0] if names else "没有列出模型")


def _names(answer: httpx.Response) -> list[str]:
    try:
        data: Any = answer.json().get("data")
    except (ValueError, AttributeError):
        return []
    return [str(one["id"]) for one in data if isinstance(one, dict) and "id" in one] if isinstance(data, list) else []
