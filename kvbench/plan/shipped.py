"""Find the plans that come with kvbench by name, wherever it is installed."""

from __future__ import annotations

from pathlib import Path

from kvbench.errors import UserError, did_you_mean
from kvbench.text import clip

__all__ = ["about_plan", "find_plan", "shipped_plans"]

_FOLDER = Path(__file__).parents[1] / "configs"


def shipped_plans() -> dict[str, Path]:
    """Return the plans in the package by name, in alphabetical order."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_plan(given: Path) -> Path:
    """Return the plan file for a path or for the name of a plan that comes with kvbench.

    An existing file of that name takes precedence, so adding a plan to kvbench changes no existing
    command.

    Raises:
        UserError: there is no such file, and it is a bare name that no plan has.
    """
    bare = len(given.parts) == 1 and not given.suffix
    if not bare or given.is_file():
        return given
    known = shipped_plans()
    if given.name in known:
        return known[given.name]
    hint = did_you_mean(given.name, known) or "; `kvbench configs` lists the shipped ones."
    raise UserError(
        f"'{clip(given.name)}' is neither a file nor a shipped plan{hint}",
        kind="unknown_choice",
        option="plan",
        value=given.name,
    )


def about_plan(path: Path) -> str:
    """Return the comment in the first line of a plan: the question that it answers."""
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    return first.removeprefix("#").strip()
