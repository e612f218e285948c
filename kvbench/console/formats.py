"""Print the results of commands in the formats that they share: csv, json and markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvbench.analysis.expected import summarize_run
from kvbench.analysis.forecast import Forecast
from kvbench.analysis.recommend import recommend
from kvbench.analysis.summary import CaseSummary
from kvbench.catalogue import CATALOGUE
from kvbench.console.inspection import inspection_markdown, print_inspection
from kvbench.console.printing import (
    caches_found,
    caches_table,
    cases_table,
    environment_facts,
    make_console,
    models_table,
    print_caches,
    print_cases,
    print_checks,
    print_environment,
    print_estimate,
    print_json,
    print_json_text,
    print_models,
    print_rates,
    print_run,
    print_runs,
    print_saved,
    print_sentences,
    print_table,
    runs_table,
)
from kvbench.console.rates import rates_table
from kvbench.errors import check_choice
from kvbench.media import for_csv, for_markdown
from kvbench.plan.case import Case
from kvbench.plan.shipped import about_plan, shipped_plans
from kvbench.records.check import Check
from kvbench.records.columns import to_text
from kvbench.records.environment import Environment
from kvbench.records.finding import findings
from kvbench.records.fit import FitResult
from kvbench.records.index import Listed
from kvbench.records.inspection import Arm, Inspection
from kvbench.records.inspection import as_json as inspection_json
from kvbench.records.quality import Quality
from kvbench.records.rates import Rates
from kvbench.records.run import Run
from kvbench.report.estimate import (
    estimate_data,
    estimate_json,
    estimate_markdown,
    strategy_records,
)
from kvbench.report.fit import fit_reasons, fit_table
from kvbench.report.markdown import markdown_table, summary_markdown
from kvbench.report.quality import quality_table
from kvbench.report.table import Table, check_table
from kvbench.report.words import chosen_baseline, proof
from kvbench.theory.cache import cache_bytes_per_token
from kvbench.theory.estimate import Estimate

__all__ = [
    "FORMATS",
    "check_format",
    "show_caches",
    "show_cases",
    "show_checks",
    "show_configs",
    "show_environment",
    "show_estimate",
    "show_fits",
    "show_inspection",
    "show_models",
    "show_qualities",
    "show_rates",
    "show_run",
    "show_runs",
    "show_saved",
]

FORMATS = ("table", "csv", "json", "markdown")

Record = Mapping[str, Any]


def check_format(output: str, *more: str) -> None:
    """Refuse an unknown format; `more` are formats that only one command has.

    Raises:
        UserError: the format is unknown; the message lists the formats.
    """
    check_choice("--format", "format", output, (*FORMATS, *more))


def show_saved(run: Run, output: str, baseline: str | None = None) -> None:
    """Print a saved run: as JSON and CSV, one summary per case, as in summary.csv.

    Raises:
        UserError: `baseline`, the strategy that the others are compared with, was not measured.
    """
    chosen = chosen_baseline(baseline, [sample.cache for sample in run.samples])
    cases = summarize_run(run, chosen)
    if output == "table":
        print_saved(make_console(), run, cases)
    else:
        _show_summaries(run, cases, output)


def show_run(run: Run, output: str) -> None:
    """Print the result of a sweep: data on standard output, the rest on standard error."""
    print_run(make_console(stderr=output != "table"), run)
    if output in ("csv", "json", "markdown"):
        _show_summaries(run, summarize_run(run), output)


def _show_summaries(run: Run, cases: Sequence[CaseSummary], output: str) -> None:
    if output == "markdown":
        recommended = recommend(cases, run.samples)
        print(summary_markdown(run.info, cases, recommended=recommended), end="")
    else:
        _print_records([dataclasses.asdict(case) for case in cases], output)


def show_cases(cases: Sequence[Case], output: str, forecast: Forecast) -> None:
    """Print the cases of a plan and their forecast cost, without running them."""
    records = [{"case_id": case.id} | dataclasses.asdict(case) for case in cases]
    if output == "table":
        print_cases(make_console(), cases, forecast)
    elif output == "markdown":
        _print_markdown(cases_table(cases, forecast))
    elif output == "jsonl":
        for record in records:
            print_json(record)
    else:
        _print_records(records, output)


def show_caches(environment: Environment, output: str) -> None:
    """Print the cache strategies and which of them this machine can run."""
    if output == "table":
        print_caches(make_console(), environment)
    elif output == "markdown":
        _print_markdown(caches_table(caches_found(environment)))
    else:
        _print_records(caches_found(environment), output)


def show_runs(folder: Path, found: Sequence[Listed], output: str) -> None:
    """Print the runs in a folder."""
    if output == "table":
        print_runs(make_console(), folder, found)
    elif output == "markdown":
        print(markdown_table(runs_table(found)))
    else:
        _print_records([_run_record(run) for run in found], output)


def _run_record(run: Listed) -> Record:
    info = run.info
    return {
        "name": run.path.name,
        "models": None if info is None else _distinct(info.cases, "model"),
        "devices": None if info is None else _distinct(info.cases, "device"),
        "cases": None if info is None else len(info.cases),
        "started_at": None if info is None else info.started_at,
        "state": run.state,
    }


def _distinct(cases: Iterable[Record], key: str) -> list[str]:
    return list(dict.fromkeys(str(case.get(key)) for case in cases))


def show_models(dtype: str, output: str) -> None:
    """Print the built-in architectures."""
    if output == "table":
        print_models(make_console(), dtype)
    elif output == "markdown":
        _print_markdown(models_table(dtype))
    else:
        records = [
            {
                "model": entry.name,
                "parameters": entry.parameters,
                "cache_bytes_per_token": cache_bytes_per_token(entry.config, dtype),
                "positions": entry.config.get("n_positions")
                or entry.config.get("max_position_embeddings"),
                "window": entry.config.get("sliding_window"),
            }
            for entry in CATALOGUE.values()
        ]
        _print_records(records, output)


def show_configs(output: str) -> None:
    """Print the plans that come with kvbench."""
    if output == "table":
        print_table(make_console(), _configs_table())
    elif output == "markdown":
        _print_markdown(_configs_table())
    else:
        records = [
            {"name": name, "question": about_plan(path), "path": str(path)}
            for name, path in shipped_plans().items()
        ]
        _print_records(records, output)


def _configs_table() -> Table:
    """Return one row per plan that comes with kvbench: its name and the question it answers."""
    rows = tuple((name, about_plan(path)) for name, path in shipped_plans().items())
    caption = "`kvbench sweep NAME` runs one; options override its keys."
    return Table(("name", "question"), rows, (False, False), caption)


def show_environment(environment: Environment, output: str) -> None:
    """Print the machine: as JSON as in run.json, as CSV and Markdown one row per fact."""
    if output == "table":
        print_environment(make_console(), environment)
    elif output == "json":
        print_json(dataclasses.asdict(environment), indent=2)
    else:
        facts = [
            (name, "-" if value is None else str(value))
            for name, value in environment_facts(environment)
        ]
        facts += [("missing", sentence) for sentence in environment.missing]
        if output == "markdown":
            _print_markdown(Table(("fact", "value"), tuple(facts), (False, False), ""))
        else:
            _print_csv([{"fact": name, "value": value} for name, value in facts])


def show_rates(found: Sequence[Rates], stored: Path | None, output: str) -> None:
    """Print the rates of `kvbench probe`; `stored` is None if they could not be stored."""
    if output == "table":
        print_rates(make_console(), found, stored)
    elif output == "markdown":
        _print_markdown(rates_table(found))
    else:
        _print_records([dataclasses.asdict(rates) for rates in found], output)


def show_checks(checks: Sequence[Check], output: str) -> None:
    """Print verification results: one row per check."""
    if output == "table":
        print_checks(make_console(), checks)
    elif output == "markdown":
        _print_markdown(check_table(checks))
        for finding in findings(checks):
            print(f"\n{for_markdown(proof(finding))}")
    else:
        _print_records([dataclasses.asdict(check) for check in checks], output)


def show_qualities(rows: Sequence[Quality], output: str) -> None:
    """Print how strategies change the output: one row per strategy and model."""
    if output == "table":
        print_table(make_console(), quality_table(rows))
    elif output == "markdown":
        _print_markdown(quality_table(rows))
    else:
        _print_records([dataclasses.asdict(row) for row in rows], output)


def show_estimate(found: Estimate, output: str, *, by_strategy: bool = False) -> None:
    """Print an estimate: as CSV one row per device, repeating the values that all devices share.

    With `by_strategy`, CSV has one row per cache strategy and device instead.
    """
    if output == "table":
        print_estimate(make_console(), found)
    elif output == "json":
        print_json_text(estimate_json(found))
    elif output == "markdown":
        print(estimate_markdown(found), end="")
    elif by_strategy:
        _print_csv(list(strategy_records(found)))
    else:
        whole = estimate_data(found)
        work, floors = whole.pop("work"), whole.pop("floors")
        left_out = ("formula", "notes", "strategies")
        common = work | {name: v for name, v in whole.items() if name not in left_out}
        _print_csv([common | floor for floor in floors] or [common])


def show_fits(rows: Sequence[FitResult], output: str) -> None:
    """Print what fits: one row per model and strategy."""
    if output == "table":
        console = make_console()
        print_table(console, fit_table(rows))
        print_sentences(console, fit_reasons(rows))
    elif output == "markdown":
        _print_markdown(fit_table(rows))
        for reason in fit_reasons(rows):
            print(f"\n{for_markdown(reason)}")
    else:
        _print_records([dataclasses.asdict(row) for row in rows], output)


def show_inspection(inspection: Inspection, output: str) -> None:
    """Print an inspection: as CSV one row per strategy and step."""
    if output == "table":
        print_inspection(make_console(), inspection)
    elif output == "json":
        print_json(inspection_json(inspection))
    elif output == "markdown":
        print(inspection_markdown(inspection))
    else:
        _print_csv([*_step_records(inspection.off), *_step_records(inspection.cached)])


def _step_records(arm: Arm) -> Iterator[Record]:
    for number, step in enumerate(arm.steps, 1):
        fields = dataclasses.asdict(step) | {"cache": arm.cache, "cache_shape": step.cache_shape}
        yield {"strategy": fields.pop("cache"), "step": number} | fields


def _print_records(records: Sequence[Record], output: str) -> None:
    if output == "json":
        print_json(records, indent=2)
    else:
        _print_csv(records)


def _print_csv(records: Sequence[Record]) -> None:
    flat = [dict(_flat(record)) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(names)
    writer.writerows([_cell(record.get(name)) for name in names] for record in flat)
    print(buffer.getvalue(), end="")


def _flat(record: Record, before: str = "") -> Iterator[tuple[str, Any]]:
    """Give each key of a mapping in a record its own column: `flops_per_s.float32`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return for_csv(value)
    if isinstance(value, (list, tuple)):
        return for_csv(json.dumps(value, ensure_ascii=False))
    return to_text(value)


def _print_markdown(table: Table) -> None:
    print(markdown_table(table))
    if table.caption:
        print(f"\n{for_markdown(table.caption)}")
