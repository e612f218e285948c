"""Parts of long texts, for snapshots that contain only what a test is about."""

from __future__ import annotations


def added(text: str, base: str) -> str:
    """Return the lines of a text that another one lacks."""
    known = {line.rstrip() for line in base.splitlines()}
    return "\n".join(line for line in text.splitlines() if line.rstrip() not in known)
