"""Read tokens.csv, the time of each token, as a table or as arrays."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvbench.errors import UserError
from kvbench.input_file import check_regular
from kvbench.text import clip

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TOKEN_COLUMNS", "Stamps", "load_stamps", "load_tokens"]

TOKEN_COLUMNS: dict[str, str] = {
    "sample_id": "The sample in samples.csv.",
    "new_token": "Index of the new token, from 1.",
    "elapsed_s": "Seconds from the start of generate() until the token was on the host.",
}

# Categorical: ten million names as text would take gigabytes.
_LARGEST = 2**63 - 1
_TYPES: dict[str, Any] = {"sample_id": "category", "new_token": "int64", "elapsed_s": "float64"}

_SMALL = 8 << 20
"""Bytes of a table that numpy reads before pandas is imported; pandas reads ten times as fast."""

_ID_LENGTH = 64
_ROW = np.dtype([("sample_id", f"S{_ID_LENGTH}"), ("new_token", "i8"), ("elapsed_s", "f8")])


class Stamps(NamedTuple):
    """The columns of tokens.csv as arrays, `[rows]`.

    Attributes:
        names: the samples, `[samples]`.
        samples: the place in `names` of the sample of each row.
        tokens: index of each new token, from 1.
        elapsed_s: seconds until it was on the host.
    """

    names: np.ndarray
    samples: np.ndarray
    tokens: np.ndarray
    elapsed_s: np.ndarray


def load_stamps(path: Path) -> Stamps:
    """Read the same as `load_tokens` as arrays, without pandas if the table is small.

    Raises:
        UserError: as `load_tokens`.
    """
    check_regular(path, "table")
    rows = _small_table(path)
    if rows is not None:
        names, samples = np.unique(rows["sample_id"], return_inverse=True)
        return Stamps(names.astype(str), samples, rows["new_token"], rows["elapsed_s"])
    table = load_tokens(path)
    codes = table["sample_id"].cat
    return Stamps(
        codes.categories.to_numpy().astype(str),
        codes.codes.to_numpy(),
        table["new_token"].to_numpy(),
        table["elapsed_s"].to_numpy(),
    )


def _small_table(path: Path) -> np.ndarray | None:
    """Return the rows of a small table as it was written; None if anything about it is unusual."""
    try:
        if path.stat().st_size > _SMALL:
            return None
        head, _, body = path.read_text("ascii").partition("\n")
        if head.split(",") != list(TOKEN_COLUMNS) or '"' in body:
            return None
        with warnings.catch_warnings():
            # A table without rows, or an integer that is written as a fraction.
            warnings.simplefilter("error")
            lines = io.StringIO(body)
            rows = np.loadtxt(lines, _ROW, comments=None, delimiter=",", ndmin=1)
        # A longer name would be cut off.
        if max(map(len, rows["sample_id"])) == _ID_LENGTH:
            return None
        return None if _wrong_times(rows) else rows
    except (OSError, ValueError, UserWarning, DeprecationWarning):
        return None


def _wrong_times(rows: np.ndarray) -> bool:
    """Return whether `_check_times` would refuse these rows."""
    samples, tokens, elapsed = (rows[name] for name in TOKEN_COLUMNS)
    follows = (samples[1:] == samples[:-1]) & (np.diff(tokens) == 1)
    wrong = ~((elapsed > 0) & (elapsed < np.inf)) | (tokens < 1)
    return bool(wrong.any() or (follows & (np.diff(elapsed) < 0)).any())


def load_tokens(path: Path) -> pd.DataFrame:
    """Read tokens.csv: sample_id (categorical), new_token, elapsed_s, one row per token.

    Raises:
        UserError: it does not exist, a column is missing, or a value is wrong; the message names
            the line and the column.
    """
    import pandas as pd

    check_regular(path, "table")
    try:
        with warnings.catch_warnings():
            # Values without a column would be dropped, with a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=_TYPES, index_col=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: file not found.", kind="not_found", path=path) from error
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        # pandas does not report where: read it again as text.
        _check_values(path)
        raise UserError(
            f"{path}: not a table of token times: {error}.", kind="not_a_table", path=path
        ) from error
    for name in TOKEN_COLUMNS:
        if name not in table:
            raise UserError(
                f"{path} line 1: the column {name} is missing.",
                kind="no_column",
                path=path,
                column=name,
            )
    _check_times(path, table)
    return table


def _check_values(path: Path) -> None:
    """Refuse the first value that is not a number, with its line."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserWarning):
        # Not a table at all: the first error of pandas is all there is to report.
        return
    for name in ("new_token", "elapsed_s"):
        if name in table:
            numbers = pd.to_numeric(table[name], errors="coerce")
            wrong = numbers.isna()
            if name == "new_token":
                wrong |= (numbers % 1 != 0) | (numbers < 1) | (numbers > _LARGEST)
            _point_at(path, name, table[name], wrong.to_numpy(), "is not valid")


def _check_times(path: Path, table: pd.DataFrame) -> None:
    elapsed = table["elapsed_s"].to_numpy()
    # Written so that NaN, which does not compare as greater, is wrong too.
    wrong = ~((elapsed > 0) & (elapsed < np.inf))
    _point_at(path, "elapsed_s", table["elapsed_s"], wrong, "is not a time")
    _point_at(
        path, "new_token", table["new_token"], table["new_token"].to_numpy() < 1, "is not a count"
    )
    same = np.diff(table["sample_id"].cat.codes.to_numpy()) == 0
    follows = same & (np.diff(table["new_token"].to_numpy()) == 1)
    early = np.concatenate([[False], follows & (np.diff(elapsed) < 0)])[: len(elapsed)]
    _point_at(path, "elapsed_s", table["elapsed_s"], early, "is before the previous token")


def _point_at(path: Path, name: str, values: pd.Series[Any], wrong: np.ndarray, how: str) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        # Counted from 1, after the header.
        where = f"{path} line {first + 2}, column {name}"
        value = values.iloc[first]
        shown = repr(clip(value)) if isinstance(value, str) else clip(value)
        raise UserError(f"{where}: {shown} {how}.", kind="bad_row")
