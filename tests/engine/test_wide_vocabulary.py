"""Logits of the paged forward against the plain one, on a random model with the real vocabulary of 151,936."""

from __future__ import annotations

import pytest
import torch

from qqvl_server.engine.forward.sampler import Sampler
from tests.engine.wide import ASKED, WORDS, model, paged_logits, plain_logits


@pytest.mark.parametrize("chunk", [1000, 17])
def test_logits_equal_those_of_the_plain_forward(chunk: int) -> None:
    expected = plain_logits(model())
    logits = paged_logits(model(), chunk=chunk)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    assert Sampler("cpu").score(logits, range(ASKED), WORDS[:ASKED]) == pytest.approx(
        expected.log_softmax(-1)[range(ASKED), WORDS[:ASKED]].tolist(), abs=1e-3
    )
