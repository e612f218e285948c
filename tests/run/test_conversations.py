"""Tests of a sweep of conversations, with an engine that measures nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kvbench.measure.stopping import StoppingRule
from kvbench.methods import Job, JobResult
from kvbench.plan.case import Task
from kvbench.plan.plan import Plan
from kvbench.records.run import load_run
from kvbench.records.sample import Sample
from kvbench.records.writer import RunWriter
from kvbench.run.driver import carry_out
from kvbench.run.progress import progress_of
from kvbench.run.state import Conduct
from tests.fakes import FakeEngine, make_info, readings_of

PLAN = {"device": "cpu", "workload": "chat:turns=3:user=8:reply=4"}


@dataclass
class Talking(FakeEngine):
    """An engine whose results have a turn for each message, up to a failing one."""

    fails_at: int | None = None

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        result, task = super().run(job, timeout_s), job.task
        turns = []
        for number in range(1, task.case.turn + 1):
            here = replace(task, case=replace(task.case, turn=number))
            if number == self.fails_at and task.phase == "measure":
                turns.append(JobResult("oom", result.started_at, {"stage": "decode", "error": "x"}))
                break
            own = readings_of(here) | {"output_sha256": self.tokens_of(here), "prompt_tokens": None}
            turns.append(replace(result, fields=own))
        return replace(turns[-1], turns=tuple(turns))


def swept(path: Path, engine: FakeEngine, **conduct: float) -> tuple[Sample, ...]:
    """Measure two rounds, and return their rows."""
    rule = StoppingRule(repeats=2)
    with RunWriter.create(path, make_info(state="running")) as writer:
        progress = progress_of(Plan.parse(PLAN).cases(), (), rule)
        carry_out(progress, [engine], writer, lambda event: None, conduct=Conduct(rule, **conduct))
    return tuple(s for s in load_run(path).samples if s.phase == "measure")


def test_a_round_is_one_conversation_for_each_reuse(tmp_path: Path) -> None:
    engine = Talking()
    rows = swept(tmp_path / "run", engine)
    measured = [task for task in engine.tasks if task.phase == "measure"]
    # Two rounds of off, of dynamic within turns, and of dynamic kept: only last turns are asked.
    assert [task.case.turn for task in measured] == [3] * 6
    assert len(rows) == 18 and {row.status for row in rows} == {"ok"}
    for one in range(2):
        shared = [row for row in rows if row.round == one]
        assert len({row.generation_id for row in shared}) == 3
        assert {(row.reuse, row.turn) for row in shared} == {
            (reuse, turn) for reuse in ("none", "turn", "conversation") for turn in (1, 2, 3)
        }


def test_other_tokens_are_looked_at_in_their_turn(tmp_path: Path) -> None:
    def tokens(task: Task) -> str:
        other = task.case.reuse == "conversation" and task.case.turn == 2
        # Each turn has another reply, which is no difference.
        return f"{task.case.turn:015x}{int(other)}"

    engine = Talking(tokens_of=tokens)
    swept(tmp_path / "run", engine)
    assert [(case.reuse, case.turn) for case in engine.compared] == [("conversation", 2)]


def test_the_turns_before_a_failure_go_on(tmp_path: Path) -> None:
    engine = Talking(fails_at=2)
    rows = swept(tmp_path / "run", engine)
    status = {(row.turn, row.status) for row in rows}
    assert status == {(1, "ok"), (2, "oom"), (3, "oom")}
    # The second round plays what is left of the conversation.
    assert [task.case.turn for task in engine.tasks if task.phase == "measure"] == [3] * 3 + [1] * 3


def test_a_conversation_has_the_time_of_all_its_turns(tmp_path: Path) -> None:
    engine = Talking()
    swept(tmp_path / "run", engine, case_timeout_s=10.0)
    limits = [
        limit
        for task, limit in zip(engine.tasks, engine.timeouts, strict=True)
        if task.phase == "measure"
    ]
    assert max(limits) == 30.0
    assert 29.9 < min(limits) < 30.0
