"""The dashboard and the page about it ask for what the running programs show, and leave nothing of it out."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from qqvl_client.figures import Figures
from qqvl_client.settings import Settings
from tests.running import ROOT, RunningServer

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "qqvl.json").read_text("utf-8"))
PAGE = (ROOT / "docs" / "observability.md").read_text("utf-8")
# Only there where NVIDIA's driver is: tests/test_observe.py has what tells them.
OF_CARDS = {"qqvl_gpu_memory_used_bytes", "qqvl_gpu_memory_total_bytes", "qqvl_gpu_utilisation_ratio"}
_TAILS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def series_of(text: str) -> set[str]:
    """Names that can be asked for, of a page of metrics."""
    families = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    return {name + tail for name, kind in families if not name.endswith("_created") for tail in _TAILS[kind]}


@pytest.fixture(scope="module")
def shown(server: RunningServer) -> set[str]:
    """By a server that has answered, and by a client's figures where they are listened for."""
    server.private("你好", user="770001")
    figures = Figures()
    figures.listen(Settings(metrics_address="127.0.0.1:0"))
    try:
        assert figures.address is not None
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(figures.address, timeout=10) as answer:
            theirs = answer.read().decode()
    finally:
        figures.close()
    return series_of(server.http.get("/metrics").text) | series_of(theirs) | OF_CARDS


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from expressions(panel.get("panels", []))


def asked_for() -> set[str]:
    queries = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return set(re.findall(r"\b(?:qqvl|process)_\w+", " ".join([*expressions(DASHBOARD["panels"]), *queries])))


def test_the_dashboard_asks_for_what_is_shown(shown: set[str]) -> None:
    assert len(asked_for()) > 40
    assert asked_for() <= shown


def test_what_is_shown_is_on_the_dashboard_and_on_the_page(shown: set[str]) -> None:
    def family(name: str) -> str:
        return re.sub("_(bucket|sum|count)$", "", name)

    own = {family(name) for name in shown if name.startswith("qqvl_")}
    assert own - {family(name) for name in asked_for()} == set()
    assert {name for name in own if f"`{name}`" not in PAGE} == set()
    assert set(re.findall(r"`(qqvl_\w+)`", PAGE)) - own == set()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Its panels have numbers of their own and lie beside each other, and each target says where it asks."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["expr"].count("{") == target["expr"].count("}")
