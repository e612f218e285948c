"""Check that generating with a cache matches generating without one, on the timed path."""

from __future__ import annotations

from kvbench.measure.verify.checks import verify, verify_output
from kvbench.measure.verify.runs import Work, work_of

__all__ = ["Work", "verify", "verify_output", "work_of"]
