"""Generated: which generations the samples of cases take, and which cases share their rounds.

It depends on the method of a case. This module is below the methods, so that forecasts may ask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache

from kvbench.analysis.positions import blocks_of, generation_of, start_tokens
from kvbench.caches import strategy
from kvbench.plan.axes import CaseAxes
from kvbench.plan.case import Case, Prompt

__all__ = [
    "generations_of",
    "is_sampled",
    "longest_of",
    "rough_prompt_tokens",
    "round_key",
]

_TOKEN_LENGTH = 4
"""Approximate characters per token of text."""


def round_key(case: Case) -> str:
    """Return the key that cases share which are measured in the same rounds.

    With a method that reads all lengths from one sample, that is the comparison groups of all
    lengths.
    """
    return _of_any_length(case).pair_key


def longest_of(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases that are sampled; the rows of the others are read from them.

    With the method `each`, that is all of them, and otherwise the longest of those that differ in
    length. They come in the order in which their kind first appears.
    """
    return tuple(max(kind, key=lambda case: case.max_new_tokens) for kind in _kinds(cases))


def generations_of(cases: Iterable[Case]) -> Mapping[Case, tuple[Case, ...]]:
    """Return the cases whose samples are taken, each with the generations of one sample.

    A generation is given as a case with its own prompt and number of new tokens.
    """
    found = {}
    for kind in _kinds(cases):
        longest = max(kind, key=lambda case: case.max_new_tokens)
        lengths = tuple(sorted(case.max_new_tokens for case in kind))
        found[longest] = _pieces(longest, lengths) if is_sampled(longest) else (longest,)
    return found


def is_sampled(case: CaseAxes) -> bool:
    """Return whether the times of a case are estimated: no sample passes through all its tokens.

    Then nothing else may either: a full-length warm-up would take what the method saves.
    """
    return case.method == "sampled"


def rough_prompt_tokens(case: Case) -> int:
    """Return the length of a prompt in tokens; approximate for a text."""
    texts = (len(text) // _TOKEN_LENGTH + 1 for text in case.prompt.texts)
    return case.prompt.tokens or max(texts, default=1)


def _kinds(cases: Iterable[Case]) -> Iterable[list[Case]]:
    """Return the cases, grouped by the sample that they are read from."""
    found: dict[Case, list[Case]] = {}
    for case in cases:
        found.setdefault(_of_any_length(case), []).append(case)
    return found.values()


def _of_any_length(case: Case) -> Case:
    """Return the same case for all lengths that are read from one sample."""
    return case if case.method == "each" else dataclasses.replace(case, max_new_tokens=1)


@cache
def _pieces(case: Case, lengths: tuple[int, ...]) -> tuple[Case, ...]:
    """Return the short generations that a sample of the method `sampled` consists of."""
    prompt, cached = rough_prompt_tokens(case), strategy(case.cache).use_cache

    def piece(further: int, new_tokens: int) -> Case:
        longer = Prompt.of_tokens(prompt + further)
        return dataclasses.replace(case, prompt=longer, max_new_tokens=new_tokens)

    start = piece(0, start_tokens(lengths))
    blocks = blocks_of(lengths, cached=cached)
    return (start, start, *(piece(*generation_of(block, cached=cached)) for block in blocks))
