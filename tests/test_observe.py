"""What is seen of the server from outside: figures of cards, and the log's file."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from qqvl_server.observe import logs
from qqvl_server.observe.card_figures import CardFigures
from qqvl_server.observe.cards import Cards
from qqvl_server.observe.links import Links
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ObserveSettings


@dataclass
class Memory:
    used: int = 3 * 2**30
    total: int = 8 * 2**30


@dataclass
class Rates:
    gpu: int = 42


class Driver:
    """NVML as its documentation has it, of a machine with these cards; parts of a card tell no utilisation."""

    class NVMLError(Exception):
        pass

    cards: ClassVar[list[str]] = ["NVIDIA H200", "MIG 1g.18gb"]

    def __init__(self, *, is_there: bool = True) -> None:
        self._is_there = is_there

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._is_there:
            raise self.NVMLError("library not found")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:  # noqa: N802
        return self.cards[number]

    def nvmlDeviceGetName(self, card: str) -> str:  # noqa: N802
        return card

    def nvmlDeviceGetMemoryInfo(self, card: str) -> Memory:  # noqa: N802
        return Memory()

    def nvmlDeviceGetComputeRunningProcesses(self, _card: str) -> tuple[()]:  # noqa: N802
        return ()

    def nvmlDeviceGetUtilizationRates(self, card: str) -> Rates:  # noqa: N802
        if "MIG" in card:
            raise self.NVMLError("not supported")
        return Rates()


def test_cards_tell_their_memory_and_how_busy_they_are_as_far_as_they_know() -> None:
    told = {
        (sample.name, sample.labels["gpu"]): sample.value for family in CardFigures(Cards(Driver)).collect()
        for sample in family.samples
    }  # fmt: skip
    assert told == {
        ("qqvl_gpu_memory_used_bytes", "0"): 3 * 2**30,
        ("qqvl_gpu_memory_total_bytes", "0"): 8 * 2**30,
        ("qqvl_gpu_utilisation_ratio", "0"): 0.42,
        ("qqvl_gpu_memory_used_bytes", "1"): 3 * 2**30,
        ("qqvl_gpu_memory_total_bytes", "1"): 8 * 2**30,
    }


def test_without_a_driver_there_is_nothing_of_cards() -> None:
    assert list(CardFigures(Cards(lambda: Driver(is_there=False))).collect()) == []


def test_the_link_is_told_as_ready_tells_it() -> None:
    metrics, links = Metrics(), Links()
    metrics.show_link(links)

    def link() -> float | None:
        return metrics.registry.get_sample_value("qqvl_link_up")

    assert math.isnan(link() or math.nan)
    links.told("1", is_up=True, reason="")
    assert link() == 1
    links.told("1", is_up=False, reason="掉线")
    assert link() == 0


def read(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / logs.FILE).read_text("utf-8").splitlines()]


@pytest.mark.usefixtures("quiet_root")
def test_the_logs_file_is_json_without_texts_unless_they_are_wanted(tmp_path: Path) -> None:
    for switch in ("off", "on"):
        observe = ObserveSettings(log_text=switch)
        with logs.kept_in(tmp_path / switch, observe):
            logs.logger().info("请求", chat="group:1", text="悄悄话", reply="好")
            logging.getLogger("a.library").warning("of %s", "its own")
        logs.logger().info("之后")
    quiet, talkative = read(tmp_path / "off"), read(tmp_path / "on")
    assert [line["event"] for line in quiet] == ["请求", "of its own"]
    assert quiet[0]["chat"] == "group:1"
    assert isinstance(quiet[0]["at"], float)
    assert "text" not in quiet[0]
    assert (talkative[0]["text"], talkative[0]["reply"]) == ("悄悄话", "好")


@pytest.mark.usefixtures("quiet_root")
def test_the_logs_file_is_changed_for_a_new_one_and_so_many_are_kept(tmp_path: Path) -> None:
    with logs.kept_in(tmp_path, ObserveSettings(log_file_mb=0.001, log_files=2)):
        for number in range(40):
            logs.logger().info("一行", number=number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.log", "server.log.1", "server.log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert read(tmp_path)[-1]["number"] == 39


@pytest.mark.usefixtures("quiet_root")
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file where the folder belongs")
    with logs.kept_in(tmp_path / "logs", ObserveSettings()):
        logs.logger().info("照常")
    said = capsys.readouterr().err
    assert "日志文件写不了" in said
    assert "照常" in said


@pytest.mark.usefixtures("quiet_root")
def test_no_file_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    with logs.kept_in(tmp_path, ObserveSettings(log_file_mb=0)):
        logs.logger().info("照常")
    assert list(tmp_path.iterdir()) == []
