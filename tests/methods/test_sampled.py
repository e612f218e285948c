"""Tests of kvbench/methods/sampled.py, of what sampled rows change, and of sweeps that sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvbench import api
from kvbench.analysis.forecast import Forecaster
from kvbench.analysis.positions import blocks_of, start_tokens
from kvbench.analysis.sampled import Block, Measured
from kvbench.analysis.summary import summarize_cases
from kvbench.errors import UserError
from kvbench.measure import sampled as body
from kvbench.measure.stopping import StoppingRule
from kvbench.methods import Job, JobResult, rows_of, with_fallback
from kvbench.methods.sampled import SAMPLED
from kvbench.plan.case import Case, Prompt
from kvbench.plan.plan import Plan
from kvbench.records.run import Run, load_run
from kvbench.records.sample import Sample, sample_of, utc_now
from kvbench.report.compare import compare_runs, comparison_table
from kvbench.report.figures.lines import Entry, lines_of, texts_of
from kvbench.report.table import pair_table
from kvbench.report.words import answers
from kvbench.run.reach import reach_of
from kvbench.run.warmup import warmup_tokens
from tests.fakes import FakeEngine, make_case, make_info, make_task, write_run
from tests.methods.test_trace import _Local
from tests.run.test_sweep import Swept, start
from tests.tiny import ARCHITECTURES, config_folder

LENGTHS = (10, 40, 120)


def grid(*caches: str, lengths: tuple[int, ...] = LENGTHS, **fields: Any) -> list[Case]:
    known: dict[str, Any] = {"method": "sampled", "prompt": Prompt.of_tokens(6)} | fields
    return [
        make_case(cache=cache, max_new_tokens=tokens, **known)
        for tokens in lengths
        for cache in caches or ("off", "dynamic")
    ]


def jobs_of(cases: list[Case], repeat: int = 0) -> tuple[Job, ...]:
    return SAMPLED.jobs([make_task(case, repeat) for case in cases])


def steps_of(job: Job, step_s: float = 0.01) -> Measured:
    """Steps that all take the same time."""
    lengths = [task.new_tokens for task in job.tasks]
    starts = tuple(step_s * n for n in range(1, start_tokens(lengths) + 1))
    blocks = blocks_of(lengths, cached=job.task.case.cache != "off")
    return Measured((starts,) * 2, 0.0, tuple(Block(b.start, (step_s,) * len(b)) for b in blocks))


class Sampling(FakeEngine):
    """Measures steps in no time, whose sum is long."""

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        result = super().run(job, timeout_s)
        if result.status != "ok" or (job.method, job.task.phase) != ("sampled", "measure"):
            return result
        step_s = 20.0 if job.task.case.cache == "off" else 10.0
        return replace(result, total_s=0.5, times=(), steps=steps_of(job, step_s))


def sweep(path: Path, engine: FakeEngine | None = None, **keys: Any) -> Swept:
    return start(path / "run", grid(), engine or Sampling(), **keys)


def measured(rows: tuple[Sample, ...]) -> list[Sample]:
    return [row for row in rows if row.phase == "measure"]


def test_rows_are_estimates_and_nothing_else() -> None:
    (job,) = jobs_of(grid("dynamic"))
    fields = {
        "prompt_tokens": 6,
        "new_tokens": 10,
        "output_sha256": "0" * 16,
        "rss_peak_bytes": 9,
        "energy_j": 1.0,
        "flags": "busy_cpu",
        "other_cpu_share": 0.2,
    }
    rows = rows_of(job, JobResult("ok", "then", fields, 3.0, steps=steps_of(job)))
    assert [row.max_new_tokens for row, _ in rows] == list(LENGTHS)
    for row, stamps in rows:
        assert row.total_s == pytest.approx(0.01 * row.max_new_tokens)
        assert row.total_s_low and row.total_s_high
        assert row.total_s_low <= row.total_s <= row.total_s_high
        assert (row.method, row.sampling_s, row.started_at) == ("sampled", 3.0, "then")
        assert (row.flags, row.other_cpu_share, row.prompt_tokens) == ("busy_cpu", 0.2, 6)
        assert (row.new_tokens, row.output_sha256, row.rss_peak_bytes) == (None, None, None)
        assert (row.energy_j, stamps) == (None, ())


@pytest.mark.parametrize(("stage", "lengths"), [("decode", [120]), ("prefill", list(LENGTHS))])
def test_a_failure_in_the_middle_says_nothing_of_shorter_lengths(
    stage: str, lengths: list[int]
) -> None:
    (job,) = jobs_of(grid("off"))
    result = JobResult("oom", "now", {"stage": stage, "error": "Full."})
    assert [row.max_new_tokens for row, _ in rows_of(job, result)] == lengths
    assert {row.status for row, _ in rows_of(job, result)} == {"oom"}


@pytest.mark.parametrize("cache", ["static", "quantized:backend=fp8", "paged"])
def test_what_cannot_be_sampled_is_measured_separately(cache: str) -> None:
    found = with_fallback([*grid("off", cache), *grid(batch_size=2)])
    assert [case.method for case in found] == ["each"] * 6 + ["sampled"] * 6


def test_nothing_else_passes_through_all_tokens() -> None:
    off, on = grid(lengths=(16_000,), dtype="bfloat16", device="cuda")
    assert warmup_tokens(off, "auto") == warmup_tokens(off, "full") == 16
    # Verification up to the last length costs more than the samples, unless they are whole.
    far = reach_of([off, on], "dynamic", 1)
    whole = [replace(case, method="each") for case in (off, on)]
    all_of_it = reach_of(whole, "dynamic", 1)
    assert far and all_of_it and far.max_new_tokens <= all_of_it.max_new_tokens == 16_000


def test_a_sweep_samples_and_resumes(tmp_path: Path) -> None:
    # A sample takes half a second, and its totals are up to forty minutes.
    rule = StoppingRule(min_repeats=3, max_repeats=9, min_seconds=1.0, max_seconds=60.0)
    swept = sweep(tmp_path, rule=rule)
    tasks = swept.engine.tasks
    assert {task.new_tokens for task in tasks if task.phase == "warmup"} == {16}
    rows = measured(swept.rows)
    assert {row.case_id: 0 for row in rows}.keys() == {case.id for case in grid()}
    assert len(rows) == 3 * 6 and {row.sampling_s for row in rows} == {0.5}
    for case in summarize_cases(swept.rows):
        assert case.speedup is None or case.speedup == pytest.approx(2.0)
        assert case.same_output is None and case.total_s_low is not None
    again = sweep(tmp_path, rule=rule)
    assert again.rows == swept.rows and not again.engine.tasks
    # Other methods are other cases, also in a resumed run.
    other = start(swept.path, [replace(c, method="each") for c in grid()], FakeEngine(), rule=rule)
    assert len(measured(other.rows)) > len(rows)
    assert [row for row in other.rows if row.method == "sampled"] == list(swept.rows)


@pytest.mark.parametrize("column", ["total_s_low", "tokens_per_s"])
def test_changed_rows_are_refused(column: str, tmp_path: Path) -> None:
    (job,) = jobs_of(grid("off"))
    result = JobResult("ok", utc_now(), {"prompt_tokens": 6}, 3.0, steps=steps_of(job))
    rows = [row for row, _ in rows_of(job, result)]
    assert load_run(write_run(tmp_path / "fine", rows)).samples
    changed = [replace(rows[0], **{column: 1e6}), *rows[1:]]
    with pytest.raises(UserError) as caught:
        load_run(write_run(tmp_path / "changed", changed))
    assert caught.value.kind == "contradiction"


# Marks


@pytest.fixture
def both(tmp_path: Path) -> Run:
    """A run with the same cases sampled and measured."""
    cases = [*grid(), *(replace(case, method="each") for case in grid())]
    swept = start(tmp_path / "both", cases, Sampling())
    return load_run(swept.path)


def test_estimates_are_marked_everywhere(both: Run, snapshot: Any) -> None:
    everything = summarize_cases(both.samples)
    alone = [case for case in everything if case.method == "sampled"]
    for cases in (everything, alone):
        table = pair_table(cases)
        place = table.heads.index("method")
        assert [row[place] for row in table.rows].count("sampled") == len(LENGTHS)
    assert pair_table(alone).caption == snapshot(name="caption")
    (sentence,) = answers(alone)
    assert "sampled" in sentence
    assert "method" not in pair_table([c for c in everything if c.method == "each"]).heads


@pytest.mark.parametrize("along", ["max_new_tokens", "batch_size"])
def test_lines_of_estimates_are_dashed_and_say_so(both: Run, along: Any) -> None:
    entries = [Entry("run", make_info(), case) for case in summarize_cases(both.samples)]
    for chosen in (entries, [e for e in entries if e.case.method == "sampled"]):
        lines = lines_of(chosen, along, texts_of(chosen, str))
        for line in lines:
            assert line.is_sampled is ("sampled" in line.label)
            # Measured lines that differ in more than the strategy may be dashed too.
            assert line.look.dash > 0 or not line.is_sampled
        labels = {line.label for line in lines}
        assert len({line.look for line in lines}) == len(labels)
        assert {line.is_sampled for line in lines} >= {True}


def test_a_comparison_with_what_was_measured_says_so(both: Run) -> None:
    result = compare_runs([both], by="method")
    assert {(row.a, row.b) for row in result.rows} == {("each", "sampled")}
    assert "sampled: estimated" in comparison_table(result).caption
    within = comparison_table(compare_runs([both], by="cache"))
    assert "method" in within.heads and "sampled: estimated" in within.caption


def test_runs_of_different_methods_are_not_compared(tmp_path: Path) -> None:
    sampled = load_run(start(tmp_path / "a", grid(), Sampling()).path)
    each = [replace(case, method="each") for case in grid()]
    result = compare_runs([sampled, load_run(start(tmp_path / "b", each).path)])
    assert not result.rows and len(result.unmatched) == 12
    assert any("sampled" in one.case for one in result.unmatched)


# Forecasts


def test_the_time_of_a_sample_is_that_of_measuring() -> None:
    cases = grid()
    forecaster = Forecaster(cases, lambda seconds: (3, 3), verify=False)
    forecaster.loaded(cases[0].model_key)
    for case in cases:
        forecaster.note(sample_of(make_task(case), total_s=9000.0, sampling_s=7.0))
    assert forecaster.remaining_s == pytest.approx(2 * 2 * 7.0)
    # The estimates are still what a generation takes.
    assert forecaster.seconds(cases[0]) == 9000.0 and forecaster.long_cases() == ()


def test_sampling_is_predicted_to_be_short() -> None:
    sampled = grid("off", lengths=(16_000,))
    whole = [replace(case, method="each") for case in sampled]
    short, long = (Forecaster(c, lambda s: (1, 1)).case_seconds(c[0]) for c in (sampled, whole))
    assert 0 < short < 0.02 * long


# A real model


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sampled")
    model = str(config_folder(folder / "gpt2", ARCHITECTURES["gpt2"]))
    keys = {"model": model, "device": "cpu", "weights": "random", "prompt_tokens": 5}
    keys |= {"max_new_tokens": "3,20,50", "repeats": 2, "method": "sampled", "driver": "loop"}
    made: list[dict[str, Any]] = []
    generate = body.generate

    def spy(*arguments: Any, **options: Any) -> Any:
        made.append({"new_tokens": arguments[3], **options})
        return generate(*arguments, **options)

    engine: Any = _Local()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "generate", spy)
        run = api.sweep(Plan.parse(keys | {"verify": False}), out=folder, name="run", engine=engine)
    return run, made


def test_a_real_sweep_samples_with_the_driver_of_the_case(
    real: tuple[Run, list[dict[str, Any]]],
) -> None:
    run, made = real
    assert {one["driver"] for one in made} == {"loop"}
    assert max(one["new_tokens"] for one in made) < 20
    rows = measured(run.samples)
    assert len(rows) == 12 and {row.status for row in rows} == {"ok"}
    for cache in ("off", "dynamic"):
        own = [row for row in rows if row.cache == cache and row.repeat == 0]
        totals = [row.total_s for row in sorted(own, key=lambda row: row.max_new_tokens)]
        assert totals == sorted(totals)
        assert [row.kv_cache_bytes for row in own] == [
            0 if cache == "off" else 2 * 2 * 64 * 4 * (5 + row.max_new_tokens - 1) for row in own
        ]
    # Of the warm-ups alone.
    stamped = {str(name) for name in run.tokens_table["sample_id"].unique()}
    assert stamped == {row.sample_id for row in run.samples if row.phase == "warmup"}


def test_a_model_with_an_encoder_has_rows_that_say_why(tmp_path: Path) -> None:
    model = str(config_folder(tmp_path / "t5", ARCHITECTURES["t5"]))
    engine = _Local()
    cases = grid("off", model=model, lengths=(3, 8))
    engine.open(cases[0].model_key)
    (job,) = jobs_of(cases)
    rows = [row for row, _ in rows_of(job, engine.run(job))]
    assert [(row.max_new_tokens, row.status) for row in rows] == [
        (3, "unsupported"),
        (8, "unsupported"),
    ]
    assert "--method each" in (rows[0].error or "")
