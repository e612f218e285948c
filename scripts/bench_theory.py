"""Measure how well theory predicts: measured over expected speedup, at several lengths.

Each round probes this machine as `kvbench probe` does, then generates once per model with and
without the cache; shorter lengths are read from the stamps of the longest. The speed of a shared
machine changes within minutes, so a round is judged by the probes before and after it. Weights are
random, which costs the same as real ones. Figures worth keeping go to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from kvbench.catalogue import CATALOGUE
from kvbench.records.rates import Rates
from kvbench.theory.architecture import Architecture
from kvbench.theory.floors import floor

if TYPE_CHECKING:
    from kvbench.measure.engine import LocalEngine

PROMPT_TOKENS = 6
CACHES = ("off", "dynamic")


@dataclass(frozen=True)
class Generation:
    """One generation: the seconds from its start to each new token."""

    model: str
    cache: str
    times: tuple[float, ...]


@dataclass(frozen=True)
class Round:
    """The generations of a round, and the rates probed right before and after them."""

    before: Rates
    generations: tuple[Generation, ...]
    after: Rates

    def measured(self, model: str, cache: str, tokens: int) -> float:
        """Return the seconds that this many tokens took."""
        for one in self.generations:
            if (one.model, one.cache) == (model, cache):
                return one.times[tokens - 1]
        raise KeyError((model, cache))

    def expected(self, model: str, cache: str, tokens: int) -> float:
        """Return the seconds expected at the rates before and after, their mean."""
        config = CATALOGUE[model].config
        assert config is not None
        architecture = Architecture.from_config(config)
        sizes = (1, PROMPT_TOKENS, tokens)
        return statistics.mean(
            floor(architecture, cache, *sizes, "float32", rates).expected_s
            for rates in (self.before, self.after)
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="gpt2,smollm2-135m", help="built-in architectures")
    parser.add_argument("--lengths", default="50,100,200", help="new tokens")
    parser.add_argument("--minutes", type=float, default=7, help="start no round that ends later")
    parser.add_argument("--keep", type=Path, help="write rates and times to this file, as JSON")
    parser.add_argument("--read", type=Path, help="judge the rates and times of such a file")
    options = parser.parse_args()
    lengths = sorted(int(length) for length in options.lengths.split(","))
    models = options.models.split(",")
    kept = TypeAdapter(tuple[Round, ...])
    if options.read:
        rounds = kept.validate_json(options.read.read_bytes())
    else:
        rounds = tuple(measure(models, lengths[-1], options.minutes * 60))
    if options.keep:
        plain = [dataclasses.asdict(one) for one in rounds]
        options.keep.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    print_rates(rounds)
    print_table(rounds, models, lengths)
    return 0


def measure(models: Sequence[str], tokens: int, seconds: float) -> Iterator[Round]:
    """Yield rounds until the next one would end later; at least one."""
    from kvbench.measure.engine import LocalEngine
    from kvbench.measure.probe import probe_device
    from kvbench.plan.case import ModelKey

    start = time.monotonic()
    engines = {model: LocalEngine() for model in models}
    for model, engine in engines.items():
        engine.open(ModelKey(model, "random", "cpu", "float32", "auto"))
        for cache in CACHES:
            generate(engine, model, cache, 16)
    before, longest = probe_device("cpu"), 0.0
    while not longest or time.monotonic() - start + longest <= seconds:
        began = time.monotonic()
        generations = tuple(
            generate(engine, model, cache, tokens)
            for model, engine in engines.items()
            for cache in CACHES
        )
        after = probe_device("cpu")
        longest = max(longest, time.monotonic() - began)
        print(f"a round of {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        yield Round(before, generations, after)
        before = after
    for engine in engines.values():
        engine.close()


def generate(engine: LocalEngine, model: str, cache: str, tokens: int) -> Generation:
    """Generate once, as a sweep does."""
    from kvbench.methods.each import EACH
    from kvbench.plan.case import Case, ModelKey, Prompt, Task

    key = ModelKey(model, "random", "cpu", "float32", "auto")
    case = Case(
        **dataclasses.asdict(key),
        cache=cache,
        batch_size=1,
        prompt=Prompt.of_tokens(PROMPT_TOKENS),
        max_new_tokens=tokens,
    )
    (job,) = EACH.jobs([Task(case, "measure", 0, 0, tokens)])
    result = engine.run(job)
    if result.status != "ok":
        raise RuntimeError(f"{model}, {cache}: {result.fields.get('error')}")
    return Generation(model, cache, result.times)


def print_rates(rounds: Sequence[Round]) -> None:
    """Print what the probes found, and how far they agree."""
    probes = [rounds[0].before, *(one.after for one in rounds)]
    first = probes[0]
    flags = sorted({flag for rates in probes for flag in rates.flags})
    print(f"{first.hardware}, {first.threads} threads, torch {first.torch}; {len(probes)} probes")
    figures = {
        "read, GB/s": [rates.read_bytes_per_s / 1e9 for rates in probes],
        "float32, GFLOP/s": [rates.flops_per_s["float32"] / 1e9 for rates in probes],
        "one layer, us": [(rates.layer_s or 0.0) * 1e6 for rates in probes],
    }
    for name, values in figures.items():
        print(f"{name}: {spread(values, '.0f')}")
    print(f"flags: {', '.join(flags) or 'none'}\n")


def print_table(rounds: Sequence[Round], models: Sequence[str], lengths: Sequence[int]) -> None:
    """Print the table of docs/benchmarks.md: medians over the rounds, smallest to largest."""
    print(
        "| model | new tokens | measured speedup | expected | measured / expected "
        "| `off`: measured / expected time | `dynamic`: the same |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for model in models:
        for tokens in lengths:
            print(f"| {model} | {tokens} | {' | '.join(row(rounds, model, tokens))} |")


def row(rounds: Sequence[Round], model: str, tokens: int) -> tuple[str, ...]:
    """Return the cells of a row: speedups, and the times that they are made of."""
    measured = [[one.measured(model, cache, tokens) for one in rounds] for cache in CACHES]
    expected = [[one.expected(model, cache, tokens) for one in rounds] for cache in CACHES]
    gained, hoped = divided(*measured), divided(*expected)
    ratios = (gained, hoped, divided(gained, hoped))
    times = (divided(*both) for both in zip(measured, expected, strict=True))
    return tuple(spread(values, ".2f") for values in (*ratios, *times))


def divided(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(first, second, strict=True)]


def spread(values: Sequence[float], form: str) -> str:
    """Return `median (min to max)`."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    sys.exit(main())
