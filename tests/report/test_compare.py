"""Tests of kvbench/report/compare.py."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from kvbench.analysis.compare import Comparison, Unmatched
from kvbench.analysis.statistics import holm, mann_whitney
from kvbench.errors import UserError
from kvbench.plan.case import Case
from kvbench.records.run import load_run
from kvbench.records.sample import Sample, sample_of
from kvbench.report.compare import (
    Result,
    compare_runs,
    comparison_json,
    comparison_markdown,
    comparison_records,
    comparison_table,
    geometric_means,
    parse_share,
    regressions,
    write_chart,
)
from kvbench.report.figures.ratios import ratio_chart
from kvbench.report.records import WRITERS
from tests.fakes import by_column, make_case, make_environment, make_task
from tests.report.saved import grid, machine, run_of, time_of


def slower_by(factor: float, **axes: Any) -> list[Sample]:
    return grid(lambda case: factor * time_of(case), **axes)


def two(factor: float = 1.2, **axes: Any) -> Result:
    return compare_runs([run_of(grid(**axes), "old"), run_of(slower_by(factor, **axes), "new")])


def column(result: Result, head: str) -> list[str]:
    table = comparison_table(result)
    return [row[table.heads.index(head)] for row in table.rows]


def row(**fields: Any) -> Comparison:
    known: dict[str, Any] = {
        "a": "A",
        "b": "B",
        "max_new_tokens": 10,
        "a_samples": 9,
        "b_samples": 9,
        "a_total_s": 1.0,
        "b_total_s": 1.0,
        "ratio": 1.0,
    }
    return Comparison(**(known | fields))


def result_of(*rows: Comparison, unmatched: tuple[Unmatched, ...] = ()) -> Result:
    return Result("run", (), rows, unmatched, 0.05)


def as_csv(result: Result) -> str:
    return WRITERS["csv"](comparison_records(result), None)


# Sides


def test_two_runs_are_compared_case_by_case() -> None:
    result = two()
    assert result.by == "run"
    assert [(r.a, r.b, r.cache, r.max_new_tokens) for r in result.rows] == [
        ("old", "new", cache, n) for n in (10, 50, 100) for cache in ("off", "dynamic")
    ]
    assert {r.verdict for r in result.rows} == {"slower"}
    assert result.unmatched == ()


def test_the_first_run_is_what_each_other_is_compared_with() -> None:
    runs = [run_of(slower_by(f), name) for f, name in ((1.0, "a"), (2.0, "b"), (0.5, "c"))]
    result = compare_runs(runs)
    assert {(r.a, r.b, round(r.ratio, 6)) for r in result.rows} == {
        ("a", "b", 2.0),
        ("a", "c", 0.5),
    }
    assert len(result.rows) == 12


def test_runs_of_the_same_name_are_told_apart_by_their_folders() -> None:
    one, other = run_of(grid(), "same"), run_of(grid(), "same")
    other = dataclasses.replace(other, path=Path("/elsewhere/same"))
    result = compare_runs([one, other])
    assert {(r.a, r.b) for r in result.rows} == {("/nowhere/same", "/elsewhere/same")}


def test_a_run_is_the_same_as_itself() -> None:
    run = run_of(grid())
    result = compare_runs([run, run])
    assert {(r.ratio, r.verdict) for r in result.rows} == {(1.0, "same")}


def test_the_arms_of_one_run_are_compared_by_cache() -> None:
    for samples in (grid(), grid()[::-1]):
        result = compare_runs([run_of(samples)], "cache")
        assert {(r.a, r.b) for r in result.rows} == {("off", "dynamic")}
        ratios = {r.max_new_tokens: r.ratio for r in result.rows}
        assert ratios == {10: pytest.approx(1 / 1.1), 50: pytest.approx(1 / 1.5), 100: 0.5}


def test_a_cpu_is_what_the_gpus_are_compared_with() -> None:
    samples = grid(device=("cuda", "cuda:1", "cpu"))
    result = compare_runs([run_of(samples)], "device")
    assert {(r.a, r.b) for r in result.rows} == {("cpu", "cuda"), ("cpu", "cuda:1")}
    assert {r.verdict for r in result.rows} == {None}


def test_two_gpus_are_judged() -> None:
    result = compare_runs([run_of(grid(device=("cuda", "cuda:1")))], "device")
    assert {(r.a, r.b, r.verdict) for r in result.rows} == {("cuda", "cuda:1", "same")}


def test_a_cpu_run_and_a_gpu_run_are_compared_by_device() -> None:
    runs = [run_of(grid(), "laptop"), run_of(slower_by(0.1, device=("cuda",)), "box")]
    result = compare_runs(runs, "device")
    assert {(r.a, r.b, round(r.ratio, 6)) for r in result.rows} == {("cpu", "cuda", 0.1)}


def test_along_an_axis_no_sample_of_several_runs_is_lost() -> None:
    runs = [run_of(grid(), "a"), run_of(slower_by(3.0), "b")]
    result = compare_runs(runs, "cache")
    assert sum(r.a_samples + r.b_samples for r in result.rows) == 2 * len(grid())


@pytest.mark.parametrize(
    ("axis", "words"), [("max_new_tokens", "{} new tokens"), ("batch_size", "batch {}")]
)
def test_the_smallest_size_is_what_the_others_are_compared_with(axis: str, words: str) -> None:
    samples = grid(**{axis: (8, 32, 64)})[::-1]
    result = compare_runs([run_of(samples)], axis)
    sides = [(words.format(8), words.format(size)) for size in (32, 64)]
    assert list(dict.fromkeys((r.a, r.b) for r in result.rows)) == sides


def test_rows_stand_in_the_order_that_a_summary_has() -> None:
    """A sweep shuffles its cases; people read them by size, as in the table of a run."""
    samples = sorted(grid(batch_size=(1, 2)), key=lambda s: (s.round, s.case_id))
    result = compare_runs([run_of(samples, "a"), run_of(samples, "b")])
    sizes = [(r.batch_size, r.max_new_tokens) for r in result.rows]
    assert sizes == sorted(sizes)


def test_the_p_values_of_several_runs_are_corrected_over_all_rows() -> None:
    """As the caption says: corrected over the rows. Ten runs per call have ten times the chance."""
    factors = {"a": 1.0, "b": 1.1, "c": 2.0}
    runs = [run_of(slower_by(f, max_new_tokens=(10,)), name) for name, f in factors.items()]
    alone = [
        mann_whitney(_times(runs[0].samples, cache), _times(run.samples, cache))
        for run in runs[1:]
        for cache in ("off", "dynamic")
    ]
    assert [r.p_value for r in compare_runs(runs).rows] == pytest.approx(holm(alone))


def _times(samples: tuple[Sample, ...], cache: str) -> list[float]:
    return [s.total_s for s in samples if s.cache == cache and s.total_s]


@pytest.mark.parametrize(
    "by",
    [None, "device", "devise"],
)
def test_nothing_to_compare_is_a_sentence(by: str | None, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        compare_runs([run_of(grid())], by)
    assert str(caught.value) == snapshot


def test_a_run_without_samples_is_a_sentence(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        compare_runs([run_of([])], "cache")
    assert str(caught.value) == snapshot


# Differences of the machines


def test_what_is_otherwise_between_the_machines_is_told(snapshot: object) -> None:
    versions = make_environment().versions | {"torch": "2.12.0"}
    runs = [
        run_of(grid(), "a"),
        run_of(grid(), "b", environment=make_environment(threads=8, versions=versions)),
    ]
    assert compare_runs(runs).differences == snapshot
    assert compare_runs([runs[0], runs[0]]).differences == ()


def test_differences_of_several_runs_say_whose_they_are(snapshot: object) -> None:
    runs = [run_of(grid(), "a"), run_of(grid(), "b")]
    runs.append(run_of(grid(), "c", environment=make_environment(driver="550.54")))
    assert compare_runs(runs).differences == snapshot


def test_another_gpu_matters_only_where_a_case_ran_on_it(snapshot: object) -> None:
    other = make_environment(devices=make_environment().devices[:1])
    cpu = [run_of(grid(), "a"), run_of(grid(), "b", environment=other)]
    assert compare_runs(cpu).differences == ()
    cuda = [dataclasses.replace(run, columns=by_column(grid(device=("cuda",)))) for run in cpu]
    assert compare_runs(cuda).differences == snapshot


def test_another_seed_is_told(snapshot: object) -> None:
    """It changes weights and prompts, but is not part of a case."""
    runs = [run_of(grid(), name, plan={"seed": seed}) for name, seed in (("a", 0), ("b", 7))]
    assert compare_runs(runs).differences == snapshot


def test_another_cpu_is_told_once(snapshot: object) -> None:
    runs = [run_of(grid(), "a"), run_of(grid(), "b", environment=machine("Other CPU"))]
    assert compare_runs(runs).differences == snapshot


# The table


def test_the_table_has_the_figures_and_the_mean(snapshot: object) -> None:
    table = comparison_table(two())
    assert table.heads == (
        "cache",
        "tokens",
        "time of A",
        "time of B",
        "samples",
        "ratio (95 %)",
        "memory",
        "verdict",
    )
    assert table.rows[4] == (
        "off",
        "100",
        "2.00 s",
        "2.40 s",
        "7/7",
        "1.20 (1.16-1.24)",
        "1.00",
        "slower",
    )
    assert table.rows[-1] == ("geometric mean", "", "", "", "", "1.20", "", "")
    assert len(table.rows) == 7
    assert "A: old, B: new." in table.caption
    assert table.caption == snapshot


def test_the_mean_is_geometric() -> None:
    table = comparison_table(result_of(row(ratio=0.5), row(ratio=8.0, max_new_tokens=20)))
    assert table.rows[-1][table.heads.index("ratio (95 %)")] == "2.00"


def test_a_row_alone_has_no_mean() -> None:
    assert len(comparison_table(result_of(row())).rows) == 1


def test_without_a_verdict_the_caption_explains_none() -> None:
    result = compare_runs([run_of(grid(device=("cpu", "cuda")))], "device")
    assert set(column(result, "verdict")[:-1]) == {"-"}
    assert "Mann-Whitney" not in comparison_table(result).caption


@pytest.mark.parametrize(
    ("field", "values"),
    [("model", ("x", "y")), ("batch_size", (1, 2)), ("prompt", ("x", "y")), ("dtype", ("a", "b"))],
)
def test_what_varies_has_a_column(field: str, values: tuple[Any, Any]) -> None:
    head = {"batch_size": "batch"}.get(field, field)
    assert head not in comparison_table(two()).heads
    assert len(set(column(two(**{field: values}), head)[:-1])) == 2


def test_unclear_says_how_many_samples_would_tell(snapshot: object) -> None:
    known = {"ratio_ci95_low": 0.9, "ratio_ci95_high": 1.2}
    unclear = row(verdict="unclear", samples_needed=12, **known)
    assert column(result_of(unclear), "verdict") == snapshot
    few = row(verdict="unclear", samples_needed=5)
    assert column(result_of(few), "verdict") == snapshot
    assert column(result_of(row(verdict="unclear")), "verdict") == ["unclear"]


def test_few_samples_have_a_ratio_without_an_interval() -> None:
    assert column(two(repeats=3), "ratio (95 %)") == ["1.20"] * 7


def test_the_threshold_is_told_as_it_was_given() -> None:
    runs = [run_of(grid(), "a"), run_of(slower_by(1.2), "b")]
    assert "beyond 2.5%" in comparison_table(compare_runs(runs, threshold=0.025)).caption


# Formats


def test_csv_has_every_field_of_every_row() -> None:
    result = two()
    text = as_csv(result)
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(read) == 6
    assert list(read[0]) == [field.name for field in dataclasses.fields(Comparison)]
    for cells, expected in zip(read, result.rows, strict=True):
        assert float(cells["ratio"]) == expected.ratio
        assert cells["verdict"] == expected.verdict
        assert int(cells["max_new_tokens"]) == expected.max_new_tokens
        assert cells["samples_needed"] == ""


def test_csv_quotes_what_has_commas_and_lines() -> None:
    text = as_csv(result_of(row(prompt='text:a,"b"\nc')))
    (read,) = csv.DictReader(io.StringIO(text, newline=""))
    assert read["prompt"] == 'text:a,"b"\nc'


def test_json_has_everything(snapshot: object) -> None:
    result = compare_runs([run_of(grid(), "a"), run_of(grid(max_new_tokens=(10,)), "b")])
    text = comparison_json(result)
    read = json.loads(text, parse_constant=pytest.fail)
    assert read["geometric_means"] == [{"a": "a", "b": "b", "ratio": pytest.approx(1.0)}]
    assert read["sides"] == ["a", "b"]
    assert read["incomplete"] == []
    assert read["rows"] == json.loads(json.dumps([dataclasses.asdict(r) for r in result.rows]))
    assert len(read["unmatched"]) == 4
    assert read["unmatched"][0] == snapshot
    assert read["threshold"] == 0.05


def test_json_of_nothing_matched_has_no_mean() -> None:
    text = comparison_json(result_of())
    assert json.loads(text)["geometric_means"] == []


def test_markdown_is_the_table_with_what_was_left_out(snapshot: object) -> None:
    runs = [run_of(grid(), "a|b"), run_of(grid(max_new_tokens=(10,)), "<b>")]
    runs[1] = dataclasses.replace(
        runs[1], info=dataclasses.replace(runs[1].info, environment=make_environment(threads=9))
    )
    text = comparison_markdown(compare_runs(runs))
    lines = text.splitlines()
    assert lines[0] == snapshot
    assert any(line.startswith("| cache") for line in lines)
    assert sum(line.startswith("- not compared: ") for line in lines) == 4
    assert text.endswith("\n")


def test_markdown_of_hostile_names_has_no_html() -> None:
    runs = [run_of(grid(), "<img src=x>"), run_of(grid(max_new_tokens=(10,)), "b")]
    text = comparison_markdown(compare_runs(runs))
    assert "<img" not in text.replace(r"\<img", "")


def test_markdown_of_nothing_matched_is_no_broken_sentence() -> None:
    text = comparison_markdown(result_of(unmatched=(Unmatched("a", "x", "y"),)))
    assert "\n. Ratio" not in text


# Failing


def test_what_is_slower_past_the_limit_is_a_line(snapshot: object) -> None:
    """Whatever the verdict's threshold: a significant 2 % exceeds 1 %."""
    result = result_of(
        row(ratio=1.3, p_value=0.001, verdict="slower", cache="off"),
        row(ratio=1.02, p_value=0.001, verdict="same", cache="dynamic"),
        row(ratio=1.5, p_value=0.01, verdict="unclear"),
        row(ratio=0.5, p_value=0.001, verdict="faster"),
        row(ratio=9.0),
    )
    assert regressions(result, 0.1, None) == snapshot
    assert len(regressions(result, 0.01, None)) == 2
    assert regressions(result, None, None) == []


def test_a_median_past_the_limit_of_too_few_samples_does_not_hold(snapshot: object) -> None:
    slow = row(ratio=1.3, p_value=0.1, a_samples=3, b_samples=9)
    assert regressions(result_of(slow), 0.1, None) == snapshot
    # With enough samples it is noise until a test says otherwise.
    enough = row(ratio=1.3, p_value=0.1, a_samples=6, b_samples=6)
    assert regressions(result_of(enough), 0.1, None) == []
    assert regressions(result_of(enough, *[row(p_value=1.0)] * 5), 0.1, None)[0] == snapshot
    within = row(ratio=1.05, p_value=0.1, a_samples=3, b_samples=3)
    assert regressions(result_of(within), 0.1, None) == []
    # The smallest p-value of n rounds is 2 / 2^n: for seven it is 0.0156.
    paired = row(ratio=1.3, p_value=0.02, a_samples=9, b_samples=9, rounds=7)
    assert regressions(result_of(paired), 0.1, None) == snapshot
    assert regressions(result_of(dataclasses.replace(paired, rounds=8)), 0.1, None) == []


@pytest.mark.parametrize("samples", [3, 4])
def test_ten_times_the_time_never_passes_for_want_of_samples(samples: int) -> None:
    runs = [run_of(grid(repeats=samples), "a"), run_of(slower_by(10.0, repeats=samples), "b")]
    assert len(regressions(compare_runs(runs), 0.05, None)) == 6


def test_a_p_value_of_zero_is_beyond_chance_too() -> None:
    """With thousands of samples per side, the smallest p-values are 0 in floating point."""
    assert len(regressions(result_of(row(ratio=1.3, p_value=0.0)), 0.1, None)) == 1


def test_what_needs_more_memory_past_the_limit_is_a_line(snapshot: object) -> None:
    result = result_of(
        row(memory_ratio=1.2, p_value=0.5), row(memory_ratio=1.01), row(memory_ratio=None)
    )
    assert regressions(result, None, 0.05) == snapshot
    assert regressions(result, 0.05, 0.3) == []


def test_what_could_not_be_looked_at_does_not_hold(snapshot: object) -> None:
    failed = Unmatched("b", "x", "oom: no room", failed=True)
    result = dataclasses.replace(result_of(unmatched=(failed,)), sides=("a", "b"))
    assert regressions(result, 0.05, None) == snapshot
    assert regressions(dataclasses.replace(result, incomplete=("b",)), None, 0.05)[0] == (
        "not finished: b."
    )


def test_what_failed_before_too_is_no_regression() -> None:
    both = tuple(Unmatched(name, "x", "oom: no room", failed=True) for name in ("a", "b"))
    result = dataclasses.replace(result_of(row(p_value=1.0), unmatched=both), sides=("a", "b"))
    assert regressions(result, 0.05, None) == []


def test_a_limit_that_can_never_be_told_is_a_sentence(snapshot: object) -> None:
    runs = [run_of(grid(device=("cpu", "cuda")))]
    with pytest.raises(UserError) as caught:
        regressions(compare_runs(runs, "device"), 0.05, None)
    assert str(caught.value) == snapshot
    with pytest.raises(UserError) as caught:
        regressions(result_of(row(p_value=1.0)), None, 0.05)
    assert str(caught.value) == snapshot


def test_the_means_of_several_pairs_are_their_own() -> None:
    runs = [run_of(slower_by(f), name) for name, f in {"a": 1.0, "b": 2.0, "c": 0.5}.items()]
    result = compare_runs(runs)
    assert geometric_means(result) == {
        ("a", "b"): pytest.approx(2.0),
        ("a", "c"): pytest.approx(0.5),
    }
    means = [row for row in comparison_table(result).rows if row[0].startswith("geometric")]
    assert [row[0] for row in means] == ["geometric mean, b", "geometric mean, c"]


def test_several_runs_say_which_of_them_lacks_a_case() -> None:
    runs = [run_of(grid(), "a"), run_of(grid(), "b"), run_of(grid(max_new_tokens=(10,)), "c")]
    assert {(o.side, o.reason) for o in compare_runs(runs).unmatched} == {("a", "not in c")}


def test_memory_that_was_read_in_two_ways_has_no_ratio() -> None:
    on_gpu = [
        dataclasses.replace(s, rss_peak_bytes=None, nvml_peak_bytes=10**9)
        for s in grid(device=("cuda",))
    ]
    result = compare_runs([run_of([*grid(), *on_gpu])], "device")
    assert {(r.b_memory_bytes, r.memory_ratio) for r in result.rows} == {(10**9, None)}
    assert all(r.a_memory_bytes for r in result.rows)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("5%", 0.05),
        ("5 %", 0.05),
        (" 2.5% ", 0.025),
        ("0.05", 0.05),
        (".5", 0.5),
        ("0", 0.0),
        ("0%", 0.0),
        ("150%", 1.5),
        (None, None),
    ],
)
def test_a_share_is_read(text: str | None, share: float | None) -> None:
    assert parse_share("--x", text) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    "text", ["", "%", "five", "-5%", "5%%", "1e-2", "nan", "inf", "5,5%", "٥x", "5", "1"]
)
def test_what_is_no_share_is_a_sentence(text: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        parse_share("--x", text)
    assert str(caught.value) == snapshot


# The chart


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_chart_is_written_the_same_twice(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        write_chart(two(), tmp_path / name / f"ratios.{kind}")
    first, second = (tmp_path / name / f"ratios.{kind}" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes()) > 1000


@pytest.mark.parametrize("name", ["ratios.pdf", "ratios", "ratios.png.txt"])
def test_a_chart_of_another_kind_is_a_sentence(tmp_path: Path, name: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        write_chart(two(), tmp_path / name)
    assert str(caught.value) == snapshot


def test_a_chart_of_nothing_is_a_sentence(tmp_path: Path, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        write_chart(result_of(), tmp_path / "ratios.png")
    assert str(caught.value) == snapshot
    assert list(tmp_path.iterdir()) == []


# How a wrong value affects the others


def test_a_case_that_failed_is_listed_and_does_not_spoil_the_others(snapshot: object) -> None:
    case: Case = make_case(max_new_tokens=7)
    failed = sample_of(make_task(case), status="oom", stage="decode", error="no room")
    result = compare_runs([run_of(grid(), "a"), run_of([failed, *grid()], "b")])
    assert [(one.side, one.reason) for one in result.unmatched] == snapshot
    assert len(result.rows) == 6


# Energy


def powered(joules: float, method: str | None = "counter", **axes: Any) -> list[Sample]:
    """Return samples with this many joules per new token, and half of them with the cache."""
    found = []
    for s in grid(**axes):
        cached = 0.5 if s.cache != "off" else 1.0
        energy = None if method is None else joules * cached * s.batch_size * s.max_new_tokens
        found.append(dataclasses.replace(s, energy_j=energy, energy_method=method))
    return found


def test_runs_are_compared_by_their_energy(snapshot: object) -> None:
    runs = [run_of(powered(2.0), "old"), run_of(powered(3.0), "new")]
    result = compare_runs(runs, metric="energy")
    assert {(r.metric, round(r.ratio, 9), r.verdict) for r in result.rows} == {
        ("energy", 1.5, "more")
    }
    assert column(result, "energy/token of A") == ["2.00 J", "1.00 J"] * 3 + [""]
    assert "time of A" not in comparison_table(result).heads
    caption = comparison_table(result).caption
    assert caption == snapshot
    found = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert {(row["metric"], row["a_energy_j_per_token"]) for row in found} == {
        ("energy", "2.0"),
        ("energy", "1.0"),
    }
    assert json.loads(comparison_json(result))["metric"] == "energy"


def test_strategies_are_compared_by_their_energy_within_rounds() -> None:
    result = compare_runs([run_of(powered(2.0, repeats=9))], "cache", metric="energy")
    assert {(r.rounds, r.ratio, r.ratio_ci95_high) for r in result.rows} == {(9, 0.5, 0.5)}
    assert "signed-rank" in comparison_table(result).caption


@pytest.mark.parametrize(
    ("first", "second", "who"),
    [
        (None, None, "old, new"),
        (None, "counter", "old"),
        ("counter", None, "new"),
    ],
)
def test_where_nothing_has_energy_it_is_refused(
    first: str | None, second: str | None, who: str, snapshot: object
) -> None:
    runs = [run_of(powered(2.0, first), "old"), run_of(powered(2.0, second), "new")]
    with pytest.raises(UserError) as refused:
        compare_runs(runs, metric="energy")
    assert str(refused.value) == snapshot


def test_a_side_without_energy_among_several_is_listed(snapshot: object) -> None:
    runs = [run_of(powered(2.0, m), name) for name, m in (("a", "x"), ("b", None), ("c", "x"))]
    result = compare_runs(runs, metric="energy")
    assert {(r.a, r.b) for r in result.rows} == {("a", "c")}
    assert {(one.side, one.reason) for one in result.unmatched} == snapshot


def test_the_chart_of_energy_says_so(tmp_path: Path, snapshot: object) -> None:
    result = compare_runs([run_of(powered(2.0), "a"), run_of(powered(1.0), "b")], metric="energy")
    write_chart(result, tmp_path / "ratios.svg")
    (axes,) = ratio_chart(result.rows, ["x"] * 6, 0.05).axes
    label = axes.get_xlabel()
    assert label == snapshot


def test_another_strategy_than_off_may_be_the_baseline() -> None:
    run = load_run(Path(__file__).parents[1] / "golden" / "gpt2-strategies")
    by_default = compare_runs([run], "cache")
    assert {row.a for row in by_default.rows} == {"off"}
    result = compare_runs([run], "cache", baseline="dynamic")
    assert {row.a for row in result.rows} == {"dynamic"}
    assert "off" in {row.b for row in result.rows}


@pytest.mark.parametrize(("by", "baseline"), [("run", "dynamic"), ("cache", "paged")])
def test_a_baseline_that_is_not_there_is_refused(by: str, baseline: str) -> None:
    run = load_run(Path(__file__).parents[1] / "golden" / "gpt2-strategies")
    with pytest.raises(UserError, match="--baseline"):
        compare_runs([run, run], by, baseline=baseline)
