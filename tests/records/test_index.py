"""Tests of kvbench/records/index.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.records.index import Listed, list_runs, state_of
from kvbench.records.lock import RunLock
from kvbench.records.run import load_info
from kvbench.records.writer import RunWriter
from tests.fakes import make_info
from tests.report.saved import save


def killed(path: Path) -> Path:
    """Return a run whose process wrote its start but not its end."""
    save(path, [])
    file = path / "run.json"
    file.write_text(file.read_text().replace('"state": "finished"', '"state": "running"'))
    return path


def names(found: list[Listed]) -> list[str]:
    return [run.path.name for run in found]


def test_runs_are_listed_the_latest_first(tmp_path: Path) -> None:
    for name, day in (("b", 2), ("a", 1), ("c", 3)):
        save(tmp_path / name, [], started_at=f"2026-01-0{day}T00:00:00.000+00:00")
    found = list_runs(tmp_path)
    assert names(found) == ["c", "b", "a"]
    assert [run.info and run.info.started_at[:10] for run in found] == [
        "2026-01-03",
        "2026-01-02",
        "2026-01-01",
    ]
    assert {run.state for run in found} == {"finished"}


def test_what_is_no_run_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "run", [])
    (tmp_path / "folder").mkdir()
    (tmp_path / "README.md").write_text("no run")
    (tmp_path / "deep").mkdir()
    save(tmp_path / "deep" / "below", [])
    assert names(list_runs(tmp_path)) == ["run"]


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize("make", [False, True])
def test_no_folder_is_a_sentence(tmp_path: Path, make: bool, snapshot: object) -> None:
    path = tmp_path / "results"
    if make:
        path.write_text("a file")
    with pytest.raises(UserError) as caught:
        list_runs(path)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": 3}', '{"format": 2}'],
)
def test_a_run_that_cannot_be_read_is_listed_with_the_reason(
    tmp_path: Path, text: str, snapshot: object
) -> None:
    save(tmp_path / "good", [])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(text)
    good, bad = list_runs(tmp_path)
    assert (good.path.name, good.state) == ("good", "finished")
    assert bad.info is None
    assert bad.state.startswith("unreadable: ")
    assert bad.state == snapshot


# The state of a run


def test_a_finished_run(tmp_path: Path) -> None:
    path = save(tmp_path / "run", [])
    assert state_of(path, load_info(path)) == "finished"


def test_an_interrupted_run_can_go_on(tmp_path: Path) -> None:
    path = save(tmp_path / "run", [], state="interrupted")
    assert state_of(path, load_info(path)) == "interrupted, resumable"


def test_a_killed_run_can_go_on(tmp_path: Path) -> None:
    path = killed(tmp_path / "run")
    assert state_of(path, load_info(path)) == "killed, resumable"


def test_a_run_that_is_being_written_is_running(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunWriter.create(path, make_info(name="run", state="running")):
        assert [run.state for run in list_runs(tmp_path)] == ["running"]
    assert [run.state for run in list_runs(tmp_path)] == ["interrupted, resumable"]


def test_an_interrupted_run_that_goes_on_is_running(tmp_path: Path) -> None:
    path = save(tmp_path / "run", [], state="interrupted")
    lock = RunLock(path)
    assert state_of(path, load_info(path)) == "running"
    lock.release()
    assert state_of(path, load_info(path)) == "interrupted, resumable"


def test_looking_does_not_hold_or_change_the_run(tmp_path: Path) -> None:
    path = killed(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    list_runs(tmp_path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    RunLock(path).release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_listed(tmp_path: Path) -> None:
    path = killed(tmp_path / "run")
    path.chmod(0o555)
    try:
        assert [run.state for run in list_runs(tmp_path)] == ["killed, resumable"]
    finally:
        path.chmod(0o755)
