"""torch.compile of the text layers: the same tokens, and no compilation for every size of step.

By the backend that runs what was traced as it is: what Inductor makes of it is torch's matter, and takes half a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from qqvl_server.engine.cache import paged_attention
from qqvl_server.engine.forward.compiled import compile_layers
from qqvl_server.engine.forward.sdpa import SdpaBackend
from tests.engine.twins import Twins


class CompiledTwins(Twins):
    """The engine through compiled layers; the oracle is that of ``twins``."""

    def __init__(self, twins: Twins, demo: Path) -> None:
        self.plain, self.processor = twins.plain, twins.processor
        self.inputs, self.expected = twins.inputs, twins.expected
        self.paged = self._load(demo)

    def backend(self, size: int) -> SdpaBackend:
        return SdpaBackend(size, adapt=partial(compile_layers, backend="eager"))


@pytest.fixture
def compiled(twins: Twins, demo: Path) -> Iterator[CompiledTwins]:
    torch.compiler.reset()
    yield CompiledTwins(twins, demo)
    torch.compiler.reset()
    torch._dynamo.config.suppress_errors = False
    paged_attention.register()


def test_the_tokens_are_those_of_generate_and_steps_of_other_sizes_compile_nothing_new(compiled: CompiledTwins) -> None:
    engine = compiled.engine()
    assert compiled.run(engine, compiled.add_all(engine, "a")) == compiled.expected
    made = counters["stats"]["unique_graphs"]
    assert made > 0
    assert compiled.run(engine, compiled.add_all(engine, "b")) == compiled.expected
    more = [compiled.request(str(n), compiled.inputs[n]) for n in (0, 4)]
    for request, patches in more:
        engine.add(request, patches)
    assert compiled.run(engine, [request for request, _ in more]) == [compiled.expected[n] for n in (0, 4)]
    assert counters["stats"]["unique_graphs"] == made
