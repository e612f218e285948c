"""Measure how a lossy cache changes the output, against no cache on the same context.

This is a separate pass: nothing here is timed. Distributions are compared over decode steps after a
prefill, since the first update of a quantized layer returns the exact keys: a single forward
through such a cache shows no error at all.
"""

from __future__ import annotations

import dataclasses
import math
import random
from functools import cached_property
from typing import Any

import torch

from kvbench.caches import BASELINE, CacheStrategy, strategy
from kvbench.errors import UserError
from kvbench.measure.caches import situation_of
from kvbench.measure.verify.runs import Work, forced, generate_ids, last_logits
from kvbench.models.load import LoadedModel
from kvbench.models.positions import position_limit
from kvbench.models.prompts import Encoder, Inputs
from kvbench.plan.texts import Text
from kvbench.records.quality import Quality, QualitySize, quality_of

__all__ = ["QualityPass", "measure_quality", "unmeasurable"]

_FASTEST_EXACT = "dynamic"
"""A faster way to the tokens of no cache; one forward without a cache confirms them."""

_LEAST_PREFILL = 16


def unmeasurable(loaded: LoadedModel, cache: str) -> str | None:
    """Return why the quality of a strategy cannot be measured on a model; None if it can."""
    if loaded.key.weights == "random":
        return "random weights have no meaningful quality"
    if loaded.is_encoder_decoder:
        return "quality is measured on decoders only: an encoder sees the whole text at once"
    if loaded.source.place is None:
        return "the model has no tokenizer"
    return strategy(cache).unmet(situation_of(loaded))


def measure_quality(
    loaded: LoadedModel,
    cache: str,
    text: Text,
    *,
    size: QualitySize | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
) -> Quality:
    """Compare the output of a model with one cache strategy to its output without a cache.

    For several strategies, a `QualityPass` runs the model without a cache only once.

    Raises:
        UserError: see QualityPass.
    """
    reason = unmeasurable(loaded, cache)
    if reason is not None:
        return quality_of(loaded.key, cache, text, reason=reason)
    return QualityPass(loaded, text, size=size, encoder=encoder, seed=seed).of(cache)


class QualityPass:
    """One model and one text; the output without a cache is kept for all strategies.

    Args:
        loaded: the model.
        text: the text that the model reads.
        size: how much of it to use.
        encoder: turns text into tokens; created if not given.
        seed: the seed of the numbers hidden in the text.

    Raises:
        UserError: the text is too short, the model has too few positions or no tokenizer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        text: Text,
        *,
        size: QualitySize | None = None,
        encoder: Encoder | None = None,
        seed: int = 0,
    ) -> None:
        self._loaded = loaded
        self._text = text
        self._reader = _Reader(encoder or Encoder(loaded, seed), text)
        self._size = _within_positions(loaded, size or QualitySize())
        self._seed = seed
        passages = self._reader.passages(self._size.passages, self._size.prefill + self._new)
        # [passages, prefill + steps + 1]
        self._ids = torch.tensor(passages, device=loaded.device)

    @property
    def _new(self) -> int:
        # The first new token comes from the prefill, which reads nothing from the cache.
        return self._size.steps + 1

    def of(self, cache: str) -> Quality:
        """Return the quality of a strategy, or the reason why there is none."""
        reason = unmeasurable(self._loaded, cache)
        if reason is not None:
            return quality_of(self._loaded.key, cache, self._text, reason=reason)
        arm = strategy(cache)
        return quality_of(
            self._loaded.key,
            cache,
            self._text,
            passages=self._size.passages,
            prefill_tokens=self._size.prefill,
            steps=self._size.steps,
            **self._teacher_forced(arm),
            **self._free_running(arm),
            **self._found(arm),
        )

    def _teacher_forced(self, arm: CacheStrategy) -> dict[str, float]:
        """Feed the same tokens one at a time through the cache, and all at once without one."""
        prefill = self._size.prefill
        through = forced(self._work(self._new), arm, self._ids[:, prefill:]).logits[:, 1:]
        scored = self._ids[:, prefill + 1 :].cpu()
        divergences, losses, agreed = [], [], 0
        for row, tokens in enumerate(scored):
            # [steps, vocabulary], one passage at a time: all at once would need several large
            # copies.
            cached = through[row].float().log_softmax(-1)
            plain = self._without[row].log_softmax(-1)
            divergences.append((plain.exp() * (plain - cached)).sum(-1).clamp(min=0))
            agreed += int((cached.argmax(-1) == plain.argmax(-1)).sum())
            both = torch.stack([cached, plain], dim=-1)
            losses.append(both.gather(1, tokens[:, None, None].expand(-1, 1, 2))[:, 0])
        divergence, loss = torch.cat(divergences).double(), -torch.cat(losses).double().mean(0)
        return {
            "kl_divergence": float(divergence.mean()),
            "kl_divergence_max": float(divergence.max()),
            "top1_agreement": agreed / scored.numel(),
            "perplexity": math.exp(loss[0]),
            "baseline_perplexity": math.exp(loss[1]),
        }

    @cached_property
    def _without(self) -> torch.Tensor:
        """Return the scored tokens' logits without a cache, `[passages, steps, vocabulary]`."""
        return last_logits(self._work(self._new), self._ids, self._new)[:, 1:]

    def _free_running(self, arm: CacheStrategy) -> dict[str, Any]:
        """Let both continue from the same prompts, each with its own tokens."""
        work = self._work(self._size.steps)
        differ = (generate_ids(work, arm) != self._free_without)[:, self._size.prefill :]
        parted = differ.any(1)
        # argmax returns the first of equal numbers.
        places = differ[parted].int().argmax(1)
        return {
            "new_tokens": work.new_tokens,
            "token_agreement": 1 - float(differ.double().mean()),
            "parted_passages": int(parted.sum()),
            "parted_at": int(places.min()) + 1 if len(places) else None,
        }

    @cached_property
    def _free_without(self) -> torch.Tensor:
        """Return the greedy tokens without a cache, prompt included.

        An exact cache usually gives the same tokens faster. One forward without a cache over all of
        them confirms each one.
        """
        work = self._work(self._size.steps)
        ids = generate_ids(work, strategy(_FASTEST_EXACT))
        logits = last_logits(work, ids, work.new_tokens)
        if torch.equal(logits.argmax(-1), ids[:, -work.new_tokens :].cpu()):
            return ids
        return generate_ids(work, strategy(BASELINE))

    def _found(self, arm: CacheStrategy) -> dict[str, int]:
        """Ask for the numbers hidden in the text, and count the correct answers."""
        found = 0
        for prompt, answer in self._needles:
            work = _work(self._loaded, self._tensor(prompt), len(answer))
            found += generate_ids(work, arm)[0, len(prompt) :].tolist() == answer
        return {
            "needles": len(self._needles),
            "needles_found": found,
            "baseline_needles_found": self._found_without,
        }

    @cached_property
    def _found_without(self) -> int:
        found = 0
        for prompt, answer in self._needles:
            work = _work(self._loaded, self._tensor(prompt), len(answer))
            logits = last_logits(work, self._tensor(prompt + answer), len(answer))
            found += logits[0].argmax(-1).tolist() == answer
        return found

    @cached_property
    def _needles(self) -> list[tuple[list[int], list[int]]]:
        """Return prompts, each with a number at another depth and a final question; and answers."""
        numbers = random.Random(self._seed)
        question = self._reader.tokens(_QUESTION)
        made = []
        for place in range(self._size.needles):
            number = numbers.randrange(10_000, 100_000)
            whole = self._reader.tokens(f"{_QUESTION} {number}")
            if whole[: len(question)] != question:
                # A tokenizer that merges the number with the question has no separate answer.
                return []
            answer, needle = whole[len(question) :], self._reader.tokens(_SENTENCE.format(number))
            room = self._size.prefill - len(needle) - len(whole)
            if room < _LEAST_PREFILL:
                return []
            [hay] = self._reader.passages(1, room)
            depth = len(hay) * (2 * place + 1) // (2 * self._size.needles)
            made.append((hay[:depth] + needle + hay[depth:] + question, answer))
        return made

    def _work(self, new_tokens: int) -> Work:
        return _work(self._loaded, self._ids[:, : self._size.prefill], new_tokens)

    def _tensor(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor([ids], device=self._loaded.device)


_QUESTION = "\n\nThe secret number of the lighthouse is"
_SENTENCE = _QUESTION + " {}.\n\n"


def _work(loaded: LoadedModel, prompts: torch.Tensor, new_tokens: int) -> Work:
    return Work(loaded, Inputs(prompts, torch.ones_like(prompts)), new_tokens)


def _within_positions(loaded: LoadedModel, size: QualitySize) -> QualitySize:
    """Return the size with a shorter prefill, if the model was made for fewer positions."""
    limit = position_limit(loaded.config).positions
    if limit is None:
        return size
    prefill = min(size.prefill, limit - size.steps - 1)
    if prefill < _LEAST_PREFILL:
        raise UserError(
            f"quality: {loaded.key.model} has {limit} positions, too few for {size.steps} steps.",
            kind="too_long",
        )
    return dataclasses.replace(size, prefill=prefill)


class _Reader:
    """Turn a text into rows of tokens, each with the tokenizer's prefix."""

    def __init__(self, encoder: Encoder, text: Text) -> None:
        self._encoder = encoder
        self._text = text
        self.start, self.ids = encoder.tokens(text.content)

    def passages(self, count: int, tokens: int) -> list[list[int]]:
        """Return pieces of the text, spread evenly over it, `[count, tokens]`."""
        own = tokens - len(self.start)
        last = len(self.ids) - own
        if last < count - 1:
            raise UserError(
                f"text: {self._text.name} has {len(self.ids)} tokens; {count} passages of "
                f"{tokens} need more: use a longer text.",
                kind="text_too_short",
            )
        starts = [place * last // max(count - 1, 1) for place in range(count)]
        return [self.start + self.ids[first : first + own] for first in starts]

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, without the tokenizer's prefix."""
        return self._encoder.tokens(text)[1]
