"""Rates: what a device reads, copies and multiplies per second, and the store of probes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError

from kvbench.device_kinds import kind_of
from kvbench.errors import UserError
from kvbench.input_file import read_regular
from kvbench.records.files import write_atomically
from kvbench.text import clip

__all__ = [
    "STATE_VARIABLE",
    "Product",
    "Rates",
    "find_rates",
    "keep_rates",
    "read_rates",
    "store_path",
    "store_problem",
]

STATE_VARIABLE = "KVBENCH_STATE"
"""The environment variable that sets another folder for what kvbench stores about a machine."""

_FORMAT = 1
_MAX_BYTES = 16 << 20

# The file may have been edited: a rate of 0 would make every lower bound infinite.
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Product:
    """The time of one matrix product of the kind that a decoder is made of.

    Attributes:
        dtype: of all its numbers.
        rows: tokens multiplied at once.
        width: rows and columns of the square matrix.
        seconds: median time of `[rows, width] x [width, width]`. The matrix comes from memory, not
            from a cache: each product uses another one.
    """

    dtype: str
    rows: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    seconds: _Positive


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one device does per second, as measured by `kvbench probe` or published by its vendor.

    The rates bound what is possible: no run should be faster. Null means unknown.

    Attributes:
        device: `cpu`, `cuda`, `cuda:1`, ... as in the plan.
        hardware: the processor's or the GPU's name, as in the environment.
        source: `probe` or `published`.
        read_bytes_per_s: bytes read over time, far beyond the caches: how decoding reads weights.
        copy_bytes_per_s: bytes read plus bytes written, over time.
        host_bytes_per_s: bytes copied from pinned host memory to the device, over time: what an
            offloaded cache waits for. Null on a CPU, in older probes, and for published figures.
        flops_per_s: dtype to FLOP/s of a product of large matrices, a multiply-add counted as 2.
            `float32` on CUDA is torch's default, without TF32; `method` says
            so if TF32 was allowed. A dtype that the device lacks, or that failed, is left out.
        overhead_s: seconds for one tiny operation among many launched in a row: the cost of a
            launch without work.
        layer_s: seconds that one Transformers decoder layer takes with negligible arithmetic:
            launches, and the Python around them.
        few_rows_s_per_byte: seconds per byte of a matrix that a product of a few rows takes beyond
            bandwidth and arithmetic, in float32: a CPU packs the matrix again.
        products: times of products of the sizes that a decoder has, which reach less than the rates
            above: few rows do not fill a device, and small matrices run one after another. Empty in
            older probes, and for published figures.
        measured_at: UTC time of the probe, ISO 8601.
        threads: torch's threads, on a CPU.
        uuid: of the GPU.
        torch: version that measured.
        method: how each figure was taken, in a sentence or two.
        repeats: the fewest timed runs behind any figure; a figure is their median.
        working_set_bytes: bytes that the reads covered.
        spread: first and third quartile of a figure, in its unit. The keys are `read`, `copy`,
            `overhead` and the dtypes.
        best: the fastest single run of each figure, with the same keys: closer to a bound than the
            median if the machine was busy.
        flags: reasons to doubt, as on samples: `busy_cpu`, `busy_gpu`, `throttled`.
        load_average: load average of the last minute, before the probe.
        other_cpu_share: fraction of the processors that other processes used meanwhile.
        notes: sentences on what was left out and why.
        reference: for published figures, where they come from.
    """

    device: str
    hardware: str
    source: Literal["probe", "published"]
    read_bytes_per_s: _Positive
    copy_bytes_per_s: _Positive | None = None
    host_bytes_per_s: _Positive | None = None
    flops_per_s: dict[str, _Positive] = field(default_factory=dict)
    overhead_s: _Positive | None = None
    layer_s: _Positive | None = None
    few_rows_s_per_byte: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    products: tuple[Product, ...] = ()
    measured_at: str | None = None
    threads: int | None = None
    uuid: str | None = None
    torch: str | None = None
    method: str = ""
    repeats: int = 0
    working_set_bytes: int = 0
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    load_average: float | None = None
    other_cpu_share: float | None = None
    notes: tuple[str, ...] = ()
    reference: str | None = None


def store_path() -> Path | None:
    """Return the file of this machine's probes, in the user's state folder or in KVBENCH_STATE.

    None if there is neither: a container may run as a user without a home.
    """
    folder = os.environ.get(STATE_VARIABLE)
    if folder:
        return Path(folder) / "rates.json"
    try:
        return platformdirs.user_state_path("kvbench") / "rates.json"
    except RuntimeError:
        return None


def store_problem() -> str | None:
    """Return why rates cannot be stored here, in words; None if they can."""
    file = store_path()
    if file is None:
        return f"there is no home directory; set HOME or {STATE_VARIABLE}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Only trying shows it: a file system may be read-only whatever its permissions say.
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.exists():
            file.open("rb").close()
    except OSError as error:
        return f"{file}: {error.strerror or error}"
    return None


def read_rates() -> tuple[Rates, ...]:
    """Return everything probed on this machine; empty if nothing was or could be stored.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    file = store_path()
    if file is None:
        return ()
    try:
        keys = json.loads(read_regular(file, _MAX_BYTES, "store of rates"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read: {error.strerror or error}.", kind="unreadable", path=file
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    version = keys.get("format") if isinstance(keys, Mapping) else None
    if version != _FORMAT:
        raise _damaged(file, f"format {clip(version)}; this kvbench reads {_FORMAT}")
    try:
        return TypeAdapter(tuple[Rates, ...]).validate_python(keys.get("rates"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("rates", *first["loc"]))
        raise _damaged(file, f"{where}: {first['msg']}") from error


def keep_rates(rates: Rates) -> Path:
    """Store new rates, replacing an older probe of the same device, and return the path.

    The same device is the same GPU, or the same processor with as many threads.

    Raises:
        UserError: the existing store is damaged.
        OSError: the file cannot be written.
    """
    file = store_path()
    if file is None:
        raise OSError(errno.ENOENT, str(store_problem()))
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two concurrent probes must not lose one of the two results.
    with FileLock(file.with_name(file.name + ".lock")):
        kept = [one for one in read_rates() if _key(one) != _key(rates)]
        keys = {"format": _FORMAT, "rates": [dataclasses.asdict(one) for one in (*kept, rates)]}
        write_atomically(file, json.dumps(keys, indent=2, ensure_ascii=False) + "\n")
    return file


def find_rates(
    stored: Iterable[Rates],
    *,
    device: str,
    hardware: str,
    uuid: str | None = None,
    threads: int | None = None,
) -> Rates | None:
    """Return the probe of a present device, under its current name; None if there is none.

    Args:
        stored: the result of `read_rates`.
        device: its current name; a GPU's name may change.
        hardware, uuid: identify the device: the same board, not only the same model.
        threads: torch's threads, which matter only on a CPU.
    """
    wanted = _key_of(device, hardware, uuid, threads)
    found = [one for one in stored if _key(one) == wanted]
    return dataclasses.replace(found[-1], device=device) if found else None


def _key(rates: Rates) -> tuple[object, ...]:
    return _key_of(rates.device, rates.hardware, rates.uuid, rates.threads)


def _key_of(
    device: str, hardware: str, uuid: str | None, threads: int | None
) -> tuple[object, ...]:
    # A GPU's name changes with CUDA_VISIBLE_DEVICES, and a CPU's threads affect its rates.
    kind = kind_of(device)
    return kind.name, hardware, threads if kind.is_host else uuid


def _damaged(file: Path, problem: str) -> UserError:
    return UserError(
        f"{file} is damaged ({problem}): delete it and run `kvbench probe` again.",
        kind="damaged",
        path=file,
    )
