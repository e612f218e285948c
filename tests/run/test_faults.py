"""Whole sweeps in real processes with faults in them: kills, memory, disks, time, signals.

Most workers here are light ones, which need no torch (see tests/run/faults.py); each kind of fault
is also shown once with the real one. Kills are by process id, and all random moments come from
seeds.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kvbench import api
from kvbench.analysis.summary import pair_key
from kvbench.console import views
from kvbench.errors import UserError
from kvbench.plan.plan import Plan
from kvbench.records.events import (
    CaseEnded,
    Event,
    SampleEnded,
)
from kvbench.records.lock import is_in_use
from kvbench.records.run import Run, load_run
from kvbench.records.sample import Sample, latest
from kvbench.run import launch
from kvbench.run.supervisor import WorkerEngine
from tests.calling import Call, caller
from tests.run.faults import (
    PATIENCE_S,
    Killer,
    Moment,
    Program,
    Script,
    Target,
    is_gone,
    kill_supervisors,
    light_main,
    mark_environment,
    marked,
    start,
    wait_until,
)
from tests.tiny import GPT2, config_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and limits as Linux has")

# Six cases of two samples each, with warm-ups and passes for memory.
GRID = {"device": "cpu", "max_new_tokens": [2, 3, 4], "repeats": 2, "prompt_tokens": 5}
OPTIONS = ["sweep", "-d", "cpu", "-n", "2,3,4", "-r", "2", "-p", "5"]
# Long enough to be hit, short enough to wait for.
STEPS = Script(environment_s=0.02, check_s=0.02, load_s=0.05, verify_s=0.02)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Light:
    """Make workers started in this process light ones; return their mark."""
    mark = uuid.uuid4().hex
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_START", start(light_main))
    monkeypatch.setattr("kvbench.run.session.build", lambda *arguments: [])

    def use(script: Script) -> str:
        for name, value in mark_environment(mark, script).items():
            monkeypatch.setenv(name, value)
        return mark

    use(Script())
    return use


Light = Callable[[Script], str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the program in this process."""
    return caller(capsys)


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Event], object]], None]:
    """Call a function with each event of the program, before the program draws it."""

    def add(listener: Callable[[Event], object]) -> None:
        for view in (views.LineView, views.LiveView, views.QuietView):
            draw = view.__call__

            def both(self: Any, event: Event, draw: Any = draw) -> None:
                listener(event)
                draw(self, event)

            monkeypatch.setattr(view, "__call__", both)

    return add


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small disk; when called again, remount it with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# What holds for any run, whatever happened to it


def rows_of(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, each of which is whole."""
    raw = path.read_bytes()
    assert raw.endswith(b"\r\n")
    rows = list(csv.reader(io.StringIO(raw.decode(), newline=""), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows[1:]


def assert_sound(run: Run) -> None:
    """Check for whole rows, each sample once, and complete tokens where there are any."""
    ids = [row[0] for row in rows_of(run.path / "samples.csv")]
    assert ids == [sample.sample_id for sample in run.samples]
    assert len(set(ids)) == len(ids)
    tokens: dict[str, list[int]] = {}
    for sample_id, index, _ in rows_of(run.path / "tokens.csv"):
        tokens.setdefault(sample_id, []).append(int(index))
    assert tokens == {
        sample.sample_id: list(range(1, sample.new_tokens + 1))
        for sample in run.samples
        if sample.status == "ok" and sample.phase != "memory" and sample.new_tokens
    }


def measured(run: Run) -> Counter[tuple[str, int]]:
    """Return how often each counted sample was measured, by case and repeat."""
    return Counter((s.case_id, s.repeat) for s in run.samples if s.phase == "measure" and ok(s))


def ok(sample: Sample) -> bool:
    return sample.status == "ok"


def shared_rounds(run: Run) -> dict[tuple[object, ...], int]:
    """Return how many rounds the members of each group share that have not failed."""
    failed = {s.case_id for s in latest(run.samples) if not ok(s)}
    arms: dict[tuple[object, ...], dict[str, set[tuple[int, int, int]]]] = {}
    for s in run.samples:
        if s.phase == "measure" and ok(s) and s.case_id not in failed:
            rounds = arms.setdefault(pair_key(s), {}).setdefault(s.case_id, set())
            rounds.add((s.session, s.worker, s.round))
    return {key: len(set.intersection(*rounds.values())) for key, rounds in arms.items()}


def statuses(run: Run) -> dict[str, set[str]]:
    """Return the final status of each case's samples."""
    found: dict[str, set[str]] = {}
    for s in latest(run.samples):
        found.setdefault(s.case_id, set()).add(s.status)
    return found


def outcome(run: Run) -> dict[tuple[str, str, int], str]:
    """Return the final status of each sample of the cases."""
    return {(s.case_id, s.phase, s.repeat): s.status for s in latest(run.samples)}


def assert_same(run: Run, whole: Run, *, proofs: bool = True) -> None:
    """Check that a run has everything that an undisturbed run has.

    It may also have samples of interrupted rounds, and of additional rounds.
    """
    assert_sound(run)
    assert [case["case_id"] for case in run.info.cases] == [c["case_id"] for c in whole.info.cases]
    assert measured(run) >= measured(whole) and set(measured(run).values()) <= {1}
    assert statuses(run) == statuses(whole)
    shared, wanted = shared_rounds(run), shared_rounds(whole)
    assert shared.keys() == wanted.keys()
    assert all(shared[key] >= count for key, count in wanted.items())
    assert run.info.state == whole.info.state == "finished"
    if proofs:
        assert run.info.findings == whole.info.findings


# The worker is killed


def worker_targets(rng: random.Random) -> list[Target]:
    """Return twenty moments in everything a worker does: start, load, verify, generate."""
    targets = [
        *(Target(delay_s=rng.uniform(0, 0.4)) for _ in range(5)),
        *(Target("ModelLoading", delay_s=rng.uniform(0, 0.08)) for _ in range(4)),
        *(Target("Verifying", delay_s=rng.uniform(0, 0.03)) for _ in range(3)),
        *(Target("SampleStarted", rng.randint(1, 15), rng.uniform(0, 0.02)) for _ in range(8)),
    ]
    rng.shuffle(targets)
    return targets


def test_worker_killed_at_twenty_moments(light: Light) -> None:
    mark = light(STEPS)
    plan = Plan.parse(GRID)
    whole = api.sweep(plan, name="whole")
    engine = WorkerEngine(seed=plan.seed)
    runs: list[Run] = []
    with Killer(lambda: engine.worker_pid, worker_targets(random.Random(7))) as killer:
        while not killer.done:
            assert len(runs) < 60, killer.deaths
            runs.append(sweep_to_the_end(plan, f"run{len(runs)}", engine, killer))
    for run in runs:
        # Tests of what becomes of verification are at the end of this file.
        assert_same(run, whole)
    assert not marked(mark)


def sweep_to_the_end(plan: Plan, name: str, engine: WorkerEngine, listener: Any) -> Run:
    """Run a sweep, resuming until nothing is left of it."""
    for _ in range(40):
        try:
            run = api.sweep(plan, name=name, engine=engine, listener=listener)
        except UserError as error:
            # Its worker was killed twice at its start.
            assert error.kind == "worker_lost"
            continue
        if "crashed" not in outcome(run).values():
            return run
    raise AssertionError("it does not come to an end")


def test_real_worker_killed_while_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.run.session.build", lambda *arguments: [])
    plan = real_plan(tmp_path)
    engine = WorkerEngine(seed=plan.seed)
    with Killer(lambda: engine.worker_pid, [Target("SampleStarted", 3)]) as killer:
        path = api.sweep(plan, out=tmp_path, name="run", engine=engine, listener=killer).path
        assert killer.done
    run = load_run(path)
    assert_sound(run)
    # A sample is repeated; nothing is left to do.
    assert [s.status for s in run.samples if s.status != "ok"] == ["crashed"]
    assert set(outcome(run).values()) == {"ok"}
    assert set(measured(run).values()) == {1}
    assert set(measured(run)) >= {(c["case_id"], r) for c in run.info.cases for r in range(2)}
    assert all(count >= 2 for count in shared_rounds(run).values())


def real_plan(folder: Path, **keys: Any) -> Plan:
    """Four cases of two samples on a tiny model."""
    known = {"model": config_folder(folder / "tiny", GPT2), "weights": "random", "device": "cpu"}
    sizes = {"max_new_tokens": [2, 3], "repeats": 2, "prompt_tokens": 5, "verify": False}
    return Plan.parse(known | sizes | keys)


# The supervisor is killed


def supervisor_moments(rng: random.Random) -> list[Moment]:
    """Return twenty moments in everything a supervisor does.

    While it and its first worker start, and the folder is made; some time after an event, which is
    while a model loads or a sample is taken; around the writing of rows, of run.json, and of what
    is derived from them.
    """
    sides = ("before", "after")
    rows = {"samples.csv": 9, "tokens.csv": 9, "verify.csv": 2, "run.json": 2}
    derived = ("summary.csv", "svg")
    moments = [
        *(Moment(delay_s=rng.uniform(0, 0.9)) for _ in range(4)),
        *(Moment(events=rng.randint(1, 40), delay_s=rng.uniform(0, 0.03)) for _ in range(8)),
        *(
            Moment(fsync=name, count=rng.randint(1, last), side=rng.choice(sides))
            for name, last in rows.items()
        ),
        *(Moment(fsync=name, side=rng.choice(sides), derived=True) for name in derived),
    ]
    rng.shuffle(moments)
    # First, while the folder has no run.json yet.
    return [*(Moment(fsync="run.json", side=side) for side in sides), *moments]


def test_supervisor_killed_at_twenty_moments(light: Light, tmp_path: Path) -> None:
    mark = light(STEPS)
    whole = api.sweep(Plan.parse(GRID), name="whole")
    moments = supervisor_moments(random.Random(11))
    killed = kill_supervisors(OPTIONS, tmp_path, mark, STEPS, moments)
    assert killed.failures == []
    assert len(killed.deaths) == 20
    assert [death for death in killed.deaths if death.survivors or death.locked] == []
    for name in killed.runs:
        assert_same(load_run(tmp_path / "results" / name), whole)


def test_real_worker_ends_with_its_supervisor_in_the_middle_of_a_long_generation(
    tmp_path: Path,
) -> None:
    model = config_folder(tmp_path / "tiny", GPT2, n_positions=100_000)
    sizes = ["-n", "90000", "-p", "5", "-r", "1"]
    command = ["sweep", "-m", model, "--weights", "random", "-d", "cpu", "--no-verify", *sizes]
    with Program([*command, "--name", "run"], tmp_path, uuid.uuid4().hex, light=False) as program:
        # The first is a warm-up of sixteen tokens, or of the other arm; the third is a long one.
        program.wait_for("SampleStarted", 3)
        (worker,) = program.workers()
        program.process.kill()
        program.wait()
        wait_until(lambda: is_gone(worker), "the end of the worker")
    path = tmp_path / "results" / "run"
    assert not is_in_use(path)
    assert [(s.phase, s.status) for s in load_run(path).samples] == [("warmup", "ok")] * 2
    assert load_run(path).info.state == "running"


# Memory


class Limited(WorkerEngine):
    """Give a worker a limited amount of additional memory once its model is open."""

    spare_bytes = 400 << 20

    def open(self, key: Any) -> Any:
        opened = super().open(key)
        pid = self.worker_pid
        assert pid is not None
        limit = psutil.Process(pid).memory_info().vms + self.spare_bytes
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        return opened


def test_memory_that_runs_out_costs_the_case_and_larger_ones(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", Limited)
    monkeypatch.setattr("kvbench.run.session.build", lambda *arguments: [])
    # A relative name, since the order of the cases depends on the model's name too.
    model = config_folder(Path("tiny"), GPT2)
    # Of a batch of 65,536 sequences of 32 tokens one activation of 64 features has 512 MiB.
    sizes = ["-b", "1,65536,131072,262144", "-p", "32", "-n", "2", "-r", "1"]
    command = ["sweep", "-m", model, "--weights", "random", "-d", "cpu", "--no-verify", *sizes]
    called = call(*command, "--name", "run")
    assert called.code == 1, called
    run = load_run("results/run")
    assert_sound(run)
    for cache in ("off", "dynamic"):
        own = [sample for sample in run.samples if sample.cache == cache]
        assert {s.status for s in own if s.batch_size == 1} == {"ok"}
        assert_ran_out([sample for sample in own if sample.batch_size > 1], Limited.spare_bytes)
    assert "skipped_oom" in outcome(run).values()
    # The worker that ran out of memory is still the first one.
    assert not (run.path / "worker.log").exists()


def assert_ran_out(rows: list[Sample], spare_bytes: int) -> None:
    """Check that each case ran out of memory once, or was skipped because of a smaller one."""
    assert len({row.batch_size for row in rows}) == len(rows) == 3
    least = None
    for row in rows:
        if row.status == "skipped_oom":
            assert least is not None and row.batch_size > least.batch_size
            assert least.sample_id in (row.error or "")
        else:
            assert (row.status, row.stage) == ("oom", "prefill")
            assert row.oom_bytes is not None and row.oom_bytes >= spare_bytes / 8
            least = row


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """Return a memory cgroup under our own that holds 128 MiB."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    entries = {line.split(":")[1]: line.split(":")[2] for line in lines}
    first = "memory" in entries
    parent = Path(
        f"/sys/fs/cgroup{'/memory' if first else ''}{entries.get('memory' if first else '', '/')}"
    )
    group = parent / f"kvbench-test-{uuid.uuid4().hex}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup may be made here: {error}")
    try:
        limit = "memory.limit_in_bytes" if first else "memory.max"
        if not (group / limit).exists():
            pytest.skip("no memory controller in the cgroups here")
        (group / limit).write_text(str(128 << 20))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the end of its processes")
        group.rmdir()


def test_the_kernels_out_of_memory_killer_is_told_from_a_kill(
    light: Light, small_cgroup: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    class Confined(WorkerEngine):
        def open(self, key: Any) -> Any:
            opened = super().open(key)
            (small_cgroup / "cgroup.procs").write_text(str(self.worker_pid))
            return opened

    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", Confined)
    light(Script(hogs={"3": 512 << 20, "4": 512 << 20}))
    called = call(*OPTIONS, "--name", "run")
    assert called.code == 1, called
    run = load_run("results/run")
    assert_sound(run)
    failed = [sample for sample in run.samples if not ok(sample)]
    assert {sample.status for sample in failed} <= {"oom", "skipped_oom"}
    assert {s.max_new_tokens for s in run.samples if ok(s)} == {2}
    assert len({sample.case_id for sample in failed}) == 4


# Disks


# A test of what a refused resume leaves open is at the end of this file.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_full_disk_is_said_and_loses_nothing(
    light: Light, disk: Callable[[str], Path], call: Call
) -> None:
    light(Script(token_s=0))
    folder = disk("size=128k")
    command = ["sweep", "-d", "cpu", "-n", "2,3", "-r", "100", "-p", "5", "--name", "run"]
    said = call(*command, "--out", str(folder)).sentence
    assert re.search(r"(samples|tokens)\.csv .*No space left on device", said)
    assert f"--resume {folder}/run" in said
    full = load_run(folder / "run")
    # Earlier measurements are intact. Tokens are written before their sample.
    assert 50 < len(rows_of(folder / "run" / "samples.csv")) == len(full.samples)
    ids = {row[0] for row in rows_of(folder / "run" / "tokens.csv")}
    assert len(ids - {sample.sample_id for sample in full.samples}) <= 1
    # Still full: the same message, and no harm.
    assert "No space left on device" in call(*command, "--out", str(folder)).sentence
    assert load_run(folder / "run").samples == full.samples
    gc.collect()

    disk("size=8m")
    assert call(*command, "--out", str(folder)).code == 0
    run = load_run(folder / "run")
    assert_sound(run)
    assert run.samples[: len(full.samples)] == full.samples
    assert len(measured(run)) >= 400 and set(measured(run).values()) == {1}
    assert min(shared_rounds(run).values()) >= 100


def test_a_disk_that_fills_up_before_the_end_is_written(
    light: Light, disk: Callable[[str], Path], call: Call, listen: Any
) -> None:
    folder = disk("size=8m")
    ballast = folder / "ballast"

    def fill(event: Event) -> None:
        if isinstance(event, CaseEnded) and (folder / "run" / "samples.csv").exists():
            ended.append(event)
        if len(ended) == 6 and not ballast.exists():
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    ended: list[Event] = []
    listen(fill)
    said = call(*OPTIONS, "--out", str(folder), "--name", "run").sentence
    assert "run.json" in said and "No space left on device" in said
    # The old one is intact, and says that the run is not finished.
    full = load_run(folder / "run")
    assert full.info.state == "running"
    assert_sound(full)
    assert not list((folder / "run").glob("*.part"))
    ended.clear()
    ballast.unlink()
    assert call("sweep", "--resume", str(folder / "run")).code == 0
    run = load_run(folder / "run")
    assert (run.info.state, run.samples) == ("finished", full.samples)


@pytest.mark.parametrize("file_bytes", [2_000, 4_000])
def test_files_that_may_not_grow_are_a_full_disk(tmp_path: Path, file_bytes: int) -> None:
    mark = uuid.uuid4().hex
    command = [*OPTIONS, "-q", "--name", "run"]
    with Program(command, tmp_path, mark, file_bytes=file_bytes) as program:
        assert program.wait() == 2
        (said,) = program.text().splitlines()
    assert "File too large" in said
    # There is a whole run.json or none, and the same command resumes or starts.
    path = tmp_path / "results" / "run"
    assert not list(path.glob("*.part"))
    before = load_run(path).samples if (path / "run.json").exists() else ()
    with Program(command, tmp_path, mark) as program:
        assert program.wait() == 0, program.text()
    run = load_run(path)
    assert_sound(run)
    assert run.samples[: len(before)] == before
    assert len(measured(run)) >= 12 and set(measured(run).values()) == {1}
    assert min(shared_rounds(run).values()) >= 2


def test_derived_files_that_a_full_disk_cost_are_written_by_the_next_start(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    command = [*OPTIONS, "-q", "--name", "run"]
    with Program(command, tmp_path, mark, file_bytes=20_000, derived=True) as program:
        assert program.wait() == 2
        (said,) = program.text().splitlines()
    assert "File too large" in said
    run = load_run(tmp_path / "results" / "run")
    assert_sound(run)
    assert not list(run.path.rglob("*.part"))
    with Program(command, tmp_path, mark, derived=True) as program:
        assert program.wait() == 0, program.text()
    assert load_run(run.path).samples == run.samples
    assert list((run.path / "charts").glob("*.png"))
    assert (run.path / "summary.csv").exists()


def test_a_folder_that_cannot_be_written(
    light: Light, disk: Callable[[str], Path], call: Call
) -> None:
    folder = disk("size=1m")
    light(Script(slow={"4": 0.5}))
    stopped = stop_after(folder, Plan.parse(GRID), samples=3)
    disk("ro")
    said = call(*OPTIONS, "--out", str(folder), "--name", "new").sentence
    assert "Read-only file system" in said and f"{folder}/new" in said
    said = call("sweep", "--resume", str(stopped.path)).sentence
    assert "Read-only file system" in said and str(stopped.path) in said
    disk("rw")
    light(Script())
    assert load_run(stopped.path).samples == stopped.samples
    assert call("sweep", "--resume", str(stopped.path)).code == 0
    assert_sound(load_run(stopped.path))


def stop_after(out: Path, plan: Plan, samples: int) -> Run:
    """Run a sweep that stops after this many samples."""
    seen: list[Event] = []

    def listener(event: Event) -> None:
        if isinstance(event, SampleEnded):
            seen.append(event)

    return api.sweep(
        plan, out=out, name="run", listener=listener, stop=lambda: len(seen) >= samples
    )


def test_a_second_sweep_in_a_folder_is_refused_and_names_the_first(
    light: Light, tmp_path: Path, call: Call
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    script = Script(hold=str(hold))
    mark = light(script)
    with Program([*OPTIONS, "--name", "run"], tmp_path, mark, script) as first:
        first.wait_for("SampleStarted")
        holder = str(first.process.pid)
        assert holder in call(*OPTIONS, "--name", "run").sentence
        assert holder in call("sweep", "--resume", "results/run").sentence
        assert first.process.poll() is None
        hold.unlink()
        assert first.wait() == 0, first.text()
    run = load_run("results/run")
    assert_sound(run)
    assert run.info.resumes == ()
    assert len(measured(run)) == 12


# Signals


@pytest.mark.parametrize("how", ["keyboard", "terminate"])
def test_the_first_interrupt_finishes_the_sample_in_flight(
    light: Light, tmp_path: Path, call: Call, how: str
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    script, mark = Script(hold=str(hold)), uuid.uuid4().hex
    command = [*OPTIONS, "--name", "a run"]
    with Program(command, tmp_path, mark, script, terminal=how == "keyboard") as program:
        # After a warm-up and a memory pass of each strategy.
        program.wait_for("SampleStarted", 5)
        interrupt(program, how)
        wait_until(lambda: "Ctrl-C" in program.text(), "the answer")
        hold.unlink()
        assert program.wait() == 130
        wait_until(lambda: "Files:" in program.text(), "the end of its output")
        said = program.text()
    assert "Ctrl-C" in said
    go_on = re.search(r"kvbench (sweep --resume .*)", said)
    assert go_on
    path = tmp_path / "results" / "a run"
    assert not is_in_use(path)
    run = load_run(path)
    assert_sound(run)
    assert run.info.state == "interrupted"
    # The signal reached no worker: the current sample ended normally.
    assert [sample.status for sample in run.samples] == ["ok"] * 5
    light(Script())
    assert call(*shlex.split(go_on[1])).code == 0
    assert_same(load_run(path), api.sweep(Plan.parse(GRID), name="whole"))


def interrupt(program: Program, how: str) -> None:
    if how == "keyboard":
        os.write(program.master, b"\x03")
    else:
        program.process.terminate()


@pytest.mark.parametrize("how", ["keyboard", "terminate"])
def test_the_second_interrupt_stops_at_once(tmp_path: Path, how: str) -> None:
    script = Script(slow=dict.fromkeys("234", 10 * PATIENCE_S))
    command = [*OPTIONS, "--name", "run"]
    with Program(
        command, tmp_path, uuid.uuid4().hex, script, terminal=how == "keyboard"
    ) as program:
        program.wait_for("SampleStarted")
        (worker,) = program.workers()
        interrupt(program, how)
        wait_until(lambda: "Ctrl-C" in program.text(), "the answer")
        interrupt(program, how)
        assert program.wait() == 130
        assert is_gone(worker)
        wait_until(lambda: "--resume" in program.text(), "the end of its output")
        assert "kvbench sweep --resume results/run" in program.text()
        assert "Traceback" not in program.text()
    run = load_run(tmp_path / "results" / "run")
    assert (run.info.state, run.samples) == ("interrupted", ())
    assert not is_in_use(run.path)


@pytest.mark.parametrize("step", ["environment", "verify"])
def test_an_interrupt_waits_for_nothing_but_a_sample(tmp_path: Path, step: str) -> None:
    script = Script(**{f"{step}_s": 10 * PATIENCE_S})
    with Program([*OPTIONS, "--name", "run"], tmp_path, uuid.uuid4().hex, script) as program:
        if step == "verify":
            program.wait_for("Verifying")
        else:
            wait_until(program.workers, "a worker")
            # Its handlers are installed by the time that it starts a worker.
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == 130
        said = program.text()
    begun = step == "verify"
    assert ("kvbench sweep --resume results/run" in said) == begun
    assert (tmp_path / "results" / "run").exists() == begun
    assert "Traceback" not in said


# Time


def test_a_verification_that_hangs_is_ended_and_is_charged_to_no_case(
    light: Light, call: Call
) -> None:
    mark = light(Script(verify_s=10 * PATIENCE_S))
    assert call(*OPTIONS, "--name", "run", "--case-timeout", "1").code == 0
    run = load_run("results/run")
    assert_sound(run)
    assert not marked(mark)
    assert statuses(run) == {case["case_id"]: {"ok"} for case in run.info.cases}
    assert "pass" not in {finding.verdict for finding in run.info.findings}


def test_a_load_that_hangs_costs_the_cases_of_its_model(light: Light, call: Call) -> None:
    mark = light(Script(load_s=10 * PATIENCE_S))
    assert call(*OPTIONS, "--name", "run", "--case-timeout", "1").code == 1
    # A result about the model: it is not loaded again, and each case reports it.
    run = load_run("results/run")
    assert_sound(run)
    assert not marked(mark)
    found = Counter((s.phase, s.status, s.stage) for s in run.samples)
    assert found == {("measure", "timeout", "load"): 6}
    light(Script())
    assert call("sweep", "--resume", "results/run", "--retry-failed").code == 0
    assert_same(load_run("results/run"), api.sweep(Plan.parse(GRID), name="whole"))


def test_a_case_that_takes_too_long_is_ended_and_the_sweep_goes_on(
    light: Light, call: Call
) -> None:
    mark = light(Script(slow={"3": 10 * PATIENCE_S}))
    assert call(*OPTIONS, "--name", "run", "--case-timeout", "1").code == 1
    run = load_run("results/run")
    assert_sound(run)
    late = [sample for sample in run.samples if not ok(sample)]
    assert [(s.status, s.phase, s.max_new_tokens) for s in late] == [("timeout", "warmup", 3)] * 2
    assert {sample.stage for sample in late} == {"decode"}
    assert len(measured(run)) == 8
    assert not marked(mark)
    # It is a result: it is measured again only on request.
    light(Script())
    assert "nothing left" in call(*OPTIONS, "--name", "run", "--case-timeout", "1").out
    assert call("sweep", "--resume", "results/run", "--retry-failed").code == 0
    assert_same(load_run("results/run"), api.sweep(Plan.parse(GRID), name="whole"))


# Torn rows


PROMPT = 'say "no",\r\nand\n"yes"'


def test_a_torn_last_row_is_cut_off_and_measured_again(
    light: Light, tmp_path: Path, call: Call
) -> None:
    plan = Plan.parse({k: v for k, v in GRID.items() if k != "prompt_tokens"} | {"prompt": PROMPT})
    whole = api.sweep(plan, name="whole")
    stop_after(tmp_path / "torn", plan, samples=9)
    killed = tmp_path / "torn" / "run"
    info = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps(info | {"state": "running", "ended_at": None}))
    rng = random.Random(5)
    for number in range(6):
        path = tmp_path / "results" / f"run{number}"
        shutil.copytree(killed, path)
        # A row goes into tokens.csv first: if that one is torn, the sample is missing.
        if number % 2:
            tear(path / "samples.csv", lambda size: 0)
        name = "tokens.csv" if number % 2 else "samples.csv"
        left = tear(path / name, lambda size: rng.randint(1, size - 1))
        called = call("sweep", "--resume", str(path))
        assert called.code == 0, called
        assert re.search(rf"{re.escape(name)}: .*\b{left} bytes", called.out)
        run = load_run(path)
        assert_same(run, whole)


def tear(path: Path, keep: Callable[[int], int]) -> int:
    """Keep the fraction `keep` of the bytes of a file's last row."""
    raw = path.read_bytes()
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow(rows_of(path)[-1])
    row = buffer.getvalue().encode()
    assert raw.endswith(row)
    left = keep(len(row))
    path.write_bytes(raw.removesuffix(row) + row[:left])
    return left


# Faults found while writing these tests


def killed_at(
    moment: Moment, folder: Path, mark: str, script: Script | None = None, *options: str
) -> list[str]:
    """Kill a supervisor at one moment and resume to the end; return what went wrong."""
    killed = kill_supervisors([*OPTIONS, *options], folder, mark, script or Script(), [moment])
    assert len(killed.deaths) == 1
    return killed.failures


def test_a_kill_between_the_proof_that_memory_runs_out_and_what_follows_from_it(
    light: Light, tmp_path: Path
) -> None:
    # In the order of this seed the shortest come first.
    script = Script(oom=[2, 3, 4])
    mark = light(script)
    whole = api.sweep(Plan.parse(GRID | {"seed": 1}), name="whole")
    assert [s.status for s in whole.samples] == ["oom", "skipped_oom", "skipped_oom"] * 2
    # After the header, the row with `oom` has just reached the disk.
    moment = Moment(fsync="samples.csv", count=2, side="after")
    assert killed_at(moment, tmp_path, mark, script, "--seed", "1") == []
    assert_same(load_run("results/run0"), whole)


def test_derived_files_that_a_kill_cost_are_written_by_the_next_start(
    light: Light, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    light(Script())
    run = api.sweep(Plan.parse(GRID), name="run")
    assert not (run.path / "summary.csv").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    light_again(monkeypatch)
    assert call(*OPTIONS, "--name", "run").code == 0
    assert (run.path / "summary.csv").exists()


def light_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_START", start(light_main))


def test_a_proof_whose_worker_was_killed_is_made_again(light: Light) -> None:
    light(STEPS)
    engine = WorkerEngine()
    with Killer(lambda: engine.worker_pid, [Target("Verifying")]) as killer:
        api.sweep(Plan.parse(GRID), name="run", engine=engine, listener=killer)
        assert killer.done
    run = api.sweep(Plan.parse(GRID), name="run")
    assert set(outcome(run).values()) == {"ok"}
    assert [finding.verdict for finding in run.info.findings] == ["pass"]
    assert {sample.flags for sample in run.samples} == {None}


def test_a_worker_that_is_killed_while_it_loads_first_costs_no_proof(light: Light) -> None:
    light(STEPS)
    engine = WorkerEngine()
    with Killer(lambda: engine.worker_pid, [Target("ModelLoading")]) as killer:
        run = api.sweep(Plan.parse(GRID), name="run", engine=engine, listener=killer)
        assert killer.done
    assert Counter(outcome(run).values())["ok"] > 0
    assert [finding.verdict for finding in run.info.findings] == ["pass"]


def test_samples_that_an_editor_has_saved_with_its_own_line_ends_are_not_cut_off(
    light: Light, call: Call
) -> None:
    run = stop_after(Path("results"), Plan.parse(GRID), samples=7)
    file = run.path / "samples.csv"
    file.write_bytes(file.read_bytes().replace(b"\r\n", b"\n"))
    before = file.read_bytes()
    called = call("sweep", "--resume", "results/run")
    # Read unchanged, or refused; not thrown away.
    assert file.read_bytes().startswith(before) or called.code == 2
    assert file.read_bytes().replace(b"\r\n", b"\n").startswith(before)


def test_a_row_that_a_person_has_taken_out_costs_no_other_rows_tokens(
    light: Light, call: Call
) -> None:
    run = stop_after(Path("results"), Plan.parse(GRID), samples=7)
    file = run.path / "samples.csv"
    lines = file.read_bytes().split(b"\r\n")
    gone = next(i for i, s in enumerate(run.samples, start=1) if s.phase == "measure")
    del lines[gone]
    file.write_bytes(b"\r\n".join(lines))
    assert call("sweep", "--resume", "results/run").code == 0
    assert_sound(load_run("results/run"))


def test_a_resume_that_is_refused_leaves_no_file_open(light: Light) -> None:
    run = stop_after(Path("results"), Plan.parse(GRID), samples=2)
    file = run.path / "samples.csv"
    file.write_bytes(
        file.read_bytes().replace(b",measure,", b",sideways,").replace(b",warmup,", b",,")
    )
    # While the exception lives, so does everything that its frames refer to.
    with pytest.raises(UserError, match=r"samples\.csv line 2") as refused:
        api.resume(run.path)
    assert refused.value.__traceback__
    left_open = [f.path for f in psutil.Process().open_files() if f.path.endswith(".csv")]
    del refused
    gc.collect()
    assert left_open == []


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("prompt"),
        lambda entry: entry.update(prompt=3),
        lambda entry: entry.update(batch_size=7),
        lambda entry: entry.update(batch_size="many"),
    ],
)
def test_a_case_in_run_json_that_is_none_is_told_in_a_sentence(
    light: Light, call: Call, change: Callable[[dict[str, Any]], object]
) -> None:
    run = stop_after(Path("results"), Plan.parse(GRID), samples=2)
    info = json.loads((run.path / "run.json").read_text())
    change(info["cases"][0])
    (run.path / "run.json").write_text(json.dumps(info))
    assert "run.json" in call("sweep", "--resume", "results/run").sentence
    # Everything measured can be read again.
    assert load_run(run.path).samples == run.samples


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)])
def test_a_sweep_without_standard_streams(tmp_path: Path, closed: tuple[int, ...]) -> None:
    with Program([*OPTIONS, "--name", "run"], tmp_path, uuid.uuid4().hex, closed=closed) as program:
        program.wait_for("SweepEnded")
    assert_sound(load_run(tmp_path / "results" / "run"))


def test_a_reader_that_goes_away_loses_nothing(tmp_path: Path) -> None:
    with Program([*OPTIONS, "--name", "run"], tmp_path, uuid.uuid4().hex, pipe=True) as program:
        program.wait_for("SampleStarted", 5)
        program.close_pipe()
        code = program.wait()
    run = load_run(tmp_path / "results" / "run")
    assert (code == 0) == (run.info.state == "finished")
    assert_sound(run)
    assert len(run.samples) >= 4
