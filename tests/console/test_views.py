"""Tests of kvbench/console/views.py, on a console that writes into a string."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from kvbench.console.views import (
    Forecast,
    JsonView,
    LineView,
    LiveView,
    QuietView,
    View,
    make_view,
)
from kvbench.plan.case import Case, Prompt, Task
from kvbench.records.events import (
    CaseEnded,
    Event,
    LoadFailed,
    ModelLoaded,
    ModelLoading,
    Notice,
    SampleEnded,
    SampleStarted,
    SweepEnded,
    SweepStarted,
    Verified,
    Verifying,
)
from kvbench.records.sample import sample_of
from kvbench.report.words import proof
from tests.fakes import make_case, make_finding, make_task, timed_sample

OFF, ON = make_case(cache="off"), make_case()
RUN = Path("results/run")


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("kvbench.console.views.time.monotonic", clock)
    return clock


def terminal(width: int = 100) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        color_system=None,
    )


def pipe() -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=False,
        width=1000,
        markup=False,
        emoji=False,
        highlight=False,
    )


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def taken(case: Case, total: float, repeat: int = 0) -> list[Event]:
    task = make_task(case, repeat)
    return [SampleStarted(task), SampleEnded(timed_sample(task, total))]


def ended(case: Case, totals: Sequence[float]) -> CaseEnded:
    measured = tuple(timed_sample(make_task(case, i), total) for i, total in enumerate(totals))
    return CaseEnded(case, measured, None)


def failed(case: Case, error: str = "No memory left.") -> CaseEnded:
    failure = sample_of(make_task(case), status="oom", stage="decode", error=error)
    return CaseEnded(case, (), failure)


def whole_sweep() -> list[Event]:
    key = ON.model_key
    warmup = Task(ON, "warmup", 0, 0, 16)
    memory = Task(ON, "memory", 0, 0, 100)
    return [
        SweepStarted(RUN, (OFF, ON), 1),
        ModelLoading(key),
        ModelLoaded(key, 0.5, 124_439_808, 497_759_232),
        Notice("NVML is not there."),
        Verifying(key, "dynamic"),
        Verified(make_finding(detail="Said [so].")),
        SampleStarted(warmup),
        SampleEnded(timed_sample(warmup, 0.1)),
        SampleStarted(memory),
        SampleEnded(timed_sample(memory, 0.1)),
        *taken(ON, 0.5),
        ended(ON, [0.5]),
        SampleStarted(make_task(OFF)),
        SampleEnded(sample_of(make_task(OFF), status="oom", stage="decode", error="No [memory].")),
        failed(OFF, "No [memory]."),
        LoadFailed(key, "unsupported", "No such model."),
        SweepEnded(RUN, "finished", 1),
    ]


def show(view: View, events: Sequence[Event]) -> None:
    for event in events:
        view(event)
    view.close()


# Which view


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines() -> None:
    assert isinstance(make_view(terminal(), quiet=False, as_json=False), LiveView)
    assert isinstance(make_view(pipe(), quiet=False, as_json=False), LineView)


@pytest.mark.parametrize("make", [terminal, pipe])
def test_quiet_gets_nothing(make: type) -> None:
    console = make()
    view = make_view(console, quiet=True, as_json=False)
    assert isinstance(view, QuietView)
    show(view, whole_sweep())
    assert output(console) == ""


def test_json_goes_over_any_of_them() -> None:
    for quiet in (False, True):
        assert isinstance(make_view(pipe(), quiet=quiet, as_json=True), JsonView)


# JSON


def test_there_is_exactly_one_json_object_per_sample(capsys: pytest.CaptureFixture[str]) -> None:
    events = whole_sweep()
    show(make_view(pipe(), quiet=False, as_json=True), events)
    lines = capsys.readouterr().out.split("\n")
    assert lines.pop() == ""
    samples = [event.sample for event in events if isinstance(event, SampleEnded)]
    assert [json.loads(line) for line in lines] == [dataclasses.asdict(s) for s in samples]
    assert len(lines) == 4


@pytest.mark.parametrize("text", ["two\nlines\r", 'say "hi"', "明天 🤷", "\u2028 \x00"])
def test_a_hostile_prompt_stays_in_one_line_of_json(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    case = make_case(prompt=Prompt.of_text(text))
    show(make_view(pipe(), quiet=True, as_json=True), taken(case, 0.5))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out)["prompt"] == f"text:{text}"


def test_beside_json_nothing_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    console = pipe()
    show(make_view(console, quiet=False, as_json=True), whole_sweep())
    assert all(line.startswith("{") for line in capsys.readouterr().out.splitlines())
    assert "loading gpt2" in output(console)


# Lines


def test_lines_tell_models_notices_and_cases(clock: Clock, snapshot: object) -> None:
    console = pipe()
    view = LineView(console)
    clock.now += 2.5
    show(view, whole_sweep())
    assert output(console).splitlines() == snapshot


def test_a_line_gives_the_median_of_the_samples(clock: Clock) -> None:
    console = pipe()
    show(LineView(console), [SweepStarted(RUN, (ON,), 4), ended(ON, [0.1, 0.9, 0.2, 0.3])])
    assert ": 250 ms, 4 samples," in output(console)


def test_a_line_is_not_folded_however_long(clock: Clock) -> None:
    console = pipe()
    show(LineView(console), [SweepStarted(RUN, (ON,), 1), failed(ON, "x y " * 600)])
    assert output(console).count("\n") == 1


# The bar


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_bar_shows_and_is_taken_away(width: int) -> None:
    console = terminal(width)
    show(LiveView(console), whole_sweep())
    text = output(console)
    assert "loading gpt2" in text
    # Hidden while the bar is there, and shown again.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def shown_before_the_bar(console: Console) -> str:
    """What the last line says, without how far it is."""
    line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output(console)).splitlines()[-1]
    return re.split(r"  +", line)[0]


def test_the_bar_tells_the_case_and_the_kind_of_its_sample(snapshot: object) -> None:
    console = terminal(160)
    view = LiveView(console)
    view(SweepStarted(RUN, (ON,), 3))
    for task in (Task(ON, "warmup", 0, 0, 16), Task(ON, "memory", 0, 0, 100), make_task(ON, 2)):
        view(SampleStarted(task))
        view._progress.refresh()
        assert shown_before_the_bar(console) == snapshot
    view.close()


def test_the_bar_asks_while_a_strategy_is_verified(snapshot: object) -> None:
    console = terminal(160)
    view = LiveView(console)
    view(SweepStarted(RUN, (ON,), 3))
    view(Verifying(ON.model_key, "dynamic"))
    view._progress.refresh()
    assert shown_before_the_bar(console) == snapshot
    finding = make_finding(verdict="fail", detail="It is not.")
    view(Verified(finding))
    view.close()
    assert proof(finding) in output(console)


def test_the_bar_of_a_resumed_sweep_begins_where_it_stopped() -> None:
    console = terminal(160)
    view = LiveView(console)
    # Before the folder is open, as what was mended is.
    view(Notice("The last row was torn."))
    view(SweepStarted(RUN, (ON,), 3, (timed_sample(make_task(ON), 0.5),)))
    view._progress.refresh()
    view.close()
    assert "The last row was torn." in output(console)
    assert "1/3 samples" in output(console)


def test_a_case_that_ended_leaves_a_line(snapshot: object) -> None:
    console = terminal()
    show(LiveView(console), [SweepStarted(RUN, (ON, OFF), 2), ended(ON, [0.5, 0.5]), failed(OFF)])
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output(console)).splitlines()
    assert [line for line in lines if line.startswith("cpu: ")] == snapshot


def test_closing_twice_or_before_the_start_is_fine() -> None:
    view = LiveView(terminal())
    view.close()
    view(SweepStarted(RUN, (ON,), 1))
    view.close()
    view.close()


# The forecast


def test_before_anything_is_timed_there_is_no_guess(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (OFF, ON), 3))
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (0, 6, None)


def test_a_case_that_was_not_timed_is_predicted_from_those_that_were(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (OFF, ON), 3))
    for event in taken(OFF, 2.0):
        forecast.note(event)
    assert (forecast.taken, forecast.expected) == (1, 6)
    assert forecast.remaining_s is not None
    # Two of 2 s, and three of a cached one and its warm-up, which are quicker.
    assert 4.0 < forecast.remaining_s < 4.0 + 4 * 2.0


def test_what_is_left_is_samples_times_what_the_middle_one_took(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (OFF, ON), 3))
    for event in [*taken(OFF, 2.0), *taken(ON, 0.5), *taken(OFF, 4.0, 1)]:
        forecast.note(event)
    # One of 3 s and two of 0.5 s.
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (3, 6, 4.0)


def test_what_was_measured_before_a_resume_counts(clock: Clock) -> None:
    begun = (
        timed_sample(make_task(OFF, 0), 2.0),
        timed_sample(make_task(OFF, 1), 3.0),
        timed_sample(make_task(ON, 0), 0.5),
    )
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (OFF, ON), 3, begun))
    # One of 2.5 s and two of 0.5 s.
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (3, 6, 3.5)
    for event in taken(ON, 0.5, 1):
        forecast.note(event)
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (4, 6, 3.0)


HOURS = make_case(cache="off", max_new_tokens=16_000)


@pytest.mark.parametrize("make", [lambda: LineView(pipe()), lambda: LiveView(terminal(300))])
def test_a_case_that_will_take_hours_is_warned_of_once(
    clock: Clock, make: Callable[[], View]
) -> None:
    view = make()
    first = SampleStarted(Task(HOURS, "measure", 0, 0, 16_000))
    for event in [SweepStarted(RUN, (OFF, HOURS), 6), *taken(OFF, 10.0), first, first]:
        view(event)
    view.close()
    text = output(view._console)  # type: ignore[attr-defined]
    assert text.count("16000 new tokens is likely to take about") == 1
    assert re.search(r"take about [\d.]+ h \(about [\d.]+ (h|min) a sample\)", text)


def test_a_case_that_takes_minutes_is_not_warned_of(clock: Clock) -> None:
    view = LineView(pipe())
    show(view, [SweepStarted(RUN, (OFF, ON), 6), *taken(OFF, 10.0), *taken(ON, 10.0)])
    assert "likely" not in output(view._console)


def test_a_resume_that_has_nothing_left_expects_nothing(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (), 3))
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (0, 0, 0.0)


def test_past_what_was_wanted_one_more_is_expected_until_the_case_ends(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (ON,), 2))
    for repeat in range(4):
        for event in taken(ON, 0.5, repeat):
            forecast.note(event)
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (4, 5, 0.5)
    forecast.note(ended(ON, [0.5] * 4))
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (4, 4, 0.0)


def test_a_case_that_failed_is_waited_for_no_longer(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (OFF, ON), 3))
    for event in [*taken(ON, 0.5), failed(OFF)]:
        forecast.note(event)
    assert (forecast.taken, forecast.expected, forecast.remaining_s) == (1, 3, 1.0)


def test_warmups_memory_passes_and_failures_are_no_times(clock: Clock) -> None:
    forecast = Forecast()
    forecast.note(SweepStarted(RUN, (ON,), 3))
    for sample in (
        timed_sample(Task(ON, "warmup", 0, 0, 16), 9.0),
        timed_sample(Task(ON, "memory", 0, 0, 100), 9.0),
        sample_of(make_task(ON), status="oom"),
    ):
        forecast.note(SampleEnded(sample))
    assert (forecast.taken, forecast.remaining_s) == (0, None)


@pytest.mark.parametrize(
    ("passed", "clocked"),
    [
        (0, "0:00"),
        (5.4, "0:05"),
        (59.7, "1:00"),
        (65, "1:05"),
        (3600, "1:00:00"),
        (7325, "2:02:05"),
    ],
)
def test_the_text_gives_samples_elapsed_and_left(clock: Clock, passed: float, clocked: str) -> None:
    forecast = Forecast()
    clock.now += passed
    forecast.note(SweepStarted(RUN, (ON,), 3))
    assert forecast.text() == f"0/3 samples, {clocked}"
    for event in taken(ON, 75.0):
        forecast.note(event)
    assert forecast.text() == f"1/3 samples, {clocked}, 2:30 left"
