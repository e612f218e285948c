"""`kvbench sweep`: measure a grid and write a run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbench.cli.options import FORMAT_LIST, AxisKeys, axis_options, given, option, plan_option
from kvbench.errors import UserError
from kvbench.plan.axes import KEYS

if TYPE_CHECKING:
    from kvbench.records.rates import Rates
    from kvbench.records.run import Run

__all__ = ["sweep"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@axis_options(KEYS)
def sweep(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="A plan in YAML, or the name of a shipped one (see `kvbench configs`); options "
            "override its keys.",
            show_default=False,
        ),
    ] = None,
    axes: AxisKeys | None = None,
    repeats: Annotated[str | None, plan_option("repeats", "--repeats", "-r")] = None,
    min_repeats: Annotated[str | None, plan_option("min_repeats")] = None,
    max_repeats: Annotated[str | None, plan_option("max_repeats")] = None,
    min_seconds: Annotated[str | None, plan_option("min_seconds")] = None,
    max_spread: Annotated[str | None, plan_option("max_spread")] = None,
    max_case_seconds: Annotated[str | None, plan_option("max_case_seconds")] = None,
    warmup: Annotated[str | None, plan_option("warmup")] = None,
    seed: Annotated[str | None, plan_option("seed")] = None,
    trust_remote_code: Annotated[
        bool | None, plan_option("trust_remote_code", "--trust-remote-code")
    ] = None,
    case_timeout: Annotated[str | None, plan_option("case_timeout")] = None,
    keep_going_after_oom: Annotated[
        bool | None, plan_option("keep_going_after_oom", "--keep-going-after-oom")
    ] = None,
    verify: Annotated[bool | None, plan_option("verify", "--verify/--no-verify")] = None,
    quality: Annotated[bool | None, plan_option("quality", "--quality/--no-quality")] = None,
    out: Annotated[Path | None, option("Folder for run folders; by default results.")] = None,
    name: Annotated[
        str | None,
        option(
            "Name of the run folder; by default date, model and a short hash. Running the same "
            "command again resumes it."
        ),
    ] = None,
    resume: Annotated[
        Path | None, option("Resume the run in this folder; finished cases are kept.")
    ] = None,
    retry_failed: Annotated[
        bool,
        option(
            "With --resume: retry all failed cases, not only those whose worker process was lost.",
            "--retry-failed",
        ),
    ] = False,
    dry_run: Annotated[
        bool, option("Print the cases and their number; measure nothing.", "--dry-run")
    ] = False,
    yes: Annotated[bool, option("Allow a grid of more than 10,000 cases.", "--yes")] = False,
    quiet: Annotated[bool, option("Print only the final table.", "--quiet", "-q")] = False,
    output: Annotated[
        str,
        option(
            f"{FORMAT_LIST}: the summary at the end; jsonl prints one object per sample as it "
            "finishes. Except for table, everything else goes to standard error.",
            "--format",
            "-o",
        ),
    ] = "table",
    debug: Annotated[
        bool, option("Show the traceback of an error, and where the time went.", "--debug")
    ] = False,
) -> None:
    """Measure generation with and without the KV cache over a grid, and write a run folder.

    Without a plan file: GPT-2's architecture with random weights, 10, 25 and 50 new tokens, 6
    repeats, all devices of this machine; each option changes one of these.

    Ctrl-C, SIGTERM or SIGHUP stops after the current sample and prints how to resume; a second one
    stops immediately.

    Exit codes: 0 all cases were measured, 1 some failed or a verification failed, 2 wrong usage or
    a full disk, 130 interrupted.
    """
    from kvbench import api, console
    from kvbench.analysis.forecast import forecast_of
    from kvbench.cli.preload import Preload
    from kvbench.cli.timeline import Timeline
    from kvbench.models.beforehand import check_beforehand
    from kvbench.plan.plan import Plan
    from kvbench.records.events import Event, SweepStarted
    from kvbench.records.writer import check_name, holds_run
    from kvbench.run.engine import Interrupted

    keys = given(
        {
            **(axes or {}),
            "repeats": repeats,
            "min_repeats": min_repeats,
            "max_repeats": max_repeats,
            "min_seconds": min_seconds,
            "max_spread": max_spread,
            "max_case_seconds": max_case_seconds,
            "warmup": warmup,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
            "case_timeout": case_timeout,
            "keep_going_after_oom": keep_going_after_oom,
            "verify": verify,
            "quality": quality,
        }
    )
    console.check_format(output)
    terminal = console.make_console(stderr=output != "table")
    _check_resume(resume, config, name, out, dry_run, retry_failed)
    folder = out or Path("results")
    # Show where existing results are, even if the sweep stops before it continues. A dry run
    # refuses the same names as the real one.
    path = resume
    if name is not None and holds_run(folder / check_name(name)):
        path = folder / name
    if dry_run:
        plan = Plan.load(config, keys)
        cases = api.plan_cases(plan, allow_many=yes)
        check_beforehand(cases)
        console.show_cases(cases, output, forecast_of(plan, cases, _probed_rates()))
        for line in api.method_notices(plan, cases):
            console.make_console(stderr=True).print(line, soft_wrap=True)
        return
    view = console.make_view(terminal, quiet=quiet, as_json=output == "jsonl")
    timeline, preload = Timeline() if debug else None, Preload()

    def listener(event: Event) -> None:
        nonlocal path
        if isinstance(event, SweepStarted):
            path = event.path
        if timeline is not None:
            timeline(event)
        preload(event)
        view(event)

    with _interruptible() as interrupt:
        common: dict[str, Any] = {
            "listener": listener,
            "stop": interrupt,
            "allow_many": yes,
            "command": ("kvbench", *sys.argv[1:]),
        }
        try:
            if resume is not None:
                run = api.resume(resume, keys, retry_failed=retry_failed, **common)
            else:
                run = api.sweep(Plan.load(config, keys), out=folder, name=name, **common)
        except (KeyboardInterrupt, Interrupted):
            view.close()
            console.print_stopped(terminal, path)
            raise typer.Exit(130) from None
        finally:
            view.close()
    console.show_run(run, output)
    if timeline is not None:
        print(timeline.text(), file=sys.stderr)
    raise typer.Exit(_exit_code(run))


def _check_resume(
    resume: Path | None,
    config: Path | None,
    name: str | None,
    out: Path | None,
    dry_run: bool,
    retry_failed: bool,
) -> None:
    if resume is None:
        if retry_failed:
            raise UserError(
                "--retry-failed needs a run to resume: give --resume RUN.", kind="resume_needed"
            )
        return
    for given_too, what in (
        (config is not None, "the plan file"),
        (name is not None, "--name"),
        (out is not None, "--out"),
        (dry_run, "--dry-run"),
    ):
        if given_too:
            raise UserError(
                f"--resume reuses the saved plan: remove {what}.",
                kind="plan_given_twice",
            )


def _probed_rates() -> Callable[[str], Rates | None]:
    """Return the rates that were probed on this machine, by the name of a device."""
    from kvbench.device_kinds import first_name
    from kvbench.records.rates import read_rates, store_problem

    known: dict[str, Rates] = {}
    # A store that is damaged or gone makes a prediction rougher, and is no reason to refuse it.
    with contextlib.suppress(UserError):
        known = {} if store_problem() else {rates.device: rates for rates in read_rates()}
    return lambda device: known.get(first_name(device))


def _leave_a_terminal_that_is_gone() -> None:
    """Redirect output to nowhere from now on, so the run can end normally after the terminal is
    gone.
    """
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _exit_code(run: Run) -> int:
    if run.info.state == "interrupted":
        return 130
    from kvbench.caches import may_be_left_out
    from kvbench.records.sample import latest

    named = run.info.plan.get("cache") or ()
    failed = any(
        sample.status != "ok"
        and not (sample.status == "unsupported" and may_be_left_out(sample.cache, named))
        for sample in latest(run.samples)
    )
    return 1 if failed or any(one.verdict == "fail" for one in run.info.findings) else 0


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Stop after the current sample on the first Ctrl-C, and at once on the second."""
    asked = False

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if signum == signal.SIGHUP:
            _leave_a_terminal_that_is_gone()
        print(
            "\nStopping after the current sample; press Ctrl-C again to stop now.",
            file=sys.stderr,
        )

    # A batch system sends SIGTERM when the time is up, a terminal sends SIGHUP when it closes.
    # `nohup` ignores SIGHUP, and that is kept.
    before = {
        number: signal.signal(number, on_interrupt)
        for number in _STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
