"""Text layers compiled by torch, when they are first run."""

from __future__ import annotations

from typing import Any

import torch

from qqvl_server.engine.cache import paged_attention


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """``backend`` is torch.compile's."""
    paged_attention.register(compiled=True)
    # What cannot be compiled here runs as it is, with torch's warning, instead of ending the step.
    torch._dynamo.config.suppress_errors = True
    for layer in model.model.language_model.layers:
        # Layers are alike, and so are steps but for their number of rows: compiled once for all.
        layer.compile(dynamic=True, backend=backend)
