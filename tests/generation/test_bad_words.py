"""Banned words as automata: exact however a reply is cut into tokens, on the host and on the device alike."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest
import torch

from qqvl_server.engine.forward.sampler import Sampler
from qqvl_server.engine.steps.banned import BannedTexts
from qqvl_server.engine.steps.request import Request, SamplingParams
from qqvl_server.generation.constraints.bad_words import BadWords

WORDS = ("坏词", "坏人坏事", "ass", "bad word", "C++", "人坏")
# Whole words, pieces of them, half characters, and letters by themselves.
TOKENS = "坏词 坏 词 坏事 坏人 人 人坏 事 词坏 好 的 ass As s cl as ess C + ++ c bad word ord w , . a b d"
SPELT = [b"", *(token.encode() for token in TOKENS.split())]
SPELT += [b"\n", b" ", b" bad", b" word", b" as", b"s ", b"s,"]
SPELT += [bytes([byte]) for byte in sorted(set("坏词人事".encode()))]


def said_of(text: bytes) -> bool:
    """Whether one stands in it, by another way of looking."""
    small = text.lower()
    borders = b"\0" + re.sub(rb"[^a-z0-9]", b"\0", small) + b"\0"
    whole = [word for word in WORDS if word.isascii() and word.replace(" ", "").isalpha()]
    return any(word.encode().lower() in small for word in set(WORDS) - set(whole)) or any(
        b"\0" + word.encode().replace(b" ", b"\0") + b"\0" in borders for word in whole
    )


def banned_after(banned: BannedTexts, tokens: Sequence[int]) -> set[int]:
    states = [(automaton, automaton.follow(automaton.start, tokens)) for automaton in banned.automata]
    return {*banned.never, *(token for automaton, state in states for token in automaton.banned[state])}


@pytest.fixture(scope="module")
def banned() -> BannedTexts:
    return BadWords(lambda: SPELT).banned(WORDS)


def test_what_may_follow_never_says_one_and_is_banned_only_if_it_would(banned: BannedTexts) -> None:
    dice = random.Random(3)
    for _ in range(300):
        tokens: list[int] = []
        text = b""
        for _ in range(12):
            forbidden = banned_after(banned, tokens)
            for token, spelling in enumerate(SPELT):
                # At a border nothing is half said.
                if spelling and token not in forbidden:
                    assert not said_of(text + spelling + b"x") or said_of(text + b"x"), (text, spelling)
                if token in forbidden:
                    assert said_of(text + spelling), (text, spelling)
            free = [token for token in range(1, len(SPELT)) if token not in forbidden]
            tokens.append(dice.choice(free))
            text += SPELT[tokens[-1]]
        assert not said_of(text)


def test_the_device_bans_what_the_host_does(banned: BannedTexts) -> None:
    """In batches whose requests come, go and come back, beside some that ban nothing or other words."""
    other = BadWords(lambda: SPELT).banned(("好",))
    dice = random.Random(5)
    sampler = Sampler("cpu")
    lists: list[BannedTexts | None] = [banned, None, banned, other, banned]
    requests = [
        Request(str(n), "c", [1], SamplingParams(100, temperature=1.0, seed=n, banned=texts))
        for n, texts in enumerate(lists)
    ]
    for _ in range(60):
        batch = dice.sample(requests, dice.randint(1, len(requests)))
        logits = torch.randn(len(batch), len(SPELT), generator=torch.Generator().manual_seed(dice.randrange(10**6)))
        wanted = [banned_after(r.sampling.banned, r.output) if r.sampling.banned else set() for r in batch]
        chosen = sampler.sample(logits, list(range(len(batch))), batch)
        for row, request in enumerate(batch):
            forbidden = {token for token in range(len(SPELT)) if logits[row, token] == -torch.inf}
            assert forbidden == wanted[row]
            request.put(len(request.tokens), chosen[row].token)  # type: ignore[union-attr]
    assert any(banned_after(banned, r.output) - set(banned.never) for r in requests if r.sampling.banned is banned)


def test_a_list_is_made_once_and_again_when_it_changes() -> None:
    looks = 0

    def spellings() -> list[bytes]:
        nonlocal looks
        looks += 1
        return SPELT

    words = BadWords(spellings)
    assert words.known(("坏词",)) is None
    first = words.banned(("坏词",))
    assert words.known(("坏词",)) is first is words.banned(("坏词",))
    assert words.banned(("好",)) is not first
    assert words.known(("坏词",)) is None
    assert looks == 1
