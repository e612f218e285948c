"""A run folder from somebody else may contain links: nothing is written to their targets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.records.lock import RunLock
from kvbench.records.run import Resume, load_run
from kvbench.records.sample import utc_now
from kvbench.records.writer import RunWriter
from kvbench.report.build import build

GOLDEN = Path(__file__).parents[1] / "golden" / "gpt2-cpu"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder of the user with a file in it; its contents must stay."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine").write_text("keep me")
    return folder


def link(path: Path, to: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


@pytest.mark.parametrize(
    "name",
    [
        "samples.csv",
        "tokens.csv",
        "verify.csv",
        "worker.log",
        "samples.csv.torn",
        "tokens.csv.torn",
    ],
)
def test_nothing_is_appended_through_a_link(
    run: Path, outside: Path, name: str, snapshot: object
) -> None:
    link(run / name, outside / "mine")
    with pytest.raises(UserError) as caught:
        RunWriter.reopen(run, Resume(started_at=utc_now()))
    assert str(caught.value) == snapshot
    assert (outside / "mine").read_text() == "keep me"


def test_a_run_is_not_gone_on_with_into_a_pipe(run: Path, snapshot: object) -> None:
    os.mkfifo(run / "worker.log")
    with pytest.raises(UserError) as caught:
        RunWriter.reopen(run, Resume(started_at=utc_now()))
    assert str(caught.value) == snapshot


def test_charts_are_not_drawn_through_a_link(run: Path, outside: Path, snapshot: object) -> None:
    shutil.rmtree(run / "charts", ignore_errors=True)
    (run / "charts").symlink_to(outside)
    with pytest.raises(UserError) as caught:
        build([load_run(run)], run)
    assert str(caught.value) == snapshot
    # Before a night of measuring, not after it.
    with pytest.raises(UserError) as caught:
        RunWriter.reopen(run, Resume(started_at=utc_now()))
    assert str(caught.value) == snapshot
    assert [path.name for path in outside.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["summary.csv", "summary.md", "report.html"])
def test_what_is_derived_replaces_a_link(run: Path, outside: Path, name: str) -> None:
    link(run / name, outside / "mine")
    build([load_run(run)], run, formats=["markdown", "html"])
    assert not (run / name).is_symlink()
    assert (outside / "mine").read_text() == "keep me"


def test_the_holder_of_a_lock_is_not_written_through_a_link(run: Path, outside: Path) -> None:
    link(run / ".lock-holder", outside / "mine")
    lock = RunLock(run)
    assert str(os.getpid()) in (run / ".lock-holder").read_text()
    lock.release()
    assert (outside / "mine").read_text() == "keep me"


@pytest.mark.parametrize("note", [b"\xff\xfe\x1b[31m" + b"x" * 4000, b"y" * 100_000])
def test_the_note_on_the_holder_is_clipped(run: Path, note: bytes, snapshot: object) -> None:
    lock = RunLock(run)
    (run / ".lock-holder").write_bytes(note)
    with pytest.raises(UserError) as caught:
        RunLock(run)
    lock.release()
    assert str(caught.value) == snapshot
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_folder_that_is_thrown_away_keeps_what_its_links_lead_to(
    tmp_path: Path, outside: Path
) -> None:
    info = load_run(GOLDEN).info
    with RunWriter.create(tmp_path / "new", info) as writer:
        (writer.path / "charts").symlink_to(outside)
        writer.discard()
    assert not (tmp_path / "new").exists()
    assert (outside / "mine").read_text() == "keep me"
