"""One request for several replies, as one for each of them."""

from __future__ import annotations

from dataclasses import replace

from qqvl_server.generation.port import GenerationRequest


def one_choice(request: GenerationRequest, choice: int) -> GenerationRequest:
    if request.choices == 1:
        return request
    seed = request.sampling.seed
    sampling = replace(request.sampling, seed=None if seed is None else seed + choice)
    return replace(request, request_id=f"{request.request_id}-{choice}", sampling=sampling, choices=1)
