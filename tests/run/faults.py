"""Faults in real processes: a worker without torch, and kvbench as a program that is killed.

The light worker is the real one, including process and socket, around an engine that follows a
script: it starts in a third of a second. The script is JSON in the environment.

As a program (`python -m tests.run.faults`) this is kvbench with its events written to a pipe; or a
server that repeatedly forks such a kvbench, kills each at the next of many moments, and checks what
remains.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

import psutil

from kvbench.methods import Job, JobResult
from kvbench.plan.case import Case, Group, ModelKey
from kvbench.records.check import Check, check_of
from kvbench.records.environment import Device, Environment
from kvbench.records.events import Event, LoadFailed, ModelLoaded
from kvbench.records.sample import Stage, utc_now
from kvbench.run import launch, worker
from kvbench.run.messages import Reached, Request

ROOT = Path(__file__).parents[2]

# How long a test waits for what must happen. Only a failure takes this long.
PATIENCE_S = 120.0

_SCRIPT, _DRIVE, _MARK = "KVBENCH_TEST_SCRIPT", "KVBENCH_TEST_DRIVE", "KVBENCH_TEST_MARK"


# The light worker


@dataclass(frozen=True)
class Script:
    """What the light engine does.

    Attributes:
        token_s: seconds of a new token.
        environment_s, check_s, load_s, verify_s: seconds of these.
        slow: seconds of all new tokens after the first, by their number, where it takes longer.
        oom: numbers of new tokens for which memory runs out.
        faults: numbers of new tokens over which the device has a fault.
        raises: methods that raise what nobody expects.
        exits: methods over which the process ends, with its code.
        forks: methods that leave a child behind which sleeps.
        hogs: bytes that `run` takes, by the number of new tokens.
        hold: a file; a sample that counts waits while there is one.
        versions: of the software, over what is always there.
    """

    token_s: float = 0.003
    environment_s: float = 0.0
    check_s: float = 0.0
    load_s: float = 0.0
    verify_s: float = 0.0
    slow: Mapping[str, float] = field(default_factory=dict)
    oom: Sequence[int] = ()
    faults: Sequence[int] = ()
    raises: Sequence[str] = ()
    exits: Mapping[str, int] = field(default_factory=dict)
    forks: Sequence[str] = ()
    hogs: Mapping[str, int] = field(default_factory=dict)
    hold: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class LightEngine:
    """A scripted replacement for LocalEngine. It really takes the time that the script says."""

    healthy = True

    def __init__(self, on_stage: Callable[[Stage], None]) -> None:
        self._script = Script(**json.loads(os.environ.get(_SCRIPT, "{}")))
        self._on_stage = on_stage

    def environment(self) -> Environment:
        self._begin("environment", self._script.environment_s)
        return Environment(
            platform="Linux",
            python="3.11",
            cpu="Scripted CPU",
            logical_cpus=2,
            physical_cpus=1,
            usable_cpus=2,
            memory_bytes=1 << 30,
            threads=2,
            governor=None,
            devices=(Device(name="cpu", hardware="Scripted CPU"),),
            versions={"torch": "2.0", **self._script.versions},
        )

    def check(self, groups: Iterable[Group]) -> None:
        self._begin("check", self._script.check_s)

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        self._begin("open", self._script.load_s)
        return ModelLoaded(key, 0.01, 1000, 4000, needs_memory_pass=True)

    def verify(self, cache: str, *sizes: object) -> tuple[Check, ...]:
        self._begin("verify", self._script.verify_s)
        key = ModelKey("gpt2", "random", "cpu", "float32", "auto")
        return (
            check_of(key, cache, "logits", "pass", "As scripted."),
            check_of(key, cache, "leak", "pass", "Nothing is left."),
        )

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        self._begin("verify_output", 0.0)
        return (check_of(case.model_key, case.cache, "output", "near_tie", "As scripted."),)

    def run(self, job: Job) -> JobResult:
        task = job.task
        started_at, start = utc_now(), time.perf_counter()
        self._on_stage("load")
        self._begin("run", 0)
        while task.phase == "measure" and self._script.hold and Path(self._script.hold).exists():
            time.sleep(0.005)
        self._on_stage("prefill")
        if task.case.max_new_tokens in self._script.faults:
            self.healthy = False
            fields = {"stage": "prefill", "error": "As scripted."}
            return JobResult("crashed", started_at, fields)
        times: list[float] = []
        hog = b"x" * self._script.hogs.get(str(task.case.max_new_tokens), 0)
        slow = self._script.slow.get(str(task.new_tokens), 0) / max(task.new_tokens - 1, 1)
        for index in range(task.new_tokens):
            time.sleep(max(self._script.token_s, slow if index else 0))
            times.append(time.perf_counter() - start)
            if len(times) == 1:
                self._on_stage("decode")
        del hog
        if task.case.max_new_tokens in self._script.oom:
            fields = {"stage": "decode", "error": "As scripted.", "oom_bytes": 1}
            return JobResult("oom", started_at, fields)
        fields = {"new_tokens": task.new_tokens}
        return JobResult("ok", started_at, fields, times[-1], tuple(times))

    def _begin(self, method: str, seconds: float) -> None:
        script = self._script
        if method in script.exits:
            sys.exit(script.exits[method])
        if method in script.raises:
            raise LookupError(f"nobody expects this of {method}")
        if method in script.forks and os.fork() == 0:
            time.sleep(PATIENCE_S)
            os._exit(0)
        time.sleep(seconds)


def start(main: Callable[[int], None]) -> str:
    """Return the command that starts a worker, with another function of this module to run."""
    old = "from kvbench.run.worker import main"
    assert old in launch._START
    # The folder of the tests may be the current one, which is not on the path of a worker.
    new = f"sys.path.append({str(ROOT)!r}); from {__name__} import {main.__name__} as main"
    return launch._START.replace(old, new)


def light_main(descriptor: int) -> None:
    """Run the worker around a light engine."""

    def engine(connection: Connection, request: Request) -> Any:
        return LightEngine(lambda stage: connection.send(Reached(stage)))

    worker._engine = engine
    worker.main(descriptor)


def slow_main(descriptor: int) -> None:
    """Run the worker around a light engine that takes seconds for its imports."""

    def engine(connection: Connection, request: Request) -> Any:
        time.sleep(2)
        return LightEngine(lambda stage: connection.send(Reached(stage)))

    worker._engine = engine
    worker.main(descriptor)


# Processes


def marked(mark: str) -> list[int]:
    """Return the ids of the living processes that were started with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            # Gone in between, or another user's.
            continue
    return [pid for pid in found if pid != os.getpid()]


def mark_environment(mark: str, script: Script | None = None) -> dict[str, str]:
    """Return variables for a process whose workers are to be found by a mark."""
    return {_MARK: mark, _SCRIPT: (script or Script()).text}


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait for something that must happen."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {PATIENCE_S:g} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has waited for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# kvbench as a program


@dataclass(frozen=True)
class Drive:
    """How the program of this module differs from kvbench.

    Attributes:
        light: workers are light ones.
        derived: charts and summaries are written; they take most of a short sweep's time.
        file_bytes: no file grows past this (RLIMIT_FSIZE), in the supervisor and its workers.
        events: a descriptor that the name of each event is written to.
        die: the moment at which it kills itself.
    """

    light: bool = True
    derived: bool = False
    file_bytes: int | None = None
    events: int | None = None
    die: Moment | None = None


class Program:
    """kvbench in a separate process. A context manager that leaves no process behind."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        mark: str,
        script: Script | None = None,
        *,
        terminal: bool = False,
        pipe: bool = False,
        closed: Sequence[int] = (),
        **drive: Any,
    ) -> None:
        self.mark = mark
        self._read, write = os.pipe()
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.master, slave = os.openpty() if terminal else (-1, -1)
        out: Any = slave if terminal else self.output
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments],
            cwd=folder,
            stdin=slave if terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else out,
            stderr=out,
            env=os.environ
            | mark_environment(mark, script)
            | {"PYTHONPATH": str(ROOT), _DRIVE: _drive_text(Drive(events=write, **drive))},
            pass_fds=[write],
            # Its own process group, and with a terminal its own session.
            start_new_session=True,
            preexec_fn=_take_terminal if terminal else lambda: [os.close(fd) for fd in closed],
        )
        os.close(write)
        if terminal:
            os.close(slave)
            threading.Thread(target=self._copy_terminal, daemon=True).start()
        self._pending = b""

    def wait_for(self, event: str, count: int = 1) -> None:
        """Wait until an event has occurred this many more times."""
        for _ in range(count):
            while self.next_event() != event:
                pass

    def next_event(self) -> str:
        """Return the name of the next event."""
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            read = os.read(self._read, 4096) if ready else b""
            assert read, f"no further event; it wrote:\n{self.text()}"
            self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def close_pipe(self) -> None:
        """Stop reading what it writes to standard output."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def workers(self) -> list[int]:
        """Return the ids of its workers."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]

    def wait(self) -> int:
        """Return its exit code."""
        return self.process.wait(PATIENCE_S)

    def text(self) -> str:
        """Return its output."""
        self.output.seek(0)
        return self.output.read().decode("utf-8", "replace")

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._read)
        if self.master >= 0:
            os.close(self.master)
        if not error[0]:
            # Its workers notice the moment that the supervisor is gone.
            wait_until(lambda: not self.workers(), "the end of the workers")
        self.output.close()

    def _copy_terminal(self) -> None:
        while True:
            try:
                read = os.read(self.master, 4096)
            except OSError:
                # The other side is closed: that is how a terminal ends.
                return
            self.output.write(read)
            self.output.flush()


def program_main() -> None:
    """Run kvbench with the differences of a Drive."""
    drive = _drive_of(os.environ.pop(_DRIVE))
    if drive.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (drive.file_bytes, resource.RLIM_INFINITY))
    _run_kvbench(drive, sys.argv[1:])


def _run_kvbench(drive: Drive, arguments: Sequence[str]) -> None:
    from kvbench import cli, console
    from kvbench.run import session

    if drive.light:
        launch._START = start(light_main)
    if not drive.derived:
        session.build = lambda *arguments, **options: []
    if drive.die is not None and drive.die.fsync:
        _die_at_fsync(drive.die)
    make_view = console.make_view

    def make_telling_view(*options: Any, **more: Any) -> Any:
        view = make_view(*options, **more)
        return view if drive.events is None else _TellingView(view, drive.events)

    console.make_view = make_telling_view
    cli.main(list(arguments))


class _TellingView:
    def __init__(self, below: Any, descriptor: int) -> None:
        self._below = below
        self._descriptor = descriptor

    def __call__(self, event: Event) -> None:
        os.write(self._descriptor, f"{type(event).__name__}\n".encode())
        self._below(event)

    def close(self) -> None:
        self._below.close()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _drive_text(drive: Drive) -> str:
    return json.dumps(dataclasses.asdict(drive))


def _drive_of(text: str) -> Drive:
    keys = json.loads(text)
    die = keys.pop("die")
    return Drive(**keys, die=die and Moment(**die))


# Supervisors that are killed, many


@dataclass(frozen=True)
class Moment:
    """When a supervisor is killed: so long after its start, or after its k-th event, or around the
    k-th time that it waits for the disk over a file whose name matches a pattern. That file may be
    one of the derived ones, which are not written otherwise: they take longer than all the rest.
    """

    delay_s: float = 0.0
    events: int = 0
    fsync: str = ""
    count: int = 1
    side: Literal["before", "after"] = "before"
    derived: bool = False


@dataclass(frozen=True)
class Death:
    """What a killed supervisor left behind.

    Attributes:
        last: the last event that came from it.
        survivors: of its workers, after they had time to end.
        locked: whether the folder was still in use.
    """

    run: str
    moment: dict[str, Any]
    last: str
    survivors: list[int]
    locked: bool


@dataclass(frozen=True)
class Deaths:
    deaths: list[Death]
    runs: list[str]
    failures: list[str]


def kill_supervisors(
    arguments: Sequence[str], folder: Path, mark: str, script: Script, moments: Sequence[Moment]
) -> Deaths:
    """Run a sweep and kill its supervisor at each of the moments, resuming it in between.

    A moment that a sweep does not reach is for the next sweep. At the end all are finished.
    """
    job = {
        "arguments": list(arguments),
        "moments": [dataclasses.asdict(moment) for moment in moments],
    }
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(job).encode(),
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=os.environ | mark_environment(mark, script) | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        errors.seek(0)
        assert done.returncode == 0, errors.read().decode()
    answer = json.loads(done.stdout)
    return Deaths(
        [Death(**death) for death in answer["deaths"]], answer["runs"], answer["failures"]
    )


def server_main() -> None:
    """Do what `kill_supervisors` asks for."""
    # Import once, and fork from then on. Threads would not survive that: none are started.
    import matplotlib.pyplot as plt

    import kvbench.api
    import kvbench.cli.app
    import kvbench.console  # noqa: F401

    plt.figure().text(0, 0, "fonts are found").figure.canvas.draw()
    plt.close("all")
    job = json.loads(sys.stdin.read())
    moments = [Moment(**moment) for moment in job["moments"]]
    runs, deaths, failures = ["run0"], list[Death](), list[str]()
    while True:
        moment = moments[0] if moments else None
        arguments = _arguments(job["arguments"], runs[-1], len(deaths))
        code, last, output = _run_and_kill(arguments, moment)
        if code == -signal.SIGKILL:
            assert moment is not None
            moments.pop(0)
            deaths.append(_look(runs[-1], moment, last))
            continue
        if code not in (0, 1):
            failures.append(f"{runs[-1]} ended with {code} after {deaths[-1:]}: {output}")
        if not moments or len(failures) > 3:
            break
        runs.append(f"run{len(runs)}")
    print(json.dumps(dataclasses.asdict(Deaths(deaths, runs, failures))))


def _arguments(arguments: Sequence[str], name: str, number: int) -> list[str]:
    # In both ways to resume a run, if there is one.
    if number % 2 and (Path("results") / name / "run.json").exists():
        return ["sweep", "--resume", f"results/{name}"]
    return [*arguments, "--name", name]


def _run_and_kill(arguments: Sequence[str], moment: Moment | None) -> tuple[int, str, str]:
    """Run kvbench in a fork and kill it; return how it ended, its last event, and its output."""
    read, write = os.pipe()
    derived = moment is not None and moment.derived
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 70
            try:
                _run_kvbench(Drive(derived=derived, events=write, die=moment), arguments)
            except SystemExit as end:
                code = cast(int, end.code)
            finally:
                os._exit(code)
        os.close(write)
        seen = b""
        if moment is not None and not moment.fsync:
            seen = _wait_for_moment(read, moment)
            # A child that ended by itself has not been waited for yet: the id is still its own.
            os.kill(pid, signal.SIGKILL)
        while more := os.read(read, 4096):
            seen += more
        os.close(read)
        _, status = os.waitpid(pid, 0)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    events = seen.decode().split()
    return os.waitstatus_to_exitcode(status), events[-1] if events else "", text


def _wait_for_moment(read: int, moment: Moment) -> bytes:
    seen = b""
    while seen.count(b"\n") < moment.events:
        more = os.read(read, 4096)
        if not more:
            return seen
        seen += more
    time.sleep(moment.delay_s)
    return seen


def _look(run: str, moment: Moment, last: str) -> Death:
    from kvbench.records.lock import is_in_use

    deadline = time.monotonic() + 30
    while marked(os.environ[_MARK]) and time.monotonic() < deadline:
        time.sleep(0.01)
    survivors = marked(os.environ[_MARK])
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    locked = is_in_use(Path("results") / run)
    return Death(run, dataclasses.asdict(moment), last, survivors, locked)


def _die_at_fsync(moment: Moment) -> None:
    fsync, count = os.fsync, 0

    def counted(descriptor: int) -> None:
        nonlocal count
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        count += bool(re.search(moment.fsync, name))
        if count == moment.count and moment.side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
        if count == moment.count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = counted


# Workers that are killed, many


@dataclass(frozen=True)
class Target:
    """When a worker is killed: so long after the k-th event of a kind from now on, or without a
    kind after the start of a worker that is new.
    """

    event: str = ""
    count: int = 1
    delay_s: float = 0.0


class Killer:
    """A listener that kills workers at given moments, one after another, from its own thread.

    Attributes:
        deaths: the targets that were hit.
    """

    def __init__(self, pid: Callable[[], int | None], targets: Sequence[Target]) -> None:
        self._pid = pid
        self._targets = targets
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._closed = threading.Event()
        self.deaths: list[Target] = []
        self._thread = threading.Thread(target=self._kill_all, daemon=True)

    def __call__(self, event: Event) -> None:
        self._events.put(type(event).__name__)

    @property
    def done(self) -> bool:
        return len(self.deaths) == len(self._targets)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()

    def _kill_all(self) -> None:
        last = None
        for target in self._targets:
            # It ended or was replaced in between, so we did not kill it: try once more.
            while not self._closed.is_set():
                pid = self._wait_for(target, last)
                if pid is not None and pid == self._pid() and not is_gone(pid):
                    os.kill(pid, signal.SIGKILL)
                    self.deaths.append(target)
                    last = pid
                    break

    def _wait_for(self, target: Target, last: int | None) -> int | None:
        if target.event:
            while not self._events.empty():
                self._events.get()
            for _ in range(target.count):
                while self._next_event() != target.event:
                    if self._closed.is_set():
                        return None
        else:
            while self._pid() in (None, last):
                if self._closed.wait(0.001):
                    return None
        pid = self._pid()
        self._closed.wait(target.delay_s)
        return pid

    def _next_event(self) -> str | None:
        try:
            return self._events.get(timeout=0.05)
        except queue.Empty:
            return None


if __name__ == "__main__":
    # Under its own name, which is in the command that starts a worker.
    from tests.run import faults

    if _DRIVE in os.environ:
        faults.program_main()
    else:
        faults.server_main()
