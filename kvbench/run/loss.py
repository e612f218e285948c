"""The loss of a worker: why it ended, as far as its exit code, its log, and the kernel tell."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from kvbench.records.sample import Stage, Status

__all__ = ["Lost", "cause_of", "last_line", "oom_kills"]

_LONGEST_ERROR = 500


class Lost(Exception):
    """No answer will come: the reason, the sample's stage, and the last output of the worker."""

    def __init__(self, status: Status, error: str, log: str, stage: Stage | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.log = log
        self.stage = stage


def cause_of(code: int, log: str, kills: int) -> tuple[Status, str]:
    """Return the status and the error of a request during which the worker ended.

    Args:
        code: the exit code of the process; negative if a signal killed it.
        log: the end of its output.
        kills: what `oom_kills` returned before the request.
    """
    if code == -signal.SIGKILL and oom_kills() > kills:
        return "oom", "the kernel's out-of-memory killer ended the worker process"
    if code < 0:
        how = f"the worker process was killed by {_signal_name(-code)}"
    else:
        how = f"the worker process exited with code {code}"
    said = last_line(log)
    return "crashed", f"{how}; last output: {said}" if said else how


def last_line(text: str) -> str:
    """Return the line of a log that explains the end: the fatal one, else the last."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("Fatal Python error", "terminate called"))]
    line = (fatal or lines or [""])[-1]
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 3] + "..."


def oom_kills(root: Path = Path("/")) -> int:
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name.
        return f"signal {number}"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # Missing, as on systems other than Linux.
        return ""
