"""The driver: pass steps from the scheduler to the engines, and their answers back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from kvbench.plan.case import Case
from kvbench.records.events import Listener, Notice
from kvbench.records.writer import RunWriter
from kvbench.run.engine import Engine, Interrupted
from kvbench.run.progress import CaseProgress
from kvbench.run.recording import Outcome
from kvbench.run.state import Conduct
from kvbench.run.steps import Compare, Reply, Step, Verify, perform
from kvbench.run.sweep import Sweep

__all__ = ["carry_out"]

_LEAST_REPORTED_S = 1.0
"""Verification that took less time is not worth a line."""


def carry_out(
    progress: Mapping[Case, CaseProgress],
    engines: Sequence[Engine],
    writer: RunWriter,
    emit: Listener,
    *,
    conduct: Conduct,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Measure what is left of all cases, on one engine after another.

    `stop` is called between steps; the current sample is finished.
    """
    sweep = Sweep(progress, engines, writer, emit, conduct)
    started = monotonic()
    try:
        while assignments := sweep.due():
            # The samples exist; comparing their tokens completes them.
            looks = tuple(one for one in assignments if isinstance(one.step, Compare))
            if len(looks) < len(assignments) and stop():
                sweep.outcome.interrupted = True
                if not looks:
                    break
                assignments = looks
            for one in [one for one in assignments if sweep.begin(one)]:
                sweep.learn(one, _perform(one.step, engines[one.engine], sweep.outcome))
    except Interrupted:
        sweep.outcome.interrupted = True
    finally:
        for engine in engines:
            engine.close()
    verify_s = sweep.outcome.verify_s
    if verify_s >= _LEAST_REPORTED_S:
        share = verify_s / (monotonic() - started)
        emit(Notice(f"Verification took {verify_s:.1f} s, {share:.0%} of this session."))
    return sweep.outcome


def _perform(step: Step, engine: Engine, outcome: Outcome) -> Reply:
    """Carry out a step, and time it if it is a verification."""
    if not isinstance(step, Verify):
        return perform(step, engine)
    begun = monotonic()
    reply = perform(step, engine)
    outcome.verify_s += monotonic() - begun
    return reply
