"""The paged engine against ``model.generate``, token for token: float32, greedy, the demo checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from qqvl_server.engine.batch import ScheduledBatch, ScheduledChunk
from tests.engine.twins import Twins


@pytest.fixture(scope="module")
def bench(demo: Path) -> Twins:
    return Twins(demo)


def test_one_at_a_time(bench: Twins) -> None:
    engine = bench.engine(tokens=2048)
    for n, inputs in enumerate(bench.inputs):
        request, patches = bench.request(str(n), inputs)
        engine.add(request, patches)
        assert bench.run(engine, [request]) == [bench.expected[n]]


@pytest.mark.parametrize(
    "shape",
    [
        {"tokens": 2048},
        {"tokens": 64},
        {"tokens": 7},
        {"tokens": 64, "size": 4},
        {"tokens": 64, "size": 8, "blocks": 40},
        {"tokens": 64, "requests": 2},
    ],
    ids=lambda shape: ",".join(f"{k}={v}" for k, v in shape.items()),
)
def test_many_at_once_in_chunks_with_preemption_and_again_from_the_cache(bench: Twins, shape: dict[str, int]) -> None:
    engine = bench.engine(**shape)
    first = bench.add_all(engine, "a")
    assert bench.run(engine, first) == bench.expected
    again = bench.add_all(engine, "b")
    assert bench.run(engine, again) == bench.expected


def test_requests_that_join_late_change_nothing(bench: Twins) -> None:
    engine = bench.engine()
    early = [bench.request(f"e{n}", bench.inputs[n]) for n in (0, 2)]
    for request, patches in early:
        engine.add(request, patches)
    for _ in range(4):
        engine.step()
    late = bench.add_all(engine, "l")
    assert bench.run(engine, late) == bench.expected
    assert [request.output for request, _ in early] == [bench.expected[0], bench.expected[2]]


def test_a_prefix_may_end_inside_a_picture(bench: Twins) -> None:
    """With blocks of 4 tokens the cached prefix of a shared picture ends in its middle."""
    first, patches = bench.request("first", bench.inputs[1])
    (picture,) = first.images
    engine = bench.engine(size=4, tokens=picture.start + 10)
    engine.add(first, patches)
    engine.step()
    engine.abort(first)
    again, patches = bench.request("again", bench.inputs[1])
    engine.add(again, patches)
    assert bench.run(engine, [again]) == [bench.expected[1]]
    assert again.cached is not None
    assert picture.start < again.cached < picture.end


def test_a_picture_seen_before_is_not_looked_at_again(bench: Twins) -> None:
    engine = bench.engine(tokens=2048)
    for n in range(3):
        request, patches = bench.request(str(n), bench.inputs[1])
        request.salt = str(n).encode()
        engine.add(request, patches)
        bench.run(engine, [request])
        assert not patches, "pixels are let go once they were looked at"
    assert bench.runner.pictures.encoder_runs == 1
    assert (bench.runner.features.misses, bench.runner.features.hits) == (1, 2)


def test_pictures_of_several_requests_are_looked_at_together(bench: Twins) -> None:
    engine = bench.engine(tokens=2048)
    made = bench.add_all(engine, "a")
    engine.step()
    assert bench.runner.pictures.encoder_runs == 1
    assert bench.run(engine, made) == bench.expected


def test_a_picture_inside_the_cached_prefix_is_not_looked_at_even_when_its_features_are_gone(bench: Twins) -> None:
    engine = bench.engine(size=4)
    for name in "ab":
        request, patches = bench.request(name, bench.inputs[1])
        request.chat, request.salt = "same", b"same"
        engine.add(request, patches)
        assert bench.run(engine, [request]) == [bench.expected[1]]
        bench.runner.features.clear()
    assert bench.runner.pictures.encoder_runs == 1


def test_preemption_after_the_features_are_gone_changes_nothing(bench: Twins) -> None:
    engine = bench.engine(tokens=2048)
    made = bench.add_all(engine, "a")
    engine.step()
    bench.runner.features.clear()
    for request in made:
        # What a step that ran out of memory does.
        assert engine.scheduler.shrink(ScheduledBatch((ScheduledChunk(request, 0, 1),)))
    assert bench.run(engine, made) == bench.expected
    assert bench.runner.pictures.encoder_runs == 1


def test_a_seed_goes_on_after_preemption(bench: Twins) -> None:
    wishes = {"temperature": 1.5, "seed": 11}
    outputs = []
    for interrupted in (False, True):
        engine = bench.engine()
        request, patches = bench.request("one", bench.inputs[1], **wishes)
        engine.add(request, patches)
        while engine.has_work:
            engine.step()
            if interrupted and request.made in (2, 5):
                engine.scheduler.shrink(ScheduledBatch((ScheduledChunk(request, 0, 1),)))
        outputs.append(request.output)
    assert outputs[0] == outputs[1]


def test_a_seed_gives_the_same_answer_whatever_else_runs(bench: Twins) -> None:
    settings = {"temperature": 1.0, "top_p": 0.95, "seed": 7}
    alone = bench.engine()
    one, patches = bench.request("one", bench.inputs[2], **settings)
    alone.add(one, patches)
    bench.run(alone, [one])
    crowded = bench.engine()
    others = bench.add_all(crowded, "x")
    two, patches = bench.request("two", bench.inputs[2], **settings)
    crowded.add(two, patches)
    bench.run(crowded, others)
    assert two.output == one.output
