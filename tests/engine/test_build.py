"""The engine's one builder: which way of computing is chosen, and how large the cache becomes."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from qqvl_server.engine import build
from qqvl_server.engine.cache.kv_cache import BLOCK_SIZE, kv_shape
from qqvl_server.engine.cpu import compiling
from qqvl_server.engine.cpu.backend import CpuBackend
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.errors import WeightsError
from qqvl_server.generation.engines import choosing
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import EngineSettings
from tests.engine.twins import Twins

CONTEXT = 1024


class Shaped:
    """A model as far as it is asked before it is adopted."""

    def __init__(self, twins: Twins, dtype: torch.dtype) -> None:
        self.config: Any = twins.paged.model.config
        self.device, self._dtype = torch.device("cpu"), dtype

    def get_input_embeddings(self) -> torch.nn.Module:
        return torch.nn.Embedding(1, 1, dtype=self._dtype)


@pytest.mark.parametrize(
    ("wish", "dtype", "expected"),
    [("auto", torch.float32, CpuBackend), ("off", torch.float32, SdpaBackend), ("auto", torch.float16, SdpaBackend)],
)
def test_own_kernels_are_used_where_they_are_right_and_not_switched_off(
    twins: Twins, wish: Any, dtype: torch.dtype, expected: type
) -> None:
    if expected is CpuBackend and shutil.which(compiling.COMPILER) is None:
        pytest.skip("no C++ compiler")
    found = build.backend_for(Shaped(twins, dtype), EngineSettings(cpu_kernels=wish), CONTEXT)
    assert type(found) is expected


@pytest.mark.parametrize("blocks", [CONTEXT // BLOCK_SIZE - 1, CONTEXT // BLOCK_SIZE, 3 * CONTEXT // BLOCK_SIZE])
def test_the_cache_is_as_large_as_was_granted_and_holds_at_least_one_chat(twins: Twins, blocks: int) -> None:
    model = twins.paged.model
    granted = (blocks + 0.5) * BLOCK_SIZE * kv_shape(model.config).bytes_per_token(model.dtype)
    # Fused layers would stay in the model that other tests share.
    wanted = EngineSettings(kv_cache_gb=granted / 1e9, cpu_kernels="off")
    if blocks * BLOCK_SIZE < CONTEXT:
        with pytest.raises(WeightsError, match=f"只够 {blocks * BLOCK_SIZE} token"):
            build.build(model, wanted, CONTEXT)
        return
    assert build.build(model, wanted, CONTEXT).scheduler.capacity_tokens == blocks * BLOCK_SIZE


def test_what_no_reply_may_hold_and_who_hears_of_pictures_get_where_they_belong(twins: Twins) -> None:
    first = twins.expected[1][0]
    looked: list[bool] = []
    wanted = EngineSettings(kv_cache_gb=0.02, cpu_kernels="off")
    core = build.build(twins.paged.model, wanted, CONTEXT, never=[first], on_picture=looked.append)
    for name in "ab":
        request, patches = twins.request(name, twins.inputs[1])
        request.salt = name.encode()
        core.add(request, patches)
        (output,) = twins.run(core, [request])
        assert first not in output
    assert (looked[0], looked[-1]) == (False, True)


def test_left_to_itself_the_cache_holds_several_chats(twins: Twins) -> None:
    with capture_logs() as told:
        core = build.build(twins.paged.model, EngineSettings(cpu_kernels="off"), CONTEXT)
    assert CONTEXT <= core.scheduler.capacity_tokens <= 64 * CONTEXT
    (line,) = [line for line in told if line["event"] == "引擎已备好"]
    assert line["attention"] == "SDPA over gathered blocks"
    assert (line["block_size"], line["ahead"], line["dtype"]) == (BLOCK_SIZE, False, "float32")
    assert line["kv_tokens"] == core.scheduler.capacity_tokens
    assert line["free_gb"] > 0


# 2B on a card of 8 GB with a desktop on it, as the server starts it: 112 kB a token in blocks of 16.
PER_BLOCK = 16 * 114_688


def test_a_small_card_gets_shorter_conversations_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def blocks(free: float, *, is_card: bool = True, **wishes: Any) -> int:
        return build.blocks_for(free, PER_BLOCK, EngineSettings(**wishes), 16_384, 16, is_card=is_card)

    assert blocks(3e9) * 16 >= 16_384
    assert "显存只够" not in "".join(capsys.readouterr())
    fewer = blocks(1.5e9) * 16
    assert 2048 <= fewer < 16_384
    assert f"显存只够 {fewer} token" in "".join(capsys.readouterr())
    for free, more in ((2e8, {}), (1.5e9, {"is_card": False}), (1.5e9, {"kv_cache_gb": 1})):
        with pytest.raises(WeightsError, match="--context-tokens"):
            blocks(free, **more)


def test_pictures_leave_the_cache_its_share_of_a_small_card() -> None:
    assert build.feature_bytes_for(3e9, is_card=True) == 300_000_000
    assert build.feature_bytes_for(80e9, is_card=True) == build.FEATURE_BYTES
    assert build.feature_bytes_for(3e9, is_card=False) == build.FEATURE_BYTES


@pytest.mark.parametrize(
    ("gigabytes", "expected"), [(None, 16), (7.6, 8), (11.6, 16), (15.7, 16), (23.6, 32), (47.4, 64), (139, 64)]
)
def test_a_card_answers_as_many_at_once_as_it_has_room_for(gigabytes: float | None, expected: int) -> None:
    assert build.running_for(None if gigabytes is None else gigabytes * 1024**3) == expected
    assert build.most_running(EngineSettings(max_running=5), torch.device("cpu")) == 5


def test_the_voice_is_told_what_the_cache_can_hold(twins: Twins) -> None:
    engine, core = twins.behind_the_port(Metrics(), blocks=100)
    assert choosing.longest(engine, 10**6) == core.scheduler.capacity_tokens == 1600
    assert choosing.longest(engine, 64) == 64
    engine.close()
