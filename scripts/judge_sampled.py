"""Judge `--method sampled` on recorded curves: how far its totals are off, how often it says so.

A curve is one recorded generation: the times of all its tokens. Its steps serve as the measurements
at the chosen positions, which are moved at random in each resample. Its own totals are the truth,
at each tenth of its length.

In the second table every position comes from any recorded generation of the case, and the mean of
their totals is the truth: this models a machine that changes from one generation to the next. It is
printed, and has no bounds.

A row outside its bounds is marked, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvbench.analysis.cold import cold_starts
from kvbench.analysis.positions import blocks_of, start_tokens
from kvbench.analysis.sampled import Block, Curve, Measured, can_sample
from kvbench.caches import strategy
from kvbench.records.run import load_run
from kvbench.records.sample import Sample, latest

ROOT = Path(__file__).parents[1]
SHORTEST = 64
"""Shorter generations are not worth sampling."""

WITHIN = 0.05
LEAST_WITHIN = 0.9
"""At least this fraction of the totals must be within 5 %."""

LEAST_HELD = 0.9
"""At least this fraction of the intervals must contain the truth."""


@dataclass(frozen=True)
class Recorded:
    """The generations of one case: seconds to each token, and after the last one."""

    name: str
    cache: str
    stamps: tuple[np.ndarray, ...]
    tails: tuple[float, ...]

    @property
    def tokens(self) -> int:
        return len(self.stamps[0])


@dataclass(frozen=True)
class Verdict:
    """The results of the resamples: one row each, one column for each length.

    Attributes:
        errors: estimate over truth, minus one.
        held: whether the interval holds the truth.
        widths: upper end of the interval over the lower one.
    """

    errors: np.ndarray
    held: np.ndarray
    widths: np.ndarray

    @property
    def within(self) -> float:
        return float(np.mean(np.abs(self.errors) <= WITHIN))

    @property
    def coverage(self) -> float:
        return float(np.mean(self.held))

    @property
    def is_wrong(self) -> bool:
        return self.within < LEAST_WITHIN or self.coverage < LEAST_HELD


Draw = Callable[[], int]
"""The recorded generation that each measurement is taken from."""


def recorded(folders: Iterable[Path]) -> Iterator[Recorded]:
    """Return the cases of run folders with long enough generations, without cold samples."""
    seen = set()
    for folder in folders:
        run = load_run(folder)
        table = run.tokens_table.groupby("sample_id", observed=True)["elapsed_s"]
        times = {str(name): group.to_numpy() for name, group in table}
        rows = latest(run.samples)
        cold = cold_starts(rows)
        cases: dict[str, list[Sample]] = {}
        for row in rows:
            fine = row.phase == "measure" and row.status == "ok" and row.sample_id in times
            if fine and row.sample_id not in cold and row.max_new_tokens >= SHORTEST:
                cases.setdefault(row.case_id, []).append(row)
        for members in cases.values():
            first = members[0]
            # The same run may be stored in two places.
            key = (first.sample_id, first.started_at)
            if can_sample(strategy(first.cache)) and key not in seen:
                seen.add(key)
                yield Recorded(
                    f"{first.model}, {first.device}, batch {first.batch_size}, "
                    f"{first.max_new_tokens} tokens",
                    first.cache,
                    tuple(times[row.sample_id] for row in members),
                    tuple((row.total_s or 0.0) - times[row.sample_id][-1] for row in members),
                )


def judge(case: Recorded, resamples: int, rng: np.random.Generator, *, mixed: bool) -> Verdict:
    """Estimate totals repeatedly, and compare them with the recorded ones."""
    lengths = [round(case.tokens * share / 10) for share in range(1, 11)]
    # Tokens that are generated in full are exact by definition.
    judged = [n for n in lengths if n > start_tokens(lengths)]
    found = []
    for _ in range(resamples):
        one = int(rng.integers(len(case.stamps)))
        draw = (lambda: int(rng.integers(len(case.stamps)))) if mixed else (lambda one=one: one)
        curve = Curve(_measured(case, lengths, rng, draw))
        for tokens in judged:
            times = curve.times(tokens)
            assert times.low_s is not None and times.high_s is not None
            truth = _truth(case, tokens) if mixed else case.stamps[one][tokens - 1]
            truth += case.tails[one]
            held = times.low_s <= truth <= times.high_s
            width = times.high_s / times.low_s if times.low_s else np.inf
            found.append((times.total_s / truth - 1, held, width))
    table = np.array(found).reshape(resamples, len(judged), 3)
    return Verdict(table[..., 0], table[..., 1], table[..., 2])


def _truth(case: Recorded, tokens: int) -> float:
    return float(np.mean([stamps[tokens - 1] for stamps in case.stamps]))


def _measured(
    case: Recorded, lengths: Sequence[int], rng: np.random.Generator, draw: Draw
) -> Measured:
    start = start_tokens(lengths)
    blocks = blocks_of(lengths, cached=case.cache != "off")
    moved = []
    for index, block in enumerate(blocks):
        first = block.start
        if 0 < index < len(blocks) - 1:
            # Move at most halfway to its neighbors, as if the plan had other lengths.
            low = (blocks[index - 1].start + first) // 2
            high = (first + blocks[index + 1].start) // 2
            first = min(int(rng.integers(low, high + 1)), case.tokens - len(block) + 1)
        gaps = np.diff(case.stamps[draw()])
        # The gap before token k has the index k - 2.
        moved.append(Block(first, tuple(gaps[first - 2 : first - 2 + len(block)].tolist())))
    starts = tuple(tuple(case.stamps[draw()][:start].tolist()) for _ in range(2))
    return Measured(starts, case.tails[draw()], tuple(moved))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", type=Path, nargs="*", help="run folders; by default those kept here"
    )
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folders = options.runs or sorted(
        path.parent
        for pattern in ("tests/golden/*/tokens.csv", "results/*/*/tokens.csv")
        for path in ROOT.glob(pattern)
    )
    cases = list(recorded(folders))
    wrong = 0
    for mixed in (False, True):
        print(f"{'Mixed' if mixed else 'One generation'}, {options.resamples} resamples a row:\n")
        print("| case | strategy | generations | within 5 % | bias | held | width |")
        print("|---|---|---:|---:|---:|---:|---:|")
        found = []
        for number, case in enumerate(cases):
            rng = np.random.default_rng((options.seed, number, mixed))
            one = judge(case, options.resamples, rng, mixed=mixed)
            found.append(one)
            wrong += one.is_wrong and not mixed
            mark = " OUT OF BOUNDS" if one.is_wrong and not mixed else ""
            print(
                f"| {case.name} | {case.cache} | {len(case.stamps)} | {one.within:.1%} | "
                f"{one.errors.mean():+.1%} | {one.coverage:.1%} | {np.median(one.widths):.2f} |"
                f"{mark}",
                flush=True,
            )
        # Each case counts once, however many lengths were judged.
        print(
            f"| all | | | {np.mean([v.within for v in found]):.1%} | "
            f"{np.mean([v.errors.mean() for v in found]):+.1%} | "
            f"{np.mean([v.coverage for v in found]):.1%} | |\n"
        )
    print(f"Rows out of bounds: {wrong} of {len(cases)}.")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
