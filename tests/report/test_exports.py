"""Tests of kvbench/report/exports.py: what a benchmark tracker reads."""

from __future__ import annotations

import json
import pkgutil

import pytest

from kvbench.errors import UserError
from kvbench.plan.case import Prompt
from kvbench.records.run import load_run
from kvbench.report.exporters import EXPORTERS
from kvbench.report.exports import export, not_exported
from tests.fakes import make_case, make_task, timed_sample
from tests.report.saved import run_of
from tests.report.test_golden import GOLDEN


def test_github_action_benchmark_gets_an_entry_for_each_figure(snapshot: object) -> None:
    entries = json.loads(export(load_run(GOLDEN / "h100-gpt2-both"), "github-action-benchmark"))
    assert [entry for entry in entries if " cuda" in entry["name"]] == snapshot
    names = [entry["name"] for entry in entries]
    assert len(names) == len(set(names))
    # The action divides by the last value.
    assert all(entry["value"] > 0 for entry in entries)


def test_bencher_gets_nanoseconds_within_their_range(snapshot: object) -> None:
    run = load_run(GOLDEN / "gpt2-faults")
    metrics = json.loads(export(run, "bencher"))
    assert metrics == snapshot
    measured = [case for case in run.samples if case.total_s and case.phase == "measure"]
    for measures in metrics.values():
        low, value, high = (
            measures["latency"][key] for key in ("lower_value", "value", "upper_value")
        )
        assert low <= value <= high
        assert any(high == pytest.approx(1e9 * sample.total_s) for sample in measured)


def test_a_case_is_named_whatever_else_was_measured() -> None:
    run = load_run(GOLDEN / "gpt2-faults")
    assert len(not_exported(run)) == 8
    alone = [s for s in run.samples if s.batch_size == 1 and s.max_new_tokens == 5]
    names = [*json.loads(export(run_of(alone, "alone"), "bencher"))]
    assert names == [*json.loads(export(run, "bencher"))][: len(names)]


def test_prompts_that_differ_in_their_middle_have_names_of_their_own() -> None:
    prompts = [Prompt.of_text("a" * 40 + middle + "b" * 40) for middle in "12"]
    samples = [timed_sample(make_task(make_case(prompt=one), 0), 1.0) for one in prompts]
    assert len(json.loads(export(run_of(samples, "prompts"), "bencher"))) == 2


def test_a_run_without_a_time_and_an_unknown_tracker_are_refused() -> None:
    run = load_run(GOLDEN / "gpt2-faults")
    with pytest.raises(UserError) as caught:
        export(run_of([], "empty"), "bencher")
    assert caught.value.kind == "nothing_measured"
    with pytest.raises(UserError) as caught:
        export(run, "benchr")
    assert caught.value.kind == "unknown_choice"


def test_each_entry_names_its_function() -> None:
    assert all(callable(pkgutil.resolve_name(one.body)) for one in EXPORTERS.values())
