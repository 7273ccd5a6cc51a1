"""Threads fit what the machine gives, not what it is made of."""

from __future__ import annotations

import pytest

from qqvl_server.weights.threads import sensible


@pytest.mark.parametrize(
    ("processors", "cores", "quota", "expected"),
    [
        (2, 2, "", 2),
        (2, 1, "max 100000\n", 2),
        (64, 32, "", 32),
        (16, 32, "", 16),
        (64, 32, "400000 100000\n", 4),
        (64, None, "150000 100000", 1),
        (8, 4, "50000 100000", 1),
        (8, 4, "nonsense", 4),
    ],
)
def test_threads_are_what_the_process_really_gets(
    processors: int, cores: int | None, quota: str, expected: int
) -> None:
    assert sensible(processors, cores, quota) == expected
