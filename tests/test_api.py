"""Tests of kvbench/api.py and of what `import kvbench` gives, with a fake engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import kvbench
from kvbench import api
from kvbench.errors import UserError
from kvbench.plan.case import Task
from kvbench.plan.plan import Plan
from kvbench.records.changes import environment_changes
from kvbench.records.events import CaseEnded, Event, Notice, SweepEnded, SweepStarted
from kvbench.records.lock import RunLock
from kvbench.records.run import Run, load_run
from kvbench.records.sample import latest
from tests.fakes import FakeEngine, make_environment

PUBLIC = {
    "Case",
    "Plan",
    "Run",
    "Sample",
    "UserError",
    "__version__",
    "inspect",
    "load_run",
    "probe",
    "resume",
    "summarize",
    "sweep",
    "verify",
}
FOLDER = {
    "run.json",
    "samples.csv",
    "tokens.csv",
    "verify.csv",
    "summary.csv",
    "summary.md",
    "report.html",
    *(
        f"charts/{name}.{kind}"
        for name in ("total_time", "token_latency", "speedup", "memory", "phases")
        for kind in ("png", "svg")
    ),
}


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no process and draw no charts, unless a test asks for them."""
    if "real_machine" not in request.fixturenames:
        monkeypatch.setattr("kvbench.run.machine.WorkerEngine", lambda **options: FakeEngine())
    if "real_charts" not in request.fixturenames:
        monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))


@pytest.fixture
def real_machine() -> None:
    """Request a real worker process."""


@pytest.fixture
def real_charts() -> None:
    """Request real charts."""


def plan_of(**keys: Any) -> Plan:
    known = {"device": "cpu", "max_new_tokens": "10,20", "repeats": 2, "seed": 7}
    return Plan.parse(known | keys)


def sweep(out: Path, engine: FakeEngine | None = None, **options: Any) -> Run:
    keys = options.pop("keys", {})
    return api.sweep(plan_of(**keys), out=out, engine=engine or FakeEngine(), **options)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


# The package


def test_the_public_names_are_those_documented() -> None:
    assert set(kvbench.__all__) == PUBLIC
    assert kvbench.__all__ == sorted(kvbench.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(kvbench, name).__name__ == name


def test_all_public_names_are_imported_by_a_star() -> None:
    names: dict[str, Any] = {}
    exec("from kvbench import *", names)
    assert names.keys() - {"__builtins__"} == PUBLIC


def test_a_name_that_is_not_there_is_an_attribute_error(snapshot: object) -> None:
    with pytest.raises(AttributeError) as caught:
        _ = kvbench.sweeep
    assert str(caught.value) == snapshot


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert kvbench.__version__ == version("kvbench")


HEAVY = ("torch", "transformers", "accelerate")
SLOW = ("pandas", "matplotlib", "scipy", "pydantic")


# The last is heavy once it is asked for something.
MODULES = (
    *("plan.plan", "records.run", "report.build", "console", "api", "methods"),
    *("run.supervisor", "run.sweep", "run.session", "run.resume", "run.messages", "run.worker"),
)


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        (("kvbench", "kvbench.cli"), HEAVY + SLOW),
        (tuple(f"kvbench.{name}" for name in MODULES), HEAVY),
    ],
    ids=["program", "modules"],
)
def test_importing_does_not_import_what_is_heavy(
    modules: tuple[str, ...], banned: tuple[str, ...]
) -> None:
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n importlib.import_module(name)\n"
        f" print(name, *(one for one in {banned!r} if one in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == list(modules)


def test_a_run_is_read_and_reported_without_torch(tmp_path: Path) -> None:
    run = sweep(tmp_path, name="run")
    code = (
        "import sys; from kvbench import load_run, summarize; "
        "from kvbench.report.build import build; "
        f"run = load_run({str(run.path)!r}); build((run,), run.path); print(len(summarize(run)), "
        "[n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "4 []"


# A sweep


def test_a_sweep_writes_a_complete_run_folder(tmp_path: Path, real_charts: None) -> None:
    run = sweep(tmp_path, name="run", command=["kvbench", "sweep"])
    assert run.path == tmp_path / "run"
    assert files(run.path) == FOLDER
    assert load_run(run.path) == run
    assert Counter((s.phase, s.status) for s in run.samples) == {
        ("warmup", "ok"): 4,
        ("measure", "ok"): 8,
    }


def test_run_json_says_what_was_planned_and_how_it_ended(tmp_path: Path, snapshot: object) -> None:
    plan = plan_of()
    info = sweep(tmp_path, FakeEngine(says=("Note.",)), name="run", command=["kvbench", "x"]).info
    assert (info.name, info.state, info.kvbench) == ("run", "finished", kvbench.__version__)
    assert info.command == ("kvbench", "x")
    assert Plan.parse(info.plan) == plan
    assert [case["case_id"] for case in info.cases] == [case.id for case in plan.cases()]
    assert info.cases[0]["prompt"]["texts"] == snapshot
    assert info.environment == make_environment()
    assert info.notes == ("Note.",)
    assert info.ended_at is not None and info.started_at <= info.ended_at


def test_the_environment_of_this_machine_is_recorded(tmp_path: Path, real_machine: None) -> None:
    # From a worker process, since the supervisor knows nothing about devices.
    environment = api.environment()
    assert environment.devices[0].name == "cpu"
    assert environment.versions["kvbench"] == kvbench.__version__
    assert sweep(tmp_path, FakeEngine(machine=environment)).info.environment == environment


def test_the_plan_decides_the_repeats_and_the_seed_the_order(tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        engine = FakeEngine()
        keys = {"seed": seed, "repeats": 3, "max_new_tokens": "1-6"}
        sweep(tmp_path, engine, name=name, keys=keys)
        orders.append([(task.case.id, task.phase, task.repeat) for task in engine.tasks])
    assert orders[0] == orders[1] != orders[2]
    assert len(orders[0]) == 12 * 4


def test_the_rule_of_the_plan_is_the_rule_of_the_sweep(tmp_path: Path) -> None:
    keys = {
        "repeats": "auto",
        "min_repeats": 2,
        "max_repeats": 6,
        "min_seconds": 1.0,
        "max_spread": 0.5,
        "max_case_seconds": 3.5,
        "max_new_tokens": 10,
    }
    times = {"off": 1.0, "dynamic": 0.25}
    engine = FakeEngine(seconds=lambda task: times[task.case.cache])
    run = sweep(tmp_path, engine, name="run", keys=keys)
    counts = Counter(s.cache for s in run.samples if s.phase == "measure")
    # The slower strategy may not take a fourth, and the faster one does not continue alone.
    assert counts == {"off": 3, "dynamic": 3}


def test_events_begin_with_the_start_and_end_with_the_end(tmp_path: Path) -> None:
    events: list[Event] = []
    sweep(tmp_path, FakeEngine(says=("Note.",)), name="run", listener=events.append)
    path, cases = tmp_path / "run", plan_of().cases()
    assert events[0] == SweepStarted(path, cases, samples_per_case=2)
    assert events[-1] == SweepEnded(path, "finished", 0)
    assert sum(isinstance(event, CaseEnded) for event in events) == 4
    saving, said = (event for event in events if isinstance(event, Notice))
    assert "--method trace" in saving.text and said == Notice("Note.")


def test_the_folder_is_there_when_the_sweep_starts_and_derived_when_it_ends(
    tmp_path: Path, real_charts: None
) -> None:
    seen: list[set[str]] = []

    def listen(event: Event) -> None:
        if isinstance(event, (SweepStarted, SweepEnded)):
            seen.append({name for name in files(event.path) if not name.startswith(".")})

    sweep(tmp_path, name="run", listener=listen)
    assert seen == [{"run.json", "samples.csv", "tokens.csv"}, FOLDER]


def test_by_default_a_run_is_named_after_date_model_and_a_hash(tmp_path: Path) -> None:
    before = date.today()
    name = sweep(tmp_path, keys={"model": "some/Model_1.5"}).path.name
    days = {f"{day:%Y-%m-%d}" for day in (before, date.today())}
    assert name[:10] in days
    assert re.fullmatch(r"-Model_1\.5-[0-9a-f]{6}", name[10:])


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("a,b,c", "-a+2-"),
        ("/some/folder/m/", "-m-"),
        ("what: is? this*", "-what--is--this--"),
        ("x" * 300, f"-{'x' * 60}-"),
        ("..", "-..-"),
        ("𠀀" * 60, "-"),
    ],
)
def test_the_name_of_any_model_gives_a_plain_name(tmp_path: Path, model: str, part: str) -> None:
    run = sweep(tmp_path, keys={"model": model, "max_new_tokens": 5, "cache": "off"})
    assert part in run.path.name
    assert run.path.parent == tmp_path


def test_two_runs_of_one_plan_have_two_names(tmp_path: Path) -> None:
    keys = {"max_new_tokens": 5, "cache": "off"}
    assert sweep(tmp_path, keys=keys).path != sweep(tmp_path, keys=keys).path


# What cannot be measured


def test_what_is_no_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    engine = FakeEngine()
    with pytest.raises(UserError) as caught:
        sweep(tmp_path, engine, name="run")
    assert caught.value.kind == "not_a_run"
    assert (engine.checked, engine.opened) == ([], [])
    assert files(tmp_path) == {"run/thesis.tex"}


def test_what_the_engine_refuses_leaves_no_folder(tmp_path: Path, snapshot: object) -> None:
    engine = FakeEngine(refusal="model: there is no such model.")
    with pytest.raises(UserError) as caught:
        sweep(tmp_path / "results", engine)
    assert str(caught.value) == snapshot
    assert not (tmp_path / "results").exists()
    assert [len(group.cases) for group in engine.checked] == [4]
    assert engine.opened == []


def test_if_nothing_could_be_loaded_no_run_is_left(tmp_path: Path, snapshot: object) -> None:
    engine = FakeEngine(
        unloadable={"a": ("unsupported", "No such model."), "b": ("unsupported", "Nor this.")}
    )
    with pytest.raises(UserError) as caught:
        sweep(tmp_path, engine, name="run", keys={"model": "a,b"})
    assert str(caught.value) == snapshot
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_load_does_not_cost_the_others(tmp_path: Path) -> None:
    engine = FakeEngine(unloadable={"a": ("unsupported", "No such model.")})
    events: list[Event] = []
    run = sweep(tmp_path, engine, name="run", keys={"model": "a,b"}, listener=events.append)
    assert Counter((s.model, s.status) for s in run.samples if s.phase == "measure") == {
        ("a", "unsupported"): 4,
        ("b", "ok"): 8,
    }
    assert events[-1] == SweepEnded(tmp_path / "run", "finished", 4)


def test_failures_of_a_model_that_did_load_are_a_result_to_keep(tmp_path: Path) -> None:
    engine = FakeEngine(
        unloadable={"a": ("unsupported", "No such model.")},
        failure=lambda task: ("timeout", "prefill", "Too slow."),
    )
    run = sweep(tmp_path, engine, name="run", keys={"model": "a,b"})
    assert Counter((s.model, s.status) for s in run.samples) == {
        ("a", "unsupported"): 4,
        ("b", "timeout"): 4,
    }


def test_a_run_in_which_all_failed_is_kept_without_charts(
    tmp_path: Path, real_charts: None
) -> None:
    engine = FakeEngine(failure=lambda task: ("oom", "decode", "No memory left."))
    run = sweep(tmp_path, engine, name="run")
    assert files(run.path) == {name for name in FOLDER if not name.startswith("charts/")}
    assert run.info.state == "finished"


def test_a_plan_for_the_cpu_is_resolved_without_a_look_at_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", None)
    assert len(api.plan_cases(plan_of())) == 4
    with pytest.raises(TypeError):
        api.plan_cases(plan_of(device="auto"))


def test_devices_are_those_that_the_worker_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [FakeEngine()]
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", lambda: engines[0])
    cases = api.plan_cases(plan_of(device="auto"))
    assert [case.device for case in cases] == ["cpu"] * 4 + ["cuda"] * 4
    assert engines[0].closed


def test_a_missing_gpu_is_told_with_its_reason(snapshot: object) -> None:
    machine = make_environment(
        devices=make_environment().devices[:1], absent={"cuda": "CUDA: torch was built without it."}
    )
    with pytest.raises(UserError) as caught:
        api.plan_cases(plan_of(device="cuda"), environment=machine)
    assert str(caught.value) == snapshot


def test_a_strategy_that_cannot_run_is_asked_about_once() -> None:
    engine = FakeEngine(needs={"static": "static: it needs more."})
    checks = api.verify(plan_of(cache="static,dynamic"), engine=engine)
    assert engine.verified == ["dynamic"]
    found = [(check.check, check.verdict, check.detail) for check in checks]
    assert found[:2] == [
        ("logits", "inconclusive", "static: it needs more."),
        ("leak", "inconclusive", "static: it needs more."),
    ]


# Interruption


def test_stop_keeps_what_was_measured_until_then(tmp_path: Path) -> None:
    engine, events = FakeEngine(), list[Event]()
    run = sweep(
        tmp_path,
        engine,
        name="run",
        listener=events.append,
        stop=lambda: len(engine.tasks) >= 4,
    )
    assert (run.info.state, len(run.samples)) == ("interrupted", 4)
    assert {"summary.csv", "summary.md"} <= files(run.path)
    assert events[-1] == SweepEnded(tmp_path / "run", "interrupted", 0)


def test_an_interrupted_run_is_kept_though_nothing_loaded(tmp_path: Path) -> None:
    engine = FakeEngine(unloadable={"a": ("unsupported", "No such model.")})
    keys = {"model": "a,b"}
    run = sweep(tmp_path, engine, name="run", keys=keys, stop=lambda: len(engine.opened) >= 2)
    assert run.info.state == "interrupted"


def test_a_break_in_a_sample_leaves_the_rows_before_it(tmp_path: Path) -> None:
    def seconds(task: Task) -> float:
        if len(engine.tasks) == 6:
            raise KeyboardInterrupt
        return 0.5

    engine = FakeEngine(seconds=seconds)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, engine, name="run")
    run = load_run(tmp_path / "run")
    assert (run.info.state, len(run.samples)) == ("interrupted", 5)
    assert engine.closed


# Resuming


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def interrupted(out: Path, count: int = 7, **options: Any) -> Run:
    """Return a run that was stopped after this many samples, including warm-ups: 12 are all."""
    engine = options.pop("engine", FakeEngine())
    options = {"name": "run", "stop": lambda: len(engine.tasks) >= count} | options
    run = sweep(out, engine, **options)
    assert (run.info.state, len(run.samples)) == ("interrupted", count)
    return run


def resume(run: Run, *arguments: Any, **options: Any) -> Run:
    return api.resume(run.path, *arguments, **{"engine": FakeEngine()} | options)


def told(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_what_is_left_is_measured_and_nothing_else(tmp_path: Path, snapshot: object) -> None:
    before, events, engine = interrupted(tmp_path), list[Event](), FakeEngine()
    run = resume(before, listener=events.append, engine=engine, command=["kvbench", "again"])
    assert run.samples[:7] == before.samples
    # The stop interrupted a round: its samples stay, and are taken again with the partner's.
    cut = before.samples[-1].case_id
    assert Counter(s.case_id for s in run.samples if s.phase == "measure") == {
        case.id: 2 + (case.id == cut) for case in plan_of().cases()
    }
    assert run.info.state == "finished"
    assert [resumed.command for resumed in run.info.resumes] == [("kvbench", "again")]
    assert run.info.started_at == before.info.started_at
    assert [len(group.cases) for group in engine.checked] == [4]
    assert told(events) == snapshot
    (started,) = (event for event in events if isinstance(event, SweepStarted))
    begun = [s for s in before.samples[:-1] if s.phase == "measure"]
    assert Counter(started.begun) == Counter(begun)
    assert load_run(run.path) == run
    assert {"summary.csv", "summary.md"} <= files(run.path)


def test_only_unfinished_cases_are_told_and_checked(tmp_path: Path) -> None:
    before, events, engine = interrupted(tmp_path, 11), list[Event](), FakeEngine()
    run = resume(before, listener=events.append, engine=engine)
    (started,) = (event for event in events if isinstance(event, SweepStarted))
    # A group, in whose last round it was stopped.
    assert len({case.pair_key for case in started.cases}) == 1 < len(started.cases)
    assert [group.cases for group in engine.checked] == [started.cases]
    assert {task.case for task in engine.tasks} == set(started.cases)
    assert [case["case_id"] for case in run.info.cases] == [c.id for c in plan_of().cases()]


@pytest.mark.parametrize("how", ["resume", "name"])
def test_a_finished_run_is_left_as_it_is(tmp_path: Path, how: str, snapshot: object) -> None:
    first, engine, events = sweep(tmp_path, name="run"), FakeEngine(), list[Event]()
    before = contents(first.path)
    if how == "resume":
        again = resume(first, engine=engine, listener=events.append)
    else:
        again = sweep(tmp_path, engine, name="run", listener=events.append)
    assert again == first
    assert contents(first.path) == before
    assert (engine.checked, engine.opened, engine.tasks) == ([], [], [])
    assert events == snapshot


def test_the_same_name_again_goes_on(tmp_path: Path) -> None:
    before, engine = interrupted(tmp_path), FakeEngine()
    run = sweep(tmp_path, engine, name="run")
    assert run.samples[:7] == before.samples
    assert run == resume(run)
    assert len(run.info.resumes) == 1
    assert Counter(s.status for s in run.samples if s.phase == "measure") == {"ok": 9}


def test_a_report_of_the_time_before_does_not_stand_for_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(tmp_path)
    summary = run.path / "summary.md"
    before = summary.read_text()

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kvbench.run.session.build", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(run)
    assert load_run(run.path).info.state == "finished"
    resume(run)
    assert summary.read_text() not in ("", before)


def trusting(out: Path) -> Run:
    """Return an interrupted run whose run.json trusts a model's own code."""
    run = interrupted(out)
    keys = json.loads((run.path / "run.json").read_text())
    keys["plan"]["trust_remote_code"] = True
    (run.path / "run.json").write_text(json.dumps(keys))
    return run


def test_a_run_folder_cannot_trust_the_code_of_a_model(tmp_path: Path, snapshot: object) -> None:
    run, engine = trusting(tmp_path), FakeEngine()
    before = contents(run.path)
    with pytest.raises(UserError) as caught:
        resume(run, {"repeats": 3}, engine=engine)
    assert str(caught.value) == snapshot
    assert (engine.checked, engine.opened, engine.tasks) == ([], [], [])
    assert contents(run.path) == before


def test_trust_that_is_given_again_changes_nothing(tmp_path: Path) -> None:
    run = resume(trusting(tmp_path), {"trust_remote_code": True})
    assert run.info.state == "finished"
    assert run.info.resumes[0].plan_changes == ()


def test_trust_that_is_taken_back_is_a_change_of_the_plan(tmp_path: Path) -> None:
    run, off = trusting(tmp_path), {"trust_remote_code": False}
    with pytest.raises(UserError) as caught:
        resume(run, off)
    assert caught.value.kind == "settings_differ"


def test_a_folder_left_empty_by_a_kill_is_begun_in(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    assert sweep(tmp_path, name="run").info.resumes == ()


def test_a_run_in_use_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    lock = RunLock(run.path)
    with pytest.raises(UserError) as caught:
        resume(run)
    assert (caught.value.kind, caught.value.fields) == ("in_use", {"path": run.path})
    lock.release()
    assert resume(run).info.state == "finished"


@pytest.mark.parametrize("kind", ["nothing", "folder", "file"])
def test_what_is_no_run_cannot_be_gone_on_with(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("x")
    with pytest.raises(UserError) as caught:
        api.resume(path, engine=FakeEngine())
    assert caught.value.kind == "not_a_run"


def test_a_prompt_file_that_was_moved_since_does_not_matter(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("One.\nTwo.\n")
    before = interrupted(tmp_path, keys={"prompt_file": str(prompts)})
    prompts.unlink()
    engine = FakeEngine()
    run = resume(before, {"case_timeout": 60}, engine=engine)
    assert run.info.state == "finished"
    assert engine.tasks[0].case.prompt.texts == ("One.", "Two.")


# A plan that has changed


@pytest.mark.parametrize("how", ["resume", "name"])
def test_another_plan_is_refused_with_both_values(tmp_path: Path, how: str) -> None:
    first = interrupted(tmp_path)
    before, engine = contents(first.path), FakeEngine()
    keys = {"repeats": 3, "max_new_tokens": "10-30+10"}
    with pytest.raises(UserError) as caught:
        if how == "resume":
            resume(first, keys, engine=engine)
        else:
            sweep(tmp_path, engine, name="run", keys=keys)
    assert caught.value.kind == "settings_differ"
    assert {change.key: change.new for change in caught.value.fields["changes"]} == {
        "max_new_tokens": "10,20,30",
        "repeats": "3",
    }
    assert contents(first.path) == before
    assert (engine.opened, engine.closed > 0) == ([], True)


def test_how_it_is_carried_out_may_change(tmp_path: Path) -> None:
    before, engine = interrupted(tmp_path), FakeEngine()
    run = resume(before, {"case_timeout": 60, "verify": "false"}, engine=engine)
    assert (run.info.plan["case_timeout"], run.info.plan["verify"]) == (60.0, False)
    assert None not in engine.timeouts
    assert max(limit for limit in engine.timeouts if limit) <= 60


def test_a_wrong_value_is_a_user_error_before_anything_is_started(tmp_path: Path) -> None:
    run, engine = interrupted(tmp_path), FakeEngine()
    before = contents(run.path)
    with pytest.raises(UserError) as caught:
        resume(run, {"case_timeout": "soon"}, engine=engine)
    assert (caught.value.kind, caught.value.fields) == ("bad_value", {"key": "case_timeout"})
    assert contents(run.path) == before


def test_use_cache_goes_over_the_cache_of_the_run(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    with pytest.raises(UserError) as caught:
        resume(run, {"use_cache": "false"})
    (change,) = caught.value.fields["changes"]
    assert (change.key, change.new) == ("cache", "off")


def test_a_run_json_without_its_cases_is_a_user_error(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    info = json.loads((run.path / "run.json").read_text())
    info["cases"] = [{"device": "cpu"}]
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError) as caught:
        resume(run)
    assert caught.value.kind == "bad_run"


# A machine that has changed

OTHER = make_environment(
    cpu="Another CPU", versions=make_environment().versions | {"torch": "2.14.0"}
)


@pytest.mark.parametrize("how", ["resume", "name"])
def test_another_machine_is_refused_and_what_is_otherwise_named(tmp_path: Path, how: str) -> None:
    first = interrupted(tmp_path)
    before, engine = contents(first.path), FakeEngine(machine=OTHER)
    with pytest.raises(UserError) as caught:
        if how == "resume":
            resume(first, engine=engine)
        else:
            sweep(tmp_path, engine, name="run")
    assert caught.value.fields["changes"] == tuple(
        environment_changes(make_environment(), OTHER, ["cpu"])
    )
    assert contents(first.path) == before
    assert engine.tasks == []


def test_another_gpu_does_not_matter_to_a_run_on_the_cpu(tmp_path: Path) -> None:
    machine = make_environment(devices=make_environment().devices[:1])
    run = resume(interrupted(tmp_path), engine=FakeEngine(machine=machine))
    assert run.info.state == "finished"


# Failures and resuming


def failed_run(out: Path, status: Any) -> Run:
    bad = plan_of().cases()[0]
    engine = FakeEngine(
        failure=lambda task: (status, "decode", "No.") if task.case == bad else None
    )
    return sweep(out, engine, name="run")


def test_a_failure_is_a_finding_and_stays(tmp_path: Path) -> None:
    first, engine = failed_run(tmp_path, "timeout"), FakeEngine()
    assert resume(first, engine=engine) == first
    assert engine.tasks == []


def test_failed_cases_are_measured_again_where_that_is_asked(tmp_path: Path) -> None:
    first, engine = failed_run(tmp_path, "timeout"), FakeEngine()
    run = resume(first, engine=engine, retry_failed=True)
    failed = plan_of().cases()[0]
    # Its partner goes along: they are compared within rounds.
    pair = {case for case in plan_of().cases() if case.pair_key == failed.pair_key}
    assert {task.case for task in engine.tasks} == pair
    assert run.samples[: len(first.samples)] == first.samples
    new = [s for s in run.samples[len(first.samples) :] if s.case_id == failed.id]
    assert [s.attempt for s in new] == [1, 0, 0]
    assert {s.status for s in latest(run.samples)} == {"ok"}


def test_a_lost_process_is_tried_again_in_any_case(tmp_path: Path) -> None:
    run = resume(failed_run(tmp_path, "crashed"))
    assert {s.status for s in latest(run.samples)} == {"ok"}


def test_a_model_that_no_longer_loads_does_not_cost_what_was_measured(tmp_path: Path) -> None:
    before, events = interrupted(tmp_path), list[Event]()
    engine = FakeEngine(unloadable={"gpt2": ("unsupported", "The folder is gone.")})
    run = resume(before, engine=engine, listener=events.append)
    assert run.samples[:7] == before.samples
    assert Counter(s.status for s in run.samples[7:]) == {"unsupported": 4}
    assert events[-1] == SweepEnded(run.path, "finished", 4)


def test_what_the_engine_refuses_leaves_the_run_as_it_was(tmp_path: Path, snapshot: object) -> None:
    before = interrupted(tmp_path)
    with pytest.raises(UserError) as caught:
        resume(before, engine=FakeEngine(refusal="The folder is gone."))
    assert str(caught.value) == snapshot
    after = load_run(before.path)
    assert (after.samples, after.info.state) == (before.samples, "interrupted")
    assert resume(after).info.state == "finished"
