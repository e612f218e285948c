"""Format rates for the table of `kvbench probe` and the lines of `kvbench env`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvbench.dtypes import DTYPES
from kvbench.records.environment import Device
from kvbench.records.rates import Rates
from kvbench.report.table import Table
from kvbench.report.units import significant
from kvbench.theory.peaks import published

__all__ = ["rates_doubts", "rates_line", "rates_table"]

_CAPTION = (
    "Medians (with quartiles). Copied bytes count twice: read and written. A multiply-add counts "
    "as 2; float32 on CUDA is without TF32. layer: overhead of one decoder layer in Transformers, "
    "with hardly any arithmetic."
)
_NOT_PROBED = "not probed: run kvbench probe"
_FLAGS = {
    "busy_cpu": "other processes used {share} of the CPUs during the probe",
    "busy_gpu": "another compute process was on the GPU",
    "throttled": "the GPU's clocks were throttled",
}


def rates_table(found: Sequence[Rates]) -> Table:
    """Return one row per device, and below it the published rates and the fraction reached."""
    heads = (
        "device",
        "",
        "read GB/s",
        "copy GB/s",
        *(f"{d} TFLOP/s" for d in DTYPES),
        "launch us",
        "layer us",
    )
    rows = tuple(row for rates in found for row in _rows(rates))
    return Table(heads, rows, (False, False, *(True,) * (len(heads) - 2)), _CAPTION)


def rates_line(device: Device, known: Iterable[Rates]) -> str:
    """Return one line for a device: what was probed and when, if it was, and published rates."""
    rates = next((one for one in known if one.device == device.name), None)
    if rates is not None:
        day = (rates.measured_at or "")[:10]
        return f"{_in_words(rates)}; probed {day}" + (", unreliable" if rates.flags else "")
    peak = published(device.hardware, device.name)
    return _NOT_PROBED if peak is None else f"{_NOT_PROBED}; published: {_in_words(peak)}"


def _in_words(rates: Rates) -> str:
    words = [f"read {significant(rates.read_bytes_per_s / 1e9)} GB/s"]
    if rates.copy_bytes_per_s is not None:
        words.append(f"copy {significant(rates.copy_bytes_per_s / 1e9)} GB/s")
    words += [
        f"{dtype} {significant(rate / 1e12)} TFLOP/s" for dtype, rate in rates.flops_per_s.items()
    ]
    if rates.overhead_s is not None:
        words.append(f"launch {significant(rates.overhead_s * 1e6)} us")
    return ", ".join(words)


def _rows(rates: Rates) -> list[tuple[str, ...]]:
    probed = _figures(rates)
    rows = [(rates.device, "probed", *(_cell(rates, name, probed[name]) for name in probed))]
    peak = published(rates.hardware, rates.device)
    if peak is not None:
        limits = _figures(peak)
        rows.append(
            ("", "published", *("-" if v is None else significant(v) for v in limits.values()))
        )
        shares = (_share(probed[name], limits[name]) for name in probed)
        rows.append(("", "share", *shares))
    return rows


def _figures(rates: Rates) -> dict[str, float | None]:
    """Return the rates in the units of the table, by their names in `spread`."""
    figures = {
        "read": (rates.read_bytes_per_s, 1e9),
        "copy": (rates.copy_bytes_per_s, 1e9),
        **{dtype: (rates.flops_per_s.get(dtype), 1e12) for dtype in DTYPES},
        "overhead": (rates.overhead_s, 1e-6),
        "layer": (rates.layer_s, 1e-6),
    }
    return {name: None if v is None else v / unit for name, (v, unit) in figures.items()}


def _cell(rates: Rates, name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name not in rates.spread:
        return significant(value)
    unit = {"read": 1e9, "copy": 1e9, "overhead": 1e-6}.get(name, 1e12)
    low, high = (significant(end / unit) for end in rates.spread[name])
    return f"{significant(value)} ({low} to {high})"


def _share(value: float | None, limit: float | None) -> str:
    return "-" if value is None or limit is None else f"{value / limit:.0%}"


def rates_doubts(rates: Rates) -> list[str]:
    """Return notes on a device's rates: warnings, what was left out, comments on peaks."""
    share = "a part" if rates.other_cpu_share is None else f"{rates.other_cpu_share:.0%}"
    lines = [_FLAGS.get(flag, flag).format(share=share) for flag in rates.flags]
    if lines and rates.load_average is not None:
        lines.append(f"the load average was {rates.load_average:.2f} before the probe")
    if lines:
        lines.append("probe again on an idle machine")
    busy = [f"{rates.device}: {'; '.join(lines)}."] if lines else []
    peak = published(rates.hardware, rates.device)
    notes = (*rates.notes, *(peak.notes if peak else ()))
    return busy + [f"{rates.device}: {note}" for note in notes]
