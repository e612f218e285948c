"""Print the results of commands in the formats that they share; see `kvbench.report.records`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    print_comparison,
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
    print_unmatched,
    runs_table,
)
from kvbench.console.rates import rates_table
from kvbench.errors import check_choice
from kvbench.media import for_markdown
from kvbench.plan.case import Case
from kvbench.plan.shipped import about_plan, shipped_plans
from kvbench.records.check import Check
from kvbench.records.columns import kinds_of
from kvbench.records.environment import Environment
from kvbench.records.finding import findings
from kvbench.records.fit import FitResult
from kvbench.records.index import Listed
from kvbench.records.inspection import Arm, Inspection
from kvbench.records.inspection import as_json as inspection_json
from kvbench.records.quality import Quality
from kvbench.records.rates import Rates
from kvbench.records.run import Run, RunInfo
from kvbench.report.compare import (
    Result,
    comparison_json,
    comparison_markdown,
    comparison_records,
)
from kvbench.report.estimate import (
    estimate_data,
    estimate_json,
    estimate_markdown,
    strategy_records,
)
from kvbench.report.fit import fit_reasons, fit_table
from kvbench.report.markdown import markdown_table, summary_markdown
from kvbench.report.quality import quality_table
from kvbench.report.records import FORMATS, WRITERS, Record, Records
from kvbench.report.table import Table, check_table
from kvbench.report.walk_page import walk_page
from kvbench.report.words import chosen_baseline, proof
from kvbench.theory.cache import cache_bytes_per_token
from kvbench.theory.estimate import Estimate

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "check_format",
    "show_caches",
    "show_cases",
    "show_checks",
    "show_comparison",
    "show_configs",
    "show_environment",
    "show_estimate",
    "show_fits",
    "show_inspections",
    "show_models",
    "show_qualities",
    "show_rates",
    "show_run",
    "show_runs",
    "show_saved",
]


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
    # The view has printed JSON lines, one per sample.
    if output not in ("table", "jsonl"):
        _show_summaries(run, summarize_run(run), output)


def _show_summaries(run: Run, cases: Sequence[CaseSummary], output: str) -> None:
    if output == "markdown":
        recommended = recommend(cases, run.samples)
        print(summary_markdown(run.info, cases, recommended=recommended), end="")
    else:
        rows = [dataclasses.asdict(case) for case in cases]
        if output in ("jsonl", "sql"):
            # These are collected over several runs.
            rows = [_origin(run.info, case) | row for case, row in zip(cases, rows, strict=True)]
        _print_records(Records("kvbench_cases", rows, kinds_of(CaseSummary)), output)


def _origin(info: RunInfo, case: CaseSummary) -> dict[str, str]:
    """Return the run that a case is from, and what it ran on."""
    return {
        "run": info.name,
        "run_started_at": info.started_at,
        "kvbench_version": info.kvbench,
        "hardware": info.environment.hardware(case.device),
    }


def show_comparison(result: Result, output: str) -> None:
    """Print a comparison; where its rows alone are printed, the rest goes to standard error."""
    if output == "table":
        print_comparison(make_console(), result)
    elif output == "json":
        print_json_text(comparison_json(result))
    elif output == "markdown":
        print(comparison_markdown(result), end="")
    else:
        _print_records(comparison_records(result), output)
        print_unmatched(make_console(stderr=True), result)


def show_cases(cases: Sequence[Case], output: str, forecast: Forecast) -> None:
    """Print the cases of a plan and their forecast cost, without running them."""
    records = [{"case_id": case.id} | dataclasses.asdict(case) for case in cases]
    if output == "table":
        print_cases(make_console(), cases, forecast)
    elif output == "markdown":
        _print_markdown(cases_table(cases, forecast))
    else:
        _print_records(Records("kvbench_planned", records), output)


def show_caches(environment: Environment, output: str) -> None:
    """Print the cache strategies and which of them this machine can run."""
    if output == "table":
        print_caches(make_console(), environment)
    elif output == "markdown":
        _print_markdown(caches_table(caches_found(environment)))
    else:
        _print_records(Records("kvbench_strategies", caches_found(environment)), output)


def show_runs(folder: Path, found: Sequence[Listed], output: str) -> None:
    """Print the runs in a folder."""
    if output == "table":
        print_runs(make_console(), folder, found)
    elif output == "markdown":
        print(markdown_table(runs_table(found)))
    else:
        _print_records(Records("kvbench_runs", [_run_record(run) for run in found]), output)


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
        _print_records(Records("kvbench_models", records), output)


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
        _print_records(Records("kvbench_configs", records), output)


def _configs_table() -> Table:
    """Return one row per plan that comes with kvbench: its name and the question it answers."""
    rows = tuple((name, about_plan(path)) for name, path in shipped_plans().items())
    caption = "`kvbench sweep NAME` runs one; options override its keys."
    return Table(("name", "question"), rows, (False, False), caption)


def show_environment(environment: Environment, output: str) -> None:
    """Print the machine: as JSON as in run.json, otherwise one row per fact."""
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
            rows = [{"fact": name, "value": value} for name, value in facts]
            _print_records(Records("kvbench_facts", rows), output)


def show_rates(found: Sequence[Rates], stored: Path | None, output: str) -> None:
    """Print the rates of `kvbench probe`; `stored` is None if they could not be stored."""
    if output == "table":
        print_rates(make_console(), found, stored)
    elif output == "markdown":
        _print_markdown(rates_table(found))
    else:
        _print_dataclasses("kvbench_rates", found, output)


def show_checks(checks: Sequence[Check], output: str) -> None:
    """Print verification results: one row per check."""
    if output == "table":
        print_checks(make_console(), checks)
    elif output == "markdown":
        _print_markdown(check_table(checks))
        for finding in findings(checks):
            print(f"\n{for_markdown(proof(finding))}")
    else:
        _print_dataclasses("kvbench_checks", checks, output)


def show_qualities(rows: Sequence[Quality], output: str) -> None:
    """Print how strategies change the output: one row per strategy and model."""
    if output == "table":
        print_table(make_console(), quality_table(rows))
    elif output == "markdown":
        _print_markdown(quality_table(rows))
    else:
        _print_dataclasses("kvbench_quality", rows, output)


def show_estimate(found: Estimate, output: str, *, by_strategy: bool = False) -> None:
    """Print an estimate: as records one per device, repeating the values that all devices share.

    With `by_strategy`, one per cache strategy and device instead.
    """
    if output == "table":
        print_estimate(make_console(), found)
    elif output == "json":
        print_json_text(estimate_json(found))
    elif output == "markdown":
        print(estimate_markdown(found), end="")
    elif by_strategy:
        _print_records(
            Records("kvbench_estimates_by_strategy", list(strategy_records(found))), output
        )
    else:
        whole = estimate_data(found)
        work, floors = whole.pop("work"), whole.pop("floors")
        left_out = ("formula", "notes", "strategies")
        common = work | {name: v for name, v in whole.items() if name not in left_out}
        rows = [common | floor for floor in floors] or [common]
        _print_records(Records("kvbench_estimates", rows), output)


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
        _print_dataclasses("kvbench_fits", rows, output)


def show_inspections(found: Sequence[Inspection], output: str) -> None:
    """Print an inspection: as records one per strategy and step. A page shows several."""
    inspection = found[0]
    if output == "html":
        print(walk_page(found), end="")
    elif output == "table":
        print_inspection(make_console(), inspection)
    elif output == "json":
        print_json(inspection_json(inspection))
    elif output == "markdown":
        print(inspection_markdown(inspection))
    else:
        rows = [*_step_records(inspection.off), *_step_records(inspection.cached)]
        _print_records(Records("kvbench_steps", rows), output)


def _step_records(arm: Arm) -> Iterator[Record]:
    for number, step in enumerate(arm.steps, 1):
        fields = dataclasses.asdict(step) | {"cache": arm.cache, "cache_shape": step.cache_shape}
        yield {"strategy": fields.pop("cache"), "step": number} | fields


def _print_dataclasses(table: str, found: Sequence[DataclassInstance], output: str) -> None:
    kinds = kinds_of(type(found[0])) if found else {}
    rows = [dataclasses.asdict(one) for one in found]
    _print_records(Records(table, rows, kinds), output)


def _print_records(records: Records, output: str) -> None:
    text = WRITERS[output](records, getattr(sys.stdout, "encoding", None))
    print(text, end="", flush=True)


def _print_markdown(table: Table) -> None:
    print(markdown_table(table))
    if table.caption:
        print(f"\n{for_markdown(table.caption)}")
