"""A person labels lines of his own groups and calibrates a gate, on the command line and the demo checkpoint."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.chat.decision import Decision, Reason
from qqvl_server.chat.gate import scenes, weights
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Quote, Speaker, Text
from qqvl_server.chat.store import Draft, Outcome
from qqvl_server.chat.turn import BOT
from qqvl_server.weights.fingerprint import fingerprint
from tests.chat.storing import store_in
from tests.running import DEMO, RunningServer, group_body, run_cli

GROUP = ChatKey(ChatKind.GROUP, "77")


async def _fill(folder: Path) -> None:
    async with store_in(folder) as store:
        for number, text in enumerate(("早", "谁会修打印机", "叫你呢", "几点开会")):
            parts = (Quote("小李", "早"), Text(text)) if number == 1 else (Text(text),)
            line = await store.add_message(Draft(GROUP, "群", Speaker(str(number), f"名{number}"), parts, None))
            assert line is not None
            called = text == "叫你呢"
            decision = Decision(called, Reason.ADDRESSED if called else Reason.SILENT)
            answer = Answer("在" if called else "", called)
            await store.add_answers(GROUP, [Outcome(None, answer, line.seq, decision, covered=called)], BOT)


def _spread(folder: Path) -> None:
    """A minute between the lines: each ends a burst."""
    import sqlite3

    with sqlite3.connect(folder / "qqvl.sqlite3") as database:
        database.execute("UPDATE messages SET created_at = ? + 60 * seq", (time.time() - 86400,))
    database.close()


def label(data: Path, file: Path, keys: str, *more: str) -> str:
    done = run_cli("label-lines", str(file), "--data-dir", str(data), *more, typed=keys)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lines_of_ones_own_groups_are_asked_about_once(tmp_path: Path) -> None:
    asyncio.run(_fill(tmp_path))
    _spread(tmp_path)
    file = tmp_path / "lines.jsonl"
    shown = label(tmp_path, file, "?\ny\n")
    assert "1/3，群 77" in shown
    assert "标了 1 行该插话、0 行不该" in shown
    shown = label(tmp_path, file, "n\nq\n")
    assert "1/2，群 77" in shown
    assert "没有别的" not in shown
    shown = label(tmp_path, file, "s\n")
    assert "标了 1 行该插话、1 行不该；没有别的可标了" in shown
    assert "，群 7" not in label(tmp_path, file, "y\n")
    assert "，群 7" not in label(tmp_path, tmp_path / "other.jsonl", "y\n", "--group", "78")
    kept = {scene.lines[-1].text: scene for scene in scenes.read([file])}
    assert set(kept) == {"早", "谁会修打印机", "几点开会"}, "who calls the bot is answered anyway"
    assert [(line.text, line.ours) for line in kept["几点开会"].lines][-2:] == [("在", True), ("几点开会", False)]
    assert kept["谁会修打印机"].lines[-1].quote == scenes.QuotedLine(text="早", speaker="小李")
    assert kept["谁会修打印机"].lines[-1].at == 60


def test_there_is_nothing_to_label_yet(tmp_path: Path) -> None:
    done = run_cli("label-lines", str(tmp_path / "lines.jsonl"), "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "还没有聊天记录" in done.stderr


def labelled(speaking: int, silent: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(speaking + silent):
        speak = number < speaking
        text = f"第{number}个问题谁知道？" if speak else f"我吃了{number}碗饭"
        who = str(number % 3)
        rows.append(
            {"scene": f"s{number}", "speaker": f"名{who}", "user_id": who, "text": text, "at": 0, "speak": speak}
        )
    return rows


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


REFUSED: list[tuple[int, int, str]] = [
    (20, 60, "标好的只有 80 行，最少要 100 行"),
    (0, 120, "该插话的只标了 0 行"),
    (115, 5, "不该插话的只标了 5 行"),
]


@pytest.mark.parametrize(("speaking", "silent", "told"), REFUSED)
def test_too_few_lines_are_refused(tmp_path: Path, speaking: int, silent: int, told: str) -> None:
    file = write(tmp_path / "lines.jsonl", labelled(speaking, silent))
    done = run_cli("calibrate-gate", file, "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert told in done.stderr
    assert not (tmp_path / "gates").exists()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_calibrated_gate_is_used_by_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = write(tmp_path / "lines.jsonl", labelled(30, 80))
    done = run_cli("calibrate-gate", file, "--rate", "0.2", "--data-dir", str(data))
    assert done.returncode == 0, done.stderr
    assert "110 行、30 行该插话" in done.stdout
    assert "100%" in done.stderr
    path = weights.path_of(data, fingerprint(DEMO))
    gate = weights.load(data, DEMO, fingerprint(DEMO))
    assert gate is not None
    assert (gate.lines, gate.rate, gate.model) == (110, 0.2, "qqvl-demo")
    assert gate.auc > 0.9
    # To be seen to speak at all.
    weights.save(gate.model_copy(update={"threshold": -1e9}), path)
    with RunningServer(data, "--group-reply", "smart", "--max-new-tokens", "8") as server:
        ours: dict[str, Any] = {"self_id": "7", "at_me": False}
        said = server.post("group", group_body("谁知道几点开会？", group="5", message_id="1", **ours)).json()
        assert (said["should_reply"], said["reason"]) == (True, "smart")
        said = server.post("group", group_body("谢谢", group="5", message_id="2", **ours)).json()
        assert (said["should_reply"], said["reason"]) == (False, "cooldown")
        assert "qqvl_chat_gate_score_count 1.0" in server.http.get("/metrics").text
