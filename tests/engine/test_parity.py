"""The paged engine against ``model.generate``, token for token: float32, greedy, the demo checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from tests.engine.twins import Twins


def test_one_at_a_time(twins: Twins) -> None:
    engine = twins.engine(tokens=2048)
    for n, inputs in enumerate(twins.inputs):
        request, patches = twins.request(str(n), inputs)
        engine.add(request, patches)
        assert twins.run(engine, [request]) == [twins.expected[n]]


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
def test_many_at_once_in_chunks_with_preemption_and_again_from_the_cache(twins: Twins, shape: dict[str, Any]) -> None:
    engine = twins.engine(**shape)
    first = twins.add_all(engine, "a")
    assert twins.run(engine, first) == twins.expected
    again = twins.add_all(engine, "b")
    assert twins.run(engine, again) == twins.expected


def test_requests_that_join_late_change_nothing(twins: Twins) -> None:
    engine = twins.engine()
    early = [twins.request(f"e{n}", twins.inputs[n]) for n in (0, 2)]
    for request, patches in early:
        engine.add(request, patches)
    for _ in range(4):
        engine.step()
    late = twins.add_all(engine, "l")
    assert twins.run(engine, late) == twins.expected
    assert [request.output for request, _ in early] == [twins.expected[0], twins.expected[2]]


def test_a_prefix_may_end_inside_a_picture(twins: Twins) -> None:
    """With blocks of 4 tokens the cached prefix of a shared picture ends in its middle."""
    first, patches = twins.request("first", twins.inputs[1])
    (picture,) = first.images
    engine = twins.engine(size=4, tokens=picture.start + 10)
    engine.add(first, patches)
    engine.step()
    engine.abort(first)
    again, patches = twins.request("again", twins.inputs[1])
    engine.add(again, patches)
    assert twins.run(engine, [again]) == [twins.expected[1]]
    assert again.cached is not None
    assert picture.start < again.cached < picture.end


def test_a_picture_seen_before_is_not_looked_at_again(twins: Twins) -> None:
    engine = twins.engine(tokens=2048)
    for n in range(3):
        request, patches = twins.request(str(n), twins.inputs[1])
        request.salt = str(n).encode()
        engine.add(request, patches)
        twins.run(engine, [request])
        assert not patches, "pixels are let go once they were looked at"
    assert twins.runner.pictures.encoder_runs == 1
    assert (twins.runner.features.misses, twins.runner.features.hits) == (1, 2)


def test_pictures_of_several_requests_are_looked_at_together(twins: Twins) -> None:
    engine = twins.engine(tokens=2048)
    made = twins.add_all(engine, "a")
    engine.begin()
    assert twins.runner.pictures.encoder_runs == 0, "before others are told nothing long is done"
    engine.finish()
    assert twins.runner.pictures.encoder_runs == 1
    assert twins.run(engine, made) == twins.expected


def test_a_picture_inside_the_cached_prefix_is_not_looked_at_even_when_its_features_are_gone(twins: Twins) -> None:
    engine = twins.engine(size=4)
    for name in "ab":
        request, patches = twins.request(name, twins.inputs[1])
        request.chat, request.salt = "same", b"same"
        engine.add(request, patches)
        assert twins.run(engine, [request]) == [twins.expected[1]]
        twins.runner.features.clear()
    assert twins.runner.pictures.encoder_runs == 1


def test_preemption_after_the_features_are_gone_changes_nothing(twins: Twins) -> None:
    engine = twins.engine(tokens=2048)
    made = twins.add_all(engine, "a")
    engine.step()
    twins.runner.features.clear()
    for request in made:
        # What a step that ran out of memory does.
        assert engine.scheduler.shrink(ScheduledBatch((ScheduledChunk(request, 0, 1),)))
    assert twins.run(engine, made) == twins.expected
    assert twins.runner.pictures.encoder_runs == 1


def test_memory_given_back_is_had_again(twins: Twins) -> None:
    engine = twins.engine(tokens=2048)
    for name in "ab":
        request, patches = twins.request(name, twins.inputs[1])
        request.salt = name.encode()
        engine.add(request, patches)
        assert twins.run(engine, [request]) == [twins.expected[1]]
        assert request.images[0].digest in twins.runner.features
        twins.runner.release_memory()
        assert request.images[0].digest not in twins.runner.features
    assert twins.runner.pictures.encoder_runs == 2


def test_a_seed_goes_on_after_preemption(twins: Twins) -> None:
    wishes = {"temperature": 1.5, "seed": 11}
    outputs = []
    for interrupted in (False, True):
        engine = twins.engine()
        request, patches = twins.request("one", twins.inputs[1], **wishes)
        engine.add(request, patches)
        while engine.has_work:
            engine.step()
            if interrupted and request.made in (2, 5):
                engine.scheduler.shrink(ScheduledBatch((ScheduledChunk(request, 0, 1),)))
        outputs.append(request.output)
    assert outputs[0] == outputs[1]


def test_a_seed_gives_the_same_answer_whatever_else_runs(twins: Twins) -> None:
    settings = {"temperature": 1.0, "top_p": 0.95, "seed": 7}
    alone = twins.engine()
    one, patches = twins.request("one", twins.inputs[2], **settings)
    alone.add(one, patches)
    twins.run(alone, [one])
    crowded = twins.engine()
    others = twins.add_all(crowded, "x")
    two, patches = twins.request("two", twins.inputs[2], **settings)
    crowded.add(two, patches)
    twins.run(crowded, others)
    assert two.output == one.output
