"""Cards in the live state: what their driver says, and nothing where it says nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qqvl_server.observe.cards import Cards

GB = 2**30


class NVMLError(Exception):
    pass


@dataclass
class Memory:
    total: int
    used: int


@dataclass
class Busy:
    gpu: int


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None  # noqa: N815


class Driver:
    """Two cards: one that tells everything, one that shares the machine's memory and has no figures of its own."""

    NVMLError = NVMLError

    def __init__(self, *processes: Process, hides: bool = False) -> None:
        self._processes = processes
        self._hides = hides

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        if handle == 1:
            raise NVMLError
        return Memory(8 * GB, 6 * GB)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> tuple[Process, ...]:  # noqa: N802
        if self._hides:
            raise NVMLError
        return self._processes

    def nvmlDeviceGetUtilizationRates(self, _handle: int) -> Busy:  # noqa: N802
        if self._hides:
            raise NVMLError
        return Busy(75)


def test_what_we_have_is_told_apart_from_what_others_have() -> None:
    driver = Driver(Process(os.getpid(), 4 * GB), Process(1, 2 * GB))
    (card,) = Cards(lambda: driver).read()
    assert card == {"gpu": 0, "name": "card 0", "total_mb": 8192, "used_mb": 6144, "own_mb": 4096, "busy": 0.75}


def test_what_a_driver_hides_is_left_open() -> None:
    (hidden,) = Cards(lambda: Driver(hides=True)).read()
    assert (hidden["used_mb"], hidden["own_mb"], hidden["busy"]) == (6144, None, None)
    for unknown in (Driver(Process(os.getpid(), None)), Driver(Process(1, GB))):
        assert Cards(lambda driver=unknown: driver).read()[0]["own_mb"] is None  # type: ignore[misc]


def test_without_a_driver_there_are_no_cards() -> None:
    def nothing() -> Driver:
        raise ModuleNotFoundError

    assert Cards(nothing).read() == []
