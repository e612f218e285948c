"""Measure what `each`, `trace` and `sampled` take and how far they are off, next to a plain script.

One table: GPT-2's architecture, random weights, float32, several lengths, with and without the
cache. A round makes it in four ways: by the script of the articles (in our own few lines), and by
the three methods. All ways take turns with one strategy before the next one, in an order that
moves: absolute times say little on a shared machine, but ratios of what was measured close together
do. The figures worth keeping go to docs/methods.md.

With `--whole N`, only the first N rounds make the whole table. The others make what the bias is
judged by: the separate generations of two lengths, and the trace. `--keep FILE` keeps each finished
round, and a benchmark that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kvbench.analysis.sampled import rows_of_steps
from kvbench.analysis.statistics import paired_ratio
from kvbench.analysis.trace import rows_of_trace
from kvbench.caches import strategy
from kvbench.plan.case import Case, ModelKey, Prompt, Task
from kvbench.records.sample import sample_of

WAYS = ("script", "each", "trace", "sampled")
LENGTHS = (10, 110, 210, 310)
CACHES = ("off", "dynamic")
JUDGED = (110, 310)
LEAST_ROUNDS = 10
ARTICLE = range(10, 911, 100)
PLANTED = 1.1
"""A planted cost on the last tokens, to see whether it would be found."""

LIMITS = {"trace": 0.65, "sampled": 0.15}
ARTICLE_LIMIT = 0.32
BIAS = (0.95, 1.05)
ERROR = 0.05


@dataclass(frozen=True)
class Part:
    """One strategy's part of a table, made in one way.

    Attributes:
        wall_s: seconds for all of it.
        totals: seconds of a generation, by its new tokens.
        stamps: seconds to each token of the longest generation, if there is one.
        low, high: ends of the intervals; NaN if there is none.
    """

    wall_s: float
    totals: Mapping[int, float]
    stamps: Sequence[float] = ()
    low: Mapping[int, float] = field(default_factory=dict)
    high: Mapping[int, float] = field(default_factory=dict)


Round = dict[tuple[str, str], Part]
"""The parts of a round, by way and strategy."""


class Ways:
    """The ways to make a table, on two copies of one model."""

    def __init__(self, model: str, lengths: Sequence[int]) -> None:
        from kvbench.models.load import load_model
        from kvbench.models.prompts import Encoder

        key = ModelKey(model, "random", "cpu", "float32", "auto")
        self.lengths = tuple(lengths)
        self.judged = tuple(n for n in self.lengths if n in (*JUDGED, self.lengths[-1]))
        self._loaded = load_model(key)
        # Use a separate model, so that kvbench's settings on its own model neither help nor hurt
        # this one.
        self._bare = load_model(key).model
        self._prompt = Prompt.of_tokens(6)
        self._inputs = Encoder(self._loaded, 0).encode(self._prompt, 1)
        self._key = key

    def make(self, way: str, cache: str, *, whole: bool) -> Part:
        """Make a strategy's part of a table; if it is not whole, of the judged lengths alone."""
        start = time.perf_counter()
        part: Part = getattr(self, f"_{way}")(cache, self.lengths if whole else self.judged)
        return dataclasses.replace(part, wall_s=time.perf_counter() - start)

    def warm_up(self) -> None:
        """Make a small table in each way, with both models; nothing is imported later."""
        for cache in CACHES:
            for way in WAYS:
                getattr(self, f"_{way}")(cache, (8, 24))

    def _script(self, cache: str, lengths: Sequence[int]) -> Part:
        """Generate each length, and read the clock."""
        totals = {}
        ids, mask = self._inputs.input_ids, self._inputs.attention_mask
        for new_tokens in lengths:
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
            totals[new_tokens] = time.perf_counter() - start
        return Part(0.0, totals)

    def _each(self, cache: str, lengths: Sequence[int]) -> Part:
        """Generate each length as kvbench does."""
        made = [self._generate(cache, new_tokens) for new_tokens in lengths]
        totals = {new_tokens: one.total_s for new_tokens, one in zip(lengths, made, strict=True)}
        return Part(0.0, totals, made[-1].token_times)

    def _trace(self, cache: str, lengths: Sequence[int]) -> Part:
        """Generate the longest length, and derive the others from its stamps."""
        tasks = self._tasks(cache, lengths)
        done = self._generate(cache, lengths[-1])
        whole = sample_of(tasks[-1], total_s=done.total_s, prompt_tokens=self._inputs.tokens)
        rows = rows_of_trace(whole, done.token_times, tasks)
        return Part(
            0.0, {row.max_new_tokens: _known(row.total_s) for row in rows}, done.token_times
        )

    def _sampled(self, cache: str, lengths: Sequence[int]) -> Part:
        """Time steps at chosen positions, and add up."""
        from kvbench.measure.sampled import measure_steps

        found = measure_steps(
            self._loaded,
            self._inputs,
            strategy(cache),
            lengths,
            synchronise=lambda: None,
            processor_s=time.process_time,
        )
        rows = rows_of_steps(found.measured, self._tasks(cache, lengths))
        totals, low, high = (
            {row.max_new_tokens: _known(getattr(row, name)) for row in rows}
            for name in ("total_s", "total_s_low", "total_s_high")
        )
        return Part(0.0, totals, (), low, high)

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

    def _tasks(self, cache: str, lengths: Sequence[int]) -> list[Task]:
        case = Case(
            **dataclasses.asdict(self._key),
            cache=cache,
            batch_size=1,
            prompt=self._prompt,
            max_new_tokens=lengths[-1],
        )
        return [
            Task(dataclasses.replace(case, max_new_tokens=n), "measure", 0, 0, n) for n in lengths
        ]


def main() -> int:
    options = _options()
    if options.cpu_time:
        import torch

        torch.set_num_threads(1)
        # Stamps, walls and totals alike: all of kvbench asks for it by this name.
        time.perf_counter = time.process_time
    _print_machine()
    lengths = sorted(options.lengths)
    kept = read_kept(options.keep, options.model, lengths)
    if kept:
        print(f"{len(kept)} rounds kept in {options.keep}", flush=True)
    ways = Ways(options.model, lengths)
    ways.warm_up()
    whole = min(options.rounds if options.whole is None else options.whole, options.rounds)
    for number in range(len(kept), options.rounds):
        kept.append(one_round(ways, number, options.rounds, whole=number < whole))
        keep(options.keep, options.model, lengths, kept[-1])
        wholes, lights = max(whole - number - 1, 0), options.rounds - max(whole, number + 1)
        left = left_s(kept, ways.judged, wholes, lights)
        print(f"round {number + 1}: {_minutes(left)} left", flush=True)
    verdicts = [
        walls(kept),
        bias(kept, ways.judged),
        planted(kept, ways.lengths),
        errors(kept, ways.lengths),
        curve(kept),
    ]
    return 0 if all(verdicts) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help="rounds to make")
    parser.add_argument("--whole", type=int, help="rounds that make the whole table; default: all")
    parser.add_argument("--keep", type=Path, help="file that keeps finished rounds")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--model", default="gpt2")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="on a busy machine: one thread, and its processor time in place of the clock",
    )
    return parser.parse_args()


def _print_machine() -> None:
    from kvbench.measure.environment import read_environment

    env = read_environment()
    versions = ", ".join(f"{name} {env.versions[name]}" for name in ("torch", "transformers"))
    print(f"{env.hardware('cpu')}, {env.threads} threads, {versions}, Python {env.python}")


# Rounds


def one_round(ways: Ways, number: int, of: int, *, whole: bool) -> Round:
    """Make the parts of a round; each round starts with another way."""
    names = WAYS if whole else ("each", "trace")
    turn = number % len(names)
    made: Round = {}
    for cache in CACHES:
        for name in names[turn:] + names[:turn]:
            # The trace is always that of the longest length, with all lengths in it.
            part = ways.make(name, cache, whole=whole or name == "trace")
            made[name, cache] = part
            print(f"round {number + 1} of {of}: {cache}, {name}: {part.wall_s:.1f} s", flush=True)
    return made


def left_s(made: Sequence[Round], judged: Sequence[int], wholes: int, lights: int) -> float:
    """Return how many seconds this many further rounds will take, from those made."""
    whole = [sum(part.wall_s for part in one.values()) for one in made if _is_whole(one)]
    light = [
        sum(
            one["trace", cache].wall_s + sum(one["each", cache].totals[n] for n in judged)
            for cache in CACHES
        )
        for one in made
    ]
    return wholes * float(np.median(whole or [0.0])) + lights * float(np.median(light))


def keep(file: Path | None, model: str, lengths: Sequence[int], made: Round) -> None:
    """Append a round to the file, as a line of JSON."""
    if file is not None:
        parts = [[*key, dataclasses.asdict(part)] for key, part in made.items()]
        line = {"model": model, "lengths": list(lengths), "parts": parts}
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")


def read_kept(file: Path | None, model: str, lengths: Sequence[int]) -> list[Round]:
    """Return the rounds in the file; none if there is no file."""
    if file is None or not file.exists():
        return []
    rounds = []
    for line in map(json.loads, file.read_text().splitlines()):
        if (line["model"], line["lengths"]) != (model, list(lengths)):
            sys.exit(f"{file} has rounds of another model or of other lengths.")
        rounds.append({(way, cache): _part(fields) for way, cache, fields in line["parts"]})
    return rounds


def _part(fields: Mapping[str, Any]) -> Part:
    """Return a part as it was kept: JSON has only texts as keys."""
    numbered = {
        name: {int(tokens): value for tokens, value in fields[name].items()}
        for name in ("totals", "low", "high")
    }
    return Part(**{**fields, **numbered})


# Verdicts


def walls(made: Sequence[Round]) -> bool:
    """Print the time of the whole tables, relative to the script."""
    tables = [one for one in made if _is_whole(one)]
    print(f"\n{len(tables)} whole tables:\n")
    print("| way | median s | share of the script | 95 % interval | wanted |")
    print("|---|---:|---:|---|---|")

    def seconds(way: str) -> list[float]:
        return [sum(one[way, cache].wall_s for cache in CACHES) for one in tables]

    good = True
    for way in WAYS if tables else ():
        ratio, interval = ratio_of(seconds(way), seconds("script"))
        limit = LIMITS.get(way)
        fine = limit is None or ratio <= limit
        good = good and fine
        wanted = "" if limit is None else f"at most {limit}{_said(fine)}"
        print(f"| {way} | {np.median(seconds(way)):.1f} | {ratio:.3f} | {interval} | {wanted} |")
    return good


def bias(made: Sequence[Round], lengths: Sequence[int]) -> bool:
    """Print the totals of `trace` over those of separate generations of the same rounds."""
    print(f"\n{len(made)} rounds (at least {LEAST_ROUNDS} wanted):\n")
    print("| strategy | tokens | trace / each | 95 % interval | wanted |")
    print("|---|---:|---:|---|---|")
    good = len(made) >= LEAST_ROUNDS
    for cache in CACHES:
        for tokens in lengths:
            own, other = (
                [one[way, cache].totals[tokens] for one in made] for way in ("trace", "each")
            )
            ratio, interval = ratio_of(own, other)
            found = _bounds(own, other)
            fine = found is not None and BIAS[0] <= found[0] and found[1] <= BIAS[1]
            good = good and fine
            wanted = f"{BIAS[0]} to {BIAS[1]}{_said(fine)}"
            print(f"| {cache} | {tokens} | {ratio:.3f} | {interval} | {wanted} |")
    return good


def planted(made: Sequence[Round], lengths: Sequence[int]) -> bool:
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
            [one[way, cache].stamps[-1] - one[way, cache].stamps[since - 1] for one in made]
            for way in ("trace", "each")
        )
        plain = _bounds(own, other)
        more = _bounds([PLANTED * seconds for seconds in own], other)
        found = more is not None and more[0] > 1.0
        good = good and found
        print(f"| {cache} | {_interval(plain)} | {_interval(more)} | {'yes' if found else 'NO'} |")
    return good


def errors(made: Sequence[Round], lengths: Sequence[int]) -> bool:
    """Print how far `sampled` is from the separate generations of the same rounds.

    A generation has its own noise, so the median of the ratios is judged.
    """
    print("\n| strategy | tokens | sampled / each | within 5 % | held | width |")
    print("|---|---:|---:|---:|---:|---:|")
    off: list[float] = []
    for cache in CACHES:
        pairs = [(one["sampled", cache], one["each", cache]) for one in made if _is_whole(one)]
        for n in lengths if pairs else ():
            ratios = np.array([own.totals[n] / other.totals[n] for own, other in pairs])
            held = np.mean([own.low[n] <= other.totals[n] <= own.high[n] for own, other in pairs])
            # A wide interval may begin at zero.
            width = np.median([own.high[n] / (own.low[n] or np.nan) for own, _ in pairs])
            off.append(abs(float(np.median(ratios)) - 1))
            print(
                f"| {cache} | {n} | {np.median(ratios):.3f} | "
                f"{np.mean(np.abs(ratios - 1) <= ERROR):.0%} | {held:.0%} | {width:.2f} |"
            )
    most = max(off, default=0.0)
    print(f"\nLargest median error {most:.1%}, wanted at most 5 %{_said(most <= ERROR)}")
    return most <= ERROR


def curve(made: Sequence[Round]) -> bool:
    """Print what `trace` would take of the script's time for 10 to 910, from the measured curve."""
    per_table = longest = 0.0
    for cache in CACHES:
        stamps = np.median([one["trace", cache].stamps for one in made], axis=0)
        steps = np.diff(stamps)
        fit = np.polyfit(np.arange(2, len(stamps) + 1), steps, 2 if cache == "off" else 1)
        after = np.cumsum(np.polyval(fit, np.arange(2, ARTICLE[-1] + 1)))
        per_table += sum(stamps[0] + after[n - 2] for n in ARTICLE)
        longest += stamps[0] + after[-1]
    share = longest / per_table
    print(
        f"\nFrom this curve, {ARTICLE[0]} to {ARTICLE[-1]} tokens by trace: {share:.3f} of the "
        f"script, wanted at most {ARTICLE_LIMIT}{_said(share <= ARTICLE_LIMIT)}"
    )
    return bool(share <= ARTICLE_LIMIT)


def ratio_of(own: Sequence[float], other: Sequence[float]) -> tuple[float, str]:
    return paired_ratio(own, other).ratio, _interval(_bounds(own, other))


def _bounds(own: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a ratio, from the ratios within rounds; None with too few."""
    found = paired_ratio(own, other)
    return None if found.low is None or found.high is None else (found.low, found.high)


def _interval(found: tuple[float, float] | None) -> str:
    return "too few rounds" if found is None else f"{found[0]:.3f} to {found[1]:.3f}"


def _is_whole(made: Round) -> bool:
    return ("script", CACHES[0]) in made


def _known(seconds: float | None) -> float:
    return np.nan if seconds is None else seconds


def _said(fine: bool) -> str:
    return "" if fine else ": NOT MET"


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main())
