"""Helpers for the tests of the records: sentences, rows read back, a full disk."""

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
    """Return the sentence of a user error, which is one line that ends with a period."""
    with pytest.raises(UserError) as caught:
        of()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.endswith(".")
    return text


def rows_of(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, header first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    """Write a CSV file with these rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Set a real system limit: a write takes what still fits, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
