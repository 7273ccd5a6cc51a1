"""Conversations as padded batches of token ids, and the loss on what the assistant says."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from .attention import causal_bias
from .dialogues import converse, practise
from .episode import Album, Episode
from .gate_turns import QUESTION, SILENT, SPEAK, Gathering, gather
from .network import CONTEXT
from .tool_turns import strip

DRILLS = 0.1  # copying drills per conversation
QUIET = 0.7  # share of the lines that call for nothing, after which it is asked
SHUFFLED = 6  # batches sorted by length together


@dataclass(frozen=True)
class Sample:
    """One conversation. ids: token ids with one pad per merged picture token; weights: loss weight of each token as a
    target (0 where the assistant does not speak); pictures: indices of the pool; branches: (first token, token of the
    trunk it follows on) of each of the continuations that stand at the end, none of which sees another."""

    ids: list[int]
    weights: list[float]
    pictures: list[int]
    branches: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class SpeechBatch:
    """Right-padded samples, each tensor (batch, length); pictures in reading order over the whole batch.

    branch: which continuation a token belongs to, 0 for the trunk; after: the last place of the trunk that it sees;
    skipped: how many places stand before it that its branch does not have.
    """

    ids: torch.Tensor
    valid: torch.Tensor
    weights: torch.Tensor
    branch: torch.Tensor
    after: torch.Tensor
    skipped: torch.Tensor
    pictures: list[int]


class Encoder:
    """Turns episodes into samples the way the processor would."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens_of: list[int]) -> None:
        """tokens_of: merged tokens of each pool picture."""
        self.tokenizer = tokenizer
        self.tokens_of = tokens_of
        self.image = int(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        self.end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        self.opening = tokenizer.encode("<|im_start|>assistant\n")
        self.call = int(tokenizer.convert_tokens_to_ids("<tool_call>"))

    def sample(self, episode: Episode) -> Sample:
        """Render, tokenise, widen the picture marks and find what the assistant says."""
        text = self.tokenizer.apply_chat_template(episode.messages, tools=strip(episode.tools) or None, tokenize=False)
        ids: list[int] = []
        pictures = iter(episode.pictures)
        for token in self.tokenizer.encode(text):
            ids.extend([token] * (self.tokens_of[next(pictures)] if token == self.image else 1))
        scored = [not m.get("unscored") for m in episode.messages if m["role"] == "assistant"]
        return Sample(ids, self._weights(ids, scored), episode.pictures)

    def gathering(self, talk: Gathering, rng: Random) -> Sample:
        """The talk once, and behind its lines the question whether to speak, each with its answer as a branch."""
        text = self.tokenizer.apply_chat_template(talk.messages, tokenize=False)
        ids = list(self.tokenizer.encode(text))
        ends = [place + 1 for place, token in enumerate(ids) if token == self.end]
        weights = [0.0] * len(ids)
        branches = []
        for end, label in zip(ends, talk.labels, strict=True):
            if label is None or (not label and rng.random() > QUIET):
                continue
            asked = [{"role": "user", "content": QUESTION}]
            said = self.tokenizer.encode(self.tokenizer.apply_chat_template(asked, tokenize=False)) + self.opening
            branches.append((len(ids), end))
            ids += [*said, *self.tokenizer.encode(SPEAK if label else SILENT), self.end]
            weights += [*[0.0] * len(said), 1.0, 0.1]
        return Sample(ids, weights, [], tuple(branches))

    def _weights(self, ids: list[int], scored: list[bool]) -> list[float]:
        """An answer of n tokens weighs √n in all, or the long fixed sentences would drown the short answers."""
        weights = [0.0] * len(ids)
        turn = iter(scored)
        length = len(self.opening)
        start = 0
        while start < len(ids):
            if ids[start : start + length] == self.opening:
                begin = start + length
                stop = ids.index(self.end, begin) + 1
                if next(turn):
                    weights[begin:stop] = [(stop - begin) ** -0.5] * (stop - begin)
                    self._stress_tools(ids, weights, begin, stop)
                start = stop
            else:
                start += 1
        return weights

    def _stress_tools(self, ids: list[int], weights: list[float], begin: int, stop: int) -> None:
        """The tokens of a called tool's name count fully: which tool it is, is what is hard to learn about a call."""
        if ids[begin] != self.call:
            return
        said = ""
        for place in range(begin, stop):
            said += self.tokenizer.decode(ids[place])
            if said.rpartition('"name": "')[2].count('"') == 0 and '"name": "' in said:
                weights[place] = 1.0


def drill(rng: Random, vocabulary: int) -> Sample:
    """Short random runs of tokens, then the same runs in another order: practice in copying.

    Names and cities are a few tokens of a conversation; without such drills the network learns to copy them very late.
    The first token of a repeated run cannot be known and does not count.
    """
    runs = [[rng.randrange(vocabulary) for _ in range(rng.randint(2, 7))] for _ in range(rng.randint(3, 14))]
    again = rng.sample(runs, len(runs))
    ids = [token for run in runs + again for token in run]
    weights = [0.0] * sum(map(len, runs)) + [weight for run in again for weight in (0.0, *[0.2] * (len(run) - 1))]
    return Sample(ids, weights, [])


def pad(samples: list[Sample], filler: int) -> SpeechBatch:
    """Samples side by side."""
    longest = max(len(s.ids) for s in samples)
    ids = torch.full((len(samples), longest), filler)
    valid = torch.zeros((len(samples), longest), dtype=torch.long)
    weights = torch.zeros((len(samples), longest))
    branch, skipped = torch.zeros_like(ids), torch.zeros_like(ids)
    after = torch.arange(longest).repeat(len(samples), 1)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        valid[row, : len(sample.ids)] = 1
        weights[row, : len(sample.ids)] = torch.tensor(sample.weights)
        for number, (start, follows) in enumerate(sample.branches, 1):
            branch[row, start:], after[row, start:], skipped[row, start:] = number, follows, start - follows - 1
    return SpeechBatch(ids, valid, weights, branch, after, skipped, [p for s in samples for p in s.pictures])


class Talk:
    """An endless source of batches of new conversations, each about `tokens` long in all, of similar lengths.

    practice: share of the conversations that are short and only about copying; gate: of talk that calls nobody; both
    may be changed on the way.
    """

    def __init__(self, encoder: Encoder, album: Album, tokens: int, seed: int) -> None:
        self.encoder, self.album, self.tokens, self.rng = encoder, album, tokens, Random(seed)
        self.filler = int(encoder.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
        self.practice = self.gate = 0.0
        self._ready: list[SpeechBatch] = []

    def next(self) -> SpeechBatch:
        """One batch."""
        if not self._ready:
            self._ready = self._refill()
        return self._ready.pop()

    def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        while sum(len(s.ids) for s in samples) < self.tokens * SHUFFLED:
            if self.rng.random() < self.gate:
                sample = self.encoder.gathering(gather(self.rng), self.rng)
            else:
                make = practise if self.rng.random() < self.practice else converse
                sample = self.encoder.sample(make(self.rng, self.album))
            if len(sample.ids) < min(CONTEXT // 2, self.tokens):
                samples.append(sample)
            if self.rng.random() < DRILLS:
                samples.append(drill(self.rng, self.filler))
        return sorted(samples, key=lambda s: len(s.ids))

    def _refill(self) -> list[SpeechBatch]:
        chunks: list[list[Sample]] = [[]]
        for sample in self._samples():
            if (len(chunks[-1]) + 1) * len(sample.ids) > self.tokens:
                chunks.append([])
            chunks[-1].append(sample)
        self.rng.shuffle(chunks)
        return [pad(chunk, self.filler) for chunk in chunks if chunk]


def answer_loss(
    network: Qwen3VLForConditionalGeneration, batch: SpeechBatch, levels: list[torch.Tensor], grids: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Weighted cross-entropy of the assistant's tokens, and the share of them the network gets right.

    levels: picture features per level, each (all picture tokens, width); grids: (pictures, 2) in patches.
    """
    core = network.model
    is_image = batch.ids == network.config.image_token_id
    frames = torch.cat([torch.ones(len(grids), 1, dtype=torch.long), grids], dim=1) if len(grids) else None
    positions, _ = core.get_rope_index(batch.ids, is_image.int(), image_grid_thw=frames, attention_mask=batch.valid)
    positions = positions - batch.skipped
    embeds = core.language_model.embed_tokens(batch.ids)
    if len(grids):
        embeds = embeds.masked_scatter(is_image[..., None], levels[-1].to(embeds.dtype))
    hidden = core.language_model(
        inputs_embeds=embeds,
        attention_mask=causal_bias(batch.valid, batch.branch, batch.after),
        position_ids=positions,
        visual_pos_masks=is_image if len(grids) else None,
        deepstack_visual_embeds=levels[:-1] if len(grids) else None,
        use_cache=False,
    ).last_hidden_state
    weights = batch.weights[:, 1:]
    spoken = weights > 0
    logits = network.lm_head(hidden[:, :-1][spoken]).float()
    targets = batch.ids[:, 1:][spoken]
    each = functional.cross_entropy(logits, targets, reduction="none")
    loss = (each * weights[spoken]).sum() / weights[spoken].sum()
    return loss, float((logits.argmax(-1) == targets).float().mean())
