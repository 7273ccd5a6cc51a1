"""What a card may get wrong without a word: numbers that are none, drawing that waits, products of packed weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from card import IMAGE, Card

from qqvl_server.engine.cache.kv_cache import kv_dtype
from qqvl_server.engine.cuda.products import OwnProducts, wrong
from qqvl_server.engine.forward.sampler import Sampler
from qqvl_server.engine.forward.vision import Patches
from qqvl_server.engine.steps.batch import NoNumbers
from qqvl_server.engine.steps.core import EngineCore
from qqvl_server.engine.steps.request import Request
from qqvl_server.quantised.eights import ByteLinear
from qqvl_server.quantised.integers import IntLinear


class Probes(Card):
    """Parts of the report."""

    def truth(self, rows: dict[str, Any], model: Any) -> None:
        """A row of NaN ends its own request; drawing does not wait for the device."""
        requests = [self.request(5, 5)[0] for _ in range(4)]
        logits = torch.randn(4, model.config.get_text_config().vocab_size, device=self.device).to(kv_dtype(model))
        logits[2, 5] = torch.nan
        sampler = Sampler(self.device, [IMAGE])
        sampler.draw(logits.clone(), range(4), requests).wait()
        if self.is_card:
            torch.cuda.set_sync_debug_mode("error")
        try:
            drawn = sampler.draw(logits.clone(), range(4), requests)
        finally:
            if self.is_card:
                torch.cuda.set_sync_debug_mode("default")
        rows["drawing waits for the device"] = "no"
        ended = [isinstance(one, NoNumbers) for one in drawn.wait()]
        rows["rows that end with an error"] = "as they should" if ended == [False, False, True, False] else ended
        rows["ms of drawing for 4 chats"] = self.milliseconds(lambda: sampler.draw(logits, range(4), requests).wait())

    def poisoned(self, rows: dict[str, Any], core: EngineCore) -> None:
        """A picture of NaN through the whole engine: its request ends with an error, those beside it as if alone."""
        wishes: dict[str, Any] = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
        words = [self.request(30 + 40 * n, 8, **wishes)[0] for n in range(3)]
        alone = []
        for request in words:
            core.add(request, {})
            self.finish(core)
            alone.append(request.output)
        seen, patches = self.request(20, 8, pictures=1, **wishes)
        poison = {key: Patches(torch.full_like(one.pixel_values, torch.nan), one.grid) for key, one in patches.items()}
        again = [Request(f"{r.id}+", r.chat, r.prompt, r.sampling) for r in words]
        for request in again:
            core.add(request, {})
        core.step()
        core.add(seen, poison)
        errors: list[str] = []
        while core.has_work:
            errors += [type(out.error).__name__ for out in core.step() if out.request is seen and out.error is not None]
        rows["the poisoned one"] = "ended with an error" if errors == ["NoNumbers"] else (errors or seen.output)
        rows["those beside it"] = "the same" if [r.output for r in again] == alone else "DIFFERENT"
        after = Request("after", words[2].chat, words[2].prompt, words[2].sampling)
        core.add(after, {})
        self.finish(core)
        rows["one after it"] = "the same" if after.output == alone[2] else "DIFFERENT"

    def products(self, rows: dict[str, Any]) -> None:
        """An 8B model's widest layer, packed: is its product right here, how long does it take?"""
        inputs, outputs = (256, 512) if self.quick else (4096, 24_576)
        dtype = torch.bfloat16 if self.is_card else torch.float32
        dice = torch.Generator(self.device).manual_seed(0)

        def drawn(low: int, high: int, *size: int, kind: torch.dtype) -> torch.Tensor:
            return torch.randint(low, high, size, generator=dice, device=self.device, dtype=kind)

        scales = torch.rand(inputs // 128, outputs, generator=dice, device=self.device).half() / 50
        zeros = drawn(0, 16, *scales.shape, kind=torch.uint8)
        four = IntLinear(drawn(-(2**31), 2**31 - 1, inputs // 8, outputs, kind=torch.int32), scales, zeros, bits=4)
        eight = drawn(-127, 127, outputs, inputs, kind=torch.int8).float().to(torch.float8_e4m3fn)
        by_block = torch.rand(outputs // 128, inputs // 128, generator=dice, device=self.device) / 50
        fp8 = ByteLinear(eight, by_block, block=(128, 128))
        layers: dict[str, IntLinear | ByteLinear] = {"4 bits": four, "FP8": fp8}
        own = OwnProducts(self.device) if self.is_card else None
        plain = torch.nn.Linear(inputs, outputs, bias=False, device=self.device, dtype=dtype)
        for name, layer in layers.items():
            rows[name] = "not tried without a card" if own is None else wrong(own, layer, dtype) or "right"
        for count in (1, 16, 64, 1024):
            given = torch.randn(count, inputs, generator=dice, device=self.device).to(dtype)
            took = {"plain": self.milliseconds(partial(plain, given))}
            took |= {f"{name}, unpacked": self.milliseconds(partial(one, given)) for name, one in layers.items()}
            if own is not None:
                took["4 bits, own"] = self.milliseconds(partial(own.integers, given, four))
                took["FP8, own"] = self.milliseconds(partial(own.bytes, given, fp8))
            rows[f"ms of {count} rows"] = took

    def finish(self, core: EngineCore) -> None:
        while core.has_work:
            core.step()
