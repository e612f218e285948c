"""Runs of older versions are readable for the life of the project, and can be resumed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from kvbench import api
from kvbench.plan.plan import Plan, with_legacy
from kvbench.records.run import load_run
from kvbench.report.build import build
from kvbench.run.resume import cases_of, plan_changes
from tests.fakes import FakeEngine

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = sorted(path.name for path in GOLDEN.iterdir())


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take longer than everything else that a resume does here."""
    monkeypatch.setattr("kvbench.run.session.build", lambda *_: [])


@pytest.mark.parametrize("name", RUNS)
def test_every_old_run_is_read_with_its_cases_and_its_plan(name: str) -> None:
    run = load_run(GOLDEN / name)
    cases = cases_of(run.info)
    assert {case.id for case in cases} >= {sample.case_id for sample in run.samples}
    assert [case.id for case in cases] == [entry["case_id"] for entry in run.info.cases]
    # A key that is new has not changed the plan.
    plan = Plan.merge(with_legacy(run.info.plan), {}).model_dump(mode="json")
    assert plan_changes(run.info, plan, cases) == []


def test_a_report_of_every_old_run_is_made(tmp_path: Path) -> None:
    for name in RUNS:
        run = load_run(shutil.copytree(GOLDEN / name, tmp_path / name))
        # The page draws each chart once; files of two kinds would draw them again.
        build((run,), run.path, formats=("markdown", "html"))
        assert {"summary.csv", "summary.md", "report.html"} <= {
            one.name for one in run.path.iterdir()
        }


@pytest.mark.parametrize("name", ["gpt2-cpu", "h100-llama-7b"])
def test_an_old_run_is_resumed_in_its_own_columns(tmp_path: Path, name: str) -> None:
    path = shutil.copytree(GOLDEN / name, tmp_path / name)
    table = path / "samples.csv"
    rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
    # As a kill leaves it: the last rows are missing.
    table.write_text("".join(rows[:-2]), encoding="utf-8")
    before = load_run(path)
    engine = FakeEngine(machine=before.info.environment)
    run = api.resume(path, engine=engine)
    assert run.info.state == "finished"
    assert run.info.resumes[-1].kvbench
    assert len(run.samples) > len(before.samples)
    with table.open(newline="", encoding="utf-8") as file:
        header, *values = csv.reader(file)
    assert header == rows[0].strip().split(",")
    assert {len(row) for row in values} == {len(header)}
    assert run.samples[: len(before.samples)] == before.samples
    # The plan has the meaning from before the key existed, which is not today's default.
    assert run.info.plan["warmup"] == "16"
    assert Plan().warmup == "auto"


def test_another_version_of_kvbench_goes_on_with_a_run(tmp_path: Path) -> None:
    path = shutil.copytree(GOLDEN / "gpt2-cpu", tmp_path / "run")
    info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    machine = load_run(path).info.environment
    info["environment"]["versions"]["kvbench"] = "0.0.1"
    info["state"] = "interrupted"
    (path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    run = api.resume(path, engine=FakeEngine(machine=machine))
    assert run.info.resumes[-1].environment is None
    assert "environment_changed" not in "".join(sample.flags or "" for sample in run.samples)


def forced(path: Path) -> Path:
    """Return a version 0.1 run that was forced onto another machine, then another plan."""
    shutil.copytree(GOLDEN / "gpt2-cpu", path)
    info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    other = info["environment"] | {"cpu": "Another CPU"}
    start = {"started_at": "2026-11-01T00:00:00+00:00", "command": ["kvbench"]}
    info["resumes"] = [
        start | {"environment": other, "plan_changes": []},
        start | {"environment": None, "plan_changes": ["seed: 7 before, 8 now"]},
    ]
    (path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    table = path / "samples.csv"
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    marks = {-2: ("1", "environment_changed"), -1: ("2", "plan_changed")}
    for number, (session, flag) in marks.items():
        rows[number][header.index("session")] = session
        rows[number][header.index("flags")] = flag
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_run_that_an_older_version_forced_is_read_and_reported(
    tmp_path: Path, snapshot: object
) -> None:
    run = load_run(forced(tmp_path / "run"))
    assert [one.cpu for one in run.info.environments] == [run.info.environment.cpu, "Another CPU"]
    assert run.info.environment_of(1).cpu == "Another CPU"
    assert run.info.environment_of(2) == run.info.environment
    assert len(run.info.resumes[1].plan_changes) == 1
    build((run,), run.path, formats=("markdown",))
    lines = (run.path / "summary.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "forced resume" in line] == snapshot


def test_a_run_that_an_older_version_forced_is_resumed_where_it_began(tmp_path: Path) -> None:
    path = forced(tmp_path / "run")
    table = path / "samples.csv"
    rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(rows[:-2]), encoding="utf-8")
    machine = load_run(path).info.environment
    run = api.resume(path, engine=FakeEngine(machine=machine))
    assert run.info.state == "finished"
    new = " ".join(sample.flags or "" for sample in run.samples if sample.session == 3)
    assert "changed" not in new
    assert {sample.session for sample in run.samples} >= {0, 3}
