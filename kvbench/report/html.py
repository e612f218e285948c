"""Build report.html: one self-contained file that opens without a network."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from kvbench.analysis.summary import CaseSummary
from kvbench.plan.axes import TABLE_ORDER, Axis
from kvbench.records.run import RunInfo
from kvbench.report.expected import expectation_sentences
from kvbench.report.figures import Drawing, Material
from kvbench.report.flags import doubts
from kvbench.report.growth import growth_sentences
from kvbench.report.table import (
    IN_EACH_ROW,
    energy_text,
    expected_text,
    failures,
    pair_table,
    speedup_text,
    time_text,
)
from kvbench.report.units import mib, seconds, significant
from kvbench.report.words import answers, proof, shown_findings
from kvbench.text import printable, shorten
from kvbench.version import __version__

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["report_html"]


def report_html(material: Material, drawings: Sequence[Drawing]) -> str:
    """Return the whole report of one or more runs. The same runs give the same text."""
    cases = [case for found in material.summaries.values() for case in found]
    columns = [c for c in _COLUMNS if c.shown(material)]
    infos = [run.info for run in material.runs]
    return _template().render(
        title=", ".join(material.summaries),
        answers=_of_each(material, answers),
        proofs=[
            (proof(finding), finding.verdict == "fail")
            for i in infos
            for finding in shown_findings(i)
        ],
        warnings=[warning for info in infos for warning in _warnings(info)],
        columns=columns,
        rows=[
            [column.of(name, case) for column in columns]
            for name, found in material.summaries.items()
            for case in found
        ],
        caption=pair_table(cases).caption,
        failures=_of_each(material, failures),
        flags=doubts(cases),
        expected=_of_each_run(material, expectation_sentences),
        growth=_of_each(material, growth_sentences),
        charts=[
            {
                "name": drawing.chart.name,
                "title": drawing.chart.title,
                "question": drawing.chart.question,
                "svg": _inline(drawing),
            }
            for drawing in drawings
        ],
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
    numeric: bool


@dataclass(frozen=True)
class _Column:
    head: str
    value: Callable[[str, CaseSummary], Any]
    text: Callable[[CaseSummary, Any], str] = lambda case, value: str(value)
    numeric: bool = True
    # Left out if it is the same in each row.
    only_if_varied: bool = False

    def of(self, run: str, case: CaseSummary) -> _Cell:
        value = self.value(run, case)
        if value is None:
            return _Cell("-", "", self.numeric)
        key = repr(float(value)) if self.numeric else str(value)
        return _Cell(self.text(case, value), key, self.numeric)

    def shown(self, material: Material) -> bool:
        found = {
            self.value(name, case) for name, cases in material.summaries.items() for case in cases
        }
        return len(found) > 1 if self.only_if_varied else found != {None}


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
        only_if_varied=axis.name not in ("device", *IN_EACH_ROW),
    )


_COLUMNS = (
    _Column("run", lambda run, case: run, numeric=False, only_if_varied=True),
    *(_axis_column(axis) for axis in sorted(TABLE_ORDER, key=lambda axis: not axis.in_group)),
    _field("status", "status", numeric=False, only_if_varied=True),
    _field("samples", "samples"),
    _Column("time", lambda run, case: case.total_s_median, lambda case, value: time_text(case)),
    _Column("speed-up", lambda run, case: case.speedup, lambda case, value: speedup_text(case)),
    _Column(
        "expected",
        lambda run, case: None if case.expected_from == "bounds" else case.expected_speedup,
        lambda case, value: expected_text(case),
    ),
    _field("lower bound", "floor_s", seconds),
    _field("limited by", "limited_by", numeric=False),
    _field("tok/s", "tokens_per_s_median", significant),
    _field("first token", "ttft_s_median", seconds),
    _field("between tokens", "itl_s_median", seconds),
    _field("cache MiB", "kv_cache_bytes", mib),
    _field("peak MiB", "memory_peak_bytes", mib),
    _field("J/token", "energy_j_per_token", significant),
    _Column(
        "less energy", lambda run, case: case.energy_ratio, lambda case, value: energy_text(case)
    ),
    _field("first pass", "cold_s", seconds),
    _field("compiling", "compile_s", seconds),
    _field("flags", "flags", numeric=False),
)


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = resources.files("kvbench.report").joinpath("templates/report.html.j2")
    # Everything is escaped except the charts, which are ours.
    engine = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A model's name or an error may contain control characters.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return engine.from_string(source.read_text(encoding="utf-8"))


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
        found.append(
            f"{info.name}: whether the arms do the same work was not checked (--no-verify)."
        )
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
        "CUDA of torch": env.cuda,
        **env.versions,
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _often(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _inline(drawing: Drawing) -> Any:
    from markupsafe import Markup, escape

    chart, text = drawing.chart, drawing.image("svg").decode("utf-8")
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    # All charts are in one document, where an id must be unique.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{chart.name}-", text)
    seen: Counter[str] = Counter()

    def once(found: re.Match[str]) -> str:
        # matplotlib derives a picture's id from its contents, so pictures with one id are equal:
        # a reference may resolve to any of them.
        seen[found[1]] += 1
        return found[0] if seen[found[1]] == 1 else f'id="{found[1]}-{seen[found[1]]}"'

    text = re.sub(r'\bid="([^"]+)"', once, text)
    label = escape(f"{chart.title}: {chart.question}")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
