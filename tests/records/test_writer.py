"""Tests of kvbench/records/writer.py: a run folder is created, torn, repaired and resumed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvbench.errors import UserError
from kvbench.records.check import Check, check_of
from kvbench.records.environment import Environment
from kvbench.records.lock import RunLock
from kvbench.records.run import Resume, load_checks, load_info, load_run
from kvbench.records.writer import RunWriter, check_name, holds_run
from tests.fakes import (
    arm,
    make_case,
    make_environment,
    make_info,
    make_task,
    timed_sample,
    write_run,
)
from tests.records.reading import files_no_larger_than, rows_of, sentence

KEY = make_case().model_key
OTHER = make_environment(cpu="Another CPU")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two samples, without token times."""
    return write_run(tmp_path / "run", arm(make_case(), [0.5, 0.25]))


def create(path: Path, **info: Any) -> RunWriter:
    return RunWriter.create(path, make_info(name=path.name, state="running", **info))


def reopen(path: Path, environment: Environment | None = None, **changes: Any) -> RunWriter:
    resume = Resume(started_at="now", command=("kvbench", "again"), environment=environment)
    return RunWriter.reopen(path, resume, **changes)


def logits(verdict: Any = "pass", cache: str = "dynamic") -> Check:
    return check_of(KEY, cache, "logits", verdict, f"They say {verdict}.")


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if not p.name.startswith(".")}


# A new run


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    with create(tmp_path / "run") as writer:
        for count in (1, 2):
            task = make_task(repeat=count)
            writer.append(timed_sample(task, 0.5), [0.1, 0.2, 0.5])
            # Read as another process would: through the file system, with the writer still open.
            assert len(rows_of(tmp_path / "run" / "samples.csv")) == 1 + count
            assert rows_of(tmp_path / "run" / "tokens.csv")[-3:] == [
                [task.sample_id, "1", "0.1"],
                [task.sample_id, "2", "0.2"],
                [task.sample_id, "3", "0.5"],
            ]


def test_a_row_survives_a_crash_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with create(tmp_path / "run") as writer:
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
        writer.append(timed_sample(make_task(), 0.5), [0.5])
        # Tokens first: a sample in samples.csv has all of its tokens.
        assert synced == [
            (tmp_path / "run" / name).stat().st_ino for name in ("tokens.csv", "samples.csv")
        ]


def test_a_new_run_has_its_plan_and_its_tables_before_anything_is_measured(tmp_path: Path) -> None:
    with create(tmp_path / "run", notes=("One.",)) as writer:
        run = load_run(tmp_path / "run")
        assert run.info == writer.info
        assert (run.info.state, run.samples, writer.samples) == ("running", (), ())
        assert set(contents(run.path)) == {"run.json", "samples.csv", "tokens.csv"}


def test_the_row_of_a_first_session_is_the_sample_itself(tmp_path: Path) -> None:
    sample = timed_sample(make_task(), 0.5)
    with create(tmp_path / "run") as writer:
        assert writer.append(sample) == sample
    assert load_run(tmp_path / "run").samples == (sample,)


def test_a_run_leaves_three_files_and_no_lock(run: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == ["run.json", "samples.csv", "tokens.csv"]


def test_a_run_that_is_there_is_not_begun_again(run: Path, snapshot: object) -> None:
    before = contents(run)
    text = sentence(lambda: create(run))
    assert text == snapshot
    assert contents(run) == before
    # And it is not locked.
    RunLock(run).release()


def test_an_existing_file_is_refused(tmp_path: Path, snapshot: object) -> None:
    path = tmp_path / "run"
    path.write_text("mine")
    assert sentence(lambda: create(path)) == snapshot
    assert path.read_text() == "mine"


def test_folders_above_are_made(tmp_path: Path) -> None:
    assert load_run(write_run(tmp_path / "a" / "b" / "run", [])).samples == ()


def test_a_file_in_the_place_of_the_folder_above_is_told_as_that(
    tmp_path: Path, snapshot: object
) -> None:
    (tmp_path / "results").write_text("a file")
    path = tmp_path / "results" / "run"
    assert sentence(lambda: create(path)) == snapshot


def test_an_exception_leaves_what_was_measured_and_the_state_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), create(tmp_path / "run") as writer:
        writer.append(timed_sample(make_task(), 0.5))
        raise KeyboardInterrupt
    run = load_run(tmp_path / "run")
    assert run.info.state == "interrupted"
    assert run.info.ended_at is not None
    assert len(run.samples) == 1
    assert not (tmp_path / "run" / ".lock").exists()


def test_an_exception_after_the_end_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), create(tmp_path / "run") as writer:
        writer.finish("finished")
        _ = 1 / 0
    assert load_run(tmp_path / "run").info.state == "finished"


def test_a_discarded_run_leaves_no_folder(tmp_path: Path) -> None:
    with create(tmp_path / "run") as writer:
        writer.append(timed_sample(make_task(), 0.5))
        writer.discard()
        assert (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_another_begins_in_a_discarded_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = RunLock.release

    def then_another(lock: RunLock) -> None:
        release(lock)
        (tmp_path / "run" / "run.json").write_text("theirs")

    monkeypatch.setattr(RunLock, "release", then_another)
    with create(tmp_path / "run") as writer:
        writer.append(timed_sample(make_task(), 0.5))
        writer.discard()
    assert contents(tmp_path / "run") == {"run.json": b"theirs"}


def test_notes_are_kept_once(tmp_path: Path) -> None:
    with create(tmp_path / "run", notes=("One.",)) as writer:
        writer.finish("interrupted", ["Two.", "One.", "Two."])
    with reopen(tmp_path / "run") as writer:
        writer.finish("finished", ["Three.", "One."])
    assert load_info(tmp_path / "run").notes == ("One.", "Two.", "Three.")


# A run in use


def test_a_run_that_is_written_is_refused_to_others(tmp_path: Path, snapshot: object) -> None:
    with create(tmp_path / "run") as writer:
        writer.append(timed_sample(make_task(), 0.5))
        before = contents(tmp_path / "run")
        for open_again in (lambda: create(tmp_path / "run"), lambda: reopen(tmp_path / "run")):
            assert sentence(open_again) == snapshot
        assert contents(tmp_path / "run") == before
    reopen(tmp_path / "run").__exit__(None, None, None)


@pytest.mark.parametrize("content", ["{", '{"format": 1}'])
def test_a_run_that_cannot_be_read_is_refused_and_let_go(run: Path, content: str) -> None:
    (run / "run.json").write_text(content)
    before = contents(run)
    assert sentence(lambda: reopen(run)).startswith(f"{run / 'run.json'}: ")
    assert contents(run) == before
    RunLock(run).release()


# Resuming


def test_a_run_that_goes_on_has_its_rows_and_a_further_session(run: Path) -> None:
    before = load_run(run)
    with reopen(run) as writer:
        assert writer.samples == before.samples
        assert (writer.session, writer.repairs) == (1, ())
        info = load_info(run)
        assert info == writer.info
        assert (info.state, info.ended_at) == ("running", None)
        assert info.resumes == (Resume(started_at="now", command=("kvbench", "again")),)
        assert info.started_at == before.info.started_at
        sample = timed_sample(make_task(repeat=2), 0.75)
        row = writer.append(sample, [0.5])
        assert row == dataclasses.replace(sample, session=1)
        writer.finish("finished")
    after = load_run(run)
    assert after.samples == (*before.samples, row)
    assert [sample.session for sample in after.samples] == [0, 0, 1]
    assert rows_of(run / "samples.csv").count(rows_of(run / "samples.csv")[0]) == 1
    assert after.info.state == "finished"


def test_each_start_is_a_session(run: Path) -> None:
    for number in (1, 2, 3):
        with reopen(run) as writer:
            assert writer.session == number
            writer.append(timed_sample(make_task(repeat=number + 1), 0.5))
    assert [sample.session for sample in load_run(run).samples] == [0, 0, 1, 2, 3]
    assert len(load_info(run).resumes) == 3


def test_what_changes_with_a_resume_stands_in_run_json(run: Path) -> None:
    with reopen(run, plan={"seed": 7}, cases=({"device": "cuda"},)):
        info = load_info(run)
    assert (info.plan, info.cases) == ({"seed": 7}, ({"device": "cuda"},))


# Repairing

TORN: dict[str, Callable[[bytes], bytes]] = {
    "in a number": lambda content: content + b"abc-s001,0,measure,0.1",
    "in quotes": lambda content: content + b'abc-s001,"two\r\n',
    "nul": lambda content: content + b"\x00" * 100,
    "row": lambda content: content[:-1],
}


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_row_is_cut_off_and_said(run: Path, torn: str) -> None:
    path, before = run / "samples.csv", load_run(run).samples
    content = path.read_bytes()
    path.write_bytes(TORN[torn](content))
    left = 1 if torn == "row" else 2
    with reopen(run) as writer:
        assert writer.samples == before[:left] == load_run(run).samples
        (said,) = writer.repairs
    cut = len(TORN[torn](content)) - path.stat().st_size
    assert f" {cut} " in said


@pytest.mark.parametrize("name", ["samples.csv", "tokens.csv", "verify.csv"])
def test_every_table_is_mended(run: Path, name: str) -> None:
    with reopen(run) as writer:
        writer.append_checks([logits()])
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole + b"torn")
    with reopen(run) as writer:
        assert [text.split(":")[0] for text in writer.repairs] == [str(run / name)]
    assert (run / name).read_bytes() == whole


@pytest.mark.parametrize("left", [None, b"", b"sample_id,case"])
def test_a_table_that_was_hardly_begun_gets_its_header(run: Path, left: bytes | None) -> None:
    # Killed between run.json and the first row.
    whole = {name: rows_of(run / name)[0] for name in ("samples.csv", "tokens.csv")}
    for name in whole:
        (run / name).unlink()
        if left is not None:
            (run / name).write_bytes(left)
    with reopen(run) as writer:
        assert writer.samples == ()
    assert {name: rows_of(run / name) for name in whole} == {n: [h] for n, h in whole.items()}


def test_tokens_of_a_sample_that_never_came_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "run"
    kept, lost = make_task(), make_task(repeat=1)
    with create(path) as writer:
        writer.append(timed_sample(kept, 0.5), [0.25, 0.5])
        whole = contents(path)
        writer.append(timed_sample(lost, 0.5), [0.125, 0.5])
    # As left by a kill between the two files.
    (path / "samples.csv").write_bytes(whole["samples.csv"])
    with reopen(path) as writer:
        assert (path / "tokens.csv").read_bytes() == whole["tokens.csv"]
        writer.append(timed_sample(lost, 0.75), [0.75])
    table = load_run(path).tokens_table
    assert list(table.itertuples(index=False, name=None)) == [
        (kept.sample_id, 1, 0.25),
        (kept.sample_id, 2, 0.5),
        (lost.sample_id, 1, 0.75),
    ]


def test_a_run_that_was_killed_anywhere_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    sizes: list[dict[str, int]] = []
    with create(path) as writer:
        for repeat in range(3):
            writer.append(timed_sample(make_task(repeat=repeat), 0.5), [0.25, 0.5])
            sizes.append({n: (path / n).stat().st_size for n in ("samples.csv", "tokens.csv")})
    whole = contents(path)
    # The last sample was being written: tokens first, then the row.
    moments = [
        *(
            (n, sizes[1]["samples.csv"])
            for n in range(sizes[1]["tokens.csv"], sizes[2]["tokens.csv"])
        ),
        *(
            (sizes[2]["tokens.csv"], n)
            for n in range(sizes[1]["samples.csv"], sizes[2]["samples.csv"])
        ),
    ]
    for tokens, samples in moments[::7]:
        (path / "run.json").write_bytes(whole["run.json"])
        (path / "tokens.csv").write_bytes(whole["tokens.csv"][:tokens])
        (path / "samples.csv").write_bytes(whole["samples.csv"][:samples])
        with reopen(path) as writer:
            assert len(writer.samples) == 2
            row = writer.append(timed_sample(make_task(repeat=2), 0.75), [0.75])
        run = load_run(path)
        assert len({sample.sample_id for sample in run.samples}) == len(run.samples) == 3
        assert list(run.tokens_table["sample_id"]).count(row.sample_id) == 1
        assert len(run.tokens_table) == 5


# Checks and results


def test_checks_stand_in_verify_csv_and_findings_in_run_json(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with create(path) as writer:
        writer.append_checks([logits(), check_of(KEY, "dynamic", "leak", "fail", "It leaks.")])
        # At once: the run may be killed at any time.
        assert load_checks(path) == writer.checks
        assert [check.check for check in writer.checks] == ["logits", "leak"]
        assert load_info(path).findings == ()
        writer.finish("finished")
    (finding,) = load_info(path).findings
    assert (finding.cache, finding.verdict, finding.detail) == ("dynamic", "fail", "It leaks.")


def test_checks_are_stamped_with_their_session(run: Path) -> None:
    with reopen(run) as writer:
        writer.append_checks([logits()])
    with reopen(run) as writer:
        assert [check.session for check in writer.checks] == [1]
        writer.append_checks([logits("fail")])
        writer.finish("finished")
    assert [check.session for check in load_checks(run)] == [1, 2]
    # The latest counts.
    assert [finding.verdict for finding in load_info(run).findings] == ["fail"]


def test_a_finding_is_that_of_the_model_and_the_strategy(tmp_path: Path) -> None:
    with create(tmp_path / "run") as writer:
        assert writer.finding(KEY, "dynamic") is None
        writer.append_checks([logits("fail")])
        found = writer.finding(KEY, "dynamic")
        assert found is not None and found.verdict == "fail"
        assert writer.finding(KEY, "static") is None
        for field, value in dataclasses.asdict(KEY).items():
            other = dataclasses.replace(KEY, **{field: value + "x"})
            assert writer.finding(other, "dynamic") is None


def test_a_finding_holds_as_long_as_the_environment_does(run: Path) -> None:
    def verdict(environment: Environment | None, then: Any = None) -> str | None:
        with reopen(run, environment) as writer:
            found = writer.finding(KEY, "dynamic")
            if then is not None:
                writer.append_checks(
                    [logits(then), check_of(KEY, "dynamic", "leak", "pass", "No.")]
                )
                assert writer.finding(KEY, "dynamic") is not None
        return found and found.verdict

    assert verdict(None, "pass") is None
    assert verdict(None) == "pass"
    assert verdict(OTHER) is None
    assert verdict(OTHER, "near_tie") is None
    assert verdict(OTHER) == "near_tie"
    # Back in the first environment: a result from there may not hold after changes.
    assert verdict(None) is None


# The last output of a worker


def test_what_a_lost_worker_wrote_is_kept_under_its_title(tmp_path: Path, snapshot: object) -> None:
    path = tmp_path / "run"
    with create(path) as writer:
        writer.keep_log("nothing", " \n\n")
        assert not (path / "worker.log").exists()
        writer.keep_log("a-s000", "Fatal Python error\n\n")
        writer.keep_log("b-s001", "é \udcff\n  indented\n")
    assert (path / "worker.log").read_text(encoding="utf-8") == snapshot


# A full disk


@contextmanager
def full_after(path: Path, room: int) -> Iterator[None]:
    """Limit every file to `room` bytes more than the largest table."""
    sizes = [(path / name).stat().st_size for name in ("samples.csv", "tokens.csv")]
    with files_no_larger_than(max(sizes) + room):
        yield


def test_a_row_that_does_not_fit_is_one_sentence_and_leaves_whole_files(
    tmp_path: Path, snapshot: object
) -> None:
    path = tmp_path / "run"
    sample = timed_sample(make_task(repeat=1), 0.5)
    with create(path) as writer:
        first = writer.append(timed_sample(make_task(), 0.5), [0.25, 0.5])
        before = contents(path)
        with full_after(path, 20):
            text = sentence(lambda: writer.append(sample, [0.25, 0.5]))
        assert text == snapshot
        assert contents(path)["samples.csv"] == before["samples.csv"]
        # There is room again, in the same session.
        writer.append(sample)
        writer.finish("finished")
    assert load_run(path).samples == (first, sample)


@pytest.mark.parametrize("table", ["tokens.csv", "verify.csv"])
def test_no_table_is_left_half_written(tmp_path: Path, table: str, snapshot: object) -> None:
    path = tmp_path / "run"
    with create(path) as writer:
        writer.append(timed_sample(make_task(), 0.5), [0.5])
        writer.append_checks([logits()])
        before = contents(path)
        with files_no_larger_than((path / table).stat().st_size + 15):
            text = sentence(
                lambda: (
                    writer.append_checks([logits(), logits()])
                    if table == "verify.csv"
                    else writer.append(timed_sample(make_task(repeat=1), 0.5), [0.1] * 10)
                )
            )
        assert text == snapshot
        assert contents(path) == before


def test_a_disk_that_is_full_at_the_start_is_told_and_holds_nothing(
    tmp_path: Path, snapshot: object
) -> None:
    path = tmp_path / "run"
    with files_no_larger_than(200):
        assert sentence(lambda: create(path)) == snapshot
    assert contents(path) == {}
    # Once there is room, the same name is available again.
    with create(path) as writer:
        writer.finish("finished")


def test_a_run_that_could_not_write_its_end_can_be_gone_on_with(
    tmp_path: Path, snapshot: object
) -> None:
    path = tmp_path / "run"
    with (
        pytest.raises(UserError) as caught,
        create(path) as writer,
    ):
        writer.append(timed_sample(make_task(), 0.5))
        with files_no_larger_than(100):
            writer.finish("finished")
    assert str(caught.value) == snapshot
    assert load_info(path).state == "running"
    with reopen(path) as writer:
        assert len(writer.samples) == 1
        writer.finish("finished")
    assert load_info(path).state == "finished"


KILLED = """
import os, signal, sys
from pathlib import Path
from kvbench.records.writer import RunWriter
from tests.fakes import make_info, make_task, timed_sample
writer = RunWriter.create(Path(sys.argv[1]), make_info(state="running"))
writer.append(timed_sample(make_task(), 0.5), [0.5])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_was_killed_is_running_and_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert load_info(path).state == "running"
    with reopen(path) as writer:
        assert (len(writer.samples), writer.repairs) == (1, ())


# Names and places


@pytest.mark.parametrize("name", ["a", "gpt2-night_1", "2026-01-02.run", "明天", "a b", "x" * 200])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/", "../x", "a\\b", "a\nb", "a\tb", "\x00", "\x1b[31m"),
        *("a:b", "a*", "?", '"', "<", ">", "|", "\udc80", "\u2028", "\u202e"),
        *("x" * 201, "é" * 101),
    ],
)
def test_a_name_that_is_no_plain_component_is_refused(name: str) -> None:
    assert sentence(lambda: check_name(name)).startswith("--name: ")


def test_a_folder_holds_a_run_if_there_is_a_run_json(run: Path, tmp_path: Path) -> None:
    assert holds_run(run)
    assert not holds_run(tmp_path / "nothing")


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".lock-holder"]])
def test_a_folder_left_by_a_kill_at_the_start_holds_none(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).touch()
    assert not holds_run(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling"])
def test_something_else_in_its_place_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
        (path / "thesis.tex").touch()
    else:
        path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError) as caught:
        holds_run(path)
    assert (caught.value.kind, caught.value.fields) == ("not_a_run", {"path": path})


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_disappears_is_said_with_the_next_row(
    tmp_path: Path, how: str, snapshot: object
) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError) as caught, RunWriter.create(path, make_info()) as writer:
        writer.append(timed_sample(make_task(make_case()), 1.0), [0.5, 1.0])
        if how == "removed":
            shutil.rmtree(path)
        else:
            path.rename(tmp_path / "elsewhere")
        if how == "replaced":
            shutil.copytree(tmp_path / "elsewhere", path)
        # The files are still open, and writing to them would succeed.
        writer.append(timed_sample(make_task(make_case(), 1), 1.0), [0.5, 1.0])
    assert str(caught.value) == snapshot


def test_the_words_of_a_lost_worker_have_no_place_in_a_folder_that_is_gone(
    tmp_path: Path, snapshot: object
) -> None:
    with (
        pytest.raises(UserError) as caught,
        RunWriter.create(tmp_path / "run", make_info()) as writer,
    ):
        shutil.rmtree(tmp_path / "run")
        writer.keep_log("title", "text")
    assert str(caught.value) == snapshot
