"""Tests of kvbench/analysis/forecast.py: what cases will cost, held against a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kvbench import api
from kvbench.analysis.forecast import Forecaster, Rounds, peak_bytes, rounds_of
from kvbench.catalogue import CATALOGUE
from kvbench.plan.case import Case, Prompt, Task
from kvbench.plan.plan import Plan
from kvbench.records.events import CaseEnded, Event, ModelLoaded, SampleEnded, SampleStarted
from kvbench.records.sample import Sample
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.weights import weights_bytes
from tests.fakes import FakeEngine, make_case, make_rates, make_task, timed_sample

Curve = Callable[[Case, int], float]

LENGTHS = (10, 110, 210, 310)


def linear(case: Case, tokens: int) -> float:
    """Each token costs the same, twice as much without a cache."""
    return tokens * (0.08 if case.cache == "off" else 0.04)


def square(case: Case, tokens: int) -> float:
    """Without a cache each token costs as much as there are before it."""
    return 0.001 * tokens * tokens if case.cache == "off" else 0.04 * tokens


CURVES = {"linear": linear, "square": square}


def six(seconds: float) -> tuple[int, int]:
    return 6, 6


def grid(
    lengths: Sequence[int] = LENGTHS, caches: Sequence[str] = ("off", "dynamic")
) -> list[Case]:
    return [
        make_case(cache=cache, max_new_tokens=n, prompt=Prompt.of_tokens(6))
        for n in lengths
        for cache in caches
    ]


def sample(case: Case, seconds: float, repeat: int = 0) -> Sample:
    return timed_sample(make_task(case, repeat), seconds)


@pytest.mark.parametrize("curve", list(CURVES))
def test_a_length_is_predicted_from_shorter_ones(curve: str) -> None:
    cases = grid((*LENGTHS, 910))
    forecaster = Forecaster(cases, six)
    for case in cases:
        if case.max_new_tokens <= 210:
            forecaster.note(sample(case, CURVES[curve](case, case.max_new_tokens)))
    for case in cases:
        wanted = CURVES[curve](case, case.max_new_tokens)
        # Further than four times the longest seen, theory's other terms begin to count.
        tolerance = 0.25 if case.max_new_tokens <= 310 else 0.5
        assert forecaster.seconds(case) == pytest.approx(wanted, rel=tolerance)


def test_a_case_that_was_timed_costs_what_it_did() -> None:
    case, other = grid((50, 60), ("off",))
    forecaster = Forecaster([case, other], six)
    for repeat, seconds in enumerate((2.0, 9.0, 2.2)):
        forecaster.note(sample(case, seconds, repeat))
    assert forecaster.seconds(case) == 2.2


def test_before_any_sample_a_probe_says_how_fast_the_machine_is() -> None:
    cases = grid()
    slow, fast = (
        Forecaster(
            cases,
            six,
            rates=lambda device, speed=speed: make_rates(
                read_bytes_per_s=1e10 * speed,
                flops_per_s={"float32": 1e11 * speed},
                layer_s=1e-3 / speed,
            ),
        )
        for speed in (1, 10)
    )
    for case in cases:
        assert slow.seconds(case) == pytest.approx(10 * fast.seconds(case))
    assert slow.seconds(cases[-1]) > slow.seconds(cases[1]) > 0


def test_a_strategy_without_samples_is_judged_by_the_others_of_its_model() -> None:
    off, on = grid((100,))
    forecaster = Forecaster([off, on], six)
    before = forecaster.seconds(on)
    forecaster.note(sample(off, 20 * forecaster.seconds(off)))
    assert forecaster.seconds(on) == pytest.approx(20 * before, rel=0.5)


def test_a_model_that_theory_cannot_read_is_learned_from_its_samples() -> None:
    cases = [
        make_case(model="other", cache="dynamic", max_new_tokens=n, prompt=Prompt.of_tokens(6))
        for n in LENGTHS
    ]
    forecaster = Forecaster(cases, six, configs={"other": {"model_type": "unheard-of"}})
    for case in cases[:2]:
        forecaster.note(sample(case, linear(case, case.max_new_tokens)))
    for case in cases:
        wanted = linear(case, case.max_new_tokens)
        assert forecaster.seconds(case) == pytest.approx(wanted, rel=0.25)


def test_a_warm_up_counts_until_something_is_timed() -> None:
    (case,) = grid((16,), ("off",))
    longer = make_case(cache="off", max_new_tokens=32, prompt=Prompt.of_tokens(6))
    forecaster = Forecaster([case, longer], six)
    forecaster.note(timed_sample(Task(case, "warmup", 0, 0, 16), 8.0))
    cold = forecaster.seconds(longer)
    assert cold > 8.0
    forecaster.note(sample(case, 1.0))
    assert forecaster.seconds(longer) < cold / 4


def test_a_failed_sample_says_nothing_of_the_time() -> None:
    (case,) = grid((50,), ("off",))
    forecaster = Forecaster([case], six)
    before = forecaster.seconds(case)
    forecaster.note(sample(case, 50.0).__class__(**failed_fields(case)))
    assert forecaster.seconds(case) == before


def failed_fields(case: Case) -> dict[str, object]:
    import dataclasses

    from kvbench.records.sample import sample_of

    return dataclasses.asdict(sample_of(make_task(case), status="oom"))


class Watched:
    """A sweep with a fake engine: what was predicted after each sample, on a virtual clock."""

    def __init__(self, plan: Plan, cases: Sequence[Case], rounds: Rounds) -> None:
        self.forecaster = Forecaster(cases, rounds, warmup=plan.warmup, verify=plan.verify)
        self.clock = 0.0
        self.predicted: list[tuple[float, float]] = []
        self.before: dict[str, float] = {}
        self._left = {case.id for case in cases}

    def __call__(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            self.forecaster.loaded(event.model, event.config)
        elif isinstance(event, SampleStarted) and event.task.phase == "measure":
            self.before.setdefault(event.task.case.id, self.forecaster.seconds(event.task.case))
            if not self._left:
                self.predicted.append((self.clock, self.forecaster.remaining_s))
        elif isinstance(event, SampleEnded):
            self.clock += event.sample.total_s or 0.0
            self.forecaster.note(event.sample)
            if event.sample.phase == "measure":
                self._left.discard(event.sample.case_id)
        elif isinstance(event, CaseEnded):
            self.forecaster.ended(event.case)


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take seconds, and nothing here looks at them."""
    monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))


def watch(tmp_path: Path, curve: Curve, repeats: int | None) -> Watched:
    rng = random.Random(3)

    def seconds(task: Task) -> float:
        return curve(task.case, task.new_tokens) * rng.uniform(0.9, 1.1)

    keys = {"repeats": repeats, "min_seconds": 60.0, "max_case_seconds": 900.0, "max_spread": 1.0}
    plan = Plan.model_validate(
        {"device": "cpu", "prompt_tokens": 6, "max_new_tokens": LENGTHS, "verify": False, **keys}
    )
    watched = Watched(plan, api.plan_cases(plan), rounds_of(plan))
    api.sweep(plan, out=tmp_path, engine=FakeEngine(seconds=seconds), listener=watched)
    return watched


@pytest.mark.parametrize("repeats", [6, None])
@pytest.mark.parametrize("curve", list(CURVES))
def test_the_remaining_time_is_right_within_a_quarter_after_the_first_round(
    curve: str, repeats: int | None, tmp_path: Path
) -> None:
    watched = watch(tmp_path, CURVES[curve], repeats)
    total = watched.clock
    # A round comes first, in which nothing is judged.
    assert 0 < watched.predicted[0][0] < total / 2
    for at, left in watched.predicted:
        # Near the end little is left, and a single sample is more than a quarter of it.
        if total - at > 0.05 * total:
            assert left == pytest.approx(total - at, rel=0.25)
    assert watched.forecaster.remaining_s == 0.0


@pytest.mark.parametrize("curve", list(CURVES))
def test_cases_of_the_first_round_are_predicted_once_two_lengths_are_known(
    curve: str, tmp_path: Path
) -> None:
    watched = watch(tmp_path, CURVES[curve], 6)
    forecaster = watched.forecaster
    cases = {case.id: case for case in forecaster._cases.values()}
    order = list(watched.before)
    for place, name in enumerate(order):
        case = cases[name]
        known = [cases[n].max_new_tokens for n in order[:place] if cases[n].cache == case.cache]
        if len(known) >= 2 and max(known) * 2 >= case.max_new_tokens:
            wanted = CURVES[curve](case, case.max_new_tokens)
            assert watched.before[name] == pytest.approx(wanted, rel=0.5)


def test_the_quick_member_of_a_group_goes_on_as_long_as_the_slow_one_wants() -> None:
    off, on = grid((100,))
    plan = Plan(repeats=None, min_repeats=6, max_repeats=30, min_seconds=3.0)
    forecaster = Forecaster([off, on], rounds_of(plan), verify=False)
    forecaster.note(sample(off, 1.0))
    forecaster.note(sample(on, 0.2))
    # The quick one wants 15 samples for its 3 seconds: 14 more rounds of both.
    assert forecaster.remaining_s == pytest.approx(14 * 1.2)
    assert forecaster.case_seconds(on) == pytest.approx(14 * 0.2)


def test_no_sample_past_the_seconds_of_a_case_is_counted() -> None:
    plan = Plan(repeats=None, max_case_seconds=100.0)
    assert rounds_of(plan)(40.0) == (2, 2)
    assert rounds_of(plan)(400.0) == (1, 1)
    assert rounds_of(Plan(repeats=7))(400.0) == (7, 7)
    assert rounds_of(Plan(repeats=None))(1e-4)[0] == 30


def test_cases_that_take_hours_are_named() -> None:
    cases = grid((50, 20_000), ("off",))
    forecaster = Forecaster(cases, six)
    forecaster.note(sample(cases[0], square(cases[0], 50)))
    assert forecaster.long_cases() == (cases[1],)
    forecaster.ended(cases[1])
    assert forecaster.long_cases() == ()


def test_verifying_and_loading_are_part_of_what_is_left() -> None:
    (case,) = grid((50,), ("dynamic",))
    forecaster = Forecaster([case], six)
    all_of_it = forecaster.remaining_s
    forecaster.loaded(case.model_key)
    loaded = forecaster.remaining_s
    forecaster.verified(case.model_key, "dynamic")
    verified = forecaster.remaining_s
    assert all_of_it > loaded > verified > 0
    forecaster.ended(case)
    assert forecaster.remaining_s == 0


def test_the_peak_is_that_of_the_largest_case() -> None:
    config = CATALOGUE["gpt2"].config
    assert config is not None
    gpt2 = Architecture.from_config(config)
    wanted = weights_bytes(gpt2, "float32", random=True)
    wanted += cache_bytes(gpt2, "dynamic", 4, 6, 310, "float32")
    cases = [
        make_case(batch_size=b, max_new_tokens=n, prompt=Prompt.of_tokens(6))
        for b in (1, 4)
        for n in (10, 310)
    ]
    assert peak_bytes(cases) == wanted
    assert peak_bytes([*cases, make_case(model="unheard-of")]) is None
    assert peak_bytes([]) is None
