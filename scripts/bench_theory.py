"""Measure how well theory predicts: measured over expected speed-up, at several lengths.

It probes the rates of this machine first, as `kvbench probe` does, then runs a sweep with random
weights, which cost the same as real ones. Figures worth keeping go to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from kvbench import api
from kvbench.analysis.expected import summarize_run
from kvbench.analysis.summary import CaseSummary
from kvbench.plan.plan import Plan
from kvbench.records.rates import STATE_VARIABLE

WITHIN = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="gpt2,smollm2-135m", help="built-in architectures")
    parser.add_argument("--lengths", default="50,100,200,400", help="new tokens")
    parser.add_argument("--repeats", type=int, default=3, help="samples of each case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Use a separate probe: whatever is stored on this machine stays.
        os.environ[STATE_VARIABLE] = folder
        for rates in api.probe(["cpu"]):
            flops = rates.flops_per_s["float32"]
            print(f"{rates.hardware}, {rates.threads} threads: ", end="")
            print(f"read {rates.read_bytes_per_s / 1e9:.1f} GB/s, ", end="")
            print(f"float32 {flops / 1e9:.1f} GFLOP/s {' '.join(rates.flags)}")
        plan = Plan.parse(
            {
                "model": options.models.split(","),
                "device": "cpu",
                "max_new_tokens": [int(n) for n in options.lengths.split(",")],
                "repeats": options.repeats,
                "verify": False,
            }
        )
        run = api.sweep(plan, out=folder, name="accuracy")
        cached = [case for case in summarize_run(run) if case.expected_speedup and case.speedup]
    print("model            tokens  expected  measured  measured/expected")
    within = [told(case) for case in cached]
    print(f"wanted within {WITHIN:.0%}: {'ok' if all(within) else 'NOT MET'}")
    return 0 if within and all(within) else 1


def told(case: CaseSummary) -> bool:
    assert case.speedup and case.expected_speedup
    ratio = case.speedup / case.expected_speedup
    print(
        f"{case.model:16} {case.max_new_tokens:6} {case.expected_speedup:9.2f} "
        f"{case.speedup:9.2f} {ratio:10.2f}   {case.flags or ''}"
    )
    return abs(ratio - 1) <= WITHIN


if __name__ == "__main__":
    sys.exit(main())
