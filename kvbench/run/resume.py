"""Decide whether a run may be resumed: what has changed since it started, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kvbench.errors import UserError
from kvbench.plan.case import Case
from kvbench.plan.plan import CONDUCT, with_legacy
from kvbench.records.changes import CaseChanges, Change, changes
from kvbench.records.run import RunInfo
from kvbench.text import clip

__all__ = ["cases_of", "described", "plan_changes"]


def described(cases: Iterable[Case]) -> tuple[dict[str, Any], ...]:
    """Return cases as stored in run.json."""
    return tuple({"case_id": case.id} | dataclasses.asdict(case) for case in cases)


def cases_of(info: RunInfo) -> tuple[Case, ...]:
    """Return the cases of a run as planned; prompt files are not read again.

    Raises:
        UserError: a case lacks a field, or has an unknown field that makes it a different case.
    """
    known = {field.name for field in dataclasses.fields(Case)}
    entries = [{k: v for k, v in entry.items() if k in known} for entry in info.cases]
    try:
        cases = TypeAdapter(tuple[Case, ...]).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"run.json of {info.name}: cases.{where}: {first['msg'].lower()}.", kind="bad_run"
        ) from error
    # A field unknown to an older version leaves no trace in the id at its legacy value.
    for number, (entry, case) in enumerate(zip(info.cases, cases, strict=True)):
        if entry.get("case_id", case.id) != case.id:
            raise UserError(
                f"run.json of {info.name}: cases.{number}: its fields do not match the case id "
                f"{clip(entry['case_id'])}; was the run created by a newer kvbench, or edited?",
                kind="bad_run",
            )
    return cases


def plan_changes(
    info: RunInfo, plan: Mapping[str, Any], cases: Iterable[Case]
) -> list[Change] | list[CaseChanges]:
    """Return how a plan differs from the run's plan, one entry per key.

    `plan` has the plan's keys as stored in run.json.
    """
    before = with_legacy(info.plan)
    keys = [key for key in dict.fromkeys([*before, *plan]) if key not in CONDUCT]
    found = list(changes({k: before.get(k) for k in keys}, {k: plan.get(k) for k in keys}))
    old, new = {case.id for case in cases_of(info)}, {case.id for case in cases}
    if not found and old != new:
        # The keys are equal: a prompt file was edited, or `auto` found other devices.
        return [CaseChanges(new=len(new - old), gone=len(old - new))]
    return found
