"""What a reply took, as one line of the log: the request's id says whose it was."""

from __future__ import annotations

import time

from qqvl_server.generation.port import Finished, GenerationRequest
from qqvl_server.observe.logs import logger


class Account:
    """Of one request, from when the voice has it; ``begun`` is called with its first event."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._came = time.monotonic()
        self._first_ms: int | None = None

    def begun(self) -> None:
        self._first_ms = self._ms()

    def ended(self, event: Finished) -> None:
        usage = event.usage
        logger().info(
            "模型答完", request_id=self._request.request_id, urgency=self._request.urgency.name.lower(),
            prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens, first_ms=self._first_ms, ms=self._ms(), ended=str(event.reason),
        )  # fmt: skip

    def _ms(self) -> int:
        return round((time.monotonic() - self._came) * 1000)
