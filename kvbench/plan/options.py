"""The meaning of each key of a plan, written once for YAML, `--help` and the docs."""

from __future__ import annotations

from kvbench.plan.axes import KEYS

__all__ = ["DESCRIPTIONS"]

DESCRIPTIONS: dict[str, str] = {
    **{name: key.help for name, key in KEYS.items()},
    "repeats": "Timed samples of each case, or auto: as many as the stopping rule needs.",
    "min_repeats": "Stopping rule: at least this many samples.",
    "max_repeats": "Stopping rule: at most this many samples.",
    "min_seconds": "Stopping rule: at least this many seconds of samples.",
    "max_spread": (
        "Stopping rule: stop once the interquartile range is below this share of the median."
    ),
    "max_case_seconds": "Stopping rule: no more samples of a case after this many seconds.",
    "warmup": "New tokens of the warm-up: a number, full (as many as the longest case of the same "
    "model, strategy, batch size and prompt), or auto: full on a GPU in half precision and for "
    "strategies that depend on the length, else 16.",
    "seed": "Seed of the random weights, the prompt ids and the case order.",
    "case_timeout": (
        "Stop measuring a case once its samples have taken this many seconds; default: no limit. "
        "Each model load and each verification may take as long, but does not count."
    ),
    "keep_going_after_oom": (
        "Also measure cases that need at least as much memory as one that ran out of it; by "
        "default they are skipped."
    ),
    "verify": "Check that cached generation matches the no-cache baseline; on by default.",
    "trust_remote_code": (
        "Allow code that comes with a model to run, and the code of custom caches named in a plan "
        "or a run; off by default."
    ),
}
