"""What the flags of samples mean: for reports, and for docs/measuring.md."""

from __future__ import annotations

__all__ = ["FLAGS"]

FLAGS: dict[str, str] = {
    "busy_cpu": "other processes used more than 10 % of the machine's processor time during the "
    "run",
    "busy_gpu": "another compute process was on the GPU",
    "throttled": "the GPU's clocks were reduced, for power or heat",
    "past_positions": "a rotary model ran past the positions it was trained for: time and memory "
    "are right, text is not",
    "attention_is_X": "Transformers used another attention implementation than was asked for",
    "cache_not_as_asked": "a cache came out of a run without one, or none, or an empty one, out of "
    "a run with one",
    "environment_changed": "taken after a forced resume, on a machine or with software other than "
    "the run began with",
    "verify_failed": "the strategy was found to do other work than no cache: its time means "
    "nothing",
    "undersampled": "fewer than 5 samples",
}
