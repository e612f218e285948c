"""Explain the flags of samples, and count them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from kvbench.analysis.summary import OF_A_CASE, CaseSummary
from kvbench.records.finding import VERIFY_FAILED

__all__ = ["FLAGS", "doubts", "doubts_beside_a_table"]

FLAGS: dict[str, str] = {
    "busy_cpu": "other processes used more than 10 % of the machine's CPU time during the run",
    "busy_gpu": "another compute process was on the GPU",
    "throttled": "the GPU's clocks were throttled, for power or heat",
    "paused": (
        "the run paused for over a quarter of a second and a tenth of its time: stopped, "
        "suspended or waiting for a disk; on a GPU, one token took over 10 times as long as the "
        "others"
    ),
    "past_positions": (
        "a rotary model ran past its trained positions: time and memory are valid, text is not"
    ),
    "attention_is_X": "Transformers used another attention implementation than requested",
    "cache_not_as_asked": (
        "a run without a cache returned one, or a run with a cache returned none or an empty one"
    ),
    "state_not_counted": (
        "the model keeps tensors on its modules that may be state; kv_cache_bytes does not "
        "include them"
    ),
    "recompiled": "code was compiled during a timed run, although the warm-up had the same shapes",
    # The next two are in runs of version 0.1 only, which could force a resume.
    "environment_changed": "taken after a forced resume, on another machine or with other software",
    "plan_changed": "taken after a forced resume with different settings, such as another seed",
    VERIFY_FAILED: (
        "verification failed: the output differs from the no-cache baseline, so times are not "
        "comparable"
    ),
    "undersampled": "fewer than 6 samples, cold ones excluded: no interval and no claim",
    "cold_start": (
        "first sample of a case in a worker process, over 1.5 times as long as each of at least "
        "two later ones: excluded from times and speedup"
    ),
    "outlier": "a sample far from the others of its case, but not cold: it counts",
    "trend": (
        "times rise or fall over the rounds by 5 % or more, beyond chance (p < 0.01, Kendall's "
        "test)"
    ),
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
            FLAGS.get(re.sub(r"_is_.*", "_is_X", name), "unknown flag"),
        )
        for name, count in sorted(counts.items())
    ]


def doubts_beside_a_table(cases: Sequence[CaseSummary]) -> list[str]:
    """Return the same as lines, without the lack of samples, which the table's caption states."""
    found = doubts(cases)
    return [f"{name}, {n}: {means}" for name, n, means in found if name != "undersampled"]
