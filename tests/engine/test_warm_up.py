"""What is done before anybody asks, and what a mixed or broken checkpoint makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qqvl_server.engine import build
from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.forward.backend import Prepared, Step
from qqvl_server.engine.forward.patches import by_products
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.forward.vision import Patches, encode
from qqvl_server.engine.forward.warm_up import warm_up
from qqvl_server.errors import WeightsError
from qqvl_server.settings import EngineSettings
from tests.engine import wide
from tests.engine.twins import Twins


@pytest.mark.parametrize(("tokens", "blocks"), [(64, 400), (512, 400), (512, 5)])
def test_a_first_request_goes_through_everything_and_leaves_nothing(twins: Twins, tokens: int, blocks: int) -> None:
    engine = twins.engine(tokens=tokens, blocks=blocks)
    warm_up(engine, twins.paged.model, tokens)
    assert twins.runner.pictures.encoder_runs == 1
    assert not engine.has_work
    engine.check_integrity()
    made, patches = twins.request("a", twins.inputs[0])
    engine.add(made, patches)
    assert twins.run(engine, [made]) == twins.expected[:1]


class Broken(SdpaBackend):
    """Its layers lack what they need, as FP8 ones without the package that computes them."""

    def prepare(self, step: Step) -> Prepared:
        raise ImportError("No module named 'kernels'")


def test_a_model_that_cannot_be_run_is_one_line_before_anybody_is_told_it_is_ready(twins: Twins) -> None:
    engine = twins.engine(backend=Broken())
    with pytest.raises(WeightsError, match=r"一算就出错.*kernels"):
        warm_up(engine, twins.paged.model, 64)


def test_the_cache_has_the_type_of_the_text_where_pictures_have_another() -> None:
    """As AWQ and GPTQ checkpoints mix them: the first of all parameters is the vision tower's."""
    model = wide.model()
    model.model.language_model.to(torch.bfloat16)
    model.lm_head.to(torch.bfloat16)
    adopted: list[KVCache] = []

    class Watching(SdpaBackend):
        def adopt(self, model: Any, cache: KVCache) -> None:
            adopted.append(cache)
            super().adopt(model, cache)

    core = build.assemble(model, Watching(), blocks=20, step_tokens=64, requests=2)
    warm_up(core, model, 64)
    assert adopted[0].dtype is torch.bfloat16


def test_patches_are_looked_at_by_a_product_and_give_the_same_features() -> None:
    model = wide.model()
    patches = {b"a": Patches(wide.PIXELS, torch.tensor(wide.GRID))}
    with torch.inference_mode():
        expected = encode(model, patches)[b"a"]
        by_products(model)
        assert not [m for m in model.model.visual.modules() if isinstance(m, torch.nn.Conv3d)]
        found = encode(model, patches)[b"a"]
    torch.testing.assert_close(found.embeddings, expected.embeddings, rtol=1e-4, atol=1e-4)
    assert model.model.visual.dtype is torch.float32


@pytest.mark.parametrize(
    ("wishes", "device", "expected"),
    [({}, "cuda:0", 60), ({}, "cpu", 600), ({"torch_compile": "on"}, "cuda:0", 600), ({"step_timeout_s": 5}, "cpu", 5)],
)
def test_a_stuck_card_is_noticed_within_a_minute(wishes: dict[str, Any], device: str, expected: float) -> None:
    assert build.stall_s(EngineSettings(**wishes), device) == expected
