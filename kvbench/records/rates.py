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
"""The environment variable that names another folder for what kvbench keeps of a machine."""

_FORMAT = 1
_MAX_BYTES = 16 << 20

# Hands may have been in the file: a rate of 0 would make every floor infinite.
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Product:
    """The time of one product of the kind that a decoder is made of.

    Attributes:
        dtype: of all its numbers.
        rows: tokens that are multiplied at once.
        width: rows and columns of the square matrix.
        seconds: median time of `[rows, width] x [width, width]`. The matrix is read from memory,
            not from a cache: another one is multiplied each time.
    """

    dtype: str
    rows: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    seconds: _Positive


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one device does per second, measured by `kvbench probe` or published by its vendor.

    A bound on what is possible: no run is to be faster. Null means that it is not known.

    Attributes:
        device: `cpu`, `cuda`, `cuda:1`, ... as in the plan.
        hardware: the processor's or the GPU's name, as in the environment.
        source: `probe` or `published`.
        read_bytes_per_s: bytes read over time, far past the caches: what decoding does with
            weights.
        copy_bytes_per_s: bytes read plus bytes written, over time.
        flops_per_s: dtype to FLOP/s of a product of large matrices, a multiply-add counted as 2.
            `float32` on CUDA is what torch does unless told otherwise, without TF32; `method` says
            so if TF32 was allowed. A dtype that the device lacks, or that failed, is left out.
        overhead_s: seconds for one tiny operation among many launched one after another: what a
            launch costs when the work is nothing.
        layer_s: seconds that one layer of a decoder costs in Transformers whose arithmetic is
            nothing: launches, and the Python around them.
        few_rows_s_per_byte: seconds for each byte of a matrix that a product of a few rows takes
            beyond bandwidth and arithmetic, in float32: on a CPU the matrix is packed anew.
        products: times of products of the sizes that a decoder has, which reach less than the rates
            above: few rows do not fill a device, and small matrices take turns. Empty in probes
            made before these were measured, and for published figures.
        measured_at: UTC time of the probe, ISO 8601.
        threads: torch's threads, on a CPU.
        uuid: of the GPU.
        torch: version that measured.
        method: how each figure was taken, in a sentence or two.
        repeats: the fewest timed runs behind any figure; a figure is their median.
        working_set_bytes: what the reads went over.
        spread: first and third quartile of a figure, in its unit. The keys are `read`, `copy`,
            `overhead` and the dtypes.
        best: the fastest single run of each figure, with the same keys: nearer to a bound than the
            median where the machine was busy.
        flags: reasons to doubt, as on samples: `busy_cpu`, `busy_gpu`, `throttled`.
        load_average: of the last minute, before the probe.
        other_cpu_share: share of the processors that others used meanwhile.
        notes: sentences on what was left out and why.
        reference: for published figures, where they come from.
    """

    device: str
    hardware: str
    source: Literal["probe", "published"]
    read_bytes_per_s: _Positive
    copy_bytes_per_s: _Positive | None = None
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
    """The file of this machine's probes, in the user's state folder or in KVBENCH_STATE.

    None where there is neither: a container may run as a user who has no home.
    """
    folder = os.environ.get(STATE_VARIABLE)
    if folder:
        return Path(folder) / "rates.json"
    try:
        return platformdirs.user_state_path("kvbench") / "rates.json"
    except RuntimeError:
        return None


def store_problem() -> str | None:
    """Why rates cannot be stored here, in words; None if they can."""
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
    """All that was probed on this machine; nothing where nothing was or could be stored.

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
    """Store what was probed in place of an older probe of the same; where it is stored.

    The same is the same GPU, or the same processor with as many threads.

    Raises:
        UserError: what is stored already is damaged.
        OSError: the file cannot be written.
    """
    file = store_path()
    if file is None:
        raise OSError(errno.ENOENT, str(store_problem()))
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two probes at once are not to lose one of the two.
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
    """The probe of a device that is present, under the name that it has now; None if there is none.

    Args:
        stored: what `read_rates` gave.
        device: its name now; a GPU's may move.
        hardware, uuid: of the device; the same board, not only the same model.
        threads: torch's, which count on a CPU only.
    """
    wanted = _key_of(device, hardware, uuid, threads)
    found = [one for one in stored if _key(one) == wanted]
    return dataclasses.replace(found[-1], device=device) if found else None


def _key(rates: Rates) -> tuple[object, ...]:
    return _key_of(rates.device, rates.hardware, rates.uuid, rates.threads)


def _key_of(
    device: str, hardware: str, uuid: str | None, threads: int | None
) -> tuple[object, ...]:
    # A GPU's name moves with CUDA_VISIBLE_DEVICES, and a CPU's threads count for its rates.
    kind = kind_of(device)
    return kind.name, hardware, threads if kind.is_host else uuid


def _damaged(file: Path, problem: str) -> UserError:
    return UserError(
        f"{file} is damaged ({problem}): delete it and run `kvbench probe` again.",
        kind="damaged",
        path=file,
    )
