"""Measure kvbench itself, as ratios taken side by side in one run: overhead and start-up.

Absolute times say little on a shared machine; a ratio of medians of interleaved runs says more.
Figures worth keeping go to docs/benchmarks.md, with the date and the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kvbench.analysis.statistics import ratio_interval, ratio_of_medians

NEW_TOKENS = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30, help="pairs of generations timed")
    parser.add_argument("--starts", type=int, default=20, help="pairs of starts timed")
    parser.add_argument("--sweeps", type=int, default=3, help="small sweeps whose time is split up")
    options = parser.parse_args()
    within = [overhead(options.pairs), start_up(options.starts)]
    where_time_goes(options.sweeps)
    return 0 if all(within) else 1


def overhead(pairs: int) -> bool:
    """Time a cached generation in kvbench over a bare `generate` loop, in one process."""
    import torch

    from kvbench.measure.engine import LocalEngine
    from kvbench.methods import rows_of
    from kvbench.methods.each import EACH
    from kvbench.models.load import load_model
    from kvbench.plan.case import Case, ModelKey, Prompt, Task

    key = ModelKey("gpt2", "random", "cpu", "float32", "auto")
    case = Case(
        **dataclasses.asdict(key),
        cache="dynamic",
        batch_size=1,
        prompt=Prompt.of_tokens(6),
        max_new_tokens=NEW_TOKENS,
    )
    engine = LocalEngine()
    engine.open(key)
    # Use a separate model, so that kvbench's settings on its own model neither help nor hurt this
    # one.
    bare_model = load_model(key).model
    ids = torch.arange(6).reshape(1, 6)
    mask = torch.ones_like(ids)

    def bare() -> float:
        start = time.perf_counter()
        bare_model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        return time.perf_counter() - start

    def measured() -> float:
        (job,) = EACH.jobs([Task(case, "measure", 0, 0, NEW_TOKENS)])
        ((sample, _),) = rows_of(job, engine.run(job))
        if sample.total_s is None:
            raise RuntimeError(f"the sample failed: {sample.error}")
        return sample.total_s

    bare(), measured()
    ours, theirs = interleave(measured, bare, pairs)
    engine.close()
    return report("overhead: kvbench / bare generate", ours, theirs, (0.98, 1.02))


def start_up(starts: int) -> bool:
    """Time `kvbench --help` over `python -c "import typer, rich"`, as whole processes."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments: str) -> Callable[[], float]:
        def timed() -> float:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment
            )
            return time.perf_counter() - start

        return timed

    program = Path(sys.executable).with_name("kvbench")
    ours, theirs = interleave(run(str(program), "--help"), run("-c", "import typer, rich"), starts)
    return report("start-up: kvbench --help / import typer, rich", ours, theirs, (0.0, 1.5))


def where_time_goes(sweeps: int) -> None:
    """Print the time of each phase of a small sweep, and of rebuilding its report.

    These are absolute times: they show where to look, and are comparable only on the same machine.
    """
    program = Path(sys.executable).with_name("kvbench")
    options = ["--device", "cpu", "-n", "10", "--repeats", "6", "--quiet", "--debug"]
    reports = []
    print("a sweep of GPT-2, 10 new tokens, 6 repeats, verified", flush=True)
    for number in range(sweeps):
        with tempfile.TemporaryDirectory() as folder:
            # The phases go to standard error, the table to standard output.
            command = [str(program), "sweep", *options, "--out", folder, "--name", f"run{number}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            start = time.perf_counter()
            command = [str(program), "report", str(Path(folder) / f"run{number}")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            reports.append(time.perf_counter() - start)
    if reports:
        print(f"its report again: {', '.join(f'{one:.2f}' for one in reports)} s")


def interleave(
    first: Callable[[], float], second: Callable[[], float], pairs: int
) -> tuple[list[float], list[float]]:
    """Time both in turn, in alternating order, so that drift affects both alike."""
    ours: list[float] = []
    theirs: list[float] = []
    for index in range(pairs):
        for timed, times in ((first, ours), (second, theirs))[:: 1 if index % 2 else -1]:
            times.append(timed())
    return ours, theirs


def report(
    name: str, ours: Sequence[float], theirs: Sequence[float], bounds: tuple[float, float]
) -> bool:
    ratio = ratio_of_medians(ours, theirs)
    low, high = ratio_interval(ours, theirs) or (float("nan"), float("nan"))
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    first, third = np.percentile(pairs, [25, 75])
    within = bounds[0] <= ratio <= bounds[1]
    print(name)
    print(f"  ratio of medians   {ratio:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print(f"  median of ratios   {np.median(pairs):.3f} (quartiles {first:.3f} to {third:.3f})")
    print(f"  medians            {np.median(ours) * 1e3:.1f} and {np.median(theirs) * 1e3:.1f} ms")
    print(
        f"  {len(pairs)} pairs; wanted {bounds[0]} to {bounds[1]}: {'ok' if within else 'NOT MET'}"
    )
    return within


if __name__ == "__main__":
    sys.exit(main())
