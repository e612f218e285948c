"""The supervisor: ask a worker process to measure, and turn its loss into a failed sample."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kvbench.errors import UserError
from kvbench.import_path import program_folder, without_current_folder
from kvbench.methods import Job, JobResult
from kvbench.plan.case import Case, Group, ModelKey
from kvbench.plan.texts import Text
from kvbench.records.check import Check, check_of
from kvbench.records.environment import Environment
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.inspection import Inspection
from kvbench.records.quality import Quality, QualitySize, quality_of
from kvbench.records.rates import Rates
from kvbench.records.sample import Stage, Status, utc_now
from kvbench.run.engine import Interrupted
from kvbench.run.messages import Failed, Reached, Refused, Reply, Request, Started
from kvbench.theory.shapes import Shapes

__all__ = ["WorkerEngine"]

_PATH_VARIABLE = "KVBENCH_WORKER_PATH"
_START = (
    "import importlib, json, os, sys; "
    f"home, path = json.loads(os.environ.pop('{_PATH_VARIABLE}')); "
    "sys.path[:] = [home]; import kvbench; sys.path[:] = path; "
    "from kvbench.run.worker import main; main(int(sys.argv[2]))"
)
"""Use the caller's kvbench, with the caller's import path: a notebook may have found it only there.

The current folder is left out, since it may hold files from anywhere; see kvbench.import_path.
"""

_START_TIMEOUT_S = 300.0
"""Time for a new worker's imports before the limit of its first request starts."""

_POLL_S = 0.2
_LAST_WORDS_BYTES = 16_384
_LONGEST_ERROR = 500


class WorkerEngine:
    """Measure in a child process, and in a new one when that is lost. Imports no torch.

    Args:
        seed: seed of random weights and prompt ids.
        trust_remote_code: let Transformers run code that comes with a model.
        step_timeout_s: each load, each verification and each strategy's quality is ended after
            this many seconds; by default never.
        stop: called while a model loads or is verified; return True to end that at once.
        memory_limit: bytes that each worker process may use on the host; by default no limit.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        trust_remote_code: bool = False,
        step_timeout_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        memory_limit: int | None = None,
    ) -> None:
        self._memory_limit = memory_limit
        self._seed = seed
        self._trust_remote_code = trust_remote_code
        self._step_timeout_s = step_timeout_s
        self._stop = stop
        self._worker: _Worker | None = None
        self._started = 0
        self._log = ""
        self._open_model: ModelKey | None = None

    @property
    def open_model(self) -> ModelKey | None:
        """The open model; None again once its process was lost."""
        if self._worker is not None and self._worker.is_lost():
            # Killed while idle: that costs a restart, but no sample.
            self.close()
        return self._open_model

    @property
    def process(self) -> int:
        """The number of worker processes started so far: the number of the current one."""
        return self._started

    @property
    def worker_pid(self) -> int | None:
        """The id of the measuring process; None while there is none."""
        return self._worker.process.pid if self._worker else None

    def environment(self) -> Environment:
        """Return the machine and the software, as the worker sees them.

        Raises:
            UserError: the worker cannot be started.
        """
        environment: Environment = self._ask_or_refuse("environment")
        return environment

    def probe(self, device: str) -> Rates:
        """Measure the rates of a device in the worker.

        Raises:
            UserError: the worker was lost during the probe.
        """
        self._open_model = None
        rates: Rates = self._ask_or_refuse("probe", device)
        return rates

    def free_bytes(self, device: str) -> int:
        """Return the free memory of a device, as the worker sees it.

        Raises:
            UserError: the worker was lost during it.
        """
        free: int = self._ask_or_refuse("free_bytes", device)
        return free

    def shapes(self, config: Mapping[str, Any]) -> Shapes:
        """Return what the cache of a model keeps, read in the worker; see LocalEngine.shapes.

        Raises:
            UserError: it cannot be read, or the worker was lost during it.
        """
        shapes: Shapes = self._ask_or_refuse("shapes", dict(config))
        return shapes

    def check(self, groups: Iterable[Group]) -> None:
        """Refuse what cannot be measured at all.

        Raises:
            UserError: see LocalEngine.check; or the worker was lost during it.
        """
        self._ask_or_refuse("check", tuple(groups))

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        """Load a model in the worker, in place of the open one."""
        self._open_model = None
        try:
            opened: ModelLoaded | LoadFailed = self._ask(
                "open", key, timeout_s=self._step_timeout_s
            )
        except _Lost as lost:
            # Out of memory and time-outs are results; another loss may not be the model's fault.
            hint = "; case_timeout also limits loading" if lost.status == "timeout" else ""
            return LoadFailed(
                key, lost.status, f"{lost.error}{hint}", died=lost.status == "crashed"
            )
        if isinstance(opened, ModelLoaded):
            self._open_model = key
        return opened

    def verify(
        self,
        cache: str,
        new_tokens: int = 32,
        generations: int = 6,
        reach: Case | None = None,
    ) -> tuple[Check, ...]:
        """Verify a strategy on the open model; incomplete if the worker is lost during it."""
        key = self._open_model
        if key is None:
            raise RuntimeError("no model is loaded")
        try:
            checks: tuple[Check, ...] = self._ask(
                "verify", cache, new_tokens, generations, reach, timeout_s=self._step_timeout_s
            )
        except _Lost as lost:
            detail = f"The check was interrupted: {lost.error}."
            return (check_of(key, cache, "logits", "not_finished", detail),)
        return checks

    def unmet(self, cache: str) -> str | None:
        """Return why a strategy cannot run on the open model; None if it can.

        Raises:
            UserError: the worker was lost during it.
        """
        try:
            reason: str | None = self._ask("unmet", cache)
        except _Lost as lost:
            raise UserError(f"Nothing can be measured: {lost.error}", kind="worker_lost") from lost
        return reason

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        """Compare the outputs of a case; inconclusive if the worker is lost during it."""
        try:
            checks: tuple[Check, ...] = self._ask(
                "verify_output", case, timeout_s=self._step_timeout_s
            )
        except _Lost as lost:
            detail = f"The samples have other tokens; looking at it was cut off: {lost.error}."
            fields = {"case_id": case.id, "checked_dtype": "float32"}
            return (
                check_of(case.model_key, case.cache, "output", "inconclusive", detail, **fields),
            )
        return checks

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        """Run a job. A worker that is lost during it, or is too slow, is a failure."""
        started_at = utc_now()
        try:
            result: JobResult = self._ask("run", job, timeout_s=timeout_s, stoppable=False)
        except _Lost as lost:
            return JobResult(lost.status, started_at, {"stage": lost.stage, "error": lost.error})
        return result

    def quality(self, cache: str, text: Text, size: QualitySize) -> Quality:
        """Return how a strategy changes the output of the open model; see LocalEngine.quality.

        If the worker is lost during it, the row has the reason.
        """
        key = self._open_model
        if key is None:
            raise RuntimeError("no model is open")
        try:
            quality: Quality = self._ask(
                "quality", cache, text, size, timeout_s=self._step_timeout_s
            )
        except _Lost as lost:
            return quality_of(key, cache, text, reason=lost.error)
        return quality

    def inspect(self, case: Case, layer: int) -> Inspection:
        """Inspect a case on the open model with and without a cache.

        Raises:
            UserError: see LocalEngine.inspect; or the worker was lost during it.
        """
        try:
            inspection: Inspection = self._ask("inspect", case, layer)
        except _Lost as lost:
            raise UserError(
                f"{case.model} cannot be inspected: {lost.error}", kind="worker_lost"
            ) from lost
        return inspection

    def take_log(self) -> str:
        """Return the last output of the last lost worker, once."""
        log, self._log = self._log, ""
        return log

    def close(self) -> None:
        """End the worker, and release everything it holds of the device."""
        self._open_model = None
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.end()

    def _ask_or_refuse(self, method: str, *arguments: Any) -> Any:
        # Try twice, since a process may be killed for reasons unrelated to the request.
        with contextlib.suppress(_Lost):
            return self._ask(method, *arguments)
        try:
            return self._ask(method, *arguments)
        except _Lost as lost:
            raise UserError(f"Nothing can be measured: {lost.error}", kind="worker_lost") from lost

    def _ask(
        self,
        method: str,
        *arguments: Any,
        timeout_s: float | None = None,
        stoppable: bool = True,
    ) -> Any:
        """Call a method of the worker's engine.

        Raises:
            UserError: the worker refused the request.
            Interrupted: the sweep should stop.
            _Lost: there is no answer, and the worker is gone.
        """
        if self._worker is None:
            self._worker = _Worker()
            self._started += 1
        stop = self._stop if stoppable else lambda: False
        request = Request(
            method, arguments, self._seed, self._trust_remote_code, self._memory_limit
        )
        try:
            reply = self._worker.ask(request, timeout_s, stop)
        except _Lost as lost:
            self._lose(lost.log)
            raise
        except BaseException:
            # Interrupted by the sweep or at the keyboard: nobody waits for its current work.
            self._lose("")
            raise
        if isinstance(reply, Refused):
            raise reply.error
        if isinstance(reply, Failed):
            # The worker is there, but its state is unknown.
            self._lose(reply.traceback)
            raise _Lost("crashed", _last_line(reply.traceback), reply.traceback)
        if not reply.healthy:
            # Its result is returned; a CUDA context with a fault is not used again.
            self._lose("")
        return reply.value

    def _lose(self, log: str) -> None:
        self._log = log
        self.close()


class _Lost(Exception):
    """No answer will come: the reason, the sample's stage, and the last output of the worker."""

    def __init__(self, status: Status, error: str, log: str, stage: Stage | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.log = log
        self.stage = stage


class _Worker:
    """One child process with its socket and its log."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # Unnamed, so it disappears with the two processes that hold it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._started = False
        self._kills = _oom_kills()
        # Above the standard streams, which Popen sets up in the child: if they are closed here, a
        # new socket gets one of their numbers.
        descriptor = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        theirs.close()
        try:
            self.process = subprocess.Popen(
                # -P: do not put the current folder at the front of the import path.
                [sys.executable, "-P", "-c", _START, "kvbench-worker", str(descriptor)],
                # A pipe that is never written to: it closes when this process dies.
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[descriptor],
                env=_environment(),
                # Outside the terminal's process group: the supervisor handles Ctrl-C.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._connection = Connection(ours.detach())

    def ask(self, request: Request, timeout_s: float | None, stop: Callable[[], bool]) -> Reply:
        # Imports take seconds, more on a busy machine; they do not count as part of the request.
        deadline = _deadline(timeout_s, 0.0 if self._started else _START_TIMEOUT_S)
        stage: Stage | None = None
        self._kills = _oom_kills()
        try:
            self._connection.send(request)
            while True:
                if self._connection.poll(_wait_s(deadline)):
                    message: Reply | Reached | Started = self._connection.recv()
                    if isinstance(message, Started):
                        self._started = True
                        deadline = _deadline(timeout_s)
                    elif isinstance(message, Reached):
                        stage = message.stage
                    else:
                        return message
                elif deadline is not None and time.monotonic() >= deadline:
                    raise _Lost("timeout", f"no result after {timeout_s:g} s", "", stage)
                elif stop():
                    raise Interrupted
                elif self.process.poll() is not None:
                    # A child process started by a library may keep the socket open.
                    raise EOFError
        except (EOFError, OSError):
            # The socket closes when the process ends, for whatever reason.
            self.process.wait()
            status, error = self._cause()
            raise _Lost(status, error, self._last_words(), stage) from None

    def is_lost(self) -> bool:
        """Return whether the process has ended. Call it only between two requests.

        A killed process cannot be waited for until its last thread is gone, which takes a moment if
        it held a GPU. Between requests a worker sends nothing, so a readable socket is a closed
        one.
        """
        return self.process.poll() is not None or self._connection.poll()

    def end(self) -> None:
        """Kill the process if it still runs: it holds nothing that needs a clean shutdown."""
        self._connection.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self._log.close()

    def _cause(self) -> tuple[Status, str]:
        code, said = self.process.returncode, _last_line(self._last_words())
        if code == -signal.SIGKILL and _oom_kills() > self._kills:
            return "oom", "the kernel's out-of-memory killer ended the worker process"
        if code < 0:
            how = f"the worker process was killed by {_signal_name(-code)}"
        else:
            how = f"the worker process ended by itself with code {code}"
        return "crashed", f"{how}; it wrote last: {said}" if said else how

    def _last_words(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_WORDS_BYTES))
        return self._log.read().decode("utf-8", "replace")


def _deadline(timeout_s: float | None, more_s: float = 0.0) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s + more_s


def _wait_s(deadline: float | None) -> float:
    return _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))


def _last_line(text: str) -> str:
    """Return the line of a log that explains the end: the fatal one, else the last."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("Fatal Python error", "terminate called"))]
    line = (fatal or lines or [""])[-1]
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 3] + "..."


def _environment() -> dict[str, str]:
    """Return the environment of the worker and of what libraries start in it, such as compilers."""
    kinds = (str, bytes, os.PathLike)
    # Entries that are not text cannot be imported from.
    entries = [os.fsdecode(entry) for entry in sys.path if isinstance(entry, kinds)]
    path = json.dumps([program_folder(), without_current_folder(entries)])
    environment = os.environ | {_PATH_VARIABLE: path, "PYTHONSAFEPATH": "1"}
    given = environment.pop("PYTHONPATH", "")
    # Python reads this before any of our code: `sitecustomize` would run from there.
    if kept := without_current_folder(given.split(os.pathsep)):
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name.
        return f"signal {number}"


def _oom_kills(root: Path = Path("/")) -> int:
    """Return how many processes the kernel has killed for memory so far (Linux).

    Counts only this control group, which excludes kills in other containers; without a group, the
    whole system.

    Source: the kernel's documentation of control groups, version 2, `memory.events`.
    """
    group = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    events = root / "sys/fs/cgroup" / (group[1] if group else "") / "memory.events"
    for counts in (events, root / "proc/vmstat"):
        found = re.search(r"^oom_kill (\d+)$", _text(counts), re.MULTILINE)
        if found:
            return int(found[1])
    # Then a kill is just a kill.
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # Missing, as on systems other than Linux.
        return ""
