"""Whether a run may go on: what has changed since it began, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kvbench.case import Case
from kvbench.errors import UserError
from kvbench.plan import CONDUCT
from kvbench.records.changes import changes
from kvbench.records.run import RunInfo
from kvbench.text import clip

__all__ = ["cases_of", "described", "plan_changes"]


def described(cases: Iterable[Case]) -> tuple[dict[str, Any], ...]:
    """Cases as run.json has them."""
    return tuple({"case_id": case.id} | dataclasses.asdict(case) for case in cases)


def cases_of(info: RunInfo) -> tuple[Case, ...]:
    """The cases of a run, as they were planned: prompt files are not read again.

    Raises:
        UserError: run.json has not all that makes a case.
    """
    known = {"case_id", *(field.name for field in dataclasses.fields(Case))}
    for name in sorted({name for entry in info.cases for name in entry} - known):
        raise UserError(f"run.json of {info.name}: cases: '{clip(name)}' is no field of a case.")
    try:
        return tuple(TypeAdapter(tuple[Case, ...]).validate_python(info.cases))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"run.json of {info.name}: cases.{where}: {first['msg'].lower()}."
        ) from error


def plan_changes(info: RunInfo, plan: Mapping[str, Any], cases: Iterable[Case]) -> list[str]:
    """What a plan would measure otherwise than the run does, a line each.

    `plan` is the plan's keys as run.json has them.
    """
    keys = [key for key in dict.fromkeys([*info.plan, *plan]) if key not in CONDUCT]
    found = list(changes({k: info.plan.get(k) for k in keys}, {k: plan.get(k) for k in keys}))
    old, new = {case.id for case in cases_of(info)}, {case.id for case in cases}
    if not found and old != new:
        # The keys are the same: a prompt file was edited, or `auto` found other devices.
        found.append(f"cases: {len(new - old)} new, {len(old - new)} gone")
    return found
