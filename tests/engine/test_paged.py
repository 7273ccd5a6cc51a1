"""The paged engine behind the voice's port: several choices, scoring, idle prefill, and what it tells of itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any, Self

import pytest
import torch

from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.errors import GenerationFailed, InvalidRequest
from qqvl_server.generation.engines import choosing
from qqvl_server.generation.engines.paged import PagedEngine
from qqvl_server.generation.port import FinishReason, GenerationRequest, Sampling, Urgency
from qqvl_server.generation.prompts.preprocess import Prompt
from qqvl_server.generation.replies.channel import End, Item, LikelyToken, Scores, TokenChannel
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings
from tests.engine.twins import NEW, Twins

pytestmark = pytest.mark.anyio
IDS = itertools.count()


class Bench:
    def __init__(self, twins: Twins, **shape: int) -> None:
        self.metrics = Metrics()
        self.engine: PagedEngine
        self.core: EngineCore
        self.engine, self.core = twins.behind_the_port(self.metrics, **shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        # Its thread, and with it the cache's memory, would stay for ever.
        self.engine.close()

    def submit(self, prompt: Prompt, *, owner: str = "", mask: Any = None, **wishes: Any) -> TokenChannel:
        channel = TokenChannel()
        self.engine.submit(prompt, asked(owner, **wishes), channel, mask)
        return channel

    async def ask(self, prompt: Prompt, **wishes: Any) -> tuple[list[int], End]:
        return await received(self.submit(prompt, **wishes))

    async def score(self, prompt: Prompt, candidates: Sequence[Sequence[int]], owner: str = "") -> tuple[float, ...]:
        channel = TokenChannel()
        self.engine.score(prompt, candidates, asked(owner), channel)
        item = await channel.receive()
        assert isinstance(item, Scores), item
        return item.values

    def value(self, name: str) -> float:
        samples = (sample for family in self.metrics.registry.collect() for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name)


def asked(owner: str = "", urgency: Urgency = Urgency.API, **wishes: Any) -> GenerationRequest:
    wishes = {"max_new_tokens": NEW, "temperature": 0.0, "ignore_eos": True, **wishes}
    name = f"request{next(IDS)}"
    return GenerationRequest(name, (), Sampling(**wishes), time.monotonic() + 60, owner=owner, urgency=urgency)


async def items(channel: TokenChannel) -> list[Item]:
    found: list[Item] = []
    while not found or isinstance(found[-1], int | LikelyToken):
        found.append(await channel.receive())
    return found


async def received(channel: TokenChannel) -> tuple[list[int], End]:
    *tokens, end = await items(channel)
    assert isinstance(end, End), end
    return [token for token in tokens if isinstance(token, int)], end


def prompt_of(inputs: Any) -> Prompt:
    return Prompt(inputs, inputs["input_ids"].shape[1], 0, 4)


async def test_choices_share_the_prompts_blocks_and_equal_separate_replies(twins: Twins) -> None:
    with Bench(twins, tokens=2048) as bench:
        prompt = prompt_of(twins.inputs[2])
        wishes = {"temperature": 1.2, "top_p": 0.9}
        alone = [await bench.ask(prompt, owner=f"alone{seed}", seed=seed, **wishes) for seed in range(4)]
        assert [end.cached_tokens for _, end in alone] == [0] * 4, "other owners share nothing"
        first = bench.submit(prompt, owner="n", seed=0, **wishes)
        head = await first.receive()
        rest = [bench.submit(prompt, owner="n", seed=seed, **wishes) for seed in range(1, 4)]
        tokens, end = await received(first)
        replies = [([head, *tokens], end), *[await received(channel) for channel in rest]]
        assert [reply for reply, _ in replies] == [reply for reply, _ in alone]
        shared = (prompt.tokens - 1) // 16 * 16
        assert [end.cached_tokens for _, end in replies] == [0, shared, shared, shared]


async def test_choices_hold_the_prompt_once(twins: Twins) -> None:
    core = twins.engine(tokens=2048)
    first, patches = twins.request("0", twins.inputs[2], max_new_tokens=40)
    core.add(first, patches)
    core.step()
    others = [twins.request(str(n), twins.inputs[2], max_new_tokens=40) for n in range(1, 4)]
    for request, patches in others:
        request.chat = first.chat
        core.add(request, patches)
    core.step()
    blocks = [set(request.blocks) for request in [first, *(request for request, _ in others)]]
    common = set.intersection(*blocks)
    assert len(common) == (len(first.prompt) - 1) // 16
    assert len(set.union(*blocks)) <= len(common) + 4 * 2


async def test_scores_equal_those_of_a_plain_forward_and_leave_the_prompt_cached(twins: Twins) -> None:
    with Bench(twins, tokens=48) as bench:
        candidates = [[5], [5, 9, 300], [17, 4], list(range(20, 44))]
        for inputs in (twins.inputs[0], twins.inputs[3]):
            prompt = prompt_of(inputs)
            expected = [plain_score(twins, inputs, candidate) for candidate in candidates]
            cold = await bench.score(prompt, candidates)
            computed = bench.core.computed
            warm = await bench.score(prompt, candidates)
            assert cold == pytest.approx(expected, abs=1e-4)
            assert warm == pytest.approx(expected, abs=1e-4)
            assert bench.core.computed - computed <= sum(16 + len(candidate) for candidate in candidates)
            _, end = await bench.ask(prompt)
            assert end.cached_tokens == (prompt.tokens - 1) // 16 * 16
        bench.core.check_integrity()


async def test_candidates_that_differ_in_their_last_token_alone_are_computed_once(twins: Twins) -> None:
    with Bench(twins, tokens=2048) as bench:
        inputs = twins.inputs[2]
        prompt = prompt_of(inputs)
        for candidates in ([[5], [17], [300]], [[5, 9, 300], [17], [5, 9, 7], [17, 5], [17, 4], [5]]):
            computed = bench.core.computed
            found = await bench.score(prompt, candidates)
            assert found == pytest.approx([plain_score(twins, inputs, candidate) for candidate in candidates], abs=1e-4)
            if len(candidates) == 3:
                assert bench.core.computed - computed == prompt.tokens
        bench.core.check_integrity()


def plain_score(twins: Twins, inputs: Any, candidate: list[int]) -> float:
    ids = torch.cat([inputs["input_ids"], torch.tensor([candidate])], dim=1)
    more = {
        name: torch.cat([value, value.new_zeros(1, len(candidate))], dim=1) if name == "mm_token_type_ids" else value
        for name, value in inputs.items()
        if name not in ("input_ids", "attention_mask")
    }
    with torch.inference_mode():
        logits = twins.plain.model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0]
    start = inputs["input_ids"].shape[1] - 1
    rows = logits[start : start + len(candidate)].log_softmax(-1)
    return float(rows.gather(1, torch.tensor(candidate).unsqueeze(1)).sum())


async def test_scoring_an_empty_candidate_or_a_stranger_to_the_vocabulary_is_refused(twins: Twins) -> None:
    with Bench(twins) as bench:
        prompt = prompt_of(twins.inputs[0])
        refused: list[list[list[int]]] = [[], [[]], [[1], [99999]], [[twins.processor.image_token_id]]]
        for candidates in refused:
            with pytest.raises(InvalidRequest):
                bench.engine.score(prompt, candidates, asked(), TokenChannel())


async def test_a_warmed_prompt_is_cached_for_its_owner(twins: Twins) -> None:
    with Bench(twins, tokens=2048) as bench:
        prompt = prompt_of(twins.inputs[3])
        for _ in range(3):
            bench.engine.warm(prompt, asked("chat"))
        # Idle work has no answer: the next idle request's turn comes after it.
        while bench.core.computed < prompt.tokens or bench.core.has_work:
            time.sleep(0.001)
        tokens, end = await bench.ask(prompt, owner="chat")
        assert tokens == twins.expected[3]
        assert end.cached_tokens == (prompt.tokens - 1) // 16 * 16
        assert bench.value("qqvl_generation_tokens_total") == NEW


async def test_log_probabilities_and_stop_tokens_reach_the_channel(twins: Twins) -> None:
    with Bench(twins) as bench:
        prompt = prompt_of(twins.inputs[1])
        plain = twins.expected[1]
        *told, end = await items(bench.submit(prompt, logprobs=3))
        assert [item.token for item in told if isinstance(item, LikelyToken)] == plain
        assert all(item.top[0] == (item.token, item.logprob) for item in told if isinstance(item, LikelyToken))
        stop = plain[2]
        place = plain.index(stop)
        tokens, end = await bench.ask(prompt, stop_token_ids=(stop,))
        assert (tokens, end.reason, end.stop_token) == (plain[:place], FinishReason.STOP, stop)
        own = await bench.ask(prompt, max_new_tokens=60, ignore_eos=False)
        assert (own[1].reason, own[1].stop_token) == (FinishReason.STOP, None)


async def test_ids_outside_the_vocabulary_and_lone_place_holders_are_refused(twins: Twins) -> None:
    with Bench(twins) as bench:
        prompt = prompt_of(twins.inputs[0])
        vocabulary = twins.plain.model.config.get_text_config().vocab_size
        for wishes in (
            {"logit_bias": ((vocabulary, 1.0),)},
            {"logit_bias": ((-1, 1.0),)},
            {"stop_token_ids": (vocabulary,)},
        ):
            with pytest.raises(InvalidRequest):
                bench.submit(prompt, **wishes)
        image, video = twins.processor.image_token_id, twins.processor.video_token_id
        for ids in ([1, vocabulary], [1, -1], [1, image, 2], [1, video, 2]):
            with pytest.raises(InvalidRequest):
                bench.submit(Prompt({"input_ids": torch.tensor([ids])}, len(ids), 0, 4))
        assert (await bench.ask(prompt))[0] == twins.expected[0]


async def test_callers_may_choose_the_same_id(twins: Twins) -> None:
    with Bench(twins) as bench:
        channels = [TokenChannel() for _ in range(3)]
        for n, channel in enumerate(channels):
            request = GenerationRequest("same", (), Sampling(NEW, ignore_eos=True), time.monotonic() + 60)
            bench.engine.submit(prompt_of(twins.inputs[n]), request, channel)
        assert [(await received(channel))[0] for channel in channels] == twins.expected[:3]


async def test_gauges_and_counters_tell_the_truth(twins: Twins) -> None:
    with Bench(twins, requests=2) as bench:
        prompts = [prompt_of(inputs) for inputs in twins.inputs]
        channels = [bench.submit(prompt, owner="o") for prompt in prompts]
        gone = bench.submit(prompts[0], owner="o")
        gone.abandon()
        for channel in channels:
            await received(channel)
        while bench.value("qqvl_requests_running") or bench.value("qqvl_requests_waiting"):
            time.sleep(0.001)
        before = bench.value("qqvl_prefix_cached_tokens_total")
        _, end = await bench.ask(prompts[4], owner="o")
        assert bench.value("qqvl_prefix_cached_tokens_total") - before == end.cached_tokens > 0
        assert bench.value("qqvl_kv_blocks") == 400
        assert bench.value("qqvl_kv_blocks_used") == 0
        assert bench.value("qqvl_kv_blocks_named") > 0
        asked_for = bench.metrics.registry.get_sample_value("qqvl_inter_token_seconds_count", {"class": "api"})
        assert asked_for == bench.value("qqvl_inter_token_seconds_count") > 0
        assert bench.value("qqvl_step_seconds_count") > 0
        assert bench.engine.alive
        bench.core.check_integrity()


async def test_waits_are_told_of_replies_alone(twins: Twins) -> None:
    """Not of what nobody waits for, nor of one that never came to its first token."""
    with Bench(twins) as bench:
        prompt = prompt_of(twins.inputs[0])
        assert bench.value("qqvl_queue_seconds_count") == 0
        await bench.ask(prompt)
        await bench.ask(prompt, max_new_tokens=0)
        await bench.score(prompt, [[5], [7]])
        assert bench.value("qqvl_queue_seconds_count") == 2
        assert bench.value("qqvl_time_to_first_token_seconds_count") == 1
        queued, first = (bench.value(f"qqvl_{name}_seconds_sum") for name in ("queue", "time_to_first_token"))
        assert queued > 0
        assert first > 0


async def test_a_fault_can_be_planted_where_the_engine_is_built_and_is_not_by_itself(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompt_of(twins.inputs[3])
    # Fused layers would stay in the model that other tests share.
    wanted = EngineSettings(engine="paged", kv_cache_gb=0.02, step_tokens=64, cpu_kernels="off")
    for fault, expected in ((None, End), ("oom:2-3", End), ("step:2", GenerationFailed), ("step:9", GenerationFailed)):
        if fault is not None:
            monkeypatch.setenv("QQVL_PLANT_FAULT", fault)
        engine = choosing.build(twins.paged, wanted, 1024, Metrics())
        channel = TokenChannel()
        engine.submit(prompt, asked(), channel)
        *tokens, end = await items(channel)
        assert isinstance(end, expected)
        if expected is End:
            assert tokens == twins.expected[3]
        engine.close()
