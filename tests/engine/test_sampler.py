"""What each wish does to the next token, against Transformers' own processors and plain arithmetic."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qqvl_server.engine.cache.device import watched
from qqvl_server.engine.forward.sampler import Sampler
from qqvl_server.engine.steps.batch import Chosen
from qqvl_server.engine.steps.core import OutOfMemory
from qqvl_server.engine.steps.request import Request, SamplingParams
from qqvl_server.errors import EngineDead, GenerationFailed, InvalidRequest

LOGITS = torch.tensor([1.0, 3.0, 2.5, -1.0, 0.5, 2.9, -4.0, 0.0])
SIZE = len(LOGITS)


class ListMask:
    """Allows ``allowed`` and remembers what was accepted."""

    def __init__(self, *allowed: int, broken: str = "") -> None:
        self._word = sum(1 << token for token in allowed)
        self._broken = broken
        self.accepted: list[int] = []

    def allowed(self) -> Sequence[int]:
        if self._broken == "allowed":
            raise RuntimeError("grammar")
        return [self._word]

    def accept(self, token: int) -> None:
        if self._broken == "accept":
            raise RuntimeError("grammar")
        self.accepted.append(token)


def request(*, prompt: Sequence[int] = (6,), output: Sequence[int] = (), mask: Any = None, **wishes: Any) -> Request:
    made = Request("r", "c", list(prompt), SamplingParams(**{"max_new_tokens": 9, **wishes}), mask=mask)
    made.tokens += output
    return made


def sample(*requests: Request, never: Sequence[int] = (), logits: torch.Tensor = LOGITS) -> list[Any]:
    rows = logits.repeat(len(requests), 1)
    return list(Sampler("cpu", never).sample(rows, range(len(requests)), requests))


def tokens(*requests: Request, **setting: Any) -> list[int]:
    return [chosen.token for chosen in sample(*requests, **setting)]


def greedy(**wishes: Any) -> int:
    return tokens(request(**wishes))[0]


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 3},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 1.2, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 0.8, "repetition_penalty": 1.5, "top_k": 6},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_that_transformers_would_draw_from(wishes: dict[str, Any]) -> None:
    seen = [1, 6]
    scores = LOGITS.unsqueeze(0).clone()
    warpers = [
        RepetitionPenaltyLogitsProcessor(wishes.get("repetition_penalty", 1.0)),
        TemperatureLogitsWarper(wishes["temperature"]),
        TopKLogitsWarper(wishes.get("top_k", SIZE)),
        TopPLogitsWarper(wishes.get("top_p", 1.0)),
        MinPLogitsWarper(wishes.get("min_p", 0.0)),
    ]
    for warper in warpers:
        scores = warper(torch.tensor([seen]), scores)
    expected = scores[0].softmax(-1)
    draws = 4000
    drawn = tokens(*(request(prompt=seen, seed=seed, **wishes) for seed in range(draws)))
    found = torch.bincount(torch.tensor(drawn), minlength=SIZE) / draws
    assert torch.all(found[expected == 0] == 0)
    assert torch.allclose(found, expected, atol=0.03), (found, expected)


def test_the_edges_of_each_wish_are_harmless() -> None:
    always: list[dict[str, Any]] = [
        {"temperature": 1e-42},
        {"temperature": 1e-5},
        {"top_p": 0.0},
        {"top_k": 1},
        {"min_p": 1.0},
    ]
    for wishes in always:
        assert set(tokens(*(request(**{"temperature": 1.0, "seed": n, **wishes}) for n in range(40)))) == {1}, wishes
    nothing: list[dict[str, Any]] = [{"top_k": -1}, {"top_k": 10**6}, {"min_p": 0.0, "top_p": 1.0}]
    for wishes in nothing:
        one, other = (tokens(request(temperature=2.0, seed=3, **more))[0] for more in (wishes, {}))
        assert one == other, wishes


def test_a_seed_draws_the_same_alone_and_among_others_with_other_wishes() -> None:
    wishes: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95}
    others = [
        request(temperature=0.7, top_k=2, seed=3), request(temperature=2.0, min_p=0.1), request(mask=ListMask(1, 2)),
        request(frequency_penalty=1.0, logprobs=3), request(),
    ]  # fmt: skip
    for seed in range(40):
        (alone,) = tokens(request(seed=seed, **wishes))
        assert tokens(*others, request(seed=seed, **wishes))[-1] == alone
    assert len({greedy(temperature=2.0) for _ in range(60)}) > 1, "no seed is a fresh one"
    places = {greedy(temperature=2.0, seed=1, output=[0] * made) for made in range(40)}
    assert len(places) > 1, "each place in the reply draws anew"


def test_penalties_follow_their_formulas() -> None:
    assert greedy() == 1
    assert greedy(frequency_penalty=0.06, output=[1]) == 1
    assert greedy(frequency_penalty=0.06, output=[1, 1]) == 5, "grows with the count"
    assert greedy(presence_penalty=0.09, output=[1, 1]) == 1, "does not grow"
    assert greedy(presence_penalty=0.11, output=[1]) == 5
    assert greedy(presence_penalty=2.0, frequency_penalty=2.0, prompt=[1, 1]) == 1, "the prompt does not count"
    assert greedy(repetition_penalty=1.1, prompt=[1, 1]) == 5, "here it does"
    assert greedy(frequency_penalty=-2.0, output=[7, 7]) == 7


def test_bias_and_least_length_move_the_greedy_choice() -> None:
    assert greedy(logit_bias=((3, 100.0), (1, -100.0))) == 3
    ends = {"end_token_ids": frozenset({1}), "stop_token_ids": frozenset({5})}
    assert greedy(min_new_tokens=2, output=[0], **ends) == 2
    assert greedy(min_new_tokens=2, output=[0, 0], **ends) == 1


def test_place_holders_never_come() -> None:
    assert tokens(request(), request(logit_bias=((1, 100.0),)), never=[1]) == [5, 5]


def test_logprobs_are_the_models_own_whatever_was_asked_of_the_choice() -> None:
    plain = LOGITS.log_softmax(-1)
    wild = request(temperature=3.0, logit_bias=((6, 100.0),), logprobs=2, seed=1)
    zero, none = request(logprobs=0), request()
    for chosen in (sample(wild)[0], sample(none, wild, zero, never=[0])[1]):
        assert chosen.token == 6
        assert math.isclose(chosen.logprob, plain[6], rel_tol=1e-5)
        assert [token for token, _ in chosen.top] == [1, 5]
        assert all(math.isclose(value, plain[token], rel_tol=1e-5) for token, value in chosen.top)
    first, second = sample(zero, none)
    assert (first.top, second.logprob) == ((), None)
    assert math.isclose(first.logprob, plain[1], rel_tol=1e-5)


def test_a_mask_comes_before_everything_and_hears_the_choice() -> None:
    masks = [ListMask(3, 6), ListMask(3, 6), ListMask(0)]
    wishes: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 4, "logit_bias": ((6, 50.0),)}, {"top_k": 1}]
    made = [request(mask=mask, **wish) for mask, wish in zip(masks, wishes, strict=True)]
    assert tokens(request(), *made) == [1, 3, 6, 0]
    assert [mask.accepted for mask in masks] == [[3], [6], [0]]


def test_a_mask_shorter_or_longer_than_the_vocabulary_is_fine() -> None:
    wide = torch.cat([LOGITS, torch.full((40,), 9.0)])
    assert tokens(request(mask=ListMask(2, 3)), logits=wide) == [2]
    assert tokens(request(mask=ListMask(2, 3)), logits=LOGITS[:5]) == [2]


def test_a_grammar_may_end_the_reply_before_its_least_length() -> None:
    assert greedy(mask=ListMask(4), min_new_tokens=5, end_token_ids=frozenset({4})) == 4


@pytest.mark.parametrize("mask", [ListMask(1, broken="allowed"), ListMask(1, broken="accept"), ListMask()])
def test_a_mask_that_breaks_fails_its_own_request_only(mask: ListMask) -> None:
    fine = ListMask(5)
    found = sample(request(), request(mask=mask), request(mask=fine))
    assert [isinstance(one, GenerationFailed) for one in found] == [False, True, False]
    assert found[0] == Chosen(1)
    assert fine.accepted == [5]


def test_a_mask_may_say_itself_what_is_wrong_with_the_request() -> None:
    class TooComplex(ListMask):
        def allowed(self) -> Sequence[int]:
            raise InvalidRequest("太复杂")

    (found,) = sample(request(mask=TooComplex()))
    assert isinstance(found, InvalidRequest)


def test_words_of_a_mask_may_be_any_buffer() -> None:
    class Buffer(ListMask):
        def allowed(self) -> Sequence[int]:
            return memoryview(bytearray(array("i", super().allowed()))).cast("i")

    assert tokens(request(mask=Buffer(0, 3))) == [0]


def test_only_the_rows_named_are_read() -> None:
    logits = torch.stack([LOGITS, -LOGITS, LOGITS.roll(1)])
    chosen = Sampler("cpu").sample(logits, [2, 1], [request(), request()])
    assert [one.token for one in chosen if isinstance(one, Chosen)] == [2, 6]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("wishes", [{}, {"temperature": 1.0}, {"presence_penalty": 0.5}, {"logprobs": 1}])
def test_a_row_with_no_number_in_it_ends_its_own_request_only(bad: float, wishes: dict[str, Any]) -> None:
    logits = torch.stack([LOGITS, LOGITS, LOGITS])
    logits[1, 4] = bad
    requests = [request(), request(**wishes), request()]
    for chosen in (
        Sampler("cpu").sample(logits.clone(), range(3), requests),
        Sampler("cpu").draw(logits.clone(), range(3), requests).wait(),
    ):
        assert isinstance(chosen[1], GenerationFailed)
        assert [chosen[0], chosen[2]] == [Chosen(1), Chosen(1)]


def test_scores_are_log_probabilities() -> None:
    logits = torch.stack([LOGITS, -LOGITS] * 70)
    rows, targets = [0, 1, 139], [1, 2, 3]
    found = Sampler("cpu").score(logits, rows, targets)
    assert found == pytest.approx([float(logits[r].log_softmax(-1)[t]) for r, t in zip(rows, targets, strict=True)])
    many = Sampler("cpu").score(logits, range(140), [4] * 140)
    assert many[:2] * 70 == pytest.approx(many)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), EngineDead),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), OutOfMemory),
        (RuntimeError("Triton Error [CUDA]: out of memory"), OutOfMemory),
        (RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), RuntimeError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("shapes do not fit"), RuntimeError),
    ],
    ids=str,
)
def test_a_device_that_is_lost_ends_the_engine_but_one_that_is_full_does_not(
    raised: Exception, told: type[Exception]
) -> None:
    with pytest.raises(told) as caught, watched():
        raise raised
    assert type(caught.value) is told


def test_what_torch_really_raises_when_memory_is_asked_for_that_is_not_there() -> None:
    with pytest.raises(OutOfMemory), watched():
        torch.empty(1 << 60)


def test_a_step_that_is_drawn_again_counts_its_token_once() -> None:
    """As after memory ran out: the token drawn before was never made."""
    sampler = Sampler("cpu")
    again = request(frequency_penalty=0.06, output=[1])
    rows = LOGITS.unsqueeze(0)
    for _ in range(3):
        assert sampler.sample(rows.clone(), [0], [again]) == [Chosen(1)]
    again.put(len(again.tokens), 1)
    assert sampler.sample(rows.clone(), [0], [again]) == [Chosen(5)]
