"""Measure what `each`, `trace` and `sampled` take and how far they are off, next to a plain script.

One table: GPT-2's architecture, random weights, float32, several lengths, with and without the
cache. Each round makes the whole table in four ways, in an order that moves: by the script of the
articles (in our own few lines), and by the three methods. Absolute times say little on a shared
machine; ratios within a round say more. The figures worth keeping go to docs/methods.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbench.analysis.sampled import rows_of_steps
from kvbench.analysis.statistics import paired_ratio
from kvbench.analysis.trace import rows_of_trace
from kvbench.caches import strategy
from kvbench.plan.case import Case, ModelKey, Prompt, Task
from kvbench.records.sample import sample_of

LENGTHS = (10, 110, 210, 310)
CACHES = ("off", "dynamic")
JUDGED = (110, 310)
ARTICLE = range(10, 911, 100)
PLANTED = 1.1
"""A planted cost on the last tokens, to see whether it would be found."""

LIMITS = {"trace": 0.65, "sampled": 0.15}
BIAS = (0.95, 1.05)
ERROR = 0.05

Cell = tuple[str, int]


@dataclass(frozen=True)
class Table:
    """One table made in one way.

    Attributes:
        wall_s: seconds for all of it.
        totals: seconds of a generation, by strategy and length.
        stamps: seconds to each token of the longest generation, by strategy, if there is one.
        low, high: ends of the intervals; NaN if there is none.
    """

    wall_s: float
    totals: Mapping[Cell, float]
    stamps: Mapping[str, tuple[float, ...]]
    low: Mapping[Cell, float]
    high: Mapping[Cell, float]


class Ways:
    """The ways to make a table, on two copies of one model."""

    def __init__(self, model: str, lengths: Sequence[int]) -> None:
        from kvbench.models.load import load_model
        from kvbench.models.prompts import Encoder

        key = ModelKey(model, "random", "cpu", "float32", "auto")
        self.lengths = tuple(lengths)
        self._loaded = load_model(key)
        # Use a separate model, so that kvbench's settings on its own model neither help nor hurt
        # this one.
        self._bare = load_model(key).model
        self._prompt = Prompt.of_tokens(6)
        self._inputs = Encoder(self._loaded, 0).encode(self._prompt, 1)
        self._key = key

    def script(self) -> Table:
        """Generate each length with and without the cache, and read the clock."""
        totals: dict[Cell, float] = {}
        ids, mask = self._inputs.input_ids, self._inputs.attention_mask
        for new_tokens in self.lengths:
            for cache in CACHES:
                start = time.perf_counter()
                self._bare.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    use_cache=cache != "off",
                    eos_token_id=None,
                    pad_token_id=0,
                )
                totals[cache, new_tokens] = time.perf_counter() - start
        return Table(0.0, totals, {}, {}, {})

    def each(self) -> Table:
        """Generate each length as kvbench does."""
        totals: dict[Cell, float] = {}
        stamps: dict[str, tuple[float, ...]] = {}
        for new_tokens in self.lengths:
            for cache in CACHES:
                done = self._generate(cache, new_tokens)
                totals[cache, new_tokens] = done.total_s
                stamps[cache] = done.token_times
        return Table(0.0, totals, stamps, {}, {})

    def trace(self) -> Table:
        """Generate the longest length, and derive the others from its stamps."""
        totals: dict[Cell, float] = {}
        stamps: dict[str, tuple[float, ...]] = {}
        for cache in CACHES:
            tasks = self._tasks(cache)
            done = self._generate(cache, self.lengths[-1])
            whole = sample_of(tasks[-1], total_s=done.total_s, prompt_tokens=self._inputs.tokens)
            for row in rows_of_trace(whole, done.token_times, tasks):
                totals[cache, row.max_new_tokens] = row.total_s or np.nan
            stamps[cache] = done.token_times
        return Table(0.0, totals, stamps, {}, {})

    def sampled(self) -> Table:
        """Time steps at chosen positions, and add up."""
        from kvbench.measure.sampled import measure_steps

        totals: dict[Cell, float] = {}
        low: dict[Cell, float] = {}
        high: dict[Cell, float] = {}
        for cache in CACHES:
            found = measure_steps(
                self._loaded,
                self._inputs,
                strategy(cache),
                self.lengths,
                synchronise=lambda: None,
                processor_s=time.process_time,
            )
            for row in rows_of_steps(found.measured, self._tasks(cache)):
                cell = cache, row.max_new_tokens
                totals[cell] = row.total_s or np.nan
                low[cell] = np.nan if row.total_s_low is None else row.total_s_low
                high[cell] = np.nan if row.total_s_high is None else row.total_s_high
        return Table(0.0, totals, {}, low, high)

    def warm_up(self) -> None:
        """Generate a few tokens with both models."""
        for cache in CACHES:
            self._generate(cache, 16)
        self._bare.generate(self._inputs.input_ids, max_new_tokens=16, pad_token_id=0)

    def _generate(self, cache: str, new_tokens: int) -> Any:
        from kvbench.measure.clock import TokenClock
        from kvbench.measure.generate import generate

        return generate(
            self._loaded,
            self._inputs,
            strategy(cache),
            new_tokens,
            clock=TokenClock(processor_s=time.process_time),
            synchronise=lambda: None,
        )

    def _tasks(self, cache: str) -> list[Task]:
        case = Case(
            **dataclasses.asdict(self._key),
            cache=cache,
            batch_size=1,
            prompt=self._prompt,
            max_new_tokens=self.lengths[-1],
        )
        return [
            Task(dataclasses.replace(case, max_new_tokens=n), "measure", 0, 0, n)
            for n in self.lengths
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="tables made in each way")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--model", default="gpt2")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="on a busy machine: one thread, and its processor time in place of the clock",
    )
    options = parser.parse_args()
    if options.cpu_time:
        import torch

        torch.set_num_threads(1)
        # Stamps, walls and totals alike: all of kvbench asks for it by this name.
        time.perf_counter = time.process_time
    ways = Ways(options.model, sorted(options.lengths))
    ways.warm_up()
    made = rounds(ways, options.rounds)
    within = [
        walls(made),
        bias(made, [n for n in JUDGED if n in ways.lengths] or [ways.lengths[-1]]),
        planted(made, ways.lengths),
        errors(made, ways.lengths),
    ]
    curve(made)
    return 0 if all(within) else 1


def rounds(ways: Ways, count: int) -> dict[str, list[Table]]:
    """Make the tables; each round starts with another way."""
    makers: dict[str, Callable[[], Table]] = {
        "script": ways.script,
        "each": ways.each,
        "trace": ways.trace,
        "sampled": ways.sampled,
    }
    made: dict[str, list[Table]] = {name: [] for name in makers}
    names = list(makers)
    for number in range(count):
        for name in names[number % 4 :] + names[: number % 4]:
            start = time.perf_counter()
            table = makers[name]()
            wall = time.perf_counter() - start
            made[name].append(Table(wall, table.totals, table.stamps, table.low, table.high))
        print(
            f"round {number + 1}: "
            + ", ".join(f"{name} {made[name][-1].wall_s:.1f} s" for name in names),
            flush=True,
        )
    return made


def walls(made: Mapping[str, Sequence[Table]]) -> bool:
    """Print the time of the tables, relative to the script."""
    print("\n| way | median s | share of the script | 95 % interval | wanted |")
    print("|---|---:|---:|---|---|")
    script = [table.wall_s for table in made["script"]]
    good = True
    for name, tables in made.items():
        own = [table.wall_s for table in tables]
        ratio, interval = ratio_of(own, script)
        limit = LIMITS.get(name)
        fine = limit is None or ratio <= limit
        good = good and fine
        wanted = "" if limit is None else f"at most {limit}{'' if fine else ': NOT MET'}"
        print(f"| {name} | {np.median(own):.1f} | {ratio:.3f} | {interval} | {wanted} |")
    return good


def bias(made: Mapping[str, Sequence[Table]], lengths: Sequence[int]) -> bool:
    """Print the totals of `trace` over those of separate generations of the same rounds."""
    print("\n| strategy | tokens | trace / each | 95 % interval | wanted |")
    print("|---|---:|---:|---|---|")
    good = True
    for cache in CACHES:
        for tokens in lengths:
            own, other = (
                [table.totals[cache, tokens] for table in made[name]] for name in ("trace", "each")
            )
            ratio, interval = ratio_of(own, other)
            found = _bounds(own, other)
            fine = found is not None and BIAS[0] <= found[0] and found[1] <= BIAS[1]
            good = good and fine
            wanted = f"{BIAS[0]} to {BIAS[1]}{'' if fine else ': NOT MET'}"
            print(f"| {cache} | {tokens} | {ratio:.3f} | {interval} | {wanted} |")
    return good


def planted(made: Mapping[str, Sequence[Table]], lengths: Sequence[int]) -> bool:
    """Print whether a planted cost of 10 % on the last tokens of `trace` is found.

    The last tokens are those after the second longest length.
    """
    since = lengths[-2] if len(lengths) > 1 else 1
    print(f"\nTokens after {since}, trace / each, and with 10 % planted on those of trace:\n")
    print("| strategy | as measured | planted | found |")
    print("|---|---|---|---|")
    good = True
    for cache in CACHES:
        own, other = (
            [table.stamps[cache][-1] - table.stamps[cache][since - 1] for table in made[name]]
            for name in ("trace", "each")
        )
        plain = _bounds(own, other)
        more = _bounds([PLANTED * seconds for seconds in own], other)
        found = more is not None and more[0] > 1.0
        good = good and found
        print(f"| {cache} | {_interval(plain)} | {_interval(more)} | {'yes' if found else 'NO'} |")
    return good


def errors(made: Mapping[str, Sequence[Table]], lengths: Sequence[int]) -> bool:
    """Print how far `sampled` is from the separate generations of the same rounds.

    A generation has its own noise, so the median of the ratios is judged.
    """
    print("\n| strategy | tokens | sampled / each | within 5 % | held | width |")
    print("|---|---:|---:|---:|---:|---:|")
    off: list[float] = []
    for cache in CACHES:
        for tokens in lengths:
            cell = cache, tokens
            pairs = list(zip(made["sampled"], made["each"], strict=True))
            ratios = np.array([own.totals[cell] / other.totals[cell] for own, other in pairs])
            held = np.mean(
                [own.low[cell] <= other.totals[cell] <= own.high[cell] for own, other in pairs]
            )
            width = np.median([own.high[cell] / own.low[cell] for own, _ in pairs])
            off.append(abs(float(np.median(ratios)) - 1))
            print(
                f"| {cache} | {tokens} | {np.median(ratios):.3f} | "
                f"{np.mean(np.abs(ratios - 1) <= ERROR):.0%} | {held:.0%} | {width:.2f} |"
            )
    good = max(off) <= ERROR
    print(
        f"\nLargest median error {max(off):.1%}, wanted at most 5 %: {'ok' if good else 'NOT MET'}"
    )
    return good


def curve(made: Mapping[str, Sequence[Table]]) -> None:
    """Print what `trace` would take of the script's time for 10 to 910, from the measured curve."""
    per_table = each_longest = 0.0
    for cache in CACHES:
        stamps = np.median([table.stamps[cache] for table in made["trace"]], axis=0)
        steps = np.diff(stamps)
        fit = np.polyfit(np.arange(2, len(stamps) + 1), steps, 2 if cache == "off" else 1)
        totals = stamps[0] + np.cumsum(np.polyval(fit, np.arange(1, ARTICLE[-1] + 1)))
        per_table += sum(totals[n - 1] for n in ARTICLE)
        each_longest += totals[-1]
    print(
        f"\nFrom this curve, {ARTICLE[0]} to {ARTICLE[-1]} tokens by trace: "
        f"{each_longest / per_table:.3f} of the script."
    )


def ratio_of(own: Sequence[float], other: Sequence[float]) -> tuple[float, str]:
    return paired_ratio(own, other).ratio, _interval(_bounds(own, other))


def _bounds(own: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a ratio, from the ratios within rounds; None with too few."""
    found = paired_ratio(own, other)
    return None if found.low is None or found.high is None else (found.low, found.high)


def _interval(found: tuple[float, float] | None) -> str:
    return "too few rounds" if found is None else f"{found[0]:.3f} to {found[1]:.3f}"


if __name__ == "__main__":
    sys.exit(main())
