"""What would fit where cases ran out of memory, from theory and the room that there was."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from kvbench.analysis.summary import CaseSummary
from kvbench.caches import strategy
from kvbench.device_kinds import kind_of
from kvbench.errors import UserError
from kvbench.plan.axes import values_of
from kvbench.records.run import Run
from kvbench.theory.advice import needed_bytes, what_fits
from kvbench.theory.architecture import Architecture
from kvbench.theory.strategies import situation_of
from kvbench.theory.work import Work

__all__ = ["with_fits"]

_PROMPT = ("model", "workload", "prompt", "turn")
"""What cases share whose prompts are equally long."""

_OTHERS = (
    "static",
    "half",
    "quantized:backend=fp8",
    "quantized:backend=quanto:nbits=4",
    "window:size=256",
    "offloaded",
)
"""What is tried in place of the strategy that ran out, as far as it can run here."""


def with_fits(
    cases: Sequence[CaseSummary], run: Run, architecture_of: Callable[[str], Architecture | None]
) -> tuple[CaseSummary, ...]:
    """Return the cases; those that ran out of memory with what would have fitted."""
    rooms = {s.case_id: s.room_bytes for s in run.samples if s.room_bytes is not None}
    # A turn of a conversation has the label of the others, and a prompt of its own.
    prompts = {values_of(c, _PROMPT): c.prompt_tokens for c in cases if c.prompt_tokens}

    def with_fit(case: CaseSummary) -> CaseSummary:
        architecture = architecture_of(case.model)
        tokens = case.prompt_tokens or prompts.get(values_of(case, _PROMPT))
        room = rooms.get(case.case_id)
        if case.status != "oom" or architecture is None or tokens is None or room is None:
            return case
        work = Work(
            batch=case.batch_size,
            prompt_tokens=tokens,
            new_tokens=case.max_new_tokens,
            dtype=case.dtype,
        )
        others = _runnable(architecture, case, run)
        # Where theory cannot count, nothing is advised.
        with contextlib.suppress(UserError):
            fits = what_fits(architecture, work, case.cache, room, others=others)
            return dataclasses.replace(
                case,
                room_bytes=room,
                needed_bytes=needed_bytes(architecture, work, case.cache),
                fits_batch=next((fit.batch for fit in fits if fit.cache == case.cache), None),
                fits_caches=" ".join(fit.cache for fit in fits if fit.cache != case.cache) or None,
            )
        return case

    return tuple(map(with_fit, cases))


def _runnable(architecture: Architecture, case: CaseSummary, run: Run) -> list[str]:
    kind, versions = kind_of(case.device).name, run.info.environment.versions
    situation = situation_of(architecture, kind, case.dtype, versions)
    seen = dict.fromkeys((*(sample.cache for sample in run.samples), *_OTHERS))
    return [name for name in seen if strategy(name).unmet(situation) is None]
