"""Start a worker process: the command and the environment of its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import IO

from kvbench.import_path import program_folder, without_current_folder

__all__ = ["launch"]

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


def launch(descriptor: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a worker that answers on a descriptor; its output goes to a log."""
    return subprocess.Popen(
        # -P: do not put the current folder at the front of the import path.
        [sys.executable, "-P", "-c", _START, "kvbench-worker", str(descriptor)],
        # A pipe that is never written to: it closes when this process dies.
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=[descriptor],
        env=_environment(),
        # Outside the terminal's process group: the supervisor handles Ctrl-C.
        start_new_session=True,
    )


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
