"""Print what a command prints once: tables, sentences, the environment, the result of a run."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.table import Table as RichTable
from rich.text import Text

from kvbench.analysis.expected import summarize_run
from kvbench.analysis.forecast import Forecast
from kvbench.analysis.recommend import recommend
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import ALL, Situation, expand, installed_names, strategy
from kvbench.catalogue import CATALOGUE
from kvbench.console.rates import rates_doubts, rates_line, rates_table
from kvbench.device_kinds import kind_of
from kvbench.media import for_json, for_terminal
from kvbench.plan.axes import AXES, Axis
from kvbench.plan.case import Case, Prompt
from kvbench.records.check import Check
from kvbench.records.environment import Environment
from kvbench.records.finding import findings
from kvbench.records.index import Listed, state_of
from kvbench.records.rates import Rates
from kvbench.records.run import Run
from kvbench.report.compare import Result, comparison_table
from kvbench.report.estimate import (
    estimate_facts,
    estimate_notes,
    floor_table,
    strategy_table,
)
from kvbench.report.expected import expectation_sentences
from kvbench.report.flags import doubts_beside_a_table
from kvbench.report.growth import growth_sentences
from kvbench.report.plot import speedup_bars
from kvbench.report.recommend import recommendation_sentences
from kvbench.report.table import Table, check_table, failures, pair_table
from kvbench.report.units import about, significant
from kvbench.report.words import answers, proof, proofs
from kvbench.text import printable
from kvbench.theory.cache import cache_bytes_per_token
from kvbench.theory.estimate import Estimate

__all__ = [
    "caches_found",
    "caches_table",
    "cases_table",
    "environment_facts",
    "make_console",
    "models_table",
    "print_caches",
    "print_cases",
    "print_checks",
    "print_comparison",
    "print_environment",
    "print_estimate",
    "print_json",
    "print_json_text",
    "print_models",
    "print_rates",
    "print_run",
    "print_runs",
    "print_saved",
    "print_sentences",
    "print_stopped",
    "print_table",
    "print_unmatched",
    "print_written",
    "runs_table",
]


class _PlainConsole(Console):
    """A console that treats all text as plain text, wherever it came from."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (for_terminal(one) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **options)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints names and prompts unchanged: no markup, emoji or escapes."""
    console = _PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        # A log or a pipe has no width: do not wrap rows at 80.
        console.width = 1000
    elif console.is_dumb_terminal:
        # rich takes every dumb terminal to be 80 wide.
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON on standard output, whatever its encoding."""
    print_json_text(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False))


def print_json_text(document: str) -> None:
    """Print text that is already JSON."""
    print(for_json(document.rstrip("\n"), getattr(sys.stdout, "encoding", None)), flush=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table with its caption; where its columns do not fit, print a block per row."""
    widths = _widths(table, console.width)
    if widths is None:
        _print_records(console, table)
        console.print()
    else:
        drawn = RichTable(
            box=None, pad_edge=False, header_style="bold" if console.is_terminal else ""
        )
        for head, numeric, width in zip(table.heads, table.numeric, widths, strict=True):
            drawn.add_column(head, justify="right" if numeric else "left", width=width)
        for row in table.rows:
            drawn.add_row(*(Text(printable(cell)) for cell in row))
        console.print(drawn)
    if table.caption:
        console.print(printable(table.caption), style="dim", soft_wrap=not console.is_terminal)


def _widths(table: Table, room: int) -> list[int] | None:
    """Return a width for each column that breaks no word, or None where they do not fit.

    Half a number would be wrong, so cells are broken between words only.
    """
    columns = list(zip(table.heads, *table.rows, strict=True))
    full = [max(cell_len(printable(cell)) for cell in cells) for cells in columns]
    widths = [
        max(cell_len(word) for cell in cells for word in (*printable(cell).split(), ""))
        for cells in columns
    ]
    spare = room - sum(widths) - 2 * (len(widths) - 1)
    if spare < 0:
        return None
    # The columns that need least get it first: few are then broken at all.
    for place in sorted(range(len(widths)), key=lambda place: full[place] - widths[place]):
        more = min(full[place] - widths[place], spare)
        widths[place] += more
        spare -= more
    return widths


def _print_records(console: Console, table: Table) -> None:
    """Print a line per cell, for a terminal on which the columns do not fit."""
    for number, row in enumerate(table.rows):
        if number:
            console.print()
        _print_facts(console, [pair for pair in zip(table.heads, row, strict=True) if pair[1]])


def _print_facts(console: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Print names and texts in two columns; a long text is broken between words, and indented."""
    width = max((len(name) for name, _ in facts), default=0)
    if not console.is_terminal:
        for name, text in facts:
            console.print(f"{name.ljust(width)}  {printable(text)}", soft_wrap=True)
        return
    drawn = RichTable.grid(padding=(0, 2, 0, 0), pad_edge=False)
    drawn.add_column(width=width)
    drawn.add_column(overflow="fold")
    for name, text in facts:
        drawn.add_row(Text(name), Text(printable(text)))
    console.print(drawn)


def print_saved(console: Console, run: Run, cases: Sequence[CaseSummary]) -> None:
    """Print the output of `kvbench show`; `cases` is the summary of the run."""
    state = state_of(run.path, run.info)
    head = f"{run.info.name}, {run.info.started_at[:16].replace('T', ' ')} UTC, {state}"
    console.print(printable(head), soft_wrap=True)
    _print_results(console, run, cases)
    bars = speedup_bars(run, cases=cases)
    if bars:
        console.print("\nSpeedup:")
        print_sentences(console, bars)
    expected = expectation_sentences(cases, run.info)
    if expected:
        console.print("\nExpected:")
        print_sentences(console, (f"- {line}" for line in expected))
    growth = growth_sentences(cases)
    if growth:
        console.print("\nGrowth:")
        print_sentences(console, (f"- {line}" for line in growth))
    if state.endswith("resumable"):
        _print_resume(console, run.path)


def print_runs(console: Console, folder: Path, found: Sequence[Listed]) -> None:
    """Print the output of `kvbench runs`: one row per run."""
    if not found:
        console.print(f"{folder}: no runs found.")
        return
    print_table(console, runs_table(found))


def runs_table(found: Sequence[Listed]) -> Table:
    """Return one row per run."""
    rows = tuple(_run_row(run) for run in found)
    heads = ("run", "model", "devices", "cases", "started (UTC)", "state")
    return Table(heads, rows, (False, False, False, True, False, False), "")


def _run_row(run: Listed) -> tuple[str, ...]:
    info = run.info
    if info is None:
        return (run.path.name, "-", "-", "-", "-", run.state)
    models, devices = (
        ", ".join(dict.fromkeys(str(case.get(key)) for case in info.cases))
        for key in ("model", "device")
    )
    started = info.started_at[:16].replace("T", " ")
    return (run.path.name, models, devices, str(len(info.cases)), started, run.state)


def print_run(console: Console, run: Run) -> None:
    """Print the end of a sweep: the table, the answer in words, failures, and the run folder."""
    _print_results(console, run, summarize_run(run))
    if run.info.state == "interrupted":
        console.print("\nInterrupted: everything measured so far is kept.")
        _print_resume(console, run.path)
    console.print("\nFiles:")
    files = (path for path in run.path.rglob("*") if path.is_file())
    print_written(console, sorted(path for path in files if not path.name.startswith(".")))


def _print_results(console: Console, run: Run, cases: Sequence[CaseSummary]) -> None:
    console.print()
    print_table(console, pair_table(cases))
    console.print()
    print_sentences(console, answers(cases), style="bold" if console.is_terminal else None)
    print_sentences(console, recommendation_sentences(recommend(cases, run.samples)))
    print_sentences(console, proofs(run.info))
    doubtful = doubts_beside_a_table(cases)
    if doubtful:
        console.print("\nWarnings:")
        print_sentences(console, (f"- {line}" for line in doubtful))
    failed = failures(cases)
    if failed:
        console.print(f"\n{len(failed)} of {len(run.info.cases)} cases have no result:")
        print_sentences(console, (f"- {line}" for line in failed))


def print_stopped(console: Console, path: Path | None) -> None:
    """Print what a sweep leaves when it is stopped at once; `path` is its folder, if any."""
    if path is None:
        console.print("Stopped; nothing was measured.")
    else:
        console.print("Stopped: everything measured so far is kept.")
        _print_resume(console, path)


def _print_resume(console: Console, path: Path) -> None:
    console.print(f"Resume with:  kvbench sweep --resume {shlex.quote(str(path))}", soft_wrap=True)


def print_checks(console: Console, checks: Sequence[Check]) -> None:
    """Print the end of `kvbench verify`: the checks and their conclusion."""
    print_table(console, check_table(checks))
    console.print()
    print_sentences(console, (proof(finding) for finding in findings(checks)))


def print_comparison(console: Console, result: Result) -> None:
    """Print the output of `kvbench compare`: machine differences, the table, what was left out."""
    if result.differences:
        console.print("The machines or their software differ:")
        print_sentences(console, (f"- {line}" for line in result.differences))
        console.print()
    if result.rows:
        print_table(console, comparison_table(result))
    else:
        console.print("No case could be compared.")
    if result.unmatched:
        console.print()
        print_unmatched(console, result)


def print_unmatched(console: Console, result: Result) -> None:
    """Print what could not be compared, and why; print nothing if everything was."""
    if result.unmatched:
        console.print(f"Not compared ({len(result.unmatched)}):")
        lines = (f"- {one.side}: {one.case}: {one.reason}" for one in result.unmatched)
        print_sentences(console, lines)


def print_written(console: Console, paths: Iterable[Path]) -> None:
    """Print the files that were written."""
    for path in paths:
        console.print(f"  {path}", soft_wrap=True)


def print_sentences(console: Console, sentences: Iterable[str], style: str | None = None) -> None:
    """Print sentences, one per line; only the terminal wraps them."""
    for sentence in sentences:
        console.print(printable(sentence), style=style, soft_wrap=not console.is_terminal)


def print_cases(console: Console, cases: Sequence[Case], forecast: Forecast) -> None:
    """Print the cases of a plan, as for `--dry-run`."""
    print_table(console, cases_table(cases, forecast))
    for case, seconds in forecast.long:
        console.print(printable(f"{case.device}: {case.label} is likely to take {about(seconds)}."))


def cases_table(cases: Sequence[Case], forecast: Forecast) -> Table:
    """Return one row per case; the caption has what all cases share."""
    axes = sorted(AXES.values(), key=lambda axis: not axis.in_group)
    varied = [axis for axis in axes if axis.is_told(getattr(case, axis.name) for case in cases)]
    heads = ("case", *(axis.head for axis in varied))
    rows = tuple((case.id, *(_value(case, axis) for axis in varied)) for case in cases)
    numeric = (False, *(axis.is_number for axis in varied))
    # A newer axis is informative only when it is not at its legacy value.
    said = [axis for axis in axes if getattr(cases[0], axis.name) != axis.legacy]
    common = ", ".join(f"{a.head} {_value(cases[0], a)}" for a in said if a not in varied)
    cost = f"{about(forecast.seconds)}{_peak(forecast)}"
    count = f"{len(cases)} case{'s' * (len(cases) != 1)}, {cost}; nothing was measured."
    caption = printable(f"{f'All: {common}. ' if common else ''}{count}")
    return Table(heads, rows, numeric, caption)


def _value(case: Case, axis: Axis) -> str:
    value = getattr(case, axis.name)
    return value.label[:60] if isinstance(value, Prompt) else str(value)


def _peak(forecast: Forecast) -> str:
    """Return the peak memory of weights and cache; empty if theory cannot compute it."""
    if forecast.peak_bytes is None:
        return ""
    return f", peak {significant(forecast.peak_bytes / 2**30)} GiB of weights and cache"


def print_models(console: Console, dtype: str) -> None:
    """Print the built-in architectures: parameters, and cache bytes per token and sequence."""
    print_table(console, models_table(dtype))


def models_table(dtype: str) -> Table:
    """Return one row per built-in architecture."""
    rows = tuple(
        (
            entry.name,
            f"{entry.parameters / 1e6:,.1f} M",
            f"{cache_bytes_per_token(entry.config, dtype):,}",
            str(entry.config.get("n_positions") or entry.config.get("max_position_embeddings")),
            str(entry.config.get("sliding_window") or "-"),
        )
        for entry in CATALOGUE.values()
    )
    heads = ("model", "parameters", "cache bytes/token", "positions", "window")
    caption = (
        f"Cache bytes: per token and sequence in {dtype}, keys and values of all layers. Layers "
        "with a window stop growing at its size."
    )
    return Table(heads, rows, (False, True, True, True, True), caption)


def print_rates(console: Console, found: Sequence[Rates], stored: Path | None) -> None:
    """Print the end of `kvbench probe`: rates next to published peaks, warnings, and the store.

    `stored` is None if the rates could not be stored.
    """
    print_table(console, rates_table(found))
    console.print()
    print_sentences(console, (f"{rates.device}: {rates.hardware}" for rates in found))
    doubts = [line for rates in found for line in rates_doubts(rates)]
    if doubts:
        console.print("\nNotes:")
        print_sentences(console, (f"- {line}" for line in doubts))
    if stored is None:
        console.print(
            "\nNot stored: sweeps on this machine will not use these rates.", soft_wrap=True
        )
    else:
        console.print(
            f"\nStored in {stored}; sweeps on this machine use these rates.", soft_wrap=True
        )


def print_estimate(console: Console, found: Estimate) -> None:
    """Print the facts with their formulas, the lower bounds, and the cache strategies."""
    _print_facts(console, estimate_facts(found))
    for table in (floor_table(found), strategy_table(found)):
        if table is not None:
            console.print()
            print_table(console, table)
    notes = estimate_notes(found)
    if notes:
        console.print("\nNotes:")
        print_sentences(console, (f"- {note}" for note in notes))


def print_caches(console: Console, environment: Environment) -> None:
    """Print the output of `kvbench caches`: one row per strategy, then what this machine lacks."""
    found = caches_found(environment)
    print_table(console, caches_table(found))
    lacking = [row["lacks"] for row in found if row["lacks"]]
    if lacking:
        console.print()
        print_sentences(console, lacking)


def caches_table(strategies: Iterable[Mapping[str, Any]]) -> Table:
    """Return the cache strategies as a table: where each runs here, and what it needs."""
    heads = ("cache", "tokens", "here", "needs", "what it does")
    rows = [
        (
            found["cache"],
            "exact" if found["exact"] else "lossy",
            found["here"] or "no",
            found["needs"] or "-",
            found["description"],
        )
        for found in strategies
    ]
    return Table(heads, tuple(rows), (False,) * len(heads), "")


def caches_found(environment: Environment) -> list[dict[str, Any]]:
    """Return each cache strategy: its name, the device kinds it runs on here, what is missing."""
    kinds = dict.fromkeys(kind_of(device.name).name for device in environment.devices)
    found = []
    for name in (*expand([ALL]), *installed_names()):
        entry = strategy(name)
        reasons = {
            kind: entry.unmet_here(Situation(device=kind, versions=environment.versions))
            for kind in kinds
        }
        here = [kind for kind, reason in reasons.items() if reason is None]
        found.append(
            {
                "cache": name,
                "exact": not entry.lossy,
                "here": ", ".join(here),
                "needs": ", ".join(need.label for need in entry.applying_needs),
                "lacks": None if here else next(filter(None, reasons.values()), None),
                "description": entry.description,
            }
        )
    return found


def print_environment(console: Console, environment: Environment) -> None:
    """Print the output of `kvbench env`: one line per fact, then what is missing and why."""
    facts = environment_facts(environment)
    _print_facts(console, [(name, "-" if value is None else str(value)) for name, value in facts])
    if environment.missing:
        console.print("\nMissing:")
        print_sentences(console, (f"- {sentence}" for sentence in environment.missing))


def environment_facts(environment: Environment) -> list[tuple[str, Any]]:
    """Return the name and the value of each fact; the value is None if it is unknown."""
    facts: list[tuple[str, Any]] = [
        ("platform", environment.platform),
        ("Python", environment.python),
        ("CPU", environment.cpu),
        (
            "CPUs",
            f"{environment.logical_cpus} logical, {environment.physical_cpus} physical, "
            f"{environment.usable_cpus} usable",
        ),
        ("memory", f"{environment.memory_bytes / 2**30:.1f} GiB"),
        ("torch threads", environment.threads),
        ("CPU governor", environment.governor),
        ("CUDA version of torch", environment.cuda),
        ("NVIDIA driver", environment.driver),
        ("NVML", environment.nvml),
    ]
    for device in environment.devices:
        detail = [device.hardware]
        if device.memory_bytes:
            detail.append(f"{device.memory_bytes / 2**30:.1f} GiB")
        if device.compute_capability:
            detail.append(f"compute capability {device.compute_capability}")
        if device.uuid:
            detail.append(device.uuid)
        facts.append((f"device {device.name}", ", ".join(detail)))
        facts.append((f"rates {device.name}", rates_line(device, environment.rates)))
    return [*facts, *environment.versions.items()]
