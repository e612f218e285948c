"""Look up installed package versions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

__all__ = ["installed"]


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed ones among these packages, by name."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
