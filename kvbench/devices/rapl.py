"""RAPL: the energy counters of the processor packages, as Linux exposes them under powercap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RAPL_PACKAGE", "Rapl"]

RAPL_PACKAGE = "rapl-package"
"""The name of this way to read energy."""

_POWERCAP = Path("/sys/class/powercap")

_ZONE = re.compile(r"intel-rapl:\d+")
"""Top-level zones, also on AMD processors. Those below, with another number, are parts of them:
cores, graphics, memory. The copies under intel-rapl-mmio would count a package twice.
"""

_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")

MIN_SECONDS = 0.1
"""The counter updates about every millisecond: below this duration the error would exceed 1 %."""

MOST_WATTS = 700
"""No package draws more. At this power a 65 kJ counter, as on AMD, takes over 90 s to wrap around.
"""


@dataclass(frozen=True)
class _Package:
    """The counter's file, and where the counter wraps around, in microjoules."""

    file: Path
    range_uj: int


class Rapl:
    """The counters of all packages of this machine.

    Attributes:
        problem: why there is nothing to read, in a few words; otherwise null.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._packages: tuple[_Package, ...] = ()
        try:
            self._packages = _packages()
            self._counters()
        except PermissionError:
            self.problem = "RAPL counters are not readable by this user"
        except (OSError, ValueError):
            self.problem = "RAPL counters cannot be read"
        if not self._packages and self.problem is None:
            self.problem = "no RAPL counter"

    def read(self) -> tuple[int, ...] | None:
        """Return the counters in microjoules, one per package; None if reading fails."""
        if self.problem is not None:
            return None
        try:
            return self._counters()
        except (OSError, ValueError):
            return None

    def joules(
        self, before: tuple[int, ...] | None, after: tuple[int, ...] | None, seconds: float
    ) -> tuple[float | None, str]:
        """Return the energy of all packages between two readings, and the reading method.

        Args:
            before, after: results of `read`.
            seconds: time between them.
        """
        if self.problem is not None:
            return None, f"none: {self.problem}"
        if before is None or after is None:
            return None, "none: RAPL counters cannot be read"
        if seconds < MIN_SECONDS:
            return None, f"none: window under {MIN_SECONDS:g} s"
        total = 0
        for package, start, end in zip(self._packages, before, after, strict=True):
            if seconds * MOST_WATTS * 1e6 >= package.range_uj:
                # The counter may have wrapped more than once, and only the last wrap is visible.
                return None, "none: window too long for the RAPL counter's range"
            total += end - start if end >= start else end - start + package.range_uj
        return total / 1e6, RAPL_PACKAGE

    def _counters(self) -> tuple[int, ...]:
        return tuple(_number(package.file) for package in self._packages)


def _packages() -> tuple[_Package, ...]:
    """Return the packages by number; empty if the system, or a container, does not expose them."""
    try:
        zones = sorted(zone for zone in _POWERCAP.iterdir() if _ZONE.fullmatch(zone.name))
    except FileNotFoundError:
        return ()
    found = []
    for zone in zones:
        try:
            name = (zone / "name").read_text().strip()
        except FileNotFoundError:
            # A container may hide the target of the link.
            continue
        if _PACKAGE.fullmatch(name):
            found.append(_Package(zone / "energy_uj", _number(zone / "max_energy_range_uj")))
    return tuple(found)


def _number(file: Path) -> int:
    return int(file.read_text())
