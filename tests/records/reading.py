"""What the tests of the records share: sentences, rows read back, a disk that is full."""

from __future__ import annotations

import csv
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvbench.errors import UserError


def sentence(of: Callable[[], Any]) -> str:
    """What a user error says, which is one line that ends as a sentence does."""
    with pytest.raises(UserError) as caught:
        of()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.endswith(".")
    return text


def rows_of(path: Path) -> list[list[str]]:
    """The rows of a CSV file, the header first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    """A CSV file with these rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A real limit, set by the system: a write takes what still fits, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
