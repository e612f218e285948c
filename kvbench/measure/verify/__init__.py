"""Verification: that generating with a cache is the same work as without, on the timed path."""

from __future__ import annotations

from kvbench.measure.verify.checks import verify

__all__ = ["verify"]
