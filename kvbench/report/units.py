"""Format numbers for people: three significant digits and a unit."""

from __future__ import annotations

from decimal import Decimal

__all__ = ["about", "amount", "flops_text", "mib", "seconds", "significant", "times"]

MIB = 1 << 20
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float) -> str:
    """Return three significant digits, never in powers of ten: 0.0123, 1.23, 12.3, 1234."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return format(Decimal(f"{value:.2e}"), "f")


def seconds(value: float) -> str:
    """Return a text such as `850 ms` or `5.32 s`."""
    return f"{significant(value)} s" if value >= 1 else f"{significant(value * 1000)} ms"


def mib(value: int | float) -> str:
    """Return bytes as MiB, without the unit, which is in the column heading."""
    return significant(value / MIB)


def times(value: float) -> str:
    """Return a ratio as text: `3.42x`."""
    return f"{significant(value)}x"


def amount(value: float, unit: str) -> str:
    """Return a value with its unit: `5.32 s`, `850 ms`, `0.84 J`."""
    return seconds(value) if unit == "s" else f"{significant(value)} {unit}"


def flops_text(value: int | None) -> str:
    """Return a number of operations as text: `1.27 G`, or a dash if it is not known."""
    if value is None:
        return "-"
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{significant(value / size)} {prefix}"
    return str(value)


def about(value: float) -> str:
    """Return a predicted time as text: `about 40 s`, `about 6 min`, `about 5.2 h`."""
    if value < 10:
        return f"about {max(round(value), 1)} s"
    if value < 90:
        return f"about {round(value, -1):.0f} s"
    if value < 5400:
        return f"about {round(value / 60)} min"
    hours = value / 3600
    return f"about {hours:.1f} h" if hours < 10 else f"about {hours:.0f} h"
