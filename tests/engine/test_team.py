"""The kernels' own threads: the same numbers whoever does the work, beside busy programs and for callers at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from qqvl_server.engine.cpu.kernels import Kernels, Norm
from tests.engine.test_native import kernels


@contextlib.contextmanager
def busy(programs: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def normed(own: Kernels, rows: torch.Tensor) -> torch.Tensor:
    return own.norm(rows, Norm(torch.ones(rows.shape[-1]), 1e-6))


@pytest.mark.parametrize("number", [2, 7])
def test_however_many_share_the_work_and_whoever_else_runs_the_numbers_are_the_same(number: int) -> None:
    own = kernels()
    drawn = torch.Generator().manual_seed(5)
    # More rows than threads, fewer, and few enough that they are not shared at all.
    given = [torch.randn(rows, 64, generator=drawn) for rows in (5000, 1025, 1030, 3)]
    with threads(1):
        alone = [normed(own, rows) for rows in given]
    with threads(number), busy(3):
        for _ in range(200):
            for rows, expected in zip(given, alone, strict=True):
                assert torch.equal(normed(own, rows), expected)


def test_two_callers_at_once_each_get_their_own_result() -> None:
    own = kernels()
    wrong: list[int] = []

    def call(seed: int) -> None:
        rows = torch.randn(2000, 64, generator=torch.Generator().manual_seed(seed))
        expected = torch.nn.functional.rms_norm(rows, (64,), eps=1e-6)
        for _ in range(300):
            wrong.extend([seed] * (not torch.allclose(normed(own, rows), expected, atol=1e-5)))

    with threads(2):
        callers = [threading.Thread(target=call, args=(seed,)) for seed in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert not wrong
