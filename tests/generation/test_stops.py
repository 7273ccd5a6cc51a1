"""Stop texts and log-probabilities of a reply, however its text is cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qqvl_server.generation.port import Finished, FinishReason, Sampling, TextDelta, TextEvent, Usage
from qqvl_server.generation.replies.channel import End, LikelyToken
from qqvl_server.generation.replies.detokenize import Vocabulary
from qqvl_server.generation.replies.reply import Reply
from qqvl_server.generation.replies.stops import StopTexts
from tests.running import DEMO

TOKENIZER = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
VOCABULARY = Vocabulary(TOKENIZER)
BYTE_TOKENS = {VOCABULARY.data(token): token for token in range(TOKENIZER.get_vocab_size(with_added_tokens=False))}

# Few letters, so that stops really occur, overlap and begin again.
TEXT = st.text("ab你👍", max_size=30)
STOPS = st.lists(st.text("ab你👍", min_size=1, max_size=4), max_size=4)


def cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The plain definition: letter by letter, the first stop that is complete, the longest of several."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def tokens_of(text: str, cuts: Sequence[int]) -> list[int]:
    """Some way to write ``text`` in tokens: between the cuts (in bytes) whole tokens where they exist, else bytes."""
    data = text.encode()
    bounds = [0, *sorted({c % (len(data) + 1) for c in cuts}), len(data)]
    tokens: list[int] = []
    for start, end in pairwise(bounds):
        piece = data[start:end]
        known = BYTE_TOKENS.get(piece)
        tokens += [known] if known is not None else [BYTE_TOKENS[bytes([byte])] for byte in piece]
    return tokens


def reply(**sampling: object) -> Reply:
    return Reply(0, VOCABULARY.decoder(), VOCABULARY.data, Sampling(100, **sampling), 7)  # type: ignore[arg-type]


def played(one: Reply, items: Sequence[int | LikelyToken]) -> list[TextEvent]:
    events: list[TextEvent] = []
    for item in [*items, End(FinishReason.LENGTH, cached_tokens=5)]:
        events += one.take(item)
        if one.finished:
            break
    return events


def said(events: Sequence[TextEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def ending(events: Sequence[TextEvent]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


@settings(deadline=None, database=None)
@given(TEXT, STOPS, st.lists(st.integers(0, 200), max_size=12))
@example("aaab你", ["aab"], [])
@example("abaabab👍", ["abab", "abac"], [3])
def test_a_reply_is_its_text_up_to_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    tokens = tokens_of(text, cuts)
    expected, stop = cut(text, stops)
    events = played(reply(stop=tuple(stops)), tokens)
    assert said(events) == expected
    last = ending(events)
    assert last.stopped_by == stop
    assert last.reason is (FinishReason.LENGTH if stop is None else FinishReason.STOP)
    needed = next((n for n in range(len(tokens) + 1) if cut(whole(tokens[:n]), stops)[1] is not None), len(tokens))
    assert last.usage.completion_tokens == needed


def whole(tokens: Sequence[int]) -> str:
    return b"".join(map(VOCABULARY.data, tokens)).decode(errors="ignore")


@settings(deadline=None, database=None)
@given(TEXT, STOPS, st.lists(st.integers(0, 200), max_size=12))
def test_log_probabilities_come_with_their_text(text: str, stops: list[str], cuts: list[int]) -> None:
    tokens = tokens_of(text, cuts)
    items = [LikelyToken(token, -float(n), ((token, -float(n)),)) for n, token in enumerate(tokens)]
    expected, stop = cut(text, stops)
    told = b""
    given_out: list[float] = []
    for event in played(reply(stop=tuple(stops), logprobs=1), items):
        if isinstance(event, TextDelta):
            told += event.text.encode()
            spelt = b"".join(VOCABULARY.data(token) for token in tokens[: len(given_out) + len(event.tokens)])
            given_out += [token.logprob for token in event.tokens]
            assert all(token.top[0].data == token.data for token in event.tokens)
            # Never a token before its text, but for the one that a stop begins inside.
            assert told.startswith(spelt) or (stop is not None and told.decode() == expected)
    assert given_out == [-float(n) for n in range(len(given_out))]
    spelt = b"".join(VOCABULARY.data(token) for token in tokens[: len(given_out)])
    assert spelt.startswith(expected.encode())
    if stop is None:
        assert len(given_out) == len(tokens)
    elif given_out:
        # The last one begins before the stop does.
        assert len(whole(tokens[: len(given_out) - 1])) < len(expected)


def test_text_is_held_back_only_while_it_may_become_a_stop() -> None:
    stops = StopTexts(["<end>", "fin"])
    assert [stops.push(piece)[0] for piece in ("a<", "e", "x", "<en", "fi", "re", "<")] == [
        "a", "", "<ex", "", "<en", "fire", "",
    ]  # fmt: skip
    assert stops.flush() == "<"


def test_stops_before_the_least_length_are_part_of_the_text() -> None:
    tokens = [BYTE_TOKENS[letter.encode()] for letter in "abcabc"]
    events = played(reply(stop=("b",), min_new_tokens=3), tokens)
    assert said(events) == "abca"
    assert ending(events) == Finished(FinishReason.STOP, Usage(7, 5, 0), 0, "b")
    # One that began before the least length and is complete after it counts.
    assert said(played(reply(stop=("aa",), min_new_tokens=2), [BYTE_TOKENS[b"a"]] * 4)) == "a"


def test_a_half_character_at_the_end_is_left_out_and_its_tokens_are_told() -> None:
    tokens = [BYTE_TOKENS[bytes([byte])] for byte in "好👍".encode()[:5]]
    events = played(reply(logprobs=0), [LikelyToken(token, -1.0) for token in tokens])
    assert said(events) == "好"
    assert b"".join(t.data for e in events if isinstance(e, TextDelta) for t in e.tokens) == "好👍".encode()[:5]
    assert ending(events) == Finished(FinishReason.LENGTH, Usage(7, 5, 5))


@settings(deadline=None, database=None)
@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() + 300), max_size=20))
def test_any_tokens_at_all_become_text(tokens: list[int]) -> None:
    """What an untrained model says: bytes that are no characters, special tokens, ids that the vocabulary lacks."""
    decoder = VOCABULARY.decoder()
    text = "".join(map(decoder.push, tokens))
    spoken = b"".join(VOCABULARY.data(t) for t in tokens if t in VOCABULARY and not VOCABULARY.is_special(t))
    assert spoken.decode(errors="replace").startswith(text)


@pytest.mark.parametrize("name", ["demo", "real"])
def test_bytes_of_every_token_are_what_the_tokenizer_decodes(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue("demo" if name == "demo" else "assets")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = Vocabulary(tokenizer)
    for token in range(0, tokenizer.get_vocab_size(), 1 if name == "demo" else 7):
        assert vocabulary.data(token).decode(errors="replace") == tokenizer.decode([token], skip_special_tokens=False)
