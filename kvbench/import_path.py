"""Keep the current folder out of the import path: it may hold files from anywhere.

A module that lies next to a downloaded model (`json.py`, say) must not run because somebody types
`kvbench verify .` there. Imports only what a Python has loaded before it looks at a path.
"""

import os
import sys

__all__ = ["leave_out_current_folder", "program_folder", "without_current_folder"]


def leave_out_current_folder() -> None:
    """Take the current folder out of this process's import path, and of those it starts."""
    sys.path[:] = without_current_folder(sys.path)


def without_current_folder(entries: list[str]) -> list[str]:
    """Return the entries of an import path without those that mean the current folder.

    Python puts it first for `python -m`, and an empty entry in PYTHONPATH means it, too. kvbench
    itself may lie in it: its own modules are found through the package once that is imported. Only
    where it stands as an absolute path behind the standard library, as an editable install puts it
    there, is it kept. It is then the last, so that it hides no installed package.
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
        # Not there, as most often the archive of the standard library.
        return not entry
