"""List the runs in a folder with their state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvbench.errors import UserError
from kvbench.records.lock import is_in_use
from kvbench.records.run import RunInfo, load_info

__all__ = ["Listed", "list_runs", "state_of"]


@dataclass(frozen=True)
class Listed:
    """A run folder: its run.json, or why that cannot be read."""

    path: Path
    info: RunInfo | None
    state: str


def list_runs(folder: Path) -> list[Listed]:
    """Return the runs in a folder, latest first; everything else is skipped.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.", kind="not_found", path=folder)
    found = [_listed(path) for path in folder.iterdir() if (path / "run.json").exists()]
    return sorted(found, key=lambda run: (_started(run), run.path.name), reverse=True)


def state_of(path: Path, info: RunInfo) -> str:
    """Return `finished`, `running`, or how the run stopped and that it can be resumed."""
    if info.state == "finished":
        return "finished"
    if is_in_use(path):
        return "running"
    # A killed process could not record that it had stopped.
    how = "killed" if info.state == "running" else info.state
    return f"{how}, resumable"


def _listed(path: Path) -> Listed:
    try:
        info = load_info(path)
    except UserError as error:
        return Listed(path, None, f"unreadable: {error}")
    return Listed(path, info, state_of(path, info))


def _started(run: Listed) -> str:
    return run.info.started_at if run.info else ""
