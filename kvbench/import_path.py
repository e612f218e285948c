"""Keep the current folder off the import path: it may hold files from anywhere.

A module next to a downloaded model, such as `json.py`, must not run when somebody types `kvbench
verify .` there. This module imports only what Python has loaded before it reads a path.
"""

import os
import sys

__all__ = ["leave_out_current_folder", "program_folder", "without_current_folder"]


def leave_out_current_folder() -> None:
    """Remove the current folder from the import path of this process and of its child processes."""
    sys.path[:] = without_current_folder(sys.path)


def without_current_folder(entries: list[str]) -> list[str]:
    """Return the entries of an import path without those that mean the current folder.

    Python puts it first for `python -m`, and an empty entry in PYTHONPATH means it too. kvbench
    itself may be in it: its own modules are found through the package once that is imported. The
    folder is kept only as an absolute path after the standard library, as an editable install adds
    it. It is then moved to the end, where it shadows no installed package.
    """
    library = os.path.dirname(os.__file__)
    behind = entries.index(library) if library in entries else len(entries)
    here = [place for place, entry in enumerate(entries) if _is_here(entry)]
    kept = [entry for place, entry in enumerate(entries) if place not in here]
    if any(place > behind and os.path.isabs(entries[place]) for place in here):
        kept.append(os.getcwd())
    return kept


def program_folder() -> str:
    """Return the folder that this kvbench is imported from."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _is_here(entry: str) -> bool:
    try:
        return os.path.samefile(entry or os.curdir, os.curdir)
    except (OSError, ValueError):
        # Usually missing, such as the archive of the standard library.
        return not entry
