"""The cache of vision features: what goes first, and what is never taken in."""

from __future__ import annotations

import torch

from qqvl_server.engine.forward.vision import FeatureCache, Features


def features(tokens: int) -> Features:
    """Four bytes a token."""
    return Features(torch.zeros(tokens, 1), ())


def test_the_picture_nobody_asked_for_longest_goes_first() -> None:
    looked: list[bool] = []
    cache = FeatureCache(12, looked.append)
    for name in (b"a", b"b", b"c"):
        cache.put(name, features(1))
    assert cache.get(b"a") is not None
    cache.put(b"d", features(1))
    assert [name in cache for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.get(b"b") is None
    assert looked == [True, False]
    assert (cache.hits, cache.misses) == (1, 1)


def test_one_larger_than_all_room_drives_nobody_out() -> None:
    cache = FeatureCache(8)
    cache.put(b"a", features(1))
    cache.put(b"large", features(3))
    assert b"large" not in cache
    cache.put(b"pair", features(2))
    assert [name in cache for name in (b"a", b"pair")] == [False, True]


def test_what_is_kept_twice_counts_once_and_clearing_makes_room() -> None:
    cache = FeatureCache(8)
    for _ in range(3):
        cache.put(b"a", features(1))
    cache.put(b"b", features(1))
    assert b"a" in cache
    cache.clear()
    assert b"a" not in cache
    cache.put(b"pair", features(2))
    assert b"pair" in cache
