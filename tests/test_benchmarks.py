"""The benchmarks measure what they say: exact token counts, a real conversation, right arithmetic."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.running import ROOT, RunningServer

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Benchmarks are scripts: their folder comes first in the path, as when they are run."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_every_word_is_one_token(module: Any, demo: Path) -> None:
    words = module("checkpoints").vocabulary(demo)
    work = module("load").Workload(words, words_a_turn=200)
    reader = AutoTokenizer.from_pretrained(demo)
    assert len(words) > 100
    assert len(reader.encode(" " + work.text(1, 1))) == 200


def test_chats_and_turns_say_different_things_and_show_different_pictures(module: Any) -> None:
    work = module("load").Workload(["a", "b", "c"], edge=28)
    assert len({work.text(chat, turn) for chat in range(3) for turn in range(3)}) == 9
    assert len({work.picture(chat, 1) for chat in range(3)}) == 3


@pytest.mark.parametrize("door", ["openai", "qq"])
def test_a_conversation_runs_through_a_real_server(module: Any, server: RunningServer, demo: Path, door: str) -> None:
    words = module("checkpoints").vocabulary(demo)
    load = module("load")
    work = load.Workload(words, chats=2, turns=2, words_a_turn=5, system_words=3, edge=64, max_tokens=4)
    models = server.http.get("/v1/models").json()["data"]
    outcome = asyncio.run(load.group_chat(server.base, models[0]["id"], work, door=door))
    assert sorted((turn.chat, turn.turn) for turn in outcome.turns) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(turn.text and turn.out >= 1 and 0 < turn.first_s <= turn.total_s for turn in outcome.turns)
    # The history is sent again each time.
    prompts = {(turn.chat, turn.turn): turn.prompt for turn in outcome.turns}
    if door == "openai":
        assert prompts[0, 2] > prompts[0, 1] > 0


def test_the_baseline_answers_as_this_server_does(module: Any, server: RunningServer, demo: Path) -> None:
    load, plain = module("load"), module("plain_generate")
    work = load.Workload(module("checkpoints").vocabulary(demo), chats=1, turns=2, edge=64, max_tokens=4)
    baseline = plain.Server(plain.Plain(demo, "float32"), 0)
    serving = threading.Thread(target=baseline.serve_forever)
    serving.start()
    try:
        base = f"http://127.0.0.1:{baseline.server_port}"
        turns = asyncio.run(load.group_chat(base, "m", work)).turns
    finally:
        baseline.shutdown()
        serving.join()
        baseline.server_close()
    model = server.http.get("/v1/models").json()["data"][0]["id"]
    expected = asyncio.run(load.group_chat(server.base, model, work)).turns
    assert [(turn.text, turn.prompt) for turn in turns] == [(turn.text, turn.prompt) for turn in expected]
    assert all(0 < turn.first_s <= turn.total_s and turn.cached == 0 for turn in turns)


def test_the_engine_alone_is_the_one_that_is_served(module: Any, demo: Path) -> None:
    """The same builder and the same kernels; its cache is as large as was said."""
    engine = module("inprocess").Engine(demo, device="cpu", dtype="float32", tokens=2048, step_tokens=64)
    assert engine.core.scheduler.capacity_tokens == 2048
    assert engine.prefill(100) > 0
    assert len(engine.decode_steps(batch=2, context=20, steps=3)) == 3
    engine.core.check_integrity()


def test_percentiles_and_shares(module: Any) -> None:
    figures, fairness = module("figures"), module("fairness")
    assert figures.percentile([3, 1, 2], 50) == 2
    assert figures.percentile([0, 10], 95) == 9.5
    assert fairness.jain([5, 5, 5]) == 1
    assert fairness.jain([1, 0, 0, 0]) == 0.25


def test_every_script_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "chat_load.py"), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--chats" in done.stdout
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for path in FOLDER.glob("*.py"):
        if "ArgumentParser" in path.read_text(encoding="utf-8") and path.stem != "checkpoints":
            assert f"benchmarks/{path.name}" in page


def test_a_part_of_the_cards_report_that_fails_is_told_and_the_others_run(module: Any, tmp_path: Path) -> None:
    report = module("card").Report(tmp_path / "r.json", 60)
    with report.part("first") as rows:
        rows["found"] = int("no kernel image\nis available")
    with report.part("second") as rows:
        rows["found"] = 1
    kept = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert kept["first"]["failed"].startswith("ValueError: invalid literal")
    assert "\n" not in kept["first"]["failed"]
    assert kept["second"]["found"] == 1


@pytest.mark.long
def test_the_cards_script_runs_through_without_a_card(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--size", "tiny", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "server"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {name: part["failed"] for name, part in report.items() if "failed" in part} == {}
    assert {value for name, value in report["right"].items() if name != "seconds"} == {"the same"}
    assert report["truth"]["rows that end with an error"] == "as they should"
    poisoned = {name: found for name, found in report["numbers that are none"].items() if name != "seconds"}
    assert poisoned == {
        "the poisoned one": "ended with an error", "those beside it": "the same", "one after it": "the same",
    }  # fmt: skip
    assert report["speed, torch.compile"]["tokens/s, 4 at once"] > 0


def test_the_charts_are_those_of_the_figures(module: Any) -> None:
    charts = module("charts").drawn((FOLDER / "results.jsonl").read_text("utf-8").splitlines())
    assert len(charts) == 4
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    for name, text in charts.items():
        assert (ROOT / "docs" / "images" / name).read_text("utf-8") == text, "python benchmarks/charts.py draws them"
        assert f"images/{name}" in page


def test_a_simulated_turn_takes_what_its_steps_take(module: Any) -> None:
    sim = module("cluster_sim")
    card, people = sim.Card(step_tokens=100), sim.People(window=1000)
    cluster = sim.Cluster(1, 1, "affinity", card, people)
    cluster.chats[0].history = 210 - people.system_tokens
    cluster.play([sim.Line(0.0, 0, 0, True)], 0)
    # The system prompt is there; 120 tokens are read in two steps, after which the first word is written.
    steps = card.step_s(190, 100, 100 * 140) + card.step_s(210, 20, 20 * 200)
    assert cluster.waits == [pytest.approx(steps)]
    assert (cluster.prompt_tokens, cluster.hit_tokens) == (210, people.system_tokens)
    # What was read and written is known at the next turn.
    cluster.play([sim.Line(1000.0, 0, 7, True)], 0)
    assert cluster.prompt_tokens - cluster.hit_tokens == 120 + 7


def test_the_simulated_groups_talk_as_those_of_the_evening(module: Any) -> None:
    sim = module("cluster_sim")
    people = sim.People()
    said = sim.lines(8, 600, people)
    assert said == sim.lines(8, 600, people) == sorted(said)
    assert {line.group for line in said} == set(range(8))
    assert 0.1 < sum(line.is_called for line in said) / len(said) < 0.7
    assert {line.tokens for line in said} == {people.line_tokens, people.line_tokens + people.picture_tokens}


def test_simulated_chats_that_keep_their_card_read_less_anew(module: Any) -> None:
    sim = module("cluster_sim")
    card, people = sim.Card(), sim.People()
    at_home, anywhere = (sim.simulate(16, 4, how, card, people, 120, 300) for how in ("affinity", "random"))
    assert at_home["cached"] > anywhere["cached"] + 0.2
    assert at_home["p95_s"] < anywhere["p95_s"]
