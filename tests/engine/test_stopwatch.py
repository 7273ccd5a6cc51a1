"""How long a step has run: what nobody was there to see does not count."""

from __future__ import annotations

from qqvl_server.engine.steps.stopwatch import MOST_PER_LOOK_S, Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def looked_at(watch: Stopwatch, clock: Clock, seconds: int) -> float:
    """What it says after so many looks, a second apart."""
    seen = 0.0
    for _ in range(seconds):
        clock.now += 1
        seen = watch.seconds()
    return seen


def test_a_step_that_never_ends_grows_older_with_each_look() -> None:
    watch = Stopwatch(clock := Clock())
    assert watch.seconds() == 0
    watch.start()
    assert looked_at(watch, clock, 600) == 600


def test_a_pause_of_everything_is_no_step_that_hangs() -> None:
    watch = Stopwatch(clock := Clock())
    watch.start()
    before = looked_at(watch, clock, 3)
    clock.now += 86400
    assert watch.seconds() <= before + MOST_PER_LOOK_S
    assert looked_at(watch, clock, 3) <= before + MOST_PER_LOOK_S + 3


def test_each_step_begins_anew_and_an_idle_engine_has_none() -> None:
    watch = Stopwatch(clock := Clock())
    watch.start()
    assert looked_at(watch, clock, 5) == 5
    watch.start()
    assert looked_at(watch, clock, 2) == 2
    watch.stop()
    assert looked_at(watch, clock, 2) == 0
