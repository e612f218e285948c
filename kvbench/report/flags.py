"""Explain the flags of samples, and count them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from kvbench.analysis.summary import OF_A_CASE, CaseSummary
from kvbench.records.finding import VERIFY_FAILED

__all__ = ["FLAGS", "doubts", "doubts_beside_a_table"]

FLAGS: dict[str, str] = {
    "busy_cpu": "other processes used more than 10 % of the machine's processor time during the "
    "run",
    "busy_gpu": "another compute process was on the GPU",
    "throttled": "the GPU's clocks were reduced, for power or heat",
    "paused": "the run stood still for over a quarter of a second and a tenth of its time: it was "
    "stopped or suspended, or waited for a disk; on a GPU, one token took over 10 times as long as "
    "the others",
    "past_positions": "a rotary model ran past the positions it was trained for: time and memory "
    "are right, text is not",
    "attention_is_X": "Transformers used another attention implementation than was asked for",
    "cache_not_as_asked": "a cache came out of a run without one, or none, or an empty one, out of "
    "a run with one",
    "state_not_counted": "the model keeps tensors on its modules that may be state: kv_cache_bytes "
    "is without them",
    "recompiled": "code was compiled during a timed run, although a warm-up had the same shapes",
    # The next two are only in runs of version 0.1, which could force a resume.
    "environment_changed": "taken after a forced resume, on a machine or with software other than "
    "the run began with",
    "plan_changed": "taken after a forced resume with another plan than the run began with, such "
    "as another seed",
    VERIFY_FAILED: "the strategy was found to do other work than no cache: its time means nothing",
    "undersampled": "fewer than 6 samples, cold ones not counted: no interval and no claim",
    "cold_start": "the first sample of a case in a worker process, over 1.5 times as long as each "
    "of at least two later ones: left out of times and speed-up",
    "outlier": "a sample far from the others of its case that is not cold: it counts",
    "trend": "the times of the case rise or fall over the rounds, by 5 % or more and beyond chance "
    "(p < 0.01, Kendall's test)",
}


def doubts(cases: Sequence[CaseSummary]) -> list[tuple[str, str, str]]:
    """Return each flag of the cases: its name, `3 samples` or `2 cases`, and its meaning."""
    counts: Counter[str] = Counter()
    for case in cases:
        for flag in (case.flags or "").split():
            # Split from the right: a hand-edited name may contain a colon.
            name, _, number = flag.rpartition(":")
            counts[name or flag] += int(number) if name and number.isdecimal() else 1
    return [
        (
            name,
            f"{count} {'case' if name in OF_A_CASE else 'sample'}{'s' * (count != 1)}",
            FLAGS.get(re.sub(r"_is_.*", "_is_X", name), "not known here"),
        )
        for name, count in sorted(counts.items())
    ]


def doubts_beside_a_table(cases: Sequence[CaseSummary]) -> list[str]:
    """Return the same as lines, without the lack of samples, which the table's caption states."""
    found = doubts(cases)
    return [f"{name}, {n}: {means}" for name, n, means in found if name != "undersampled"]
