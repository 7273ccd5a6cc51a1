"""Second stage of the recipe: the language side learns to talk about what the trained tower sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from .attention import use_plain_attention
from .drawing import NO_SHAPE, Label
from .episode import Album
from .eye import HelperHeads, eye_loss, see
from .eye_training import CLIP
from .optimisers import WARM_UP, make_optimisers, schedule, set_rate
from .pictures import IGNORE, Picture, collate, turned
from .speech import Encoder, SpeechBatch, Talk, answer_loss
from .teamwork import average_gradients


@dataclass(frozen=True)
class SpeechPlan:
    """steps of batches of about `tokens` tokens; the learning rate peaks at `rate`.

    The first `copying` steps only practise copying: names and cities are few of a conversation's tokens, and without
    practice the network begins to copy them very late. From step `thaw` on the tower learns along at `eye_share` of the
    rate, with its helper heads kept on and at least `pictures` pictures a step, so that it forgets nothing. The steps
    from `refine` on are a second, gentler round: mostly copying and choosing, on pictures drawn anew. After the copying
    a share `gate` of the conversations is talk that calls nobody, with the question whether to join in. `drilled` is
    the share of copying among the others in the first round, until its last fifth.
    """

    steps: int
    tokens: int = 4500
    rate: float = 2e-3
    decay: float = 0.05
    copying: int = 600
    thaw: int = 900
    eye_share: float = 0.6
    pictures: int = 40
    refine: int = 2200
    gentle: float = 0.5
    gate: float = 0.07
    drilled: float = 0.35
    warm_up: int = WARM_UP

    def heat(self, step: int) -> float:
        """Share of `rate` at a step."""
        if step < self.refine:
            return schedule(step, min(self.steps, self.refine), self.warm_up)
        return self.gentle * schedule(step - self.refine, self.steps - self.refine, warm_up=20)

    def practice(self, step: int) -> float:
        """Share of copying practice among the conversations of a step."""
        if step < self.copying:
            return 1.0
        round_start, round_end = (self.refine, self.steps) if step >= self.refine else (0, self.refine)
        late = step - round_start >= 0.8 * (round_end - round_start)
        return 0.15 if late else 0.45 if step >= self.refine else self.drilled

    def shared(self, workers: int) -> SpeechPlan:
        """One worker's part of every step."""
        return replace(self, tokens=self.tokens // workers, pictures=self.pictures // workers)


def album_of(pool: list[Picture]) -> Album:
    """Labels of a pool for the dialogue maker."""
    labels = [Label(p.label[0], NO_SHAPE if p.label[1] == IGNORE else p.label[1], max(0, p.label[2] + 1)) for p in pool]
    return Album(labels)


class Teacher:
    """Network, tower and helper heads in training, and how a step is made."""

    def __init__(
        self,
        network: Qwen3VLForConditionalGeneration,
        heads: HelperHeads,
        pool: list[Picture],
        plan: SpeechPlan,
        rng: Random,
    ) -> None:
        self.network, self.heads, self.pool, self.plan, self.rng = network, heads, pool, plan, rng
        # Three and four are the hardest to tell apart, so pictures of many objects come up more often.
        self.crowded = [i for i, picture in enumerate(pool) for _ in range(picture.label[2])]
        use_plain_attention(network.model.language_model)
        self.speech_weights = dict(network.model.language_model.named_parameters())
        self.eye_weights = dict([*network.model.visual.named_parameters(), *heads.named_parameters(prefix="heads")])
        self.speech_optimisers = make_optimisers(self.speech_weights, plan.decay)
        self.eye_optimisers = make_optimisers(self.eye_weights, plan.decay)

    def loss(self, batch: SpeechBatch, thawed: bool) -> tuple[torch.Tensor, str]:
        """Language loss on what the tower sees; once thawed also the helper heads' loss, on these and more pictures."""
        more = self.plan.pictures - len(batch.pictures) if thawed else int(not batch.pictures)
        chosen = batch.pictures + [self._extra() for _ in range(more)]
        pictures = collate([turned(self.pool[i], self.rng.randrange(8)) for i in chosen])
        with torch.set_grad_enabled(thawed):
            features = see(self.network.model.visual, pictures)
        shown = len(batch.pictures)
        tokens = pictures.valid[:shown, ::4]
        loss, right = answer_loss(self.network, batch, [f[:shown][tokens] for f in features], pictures.grids[:shown])
        note = f"tokens {right:.3f}"
        if thawed:
            eye = eye_loss(self.heads, features, pictures)
            loss = loss + 0.4 * eye.total
            note += f" colour {eye.colour:.2f} shape {eye.shape:.2f} count {eye.count:.2f}"
        return loss, note

    def _extra(self) -> int:
        """A picture for the tower alone; often several objects, which conversations show too rarely."""
        return self.rng.choice(self.crowded) if self.rng.random() < 0.5 else self.rng.randrange(len(self.pool))

    def update(self, loss: torch.Tensor, rate: float, thawed: bool) -> None:
        """One step of all optimisers that are in use."""
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients([*self.speech_weights.values(), *(self.eye_weights.values() if thawed else ())])
        torch.nn.utils.clip_grad_norm_(self.speech_weights.values(), CLIP)
        set_rate(self.speech_optimisers, rate)
        if thawed:
            torch.nn.utils.clip_grad_norm_(self.eye_weights.values(), CLIP)
            set_rate(self.eye_optimisers, rate * self.plan.eye_share)
        for optimiser in self.speech_optimisers + (self.eye_optimisers if thawed else []):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def train_speech(
    teacher: Teacher, tokenizer: PreTrainedTokenizerBase, seed: int, keep: Callable[[int], None], start: int = 0
) -> None:
    """Train on new conversations; `keep` is called every 250 steps to save a checkpoint.

    start: number of steps already done, when resuming.
    """
    plan, pool = teacher.plan, teacher.pool
    encoder = Encoder(tokenizer, [picture.grid[0] * picture.grid[1] // 4 for picture in pool])
    talk = Talk(encoder, album_of(pool), plan.tokens, seed + start)
    bar = tqdm(range(start, plan.steps), desc="speech", mininterval=5)
    for step in bar:
        talk.practice, talk.gate = plan.practice(step), plan.gate if step >= plan.copying else 0.0
        batch = talk.next()
        thawed = step >= plan.thaw
        with torch.autocast("cpu", torch.bfloat16):
            loss, note = teacher.loss(batch, thawed)
        teacher.update(loss, plan.rate * plan.heat(step), thawed)
        if step % 50 == 0:
            bar.write(f"speech {step}: loss {float(loss.detach()):.3f} {note}")
        if (step + 1) % 250 == 0 or step + 1 == plan.steps:
            keep(step + 1)


def save_state(teacher: Teacher, step: int, path: Path) -> None:
    """Weights of network and heads, and the step count, in one file, replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"network": teacher.network.state_dict(), "heads": teacher.heads.state_dict(), "step": step}, part)
    part.replace(path)


def steps_done(path: Path) -> int:
    """Steps of the state in a file, 0 without one."""
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else 0


def load_state(teacher: Teacher, path: Path) -> int:
    """What save_state wrote, into the teacher; gives the number of steps done."""
    state = torch.load(path, weights_only=True)
    teacher.network.load_state_dict(state["network"])
    teacher.heads.load_state_dict(state["heads"])
    return int(state["step"])
