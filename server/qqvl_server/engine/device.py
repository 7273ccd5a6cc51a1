"""What a lost device looks like, whichever call it surfaces in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qqvl_server.errors import EngineDead


@contextmanager
def watched() -> Iterator[None]:
    """Raises EngineDead where torch says that the device is lost: nothing succeeds in this process any more."""
    try:
        yield
    except torch.AcceleratorError as error:
        if "out of memory" in str(error):
            raise
        raise EngineDead("显卡出错，模型已不能工作，服务将退出以便重启") from error
