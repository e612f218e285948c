"""Tests of kvbench/api.py and of what `import kvbench` gives, with a fake engine."""

from __future__ import annotations

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
from kvbench.case import Task
from kvbench.errors import UserError
from kvbench.plan import MANY_CASES, Plan
from kvbench.records.events import CaseEnded, Event, Notice, SweepEnded, SweepStarted
from kvbench.records.run import Run, load_run
from tests.fakes import FakeEngine, make_environment

PUBLIC = {
    "Case",
    "Plan",
    "Run",
    "Sample",
    "UserError",
    "__version__",
    "load_run",
    "summarise",
    "sweep",
}
FOLDER = {
    "run.json",
    "samples.csv",
    "tokens.csv",
    "summary.csv",
    "summary.md",
    "charts/total_time.png",
    "charts/total_time.svg",
    "charts/time_per_token.png",
    "charts/time_per_token.svg",
}


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not change and charts that take no time, unless a test wants the real."""
    if "real_machine" not in request.fixturenames:
        monkeypatch.setattr(api, "environment", make_environment)
    if "real_charts" not in request.fixturenames:
        monkeypatch.setattr("kvbench.report.write.write_charts", lambda *arguments: [])


@pytest.fixture
def real_machine() -> None:
    """Asks for the environment as it is."""


@pytest.fixture
def real_charts() -> None:
    """Asks for the charts to be drawn."""


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


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kvbench' has no attribute 'sweeep'"):
        _ = kvbench.sweeep


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert kvbench.__version__ == version("kvbench")


HEAVY = ("torch", "transformers", "accelerate")
SLOW = ("pandas", "matplotlib", "scipy", "pydantic")


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("kvbench", HEAVY + SLOW),
        ("kvbench.cli", HEAVY + SLOW),
        ("kvbench.plan", HEAVY),
        ("kvbench.records.run", HEAVY),
        ("kvbench.report.write", HEAVY),
        ("kvbench.console", HEAVY),
        ("kvbench.api", HEAVY),
    ],
)
def test_importing_does_not_import_what_is_heavy(module: str, banned: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([n for n in {banned!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_run_is_read_and_reported_without_torch(tmp_path: Path) -> None:
    run = sweep(tmp_path, name="run")
    code = (
        "import sys; from kvbench import load_run, summarise; "
        "from kvbench.report.write import write_derived; "
        f"run = load_run({str(run.path)!r}); write_derived(run); print(len(summarise(run)), "
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


def test_run_json_says_what_was_planned_and_how_it_ended(tmp_path: Path) -> None:
    plan = plan_of()
    info = sweep(tmp_path, FakeEngine(says=("Note.",)), name="run", command=["kvbench", "x"]).info
    assert (info.name, info.state, info.kvbench) == ("run", "finished", kvbench.__version__)
    assert info.command == ("kvbench", "x")
    assert Plan.parse(info.plan) == plan
    assert [case["case_id"] for case in info.cases] == [case.id for case in plan.cases()]
    assert info.cases[0]["prompt"]["texts"] == ["What is KV caching?"]
    assert info.environment == make_environment()
    assert info.notes == ("Note.",)
    assert info.ended_at is not None and info.started_at <= info.ended_at


def test_the_environment_of_this_machine_is_recorded(tmp_path: Path, real_machine: None) -> None:
    environment = sweep(tmp_path, name="run").info.environment
    assert environment.devices[0].name == "cpu"
    assert environment.versions["kvbench"] == kvbench.__version__
    assert environment == api.environment()


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
        "max_case_seconds": 2.5,
        "max_new_tokens": 10,
    }
    times = {"off": 1.0, "dynamic": 0.25}
    engine = FakeEngine(seconds=lambda task: times[task.case.cache])
    run = sweep(tmp_path, engine, name="run", keys=keys)
    counts = Counter(s.cache for s in run.samples if s.phase == "measure")
    assert counts == {"off": 2, "dynamic": 4}


def test_events_begin_with_the_start_and_end_with_the_end(tmp_path: Path) -> None:
    events: list[Event] = []
    sweep(tmp_path, FakeEngine(says=("Note.",)), name="run", listener=events.append)
    path, cases = tmp_path / "run", plan_of().cases()
    assert events[0] == SweepStarted(path, cases, samples_per_case=2)
    assert events[-1] == SweepEnded(path, "finished", 0)
    assert sum(isinstance(event, CaseEnded) for event in events) == 4
    assert [event for event in events if isinstance(event, Notice)] == [Notice("Note.")]


def test_the_folder_is_there_when_the_sweep_starts_and_derived_when_it_ends(
    tmp_path: Path, real_charts: None
) -> None:
    seen: list[set[str]] = []

    def listen(event: Event) -> None:
        if isinstance(event, (SweepStarted, SweepEnded)):
            seen.append(files(event.path) - {".lock"})

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


def test_an_existing_run_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    first = sweep(tmp_path, name="run")
    before = {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()}
    engine = FakeEngine()
    with pytest.raises(UserError, match="exists, and a run is never overwritten"):
        sweep(tmp_path, engine, name="run")
    assert (engine.checked, engine.opened) == ([], [])
    assert {p: p.read_bytes() for p in first.path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^--name: "):
        sweep(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def test_what_the_engine_refuses_leaves_no_folder(tmp_path: Path) -> None:
    engine = FakeEngine(refusal="model: there is no such model.")
    with pytest.raises(UserError, match=r"^model: there is no such model\.$"):
        sweep(tmp_path / "results", engine)
    assert not (tmp_path / "results").exists()
    assert [len(group.cases) for group in engine.checked] == [4]
    assert engine.opened == []


def test_if_nothing_could_be_loaded_no_run_is_left(tmp_path: Path) -> None:
    engine = FakeEngine(
        unloadable={"a": ("unsupported", "No such model."), "b": ("unsupported", "Nor this.")}
    )
    with pytest.raises(UserError, match=r"^No such model\.$"):
        sweep(tmp_path, engine, name="run", keys={"model": "a,b"})
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
        failure=lambda task: ("oom", "prefill", "No memory left."),
    )
    run = sweep(tmp_path, engine, name="run", keys={"model": "a,b"})
    assert Counter((s.model, s.status) for s in run.samples) == {
        ("a", "unsupported"): 4,
        ("b", "oom"): 4,
    }


def test_a_run_in_which_all_failed_is_kept_without_charts(
    tmp_path: Path, real_charts: None
) -> None:
    engine = FakeEngine(failure=lambda task: ("oom", "decode", "No memory left."))
    run = sweep(tmp_path, engine, name="run")
    assert files(run.path) == {name for name in FOLDER if not name.startswith("charts/")}
    assert run.info.state == "finished"


def test_a_device_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^device: 'cuda:99' is not present on this machine"):
        sweep(tmp_path, keys={"device": "cuda:99"})
    assert list(tmp_path.iterdir()) == []


def test_a_large_grid_needs_a_word(tmp_path: Path) -> None:
    keys = {"max_new_tokens": f"1-{MANY_CASES}"}
    with pytest.raises(UserError, match="over 10,000"):
        sweep(tmp_path, keys=keys)
    assert len(api.plan_cases(plan_of(**keys), allow_many=True)) == 2 * MANY_CASES


def test_a_plan_for_the_cpu_is_resolved_without_a_look_at_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kvbench.measure.devices", None)
    assert len(api.plan_cases(plan_of())) == 4
    with pytest.raises(ImportError):
        api.plan_cases(plan_of(device="auto"))


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
    assert engine.closed == 1
