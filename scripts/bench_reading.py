"""Measure the reading wing on made-up runs of three sizes, so that growth is seen.

The largest has 100,000 samples and 10 million token times: `kvbench report` should take under 60 s
and 2 GB on two cores, `kvbench compare` of two such runs under 10 s. Each runs several times, and
the minimum and maximum are printed. Other load can only make it slower, so the minimum is compared
with the limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from kvbench.api import environment
from kvbench.media import to_text
from kvbench.plan.case import Case, Prompt, Task
from kvbench.records.run import RunInfo
from kvbench.records.sample import sample_of, utc_now
from kvbench.records.writer import RunWriter

SIZES = (1_000, 10_000, 100_000)
NEW_TOKENS = tuple(range(10, 200, 10))
BATCHES = (1, 2, 4, 8)
REPORT_S, REPORT_BYTES = 60.0, 2e9
COMPARE_S = 10.0


@dataclass(frozen=True)
class Cost:
    """Seconds of the fastest and the slowest run, and the largest peak in bytes."""

    least: float
    most: float
    memory: float

    def __str__(self) -> str:
        return f"{self.least:.1f}-{self.most:.1f} s, {self.memory / 1e6:.0f} MB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="samples of a run")
    parser.add_argument("--runs", type=int, default=3, help="how often each command is run")
    options = parser.parse_args()
    within = True
    print(f"{'samples':>9} {'tokens':>11} {'report':>22} {'compare':>22}")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder, "first"), Path(folder, "second")
            tokens = make_run(first, size, seed=1)
            make_run(second, size, seed=2)
            report = runs(options.runs, "report", str(first))
            compare = runs(options.runs, "compare", str(first), str(second), "--format", "csv")
        print(f"{size:>9,} {tokens:>11,} {report!s:>22} {compare!s:>22}", flush=True)
        within = (
            report.least < REPORT_S and report.memory < REPORT_BYTES and compare.least < COMPARE_S
        )
    wanted = f"{REPORT_S:g} s, {REPORT_BYTES / 1e6:.0f} MB and {COMPARE_S:g} s"
    print(f"wanted at most {wanted}: {'ok' if within else 'NOT MET'}")
    return 0 if within else 1


def runs(number: int, *arguments: str) -> Cost:
    times, peaks = zip(*(run(*arguments) for _ in range(number)), strict=True)
    return Cost(min(times), max(times), max(peaks))


def run(*arguments: str) -> tuple[float, float]:
    """Return the seconds and peak bytes of a whole process."""
    start = time.perf_counter()
    program = Path(sys.executable).with_name("kvbench")
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"kvbench {arguments[0]} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def make_run(path: Path, samples: int, seed: int) -> int:
    """Make a run with this many samples, equally many per case; return its token times' count."""
    cases = list(_cases())
    info = RunInfo(
        name=path.name,
        state="running",
        kvbench="0",
        started_at=utc_now(),
        cases=tuple({"case_id": case.id} | dataclasses.asdict(case) for case in cases),
        environment=environment(),
    )
    rng = np.random.default_rng(seed)
    with RunWriter.create(path, info) as writer:
        writer.finish("finished")
    # Bypass the writer, which waits for the disk after each row.
    tokens = 0
    with (
        (path / "samples.csv").open("a", newline="") as rows,
        (path / "tokens.csv").open("a", newline="") as times,
    ):
        for number in range(samples):
            case, repeat = cases[number % len(cases)], number // len(cases)
            task = Task(case, "measure", repeat, repeat, case.max_new_tokens)
            name, stamps = task.sample_id, _stamps(case, rng)
            tokens += len(stamps)
            times.writelines(f"{name},{i},{stamp!r}\r\n" for i, stamp in enumerate(stamps, start=1))
            sample = sample_of(
                task,
                new_tokens=case.max_new_tokens,
                total_s=stamps[-1],
                ttft_s=stamps[0],
                itl_s=(stamps[-1] - stamps[0]) / (len(stamps) - 1),
                tokens_per_s=case.batch_size * len(stamps) / stamps[-1],
                output_sha256="0" * 16,
                kv_cache_bytes=0 if case.cache == "off" else 73_728 * len(stamps),
                weights_bytes=498_000_000,
                rss_before_bytes=900_000_000,
                rss_peak_bytes=950_000_000,
            )
            rows.write(",".join(map(to_text, dataclasses.astuple(sample))) + "\r\n")
    return tokens


def _cases() -> Iterator[Case]:
    prompt = Prompt.of_tokens(6)
    for batch, tokens, cache in product(BATCHES, NEW_TOKENS, ("off", "dynamic")):
        yield Case(
            model="gpt2",
            weights="random",
            device="cpu",
            dtype="float32",
            attention="auto",
            cache=cache,
            batch_size=batch,
            prompt=prompt,
            max_new_tokens=tokens,
        )


def _stamps(case: Case, rng: np.random.Generator) -> list[float]:
    steps = np.arange(case.max_new_tokens)
    slope = 0.01 if case.cache == "off" else 0.0001
    each = 0.03 * (1 + slope * steps * case.batch_size)
    return list(map(float, np.cumsum(each * rng.lognormal(0, 0.03, len(steps)))))


if __name__ == "__main__":
    sys.exit(main())
