"""Run the generations to compare: greedy, forced along given tokens, and as one forward."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from kvbench.caches import BASELINE, CacheStrategy, strategy
from kvbench.errors import UserError
from kvbench.measure.caches import Driver, Look
from kvbench.measure.generate import driver_of, generate_options
from kvbench.models.config import position_limit
from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs

__all__ = [
    "Run",
    "Work",
    "forced",
    "forced_logits",
    "generate_ids",
    "greedy",
    "last_logits",
    "make_work",
    "one_forward",
    "watching",
    "work_of",
]

_PROMPT_TOKENS = 8
"""Short, since the uncached generation pays for each of its tokens at each step."""


@dataclass(frozen=True)
class Work:
    """What is generated: the model, the prompt and the number of new tokens per sequence.

    `driver` is what calls the model.
    """

    loaded: LoadedModel
    inputs: Inputs
    new_tokens: int
    driver: str = "generate"

    @property
    def batch_size(self) -> int:
        """The number of sequences generated at once."""
        return self.inputs.input_ids.shape[0]

    @property
    def decoder_prompt(self) -> int:
        """The positions that the decoder starts from: a start token if there is an encoder."""
        return 1 if self.loaded.is_encoder_decoder else self.inputs.tokens

    def lengths_after(self, step: int) -> list[int]:
        """Return the positions of each sequence after a step, without padding, of a decoder."""
        prompts: list[int] = self.inputs.attention_mask.sum(1).tolist()
        return [prompt + step for prompt in prompts]


@dataclass(frozen=True)
class Run:
    """The output of a generation.

    Attributes:
        sequences: the decoder's tokens, prompt included, `[batch, prompt + new]`.
        new_ids: the new ones among them, `[batch, new]`.
        logits: float32 on the CPU, before any processor, `[batch, new, vocabulary]`.
    """

    sequences: torch.Tensor
    new_ids: torch.Tensor
    logits: torch.Tensor


def make_work(loaded: LoadedModel, batch_size: int, new_tokens: int, seed: int) -> Work:
    """Return fixed pseudo-random prompts within the positions, each row shorter than the last.

    If the table of positions is too short for the prompt and `new_tokens`, both are shortened.
    """
    limit = position_limit(loaded.config)
    prompt = _PROMPT_TOKENS
    if limit.kind == "absolute" and limit.positions is not None:
        prompt = min(prompt, max(limit.positions // 4, 1))
        # The last new token is never fed back.
        first = 1 if loaded.is_encoder_decoder else prompt
        new_tokens = min(new_tokens, limit.positions - first + 1)
    lengths = [max(prompt - row * prompt // batch_size, 1) for row in range(batch_size)]
    return Work(loaded, _inputs(loaded, lengths, seed), max(new_tokens, 2))


def work_of(loaded: LoadedModel, inputs: Inputs, new_tokens: int, least: int = 1) -> Work | None:
    """Return what a case generates, cut where a table of positions ends; None if too short."""
    limit = position_limit(loaded.config)
    if limit.kind == "absolute" and limit.positions is not None:
        if inputs.tokens > limit.positions:
            return None
        first = 1 if loaded.is_encoder_decoder else inputs.tokens
        # The last new token is never fed back.
        new_tokens = min(new_tokens, limit.positions - first + 1)
    return Work(loaded, inputs, new_tokens) if new_tokens >= least else None


def _inputs(loaded: LoadedModel, lengths: list[int], seed: int) -> Inputs:
    rows, width = torch.tensor(lengths)[:, None], max(lengths)
    places = torch.arange(width)[None]
    # Pad as Encoder does: a decoder continues from the last position.
    mask = places < rows if loaded.is_encoder_decoder else places >= width - rows
    vocabulary = loaded.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (len(lengths), width), generator=generator)
    ids = ids.masked_fill(~mask, 0)
    return Inputs(ids.to(loaded.device), mask.long().to(loaded.device))


def greedy(work: Work, arm: CacheStrategy) -> Run:
    """Run the timed generation, and return its logits."""
    return _generate(work, arm)


def forced(work: Work, arm: CacheStrategy, new_ids: torch.Tensor) -> Run:
    """Run the same path through `generate`, forced along `new_ids` whatever the logits say."""
    return _generate(work, arm, new_ids)


def generate_ids(
    work: Work, arm: CacheStrategy, along: torch.Tensor | None = None, look: Look | None = None
) -> torch.Tensor:
    """Return the tokens of the timed generation, prompt included, without keeping its logits.

    Args:
        work: what is generated.
        arm: the strategy.
        along: new tokens to force, whatever the logits say.
        look: receives the logits of each step, `[batch, vocabulary]`.
    """
    with _driver(work, arm) as driver:
        return driver.run(along=along, look=look).sequences


def forced_logits(
    work: Work, arm: CacheStrategy, new_ids: torch.Tensor, steps: Collection[int]
) -> dict[int, torch.Tensor]:
    """Return the logits of some steps, from 0, of a generation forced along `new_ids`.

    Returns:
        float32 on the CPU, each `[batch, 1, vocabulary]`.
    """
    found: dict[int, torch.Tensor] = {}
    counter = itertools.count()

    def look(logits: torch.Tensor) -> None:
        step = next(counter)
        if step in steps:
            found[step] = logits[:, None].float().cpu()

    generate_ids(replace(work, new_tokens=new_ids.shape[1]), arm, new_ids, look)
    return found


def one_forward(work: Work, run: Run) -> torch.Tensor:
    """Return the logits of a run's steps, from one forward over all its tokens without a cache.

    Returns:
        float32 on the CPU, `[batch, new, vocabulary]`.

    Raises:
        UserError: the model returns the logits of fewer positions.
    """
    return last_logits(work, run.sequences, run.new_ids.shape[1])


def last_logits(work: Work, sequences: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the logits that predict the last `steps` tokens, from one forward without a cache.

    The forward is the prefill of a one-token generation with these tokens as its prompt, so
    positions and masks are those of `generate`.

    Args:
        work: the work whose prompt the sequences begin with.
        sequences: the decoder's tokens, prompt included, `[batch, tokens]`.
        steps: how many tokens, at the end.

    Returns:
        float32 on the CPU, `[batch, steps, vocabulary]`.

    Raises:
        UserError: the model returns the logits of fewer positions.
    """
    loaded = work.loaded
    options = generate_options(loaded, strategy(BASELINE), 1)
    tokens, mask = sequences[:, :-1], work.inputs.attention_mask
    if loaded.is_encoder_decoder:
        options |= {"input_ids": work.inputs.input_ids, "decoder_input_ids": tokens}
    else:
        options["input_ids"] = tokens
        new = tokens.shape[1] - mask.shape[1]
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], new)], dim=1)
    seen: list[torch.Tensor] = []

    def look(output: Any, _given: dict[str, Any]) -> None:
        seen.append(output.logits[:, -steps:].float().cpu())

    with watching(loaded.model, look), _keeping_logits(loaded.model, steps):
        _call(loaded, attention_mask=mask, **options)
    if seen[0].shape[1] != steps:
        raise UserError(
            f"One forward pass returns the logits of {seen[0].shape[1]} of {steps} steps; there "
            "is nothing to compare with.",
            kind="nothing_to_compare",
        )
    return seen[0]


@contextlib.contextmanager
def watching(model: torch.nn.Module, look: Callable[[Any, dict[str, Any]], None]) -> Iterator[None]:
    """Pass the output and keyword arguments of each forward to `look` while the block runs."""

    def hook(_module: torch.nn.Module, _args: Any, given: dict[str, Any], output: Any) -> None:
        look(output, given)

    handle = model.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _keeping_logits(model: torch.nn.Module, count: int) -> Iterator[None]:
    """Make each forward return its last `count` logits; generate would return only the last one."""

    def hook(_module: torch.nn.Module, args: Any, options: dict[str, Any]) -> Any:
        # Set last, since some models overwrite the argument while they prepare their inputs.
        return args, options | ({"logits_to_keep": count} if "logits_to_keep" in options else {})

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _generate(work: Work, arm: CacheStrategy, along: torch.Tensor | None = None) -> Run:
    with _driver(work, arm) as driver:
        output = driver.run(keep_logits=True, along=along)
    assert output.logits is not None
    # On the host, to hold several runs at once.
    return Run(output.sequences, output.sequences[:, work.decoder_prompt :], output.logits)


def _driver(work: Work, arm: CacheStrategy) -> contextlib.closing[Driver]:
    prepared = driver_of(work.loaded, arm, work.inputs, work.new_tokens, work.driver)
    return contextlib.closing(prepared)


def _call(loaded: LoadedModel, **options: Any) -> Any:
    # PreTrainedModel gets the method from a mixin that its type does not declare.
    run: Callable[..., Any] = loaded.model.generate  # type: ignore[assignment]
    return run(**options)
