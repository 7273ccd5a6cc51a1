"""Blocks of the paged KV cache, as numbers: who uses them, what they hold, which go first. No torch.

A block's content is named by a hash chain over (hash of the block before, token ids, image contents as
pseudo-tokens), so that a whole prefix is found by walking block hashes. A block nobody uses keeps its content until
it is the least recently freed one and its place is needed (the idea of vLLM's and nano-vllm's block managers).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


def block_hash(parent: bytes, key: Sequence[int], salt: bytes = b"") -> bytes:
    """Name of a full block: 16 bytes over its parent's name, its tokens and the owner's salt."""
    digest = hashlib.blake2b(parent, digest_size=16, key=salt[:64])
    digest.update(array("q", key).tobytes())
    return digest.digest()


class BlockPool:
    """Every block is either used (``users`` > 0) or in ``free``; both may hold named content."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = blocks
        self._users = [0] * blocks
        # Oldest first: the next to be given away.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._named: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        return len(self._free)

    @property
    def named(self) -> int:
        """Blocks whose content may be found again."""
        return len(self._named)

    def holds(self, hashes: Sequence[bytes]) -> bool:
        """Whether blocks of all these names are in the cache."""
        return all(name in self._named for name in hashes)

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """Take the blocks of the longest cached prefix of ``hashes``; the caller must release them."""
        taken = []
        for name in hashes:
            block = self._named.get(name)
            if block is None:
                break
            if self._users[block] == 0:
                del self._free[block]
            self._users[block] += 1
            taken.append(block)
        return taken

    def allocate(self, count: int) -> list[int] | None:
        """Take ``count`` blocks of no particular content, or none at all."""
        if count > len(self._free):
            return None
        taken = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            name = self._name_of.pop(block, None)
            if name is not None:
                del self._named[name]
            self._users[block] = 1
            taken.append(block)
        return taken

    def name(self, block: int, name: bytes) -> None:
        """Say what a full block holds. The first block of a name keeps it."""
        if name not in self._named and block not in self._name_of:
            self._named[name] = block
            self._name_of[block] = name

    def forget(self, blocks: Sequence[int]) -> None:
        """What these hold is not to be found any more, whoever uses them."""
        for block in blocks:
            name = self._name_of.pop(block, None)
            if name is not None:
                del self._named[name]

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one use of each. The end of a sequence is freed first, for its start is the likelier prefix."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None
                if block not in self._name_of:
                    # Nothing to find here: the first to be given away.
                    self._free.move_to_end(block, last=False)

    def check_integrity(self, held: Sequence[Sequence[int]]) -> None:
        """Raise AssertionError unless the books agree with ``held``, the block lists of all live requests."""
        users = [0] * self.total
        for blocks in held:
            assert len(set(blocks)) == len(blocks), "a request holds a block twice"
            for block in blocks:
                users[block] += 1
        assert users == self._users, "use counts differ from what requests hold"
        assert set(self._free) == {b for b in range(self.total) if users[b] == 0}, "free list differs from use counts"
        assert {block: name for name, block in self._named.items()} == self._name_of, "names do not point back"
