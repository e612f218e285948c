"""Measure what a device reads, copies, multiplies and launches per second: its rates."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from kvbench.device_kinds import kind_of
from kvbench.devices import host
from kvbench.devices.faults import is_device_fault
from kvbench.devices.meter import Readings, trust_flags
from kvbench.devices.registry import backend_of, describe_device, make_meter
from kvbench.dtypes import DTYPES
from kvbench.records.rates import Product, Rates
from kvbench.records.sample import utc_now

__all__ = ["Effort", "probe_device", "working_set_bytes"]

_MIB = 1 << 20
_COLUMNS = 4096
_FEW = 16
"""Rows of a product that is still limited by bandwidth."""

_LINK_BYTES = 256 << 20
"""Bytes of a copy from host memory: enough to make its start negligible."""

_LAYERS, _STEPS = (4, 12), 16
"""Layers of the tiny decoders, and tokens that each generates in a run."""

_SLOW = 0.4
"""A way to read whose rate on a quarter of the matrix is below this fraction of the best is
dropped.
"""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work a probe does. Tests use less.

    Attributes:
        working_set_bytes: bytes that the reads cover; by default the result of `working_set_bytes`.
        repeats: the fewest timed runs of a figure, or three if they take twice `seconds`. A probe
            takes about 10 s in total, for some 15 figures and 50 small products.
        seconds: the least time to time a figure.
        warmup_s: time to run before that: processors and GPUs need a moment to raise their clocks.
        smallest: rows and columns of the smallest matrices that are multiplied.
        product_s: sizes are doubled until one product takes this long.
        launches: tiny operations in a row, for the overhead.
        rows: rows of the products that a decoder is made of.
        widths: widths of their matrices.
        rows_s: the least time to time each of these, with at least three runs.
        longest_s: a product expected to take longer than this is left out.
    """

    working_set_bytes: int | None = None
    repeats: int = 5
    seconds: float = 0.25
    warmup_s: float = 0.1
    smallest: int = 256
    product_s: float = 0.05
    launches: int = 1000
    rows: tuple[int, ...] = (1, 16, 128, 1024)
    widths: tuple[int, ...] = (512, 1024, 2048, 4096)
    rows_s: float = 0.1
    longest_s: float = 0.25


class _Figure(NamedTuple):
    """Seconds per run of some amount of work over `repeats`, and how it was run."""

    how: str
    amount: float
    least: float
    q1: float
    median: float
    q3: float
    repeats: int

    @property
    def rate(self) -> float:
        return self.amount / self.median

    @property
    def spread(self) -> tuple[float, float]:
        return self.amount / self.q3, self.amount / self.q1


def probe_device(
    device: str, effort: Effort | None = None, *, clock: Callable[[], float] = time.perf_counter
) -> Rates:
    """Measure the rates of a device with torch, on all of its threads.

    Each figure is the median of repeated runs after a warm-up; the clock is read after the device
    has finished. If there are several natural ways, the fastest counts, since the rates are used
    for lower bounds. A dtype that fails is left out, with a sentence in `notes`.

    Args:
        device: a present device: `cpu`, `cuda`, `cuda:1`, ...
        effort: sizes and times.
        clock: returns seconds; for tests.

    Raises:
        RuntimeError: not even memory can be read.
    """
    effort = effort or Effort()
    load = host.load_average()
    meter = make_meter(torch.device(device))
    try:
        meter.start("measure")
        with torch.inference_mode():
            probe = _Probe(torch.device(device), effort, meter.synchronise, clock)
            rates = probe.rates(device)
        readings = meter.finish()
    finally:
        gc.collect()
        meter.close()
    return _with_readings(rates, load, readings)


def working_set_bytes(device: torch.device) -> tuple[int, str | None]:
    """Return the working set that measures memory, not caches, and a note if memory is short.

    It is the size that the kind of device asks for, and at most a quarter of the free memory.
    """
    backend = backend_of(device)
    wanted = backend.working_set_bytes(device)
    most = backend.free_bytes(device) // 4
    if wanted <= most:
        return wanted, None
    return most, (
        f"Only {most / _MIB:.0f} MiB fit in memory instead of {wanted / _MIB:.0f}: processor "
        "caches may inflate the rates."
    )


class _Probe:
    """One probe: its device, its effort, and its notes besides the figures."""

    def __init__(
        self,
        device: torch.device,
        effort: Effort,
        synchronise: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._device = device
        self._effort = effort
        self._synchronise = synchronise
        self._clock = clock
        self._notes: list[str] = []
        self._bytes, note = working_set_bytes(device)
        if effort.working_set_bytes is not None:
            self._bytes, note = min(effort.working_set_bytes, self._bytes), None
        self._kind = kind_of(str(device))
        # On a GPU small runs are queued together: waiting for one takes as long as the run itself.
        self._batch_s = 0.01 if self._kind.queues_work else 0.0
        self._keep(note)

    def rates(self, device: str) -> Rates:
        """Return all figures of the device."""
        read, copy, link = self._best_read(), self._copy(), self._link()
        products = {}
        for dtype in DTYPES:
            figure = self._product_or_note(dtype)
            if figure is not None:
                products[dtype] = figure
        sizes = [one for dtype, best in products.items() for one in self._sizes_of(dtype, best)]
        launch, layer = self._launches(), self._layer()
        few = self._few_rows(read, products.get("float32"))
        figures = {"read": read, "copy": copy, **products}
        described = describe_device(device)
        return Rates(
            device=device,
            hardware=described.hardware,
            uuid=described.uuid,
            source="probe",
            read_bytes_per_s=read.rate,
            copy_bytes_per_s=copy.rate,
            host_bytes_per_s=link and link.rate,
            flops_per_s={dtype: figure.rate for dtype, figure in products.items()},
            overhead_s=launch.median / launch.amount,
            layer_s=layer,
            few_rows_s_per_byte=few,
            products=tuple(sizes),
            measured_at=utc_now(),
            threads=torch.get_num_threads() if self._kind.is_host else None,
            torch=torch.__version__,
            method=self._method(read, copy, products),
            repeats=min(figure.repeats for figure in (*figures.values(), launch)),
            working_set_bytes=self._bytes,
            spread={name: figure.spread for name, figure in figures.items()}
            | {"overhead": (launch.q1 / launch.amount, launch.q3 / launch.amount)},
            best={name: figure.amount / figure.least for name, figure in figures.items()}
            | {"overhead": launch.least / launch.amount},
            notes=tuple(self._notes),
        )

    def _best_read(self) -> _Figure:
        best: _Figure | None = None
        # CUDA's emulation is slow, and no model would be run in it.
        short = "bfloat16" if self._has_bfloat16() else "float16"
        for dtype in ("float32", short):
            best = self._best_read_of(self._filled(dtype), best)
        assert best is not None
        return best

    def _best_read_of(self, matrix: torch.Tensor, best: _Figure | None) -> _Figure | None:
        part = matrix[: max(1, len(matrix) // 4)]
        for name, read in self._ways_to_read(matrix):
            if best is None or self._first_rate(read, part) >= _SLOW * best.rate:
                how = f"{name} in {str(matrix.dtype).removeprefix('torch.')}"
                figure = self._timed(how, functools.partial(read, matrix), matrix.nbytes)
                best = figure if best is None or figure.rate > best.rate else best
        return best

    def _ways_to_read(
        self, matrix: torch.Tensor
    ) -> Iterator[tuple[str, Callable[[torch.Tensor], object]]]:
        """Return the ways to read; each reads every element of a matrix [rows, columns] once."""
        vector = matrix[0].clone()
        row = vector.view(1, -1)
        yield "torch.mv", lambda m: torch.mv(m, vector)
        # What a model does for one token: [1, columns] x [rows, columns]^T.
        yield "linear", lambda m: functional.linear(row, m)
        if matrix.dtype == torch.float32:
            yield "torch.sum", lambda m: m.sum()

    def _first_rate(self, read: Callable[[torch.Tensor], object], matrix: torch.Tensor) -> float:
        read(matrix)
        return matrix.nbytes / self._seconds(lambda: read(matrix), 1)

    def _copy(self) -> _Figure:
        numbers = self._filled("float32").view(-1)
        half = len(numbers) // 2
        source, target = numbers[:half], numbers[half : 2 * half]
        # Bytes read and bytes written.
        return self._timed("copy_", lambda: target.copy_(source), source.nbytes + target.nbytes)

    def _link(self) -> _Figure | None:
        """Return the rate of copies from pinned host memory; None for the host itself."""
        if self._kind.is_host:
            return None
        target = self._filled("float32").view(-1)[: _LINK_BYTES // 4]
        try:
            source = torch.empty(len(target), pin_memory=True)
        except RuntimeError as error:
            # A container may limit how much memory can be locked.
            self._notes.append(f"host to device skipped: {str(error).splitlines()[0].rstrip('.')}.")
            return None
        # Each run is waited for, so that one can queue the next as prefetching does.
        return self._timed(
            "copy_ from pinned memory",
            lambda: target.copy_(source, non_blocking=True),
            source.nbytes,
        )

    def _product_or_note(self, dtype: str) -> _Figure | None:
        if dtype == "bfloat16" and not self._has_bfloat16():
            self._notes.append("bfloat16 skipped: the device only emulates it.")
            return None
        try:
            return self._product(getattr(torch, dtype))
        except Exception as error:
            # After a device fault nothing that follows is meaningful. Anything else affects only
            # this dtype.
            if is_device_fault(error) and "NOT_SUPPORTED" not in str(error):
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._notes.append(f"{dtype} skipped: {first.rstrip('.')}.")
            return None

    def _product(self, dtype: torch.dtype) -> _Figure:
        """Return the best of the last two sizes of square matrices."""
        sizes: list[int] = []
        for n in self._sizes(dtype):
            sizes.append(n)
            multiply = self._multiplication(n, dtype)
            multiply()
            if self._seconds(multiply, 1) >= self._effort.product_s:
                break
        figures = [
            self._timed(f"{n} x {n}", self._multiplication(n, dtype), 2 * n**3) for n in sizes[-2:]
        ]
        return max(figures, key=lambda figure: figure.rate)

    def _sizes(self, dtype: torch.dtype) -> Iterator[int]:
        most = backend_of(self._device).free_bytes(self._device) // 4
        n = self._effort.smallest
        while n == self._effort.smallest or 3 * n * n * dtype.itemsize <= most:
            yield n
            n *= 2

    def _multiplication(self, n: int, dtype: torch.dtype) -> Callable[[], object]:
        left, right = (
            torch.empty(n, n, dtype=dtype, device=self._device).uniform_(-1, 1) for _ in range(2)
        )
        product = torch.empty(n, n, dtype=dtype, device=self._device)
        return lambda: torch.mm(left, right, out=product)

    def _sizes_of(self, dtype: str, best: _Figure) -> Iterator[Product]:
        """Time products of the sizes that a decoder has, using other matrices in turn.

        A matrix that was just used may be in a cache, where a decoder would not find it, so there
        are as many matrices as the working set holds. Several are timed at once: a generation runs
        many in a row, and on a busy processor a single one may slip in between other work. On a GPU
        a small product takes as long as its launch.
        """
        numbers = self._filled(dtype).view(-1)
        effort = dataclasses.replace(
            self._effort, repeats=3, seconds=self._effort.rows_s, warmup_s=self._effort.rows_s / 4
        )
        batch_s = self._effort.rows_s / 5
        for width in self._effort.widths:
            count = len(numbers) // width**2
            if count == 0:
                continue
            matrices = itertools.cycle(numbers[: count * width**2].view(count, width, width))
            for rows in self._effort.rows:
                flops = 2 * rows * width**2
                if flops / best.rate > self._effort.longest_s:
                    continue
                vectors = torch.empty(rows, width, dtype=numbers.dtype, device=self._device)
                vectors.uniform_(-1, 1)
                multiply = functools.partial(_next_product, vectors, matrices)
                figure = self._timed(f"{rows} x {width}", multiply, flops, effort, batch_s)
                yield Product(dtype=dtype, rows=rows, width=width, seconds=figure.median)

    def _launches(self) -> _Figure:
        one = torch.zeros(1, device=self._device)
        count = self._effort.launches

        def launch() -> None:
            for _ in range(count):
                one.add_(1)

        return self._timed("add_", launch, count)

    def _layer(self) -> float:
        """Return the seconds of one Transformers decoder layer with negligible arithmetic.

        It is the difference between two tiny models that differ only in the number of layers, which
        cancels the costs that occur once per step.
        """
        few, many = (self._tiny_decoder(layers) for layers in _LAYERS)
        seconds = many.median / many.amount - few.median / few.amount
        # Noise may exceed the difference; a layer that costs nothing does not exist.
        return max(seconds, 1e-7) / (_LAYERS[1] - _LAYERS[0])

    def _tiny_decoder(self, layers: int) -> _Figure:
        config = LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_hidden_layers=layers,
            vocab_size=64,
        )
        model: Any = LlamaForCausalLM(config)
        model = model.to(self._device).eval()
        token = torch.zeros(1, 1, dtype=torch.long, device=self._device)

        def decode() -> None:
            cache = DynamicCache(config=config)
            for _ in range(_STEPS):
                model(input_ids=token, past_key_values=cache, use_cache=True)

        return self._timed(f"{layers} layers", decode, _STEPS)

    def _few_rows(self, read: _Figure, product: _Figure | None) -> float | None:
        """Return the seconds per byte that a product of few rows takes beyond its lower bound.

        A CPU packs the matrix again for each product of more than one row, which writes it and
        reads it again. A GPU does not.
        """
        if product is None or not self._kind.is_host:
            return None
        matrix = self._filled("float32")
        rows = matrix[:_FEW].clone()
        figure = self._timed("few rows", lambda: functional.linear(rows, matrix), matrix.nbytes)
        least = max(1 / read.rate, 2 * _FEW / matrix.itemsize / product.rate)
        return max(figure.median / figure.amount - least, 0.0)

    def _filled(self, dtype: str) -> torch.Tensor:
        """Return a random matrix [rows, columns], its pages touched by the threads that read it.

        It has no zeros, which the system may keep in one page, and no denormals, which are slow.
        """
        kind: torch.dtype = getattr(torch, dtype)
        rows = max(1, self._bytes // (_COLUMNS * kind.itemsize))
        numbers = torch.empty(rows * _COLUMNS, dtype=kind, device=self._device)
        # Generating all numbers would keep one thread busy for long. An odd length makes all pages
        # differ.
        block = torch.empty(4 * _MIB - 3, dtype=kind, device=self._device).uniform_(-1, 1)
        for start in range(0, len(numbers), len(block)):
            part = numbers[start : start + len(block)]
            part.copy_(block[: len(part)])
        return numbers.view(rows, _COLUMNS)

    def _timed(
        self,
        how: str,
        run: Callable[[], object],
        amount: float,
        effort: Effort | None = None,
        batch_s: float = 0.0,
    ) -> _Figure:
        effort = effort or self._effort
        batch_s = max(batch_s, self._batch_s)
        warm, runs = 0.0, 0
        while runs == 0 or warm < effort.warmup_s:
            warm += self._seconds(run, 1)
            runs += 1
        batch = max(1, math.ceil(batch_s * runs / warm)) if warm > 0 else 1
        times: list[float] = []
        while not _enough(times, batch, effort):
            times.append(self._seconds(run, batch) / batch)
        q1, median, q3 = _quartiles(times)
        return _Figure(how, amount, min(times), q1, median, q3, len(times))

    def _seconds(self, run: Callable[[], object], count: int) -> float:
        self._synchronise()
        start = self._clock()
        for _ in range(count):
            run()
        self._synchronise()
        return self._clock() - start

    def _has_bfloat16(self) -> bool:
        return backend_of(self._device).lacks("bfloat16", self._device) is None

    def _keep(self, note: str | None) -> None:
        if note is not None:
            self._notes.append(note)

    def _method(self, read: _Figure, copy: _Figure, products: dict[str, _Figure]) -> str:
        sizes = ", ".join(f"{dtype} {figure.how}" for dtype, figure in products.items())
        exact = torch.get_float32_matmul_precision() == "highest"
        return (
            f"Medians. Read: {read.how} over {read.amount / _MIB:.0f} MiB, fastest of torch.mv, "
            f"linear and torch.sum. Copy: {copy.amount / _MIB:.0f} MiB, half read and half "
            f"written. FLOP/s: torch.mm, {sizes}; float32 "
            f"{'without' if exact else 'as torch was set, with'} TF32 and the like. Overhead: "
            f"{self._effort.launches} additions to one number."
        )


def _next_product(vectors: torch.Tensor, matrices: Iterator[torch.Tensor]) -> torch.Tensor:
    return functional.linear(vectors, next(matrices))


def _with_readings(rates: Rates, load: float | None, readings: Readings) -> Rates:
    return dataclasses.replace(
        rates,
        load_average=load,
        other_cpu_share=readings.other_cpu_share,
        flags=tuple(trust_flags(readings)),
    )


def _enough(times: list[float], batch: int, effort: Effort) -> bool:
    spent = sum(times) * batch
    if len(times) < 3:
        return False
    if spent >= 2 * effort.seconds:
        return True
    return len(times) >= effort.repeats and spent >= effort.seconds


def _quartiles(times: list[float]) -> tuple[float, float, float]:
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
    return q1, median, q3
