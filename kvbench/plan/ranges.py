"""Lists of sizes as people write them: `10,110,210`, `10-910+100`, `16-1024*2`."""

from __future__ import annotations

import re

from kvbench.errors import UserError
from kvbench.text import clip

__all__ = ["MAX_LENGTH", "MAX_SIZE", "parse_sizes"]

MAX_SIZE = 2**31 - 1
"""The largest size accepted, in tokens or sequences: the largest 32-bit index."""

MAX_LENGTH = 100_000
"""The most sizes that a list may have."""

_RANGE = re.compile(
    r"(?P<first>\d+)(-(?P<last>\d+)((?P<step>[+*])(?P<by>\d+(\.\d+)?))?)?", re.ASCII
)


def parse_sizes(text: str, name: str = "the list") -> tuple[int, ...]:
    """Parse a comma-separated list of sizes and ranges into the sizes, in the order written.

    `first-last` counts by one, `first-last+step` adds, `first-last*factor` multiplies; `last` is
    included when the steps meet it. This is llama-bench's notation.

    Raises:
        UserError: an entry is not a size or a range, or a range runs backwards or never ends.
    """
    sizes: list[int] = []
    for entry in text.split(","):
        sizes.extend(_expand(entry.strip(), name))
        if len(sizes) > MAX_LENGTH:
            raise UserError(
                f"{name}: '{clip(text)}' has more than {MAX_LENGTH:,} entries.",
                kind="range_too_long",
                name=name,
            )
    return tuple(sizes)


def _expand(entry: str, name: str) -> list[int]:
    match = _RANGE.fullmatch(entry)
    if match is None:
        raise UserError(
            f"{name}: '{clip(entry)}' is not a size; write 10, 10-910+100 or 16-1024*2",
            kind="not_a_size",
            name=name,
            value=entry,
        )
    first, last = _size(match["first"], name), _size(match["last"] or match["first"], name)
    if last < first:
        raise UserError(
            f"{name}: the range '{clip(entry)}' runs backwards.",
            kind="bad_range",
            name=name,
            value=entry,
        )
    by = float(match["by"] or 1)
    multiplies = match["step"] == "*"
    if (multiplies and (by <= 1 or first == 0)) or by == 0:
        raise UserError(
            f"{name}: the range '{clip(entry)}' never ends.",
            kind="bad_range",
            name=name,
            value=entry,
        )
    sizes: list[int] = []
    value = float(first)
    # Count steps, not sizes: a factor such as 1.000001 takes many steps to the next size.
    for _ in range(MAX_LENGTH + 1):
        if value > last:
            return sizes
        if not sizes or int(value) > sizes[-1]:
            sizes.append(int(value))
        value = value * by if multiplies else value + by
    raise UserError(
        f"{name}: the range '{clip(entry)}' has more than {MAX_LENGTH:,} entries.",
        kind="range_too_long",
        name=name,
    )


def _size(digits: str, name: str) -> int:
    # Check the number of digits first: Python refuses to convert thousands of digits.
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(MAX_SIZE)) or int(digits) > MAX_SIZE:
        raise UserError(
            f"{name}: {clip(digits)} is larger than {MAX_SIZE:,}.", kind="too_large", name=name
        )
    return int(digits)
