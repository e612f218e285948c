"""A session: one start of a sweep, from a plan or a run folder to a readable run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kvbench.caches import needs_trust
from kvbench.errors import UserError
from kvbench.measure.stopping import StoppingRule
from kvbench.plan.case import Case, ModelKey, group_cases
from kvbench.plan.plan import CONDUCT, Plan, check_trust, with_legacy
from kvbench.records.changes import environment_changes
from kvbench.records.environment import Environment
from kvbench.records.events import Notice, SweepEnded, SweepStarted
from kvbench.records.quality import Quality, load_qualities
from kvbench.records.run import Resume, Run, RunInfo, load_info, load_run
from kvbench.records.sample import STATUSES, Sample, utc_now
from kvbench.records.writer import RunWriter, check_name, holds_run
from kvbench.report.build import build, forget_report, is_built
from kvbench.run.driver import carry_out
from kvbench.run.engine import Engine
from kvbench.run.machine import Caller, plan_cases
from kvbench.run.methods import method_notices
from kvbench.run.progress import TRIED_AGAIN, CaseProgress, progress_of
from kvbench.run.reading import unread
from kvbench.run.recording import Outcome
from kvbench.run.resume import cases_of, described, plan_changes
from kvbench.run.state import Conduct
from kvbench.version import __version__

__all__ = ["Session", "go_on", "start"]


def start(
    plan: Plan,
    out: Path,
    name: str | None,
    caller: Caller,
    *,
    allow_many: bool,
    command: Sequence[str],
) -> Run:
    """Measure a plan in a new run folder, or resume the run of that name; see kvbench.api."""
    # Before the worker starts, which takes seconds.
    path = None if name is None else out / check_name(name)
    old = load_info(path) if path is not None and holds_run(path) else None
    with caller.open_engine(plan) as engine:
        machine = engine.environment()
        cases = plan_cases(plan, allow_many=allow_many, environment=machine)
        session = Session(plan, engine, caller, tuple(command))
        if path is not None and old is not None:
            return session.go_on(path, old, cases, machine)
        return session.begin(path or out / _default_name(cases), cases, machine)


def go_on(
    path: Path,
    options: Mapping[str, Any] | None,
    caller: Caller,
    *,
    allow_many: bool,
    retry_failed: bool,
    command: Sequence[str],
) -> Run:
    """Measure what a run lacks, under its plan and these options; see kvbench.api.resume."""
    old = load_info(path)
    options = dict(options or {})
    foreign = needs_trust(old.plan.get("cache") or ())
    if foreign:
        check_trust(str(path), foreign, options)
    if foreign and not old.plan.get("trust_remote_code"):
        # This was given for the cache: whether a model's code runs does not change.
        options.pop("trust_remote_code")
    plan = Plan.merge(with_legacy(old.plan), options)
    if plan.trust_remote_code and "trust_remote_code" not in options:
        # The folder, and therefore its plan, may come from somebody else.
        raise UserError(
            f"{path} was created with --trust-remote-code, which runs code that comes with the "
            "model: pass the option again if you trust it.",
            kind="remote_code_not_allowed",
        )
    if plan.trust_remote_code == old.plan.get("trust_remote_code"):
        # Repeating the same value is not a change.
        options.pop("trust_remote_code", None)
    again = frozenset(STATUSES) - {"ok"} if retry_failed else TRIED_AGAIN
    if plan.keep_going_after_oom:
        again |= {"skipped_oom"}
    with caller.open_engine(plan) as engine:
        machine = engine.environment()
        # Keep the cases as planned unless something changes: a prompt file may have moved since.
        cases = (
            plan_cases(plan, allow_many=allow_many, environment=machine)
            if set(options) - CONDUCT
            else cases_of(old)
        )
        session = Session(plan, engine, caller, tuple(command), again)
        return session.go_on(path, old, cases, machine)


@dataclass(frozen=True)
class Session:
    """One start of a sweep: what new and resumed runs share."""

    plan: Plan
    engine: Engine
    caller: Caller
    command: tuple[str, ...]
    again: frozenset[str] = TRIED_AGAIN

    def begin(self, path: Path, cases: tuple[Case, ...], machine: Environment) -> Run:
        """Create a run folder and measure into it."""
        self.engine.check(group_cases(cases))
        info = RunInfo(
            name=path.name,
            state="running",
            kvbench=__version__,
            started_at=utc_now(),
            command=self.command,
            plan=self.plan.model_dump(mode="json"),
            cases=described(cases),
            environment=machine,
        )
        with RunWriter.create(path, info) as writer:
            notices = method_notices(self.plan, cases)
            return self._carry_out(writer, self._progress(cases, ()), notices)

    def go_on(self, path: Path, old: RunInfo, cases: tuple[Case, ...], machine: Environment) -> Run:
        """Measure what a run lacks.

        Raises:
            UserError: the plan or the machine has changed.
        """
        plan = self.plan.model_dump(mode="json")
        changes = [
            *plan_changes(old, plan, cases),
            *environment_changes(old.environment, machine, {case.device for case in cases}),
        ]
        if changes:
            shown = "; ".join(map(str, changes))
            raise UserError(
                f"{path} was created with different settings ({shown}): start a new run with "
                "another --name, and compare the two with `kvbench compare`.",
                kind="settings_differ",
                changes=tuple(changes),
            )
        if old.state == "finished":
            run = load_run(path)
            progress = self._progress(cases, run.samples)
            if not _left(progress) and not self._unread(progress, run.qualities):
                self.caller.emit(Notice(f"{path} is finished; nothing left to measure."))
                if not is_built(path):
                    # A kill or a full disk came in between.
                    build((run,), path)
                return run
        this = Resume(
            started_at=utc_now(),
            kvbench=__version__,
            command=self.command,
        )
        with RunWriter.reopen(path, this, plan=plan, cases=described(cases)) as writer:
            forget_report(path)
            for repair in writer.repairs:
                self.caller.emit(Notice(repair))
            progress = self._progress(cases, writer.samples)
            left = _left(progress)
            owed = self._unread(progress, load_qualities(path))
            more = f", and the quality of {len(owed)} strategies" if owed else ""
            self.caller.emit(
                Notice(f"{path}: {len(left)} of {len(cases)} cases left to measure{more}.")
            )
            self.engine.check(group_cases(left))
            return self._carry_out(writer, progress)

    def _carry_out(
        self, writer: RunWriter, progress: dict[Case, CaseProgress], notices: Sequence[str] = ()
    ) -> Run:
        left = _left(progress)
        begun = tuple(sample for case in left for sample in progress[case].counted)
        self.caller.emit(
            SweepStarted(writer.path, left, self.plan.repeats or self.plan.min_repeats, begun)
        )
        for line in notices:
            self.caller.emit(Notice(line))
        outcome = carry_out(
            progress,
            [self.engine],
            writer,
            self.caller.emit,
            conduct=self._conduct,
            stop=self.caller.stop,
        )
        return self._finish(writer, outcome)

    def _finish(self, writer: RunWriter, outcome: Outcome) -> Run:
        """Write the end and the report into the run folder."""
        state = "interrupted" if outcome.interrupted else "finished"
        writer.finish(state, outcome.notes)
        nothing = not (outcome.loaded or outcome.interrupted or writer.samples)
        if outcome.load_errors and nothing:
            # No model could be loaded: that is a mistake to fix, not a result to keep.
            writer.discard()
            raise UserError(outcome.load_errors[0], kind="not_loaded")
        run = load_run(writer.path)
        build((run,), run.path)
        self.caller.emit(SweepEnded(writer.path, state, outcome.failed))
        return run

    def _progress(
        self, cases: Sequence[Case], samples: Sequence[Sample]
    ) -> dict[Case, CaseProgress]:
        return progress_of(cases, samples, self._conduct.rule, self.again)

    def _unread(
        self, progress: Mapping[Case, CaseProgress], rows: Sequence[Quality]
    ) -> Mapping[tuple[ModelKey, str], Case]:
        return unread(progress, rows) if self.plan.quality else {}

    @property
    def _conduct(self) -> Conduct:
        plan = self.plan
        rule = StoppingRule(
            repeats=plan.repeats,
            min_repeats=plan.min_repeats,
            max_repeats=plan.max_repeats,
            min_seconds=plan.min_seconds,
            max_spread=plan.max_spread,
            max_seconds=plan.max_case_seconds,
        )
        return Conduct(
            rule=rule,
            seed=plan.seed,
            warmup=plan.warmup,
            case_timeout_s=plan.case_timeout,
            keep_going_after_oom=plan.keep_going_after_oom,
            verify=plan.verify,
            quality=plan.quality,
        )


def _left(progress: dict[Case, CaseProgress]) -> tuple[Case, ...]:
    """Return the cases that need more samples."""
    return tuple(case for case, known in progress.items() if not known.ended)


def _default_name(cases: Sequence[Case]) -> str:
    now = datetime.now()
    models = list(dict.fromkeys(Path(case.model).name for case in cases))
    model = re.sub(r"[^A-Za-z0-9._-]", "-", models[0])[:60]
    more = f"+{len(models) - 1}" if len(models) > 1 else ""
    text = json.dumps([now.isoformat(), *(case.key for case in cases)])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{now:%Y-%m-%d}-{model}{more}-{digest}"
