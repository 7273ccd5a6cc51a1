"""``Replicas`` through Ray Serve, whose handles choose by ``ChatRouter``. Ray is imported when it is asked for.

Ray repeats no call that a replica has taken: whether it may be asked again, ``RemoteVoice`` knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

from qqvl_server.errors import GenerationFailed
from qqvl_server.generation.engines.remote import ReplicaLost
from qqvl_server.observe.logs import logger

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class RayReplicas:
    """By a deployment's handle. ``close`` ends what was started for it; blocking."""

    def __init__(self, handle: DeploymentHandle, close: Callable[[], None] | None = None) -> None:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        self._handle = handle
        self._close = close
        self._lost = (RayError, RayServeException)
        self._bug = RayTaskError

    async def call(self, method: str, session: str, *values: Any) -> Any:
        response = self._handle.options(method_name=method, session_id=session).remote(*values)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            _raise_cancelled()
        except self._lost as error:
            raise self._meant(error) from error

    async def stream(self, method: str, session: str, *values: Any) -> AsyncGenerator[Any, None]:
        response = self._handle.options(method_name=method, session_id=session, stream=True).remote(*values)
        is_over = False
        try:
            async for item in response:
                yield item
            is_over = True
        except asyncio.CancelledError:
            _raise_cancelled()
        except self._lost as error:
            is_over = True
            raise self._meant(error) from error
        finally:
            if not is_over:
                response.cancel()

    async def aclose(self) -> None:
        if self._close is not None:
            await asyncio.to_thread(self._close)

    def _meant(self, error: Exception) -> Exception:
        if isinstance(error, self._bug) and not isinstance(error.cause, self._lost):
            logger().error("副本出错", exc_info=error)
            return GenerationFailed("模型出错，这条消息没能回答，请重试")
        return ReplicaLost(type(error).__name__)


def _raise_cancelled() -> NoReturn:
    """Ray tells of work that was cancelled there, as by a replica's end, as if this task had been cancelled.

    Raises CancelledError where it was, ReplicaLost where not.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    raise ReplicaLost("cancelled")
