"""What a request's blocks are called, so that who begins alike finds them. Plain Python."""

from __future__ import annotations

from qqvl_server.engine.steps.block_pool import block_hash
from qqvl_server.engine.steps.request import Request


def block_names(request: Request, count: int, size: int) -> list[bytes]:
    """Of its first ``count`` blocks, which are full. Blocks after the shared tokens are salted."""
    for index in range(len(request.hashes), count):
        start, end = index * size, (index + 1) * size
        parent = request.hashes[index - 1] if index else b""
        salt = b"" if end <= request.shared_tokens else request.salt
        request.hashes.append(block_hash(parent, request.hash_key(start, end), salt))
    return request.hashes[:count]
