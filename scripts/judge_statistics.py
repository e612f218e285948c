"""Judge the interval of a speed-up, and what is claimed from it, on simulated runs of known truth.

A cell is one kind of times, one number of rounds, and rounds that are even (both strategies in
each) or uneven (the strategy stops, and `off` continues for as many rounds again). Each table is a
case with its baseline. Samples are made, summarized and judged like those of a run. The output is
the tables of docs/statistics.md; a cell outside its bounds is marked, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from kvbench.analysis.claims import claim
from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.plan.case import Case, Prompt, Task
from kvbench.records.sample import Sample, sample_of

ROUNDS = (6, 10, 30)
TOO_FEW = (3, 5)
COVERAGE = (0.93, 0.98)
MOST_FALSE = 0.06
MOST_WIDENING = 1.3
"""How much wider the interval of drifting times may be than that of stationary times."""

Drift = Callable[[int], np.ndarray]
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A kind of times: noise around the truth, multiplied by what the machine does over the rounds.

    Attributes:
        name: the name of the cell.
        noise: factors `[..., rounds]` around 1, drawn independently for each strategy.
        drift: factors `[rounds]` that both strategies share.
        cold: how many times as long the first sample of either strategy takes. It comes before the
            counted rounds.
    """

    name: str
    noise: Noise
    drift: Drift = np.ones
    cold: float | None = None


def normal(share: float) -> Noise:
    return lambda rng, size: 1 + share * rng.standard_normal(size)


def lognormal(share: float) -> Noise:
    return lambda rng, size: rng.lognormal(0.0, share, size)


def heavy(scale: float) -> Noise:
    """Student's t with two degrees of freedom has no variance; its exponential has no mean."""
    return lambda rng, size: np.exp(scale * rng.standard_t(2, size))


def stepped(rounds: int) -> np.ndarray:
    """30 % slower from the middle on."""
    return np.where(np.arange(rounds) < rounds // 2, 1.0, 1.3)


def ramped(rounds: int) -> np.ndarray:
    """60 % slower at the end, in equal steps."""
    return np.linspace(1.0, 1.6, rounds)


KINDS = (
    Kind("independent, normal 3 %", normal(0.03)),
    Kind("lognormal 20 %", lognormal(0.2)),
    Kind("heavy-tailed (t2, 3 %)", heavy(0.03)),
    Kind("stepped 30 % midway, 3 %", normal(0.03), stepped),
    Kind("ramped to 60 %, 3 %", normal(0.03), ramped),
    Kind("cold first sample (3 x), 3 %", normal(0.03), cold=3.0),
)


@dataclass(frozen=True)
class Cell:
    """The results of the tables of one cell.

    Attributes:
        tables: how many there are.
        intervals: how many have an interval.
        held: how many of these intervals contain the truth.
        claims: how many tables claim a difference.
        width: median of upper end over lower end.
    """

    tables: int
    intervals: int
    held: int
    claims: int
    width: float

    @property
    def coverage(self) -> float:
        return self.held / self.intervals

    @property
    def claimed(self) -> float:
        return self.claims / self.tables


def judge(
    kind: Kind,
    rounds: int,
    tables: int,
    seed: int | Sequence[int],
    *,
    uneven: bool = False,
    truth: float = 1.0,
) -> Cell:
    """Simulate the tables of a cell. `truth` is the speedup: the time of `off` over the other."""
    rng = np.random.default_rng(seed)
    found = summaries(kind, rounds, tables, rng, uneven=uneven, truth=truth)
    intervals = [
        (case.speedup_ci95_low, case.speedup_ci95_high)
        for case in found
        if case.speedup_ci95_low is not None and case.speedup_ci95_high is not None
    ]
    return Cell(
        tables=len(found),
        intervals=len(intervals),
        held=sum(low <= truth <= high for low, high in intervals),
        claims=sum(claim(case) in ("faster", "slower") for case in found),
        width=float(np.median([high / low for low, high in intervals] or [np.nan])),
    )


def summaries(
    kind: Kind,
    rounds: int,
    tables: int,
    rng: np.random.Generator,
    *,
    uneven: bool = False,
    truth: float = 1.0,
) -> list[CaseSummary]:
    """Return the summaries of the strategy `dynamic`, one per table."""
    most = 2 * rounds if uneven else rounds
    first = 0 if kind.cold is None else 1
    drift = kind.drift(most)
    off = truth * drift * kind.noise(rng, (tables, most))
    on = drift * kind.noise(rng, (tables, most))
    if kind.cold is not None:
        cold_off, cold_on = kind.cold * kind.noise(rng, (2, tables, 1))
        off, on = np.hstack([truth * cold_off, off]), np.hstack([cold_on, on])
    samples = [*_samples("off", off), *_samples("dynamic", on[:, : rounds + first])]
    return [case for case in summarize_cases(samples) if case.cache == "dynamic"]


def _samples(cache: str, times: np.ndarray) -> Iterator[Sample]:
    """Return samples of times `[tables, rounds]`: each table is a case with its own length."""
    for table, row in enumerate(times.tolist()):
        case = Case(
            model="gpt2",
            weights="random",
            device="cpu",
            dtype="float32",
            attention="sdpa",
            cache=cache,
            batch_size=1,
            prompt=Prompt.of_tokens(8),
            max_new_tokens=table + 1,
        )
        first = sample_of(Task(case, "measure", 0, 0, table + 1))
        plain = {field.name: getattr(first, field.name) for field in dataclasses.fields(first)}
        for number, seconds in enumerate(row):
            yield Sample(
                **plain
                | {
                    "sample_id": f"{plain['case_id']}-s{number:03d}",
                    "round": number,
                    "repeat": number,
                    "total_s": seconds,
                }
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tables", type=int, default=2000, help="tables of a cell")
    options = parser.parse_args()
    wrong = 0
    for seed in options.seeds:
        print(f"Seed {seed}, {options.tables} tables a cell, truth 1.0:\n")
        wrong += _no_difference(seed, options.tables)
    print(f"Seed {options.seeds[0]}, truth 1.10:\n")
    _ten_per_cent(options.seeds[0], options.tables)
    print(f"Cells out of bounds: {wrong}.")
    return int(wrong > 0)


def _no_difference(seed: int, tables: int) -> int:
    print("| times | rounds | n | no interval | coverage | false claims | width |")
    print("|---|---|---:|---:|---:|---:|---:|")
    wrong = 0
    at_rest: dict[tuple[int, bool], float] = {}
    for number, (kind, uneven) in enumerate(product(KINDS, (False, True))):
        for n in (*TOO_FEW, *ROUNDS):
            cell = judge(kind, n, tables, (seed, number, n), uneven=uneven)
            width = at_rest.setdefault((n, uneven), cell.width)
            bad = is_wrong(cell, n, cell.width / width if kind.drift is not np.ones else 1.0)
            wrong += bad
            coverage = "-" if not cell.intervals else f"{cell.coverage:.3f}"
            shown = "-" if not cell.intervals else f"{cell.width:.3f}"
            rounds = "uneven" if uneven else "even"
            print(
                f"| {kind.name} | {rounds} | {n} | {cell.tables - cell.intervals} | {coverage} | "
                f"{cell.claimed:.2%} | {shown} |{' OUT OF BOUNDS' * bad}",
                flush=True,
            )
    print()
    return wrong


def is_wrong(cell: Cell, rounds: int, widening: float) -> bool:
    """Return whether a cell without a true difference is out of bounds."""
    if rounds in TOO_FEW:
        return cell.intervals > 0 or cell.claims > 0
    low, high = COVERAGE
    return not (
        low <= cell.coverage <= high and cell.claimed <= MOST_FALSE and widening <= MOST_WIDENING
    )


def _ten_per_cent(seed: int, tables: int) -> None:
    print("| times | n | coverage | claimed faster |")
    print("|---|---:|---:|---:|")
    for number, kind in enumerate(KINDS):
        for n in ROUNDS:
            cell = judge(kind, n, tables, (seed, 100 + number, n), truth=1.1)
            print(f"| {kind.name} | {n} | {cell.coverage:.3f} | {cell.claimed:.1%} |", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
