"""Tests of kvbench/records/lock.py, with a second process that really holds the lock."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvbench.records.lock import RunLock, is_in_use
from tests.records.reading import files_no_larger_than, sentence

HOLD = """
import sys
from pathlib import Path
from kvbench.records.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds a folder until its standard input closes or it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as holder:
        text = sentence(lambda: RunLock(tmp_path))
        assert re.search(rf"\b{holder.pid} on {re.escape(platform.node())} .*\b20\d\d-", text)
        assert is_in_use(tmp_path)
        # Checking does not disturb the holder.
        assert sentence(lambda: RunLock(tmp_path)) == text


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as holder:
        holder.kill()
        holder.wait()
        assert not is_in_use(tmp_path)
        lock = RunLock(tmp_path)
        assert f"process {os.getpid()} on " in sentence(lambda: RunLock(tmp_path))
        lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_let_go_leaves_nothing(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as holder:
        assert is_in_use(tmp_path)
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait() == 0
        assert not is_in_use(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_second_sweep_of_the_same_process_is_refused_too(
    tmp_path: Path, snapshot: object
) -> None:
    lock = RunLock(tmp_path)
    assert sentence(lambda: RunLock(tmp_path)) == snapshot
    lock.release()
    RunLock(tmp_path).release()


def test_a_holder_whose_name_is_not_there_is_another_process(
    tmp_path: Path, snapshot: object
) -> None:
    lock = RunLock(tmp_path)
    (tmp_path / ".lock-holder").unlink()
    assert sentence(lambda: RunLock(tmp_path)) == snapshot
    lock.release()


def test_two_folders_are_held_at_once(tmp_path: Path) -> None:
    locks = []
    for name in "ab":
        (tmp_path / name).mkdir()
        locks.append(RunLock(tmp_path / name))
    assert [is_in_use(tmp_path / name) for name in "ab"] == [True, True]
    locks[0].release()
    assert [is_in_use(tmp_path / name) for name in "ab"] == [False, True]
    locks[1].release()


def test_a_lock_can_be_let_go_after_its_folder_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = RunLock(folder)
    for name in (".lock", ".lock-holder"):
        (folder / name).unlink()
    folder.rmdir()
    lock.release()
    assert not is_in_use(folder)


def test_a_folder_that_nobody_locked_is_free_and_stays_as_it_is(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    assert not is_in_use(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_is_told(tmp_path: Path, snapshot: object) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert sentence(lambda: RunLock(path)) == snapshot
    assert path.read_text() == "mine"


def test_on_a_full_disk_the_lock_is_given_back(tmp_path: Path, snapshot: object) -> None:
    with files_no_larger_than(0):
        text = sentence(lambda: RunLock(tmp_path))
    assert text == snapshot
    assert not is_in_use(tmp_path)


def test_who_only_looks_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    stop = threading.Event()
    (tmp_path / ".lock").touch()

    def look() -> None:
        while not stop.is_set():
            is_in_use(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(100):
            RunLock(tmp_path).release()
    finally:
        stop.set()
        looking.join()
