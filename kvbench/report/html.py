"""Build report.html: one self-contained file that opens without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kvbench.analysis.summary import CaseSummary, pair_key
from kvbench.plan.axes import AXES, TABLE_ORDER, Axis
from kvbench.records.run import RunInfo
from kvbench.report.expected import expectation_sentences
from kvbench.report.figures import Drawing, Material
from kvbench.report.figures.inline import Styles, inline
from kvbench.report.flags import doubts
from kvbench.report.growth import growth_sentences
from kvbench.report.pages import own_text, render_page
from kvbench.report.recommend import recommendation_sentences
from kvbench.report.table import (
    energy_text,
    expected_text,
    failures,
    pair_table,
    speedup_text,
    time_text,
)
from kvbench.report.units import mib, seconds, significant
from kvbench.report.words import answers, proof, shown_findings
from kvbench.text import shorten
from kvbench.version import __version__

__all__ = ["report_html"]


def report_html(material: Material, drawings: Sequence[Drawing]) -> str:
    """Return the whole report of one or more runs. The same runs give the same text."""
    cases = [case for found in material.summaries.values() for case in found]
    columns = [c for c in _COLUMNS if c.shown(material)]
    infos = [run.info for run in material.runs]
    found = [finding for info in infos for finding in shown_findings(info)]
    styles = Styles()
    charts = [_chart(drawing, styles) for drawing in drawings]
    return render_page(
        "report.html.j2",
        # Ours as they are, and nothing in them of a run.
        css=own_text("report.css", styles.css),
        script=own_text("report.js"),
        title=", ".join(material.summaries),
        answers=_of_each(material, answers),
        recommended=[
            f"{name}: {sentence}" if len(material.runs) > 1 else sentence
            for name, found_there in material.recommendations.items()
            for sentence in recommendation_sentences(found_there)
        ],
        proofs=[(proof(finding), finding.verdict == "fail") for finding in found],
        verdicts=", ".join(
            f"{count} {verdict.replace('_', ' ')}"
            for verdict, count in Counter(finding.verdict for finding in found).items()
        ),
        warnings=[warning for info in infos for warning in _warnings(info)],
        shared=_shared(material),
        columns=columns,
        filters=_filters(material, columns),
        rows=_rows(material, columns),
        caption=pair_table(cases).caption,
        failures=_of_each(material, failures),
        flags=doubts(cases),
        expected=_of_each_run(material, expectation_sentences),
        growth=_of_each(material, growth_sentences),
        charts=charts,
        runs=[
            {"name": name, "facts": _facts(run.info), "notes": run.info.notes}
            for name, run in zip(material.summaries, material.runs, strict=True)
        ],
        version=__version__,
    )


@dataclass(frozen=True)
class _Cell:
    text: str
    key: str
    share: int = 0


@dataclass(frozen=True)
class _Column:
    head: str
    value: Callable[[str, CaseSummary], Any]
    text: Callable[[CaseSummary, Any], str] = lambda case, value: str(value)
    numeric: bool = True
    # Left out if it is the same in each row, unless that is one of these.
    only_if_varied: bool = False
    told: tuple[str, ...] = ()
    # What makes a case, so that it stays in sight.
    is_key: bool = False
    # Shown when all columns are asked for.
    is_detail: bool = False
    # A bar behind the number shows its share of the largest of the comparison group.
    has_bar: bool = False

    @property
    def kind(self) -> str:
        """The classes of its cells."""
        flags = {"number": self.numeric, "key": self.is_key, "detail": self.is_detail}
        return " ".join(name for name, is_so in flags.items() if is_so)

    @property
    def is_head(self) -> bool:
        """Whether its cells are the heads of their rows: those of the strategies are."""
        return self.head == AXES["cache"].label

    @property
    def tag(self) -> str:
        """The element of its cells."""
        return "th" if self.is_head else "td"

    def of(self, run: str, case: CaseSummary, share: int = 0) -> _Cell:
        value = self.value(run, case)
        if value is None:
            return _Cell("-", "")
        key = repr(float(value)) if self.numeric else str(value)
        return _Cell(self.text(case, value), key, share)

    def shown(self, material: Material) -> bool:
        found = {
            self.value(name, case) for name, cases in material.summaries.items() for case in cases
        }
        if self.only_if_varied:
            return len(found) > 1 or not found.isdisjoint(self.told)
        return found != {None}


def _field(
    head: str, name: str, text: Callable[[Any], str] = str, numeric: bool = True, **more: Any
) -> _Column:
    def value(run: str, case: CaseSummary) -> Any:
        return getattr(case, name)

    return _Column(head, value, lambda case, value: text(value), numeric, **more)


def _axis_column(axis: Axis) -> _Column:
    return _field(
        axis.label,
        axis.name,
        (lambda label: shorten(str(label))) if axis.name == "prompt" else str,
        numeric=axis.is_number,
        only_if_varied=axis.name != "cache",
        told=axis.told,
        is_key=True,
    )


# The strategies are what is compared; then what makes another comparison, sizes last.
_COLUMNS = (
    _axis_column(AXES["cache"]),
    _Column("run", lambda run, case: run, numeric=False, only_if_varied=True, is_key=True),
    *(
        _axis_column(axis)
        for axis in sorted(TABLE_ORDER, key=lambda axis: not axis.in_group)
        if axis.name != "cache"
    ),
    _field("status", "status", numeric=False, only_if_varied=True),
    _Column(
        "time",
        lambda run, case: case.total_s_median,
        lambda case, value: time_text(case),
        has_bar=True,
    ),
    _Column("speedup", lambda run, case: case.speedup, lambda case, value: speedup_text(case)),
    _field("tok/s", "tokens_per_s_median", significant),
    _field("first token", "ttft_s_median", seconds),
    _field("between tokens", "itl_s_median", seconds),
    _field("cache MiB", "kv_cache_bytes", mib),
    _field("allocated MiB", "cache_allocated_bytes", mib, is_detail=True),
    _field("peak MiB", "memory_peak_bytes", mib),
    _field("J/token", "energy_j_per_token", significant),
    _Column(
        "less energy", lambda run, case: case.energy_ratio, lambda case, value: energy_text(case)
    ),
    _field("perplexity", "perplexity_ratio", "{:.4g}x".format),
    _field("KL", "kl_divergence", significant, is_detail=True),
    _field("same top-1", "top1_agreement", "{:.1%}".format, is_detail=True),
    _field("samples", "samples", is_detail=True),
    _Column(
        "expected",
        lambda run, case: None if case.expected_from == "bounds" else case.expected_speedup,
        lambda case, value: expected_text(case),
        is_detail=True,
    ),
    _field("lower bound", "floor_s", seconds, is_detail=True),
    _field("limited by", "limited_by", numeric=False, is_detail=True),
    _field("first pass", "cold_s", seconds, is_detail=True),
    _field("compiling", "compile_s", seconds, is_detail=True),
    _field("flags", "flags", numeric=False),
)


@dataclass(frozen=True)
class _Row:
    cells: list[tuple[_Column, _Cell]]
    first: bool
    """Whether it is the first of its comparison group."""


def _rows(material: Material, columns: Sequence[_Column]) -> list[_Row]:
    rows = []
    for name, cases in material.summaries.items():
        slowest: dict[object, float] = {}
        for case in cases:
            key = pair_key(case)
            slowest[key] = max(slowest.get(key, 0.0), case.total_s_median or 0.0)
        before: object = None
        for case in cases:
            key = pair_key(case)
            share = round(100 * (case.total_s_median or 0.0) / (slowest[key] or 1.0))
            cells = [(c, c.of(name, case, share if c.has_bar else 0)) for c in columns]
            rows.append(_Row(cells, key != before))
            before = key
    return rows


def _filters(material: Material, columns: Sequence[_Column]) -> list[tuple[_Column, list[str]]]:
    """Return the text columns that identify a case and have several values, with those values."""
    found = []
    for column in columns:
        if column.is_key and not column.numeric and column.head != AXES["prompt"].label:
            cells = (
                column.of(name, case).text
                for name, cases in material.summaries.items()
                for case in cases
            )
            values = list(dict.fromkeys(cells))
            if len(values) > 1:
                found.append((column, values))
    return found


def _shared(material: Material) -> str:
    """Return what all cases share, and where they were measured."""
    found = []
    for axis in TABLE_ORDER:
        values = {
            getattr(case, axis.name) for cases in material.summaries.values() for case in cases
        }
        if len(values) == 1 and axis.name not in ("cache", "device"):
            value = shorten(str(values.pop()))
            if axis.is_added and value == str(axis.legacy):
                continue
            found.append(axis.phrase(value))
    places = dict.fromkeys(
        f"{case.device} ({run.info.environment.hardware(case.device)})"
        for run, cases in zip(material.runs, material.summaries.values(), strict=True)
        for case in cases
    )
    return " · ".join(
        [*places, *found, *dict.fromkeys(r.info.started_at[:10] for r in material.runs)]
    )


def _chart(drawing: Drawing, styles: Styles) -> dict[str, Any]:
    from markupsafe import Markup

    image = inline(drawing, styles)
    return {
        "name": drawing.chart.name,
        "title": drawing.chart.title,
        "question": drawing.chart.question,
        "image": image,
        "svg": Markup(image.svg),
    }


def _of_each(
    material: Material, words: Callable[[Sequence[CaseSummary]], Iterable[str]]
) -> list[str]:
    """Return sentences about the cases of each run, prefixed with its name if there are several."""
    return _of_each_run(material, lambda cases, info: words(cases))


def _of_each_run(
    material: Material, words: Callable[[Sequence[CaseSummary], RunInfo], Iterable[str]]
) -> list[str]:
    several = len(material.runs) > 1
    return [
        f"{name}: {sentence}" if several else sentence
        for (name, cases), run in zip(material.summaries.items(), material.runs, strict=True)
        for sentence in words(cases, run.info)
    ]


def _warnings(info: RunInfo) -> list[str]:
    found = []
    if info.state != "finished":
        found.append(f"{info.name} is not complete: it is {info.state}.")
    if not info.findings and info.plan.get("verify") is False:
        found.append(f"{info.name}: the output was not checked (--no-verify).")
    return found


def _facts(info: RunInfo) -> list[tuple[str, str]]:
    env = info.environment
    facts = {
        "run": info.name,
        "state": info.state,
        "started": info.started_at,
        "ended": info.ended_at,
        "resumed": _often(len(info.resumes)) if info.resumes else None,
        "command": " ".join(info.command),
        "platform": env.platform,
        "Python": env.python,
        "CPU": f"{env.cpu}, {env.usable_cpus} of {env.logical_cpus} usable, {env.threads} threads",
        "memory": f"{env.memory_bytes / 2**30:.1f} GiB",
        "CPU governor": env.governor,
        **{f"device {device.name}": device.hardware for device in env.devices},
        "NVIDIA driver": env.driver,
        "CUDA version of torch": env.cuda,
        **env.versions,
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _often(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
