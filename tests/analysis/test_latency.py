"""Tests of kvbench/analysis/latency.py, against a plain row-by-row reading of tokens.csv."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from kvbench.analysis.latency import Latency, latencies
from kvbench.errors import UserError
from kvbench.plan.case import Case
from kvbench.records.run import Run, load_run
from kvbench.records.sample import Sample, sample_of
from tests.fakes import arm, make_case, make_task, timed_sample
from tests.records.reading import rows_of, write_rows
from tests.report.saved import save

FOUR, FIVE = make_case(max_new_tokens=4), make_case(max_new_tokens=5, cache="off")


def random_times(seed: int = 0) -> Callable[[Sample], Sequence[float]]:
    rng = np.random.default_rng(seed)
    return lambda sample: np.cumsum(rng.lognormal(-3, 0.5, sample.max_new_tokens)).tolist()


def saved(path: Path, *cases: Case, samples: int = 6, seed: int = 0) -> Run:
    made = [sample for case in cases for sample in arm(case, [1.0] * samples)]
    return load_run(save(path / "run", made, random_times(seed)))


def gaps_of(run: Run, case: Case) -> np.ndarray:
    """Return gaps `[samples, new tokens - 1]`, read row by row."""
    stamps: dict[str, list[float]] = defaultdict(list)
    with (run.path / "tokens.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            stamps[row["sample_id"]].append(float(row["elapsed_s"]))
    ids = [
        s.sample_id
        for s in run.samples
        if s.case_id == case.id and s.phase == "measure" and s.status == "ok"
    ]
    return np.array([[b - a for a, b in zip(stamps[i], stamps[i][1:], strict=False)] for i in ids])


def of(run: Run, case: Case) -> Latency:
    return latencies(run, [case.id])[case.id]


@pytest.mark.parametrize("case", [FOUR, FIVE], ids=["four", "five"])
def test_it_is_the_quartiles_of_the_gaps_at_each_position(tmp_path: Path, case: Case) -> None:
    run = saved(tmp_path, FOUR, FIVE)
    found, gaps = of(run, case), gaps_of(run, case)
    assert found.positions.tolist() == list(range(2, case.max_new_tokens + 1))
    assert found.samples == 6
    for at in range(gaps.shape[1]):
        low, middle, high = np.percentile(gaps[:, at], [25, 50, 75])
        assert (found.low[at], found.median[at], found.high[at]) == pytest.approx(
            (low, middle, high)
        )


def test_a_cold_sample_is_left_out(tmp_path: Path) -> None:
    made = arm(FOUR, [9.0, 1.0, 1.1, 1.2])
    run = load_run(save(tmp_path / "run", made, random_times()))
    found = of(run, FOUR)
    assert found.samples == 3
    assert found.median == pytest.approx(np.median(gaps_of(run, FOUR)[1:], axis=0))


def test_only_the_cases_that_are_asked_for_are_given(tmp_path: Path) -> None:
    run = saved(tmp_path, FOUR, FIVE)
    assert set(latencies(run, [FIVE.id, "no such case"])) == {FIVE.id}
    assert latencies(run, []) == {}


def test_one_token_has_no_gap(tmp_path: Path) -> None:
    one, two = make_case(max_new_tokens=1), make_case(max_new_tokens=2)
    run = saved(tmp_path, one, two)
    assert set(latencies(run, [one.id, two.id])) == {two.id}
    assert of(run, two).positions.tolist() == [2.0]


def test_one_sample_is_its_own_band(tmp_path: Path) -> None:
    found = of(saved(tmp_path, FOUR, samples=1), FOUR)
    assert found.low.tolist() == found.median.tolist() == found.high.tolist()


def test_warm_ups_and_failures_do_not_count(tmp_path: Path) -> None:
    warm = timed_sample(make_task(FOUR, phase="warmup"), 9.0)
    failed = sample_of(make_task(FOUR, 7), status="timeout", stage="decode", error="late")
    samples = [warm, *arm(FOUR, [1.0] * 3), failed]
    found = of(load_run(save(tmp_path / "run", samples)), FOUR)
    assert found.samples == 3
    assert found.median == pytest.approx([0.25] * 3)


def test_of_a_sample_that_was_tried_again_the_last_attempt_counts(tmp_path: Path) -> None:
    first = timed_sample(make_task(FOUR), 40.0)
    again = timed_sample(make_task(FOUR, attempt=1), 4.0)
    found = of(load_run(save(tmp_path / "run", [first, again])), FOUR)
    assert found.samples == 1
    assert found.median == pytest.approx([1.0] * 3)


def test_a_last_attempt_that_failed_leaves_nothing(tmp_path: Path) -> None:
    again = sample_of(make_task(FOUR, attempt=1), status="oom", stage="decode", error="full")
    run = load_run(save(tmp_path / "run", [*arm(FOUR, [1.0]), again]))
    assert latencies(run, [FOUR.id]) == {}


# A table that was edited


def edited(run: Run, change: Callable[[list[list[str]]], list[list[str]]]) -> Run:
    path = run.path / "tokens.csv"
    write_rows(path, change(rows_of(path)))
    return load_run(run.path)


def test_a_sample_whose_tokens_were_cut_by_hand_is_left_out(tmp_path: Path) -> None:
    run = saved(tmp_path, FOUR)
    gaps = gaps_of(run, FOUR)
    cut = edited(run, lambda rows: rows[:2] + rows[3:])
    assert of(cut, FOUR).samples == 5
    assert of(cut, FOUR).median == pytest.approx(np.median(gaps[1:], axis=0))


def test_a_table_cut_at_its_end_has_the_samples_before(tmp_path: Path) -> None:
    run = saved(tmp_path, FOUR)
    assert of(edited(run, lambda rows: rows[:-1]), FOUR).samples == 5


def test_a_table_without_rows_has_no_latencies(tmp_path: Path) -> None:
    assert latencies(edited(saved(tmp_path, FOUR), lambda rows: rows[:1]), [FOUR.id]) == {}


def test_tokens_of_samples_that_there_are_not_do_not_matter(tmp_path: Path) -> None:
    run = saved(tmp_path, FOUR)
    before = of(run, FOUR).median.tolist()
    strangers = [["0000000000-s000", str(i), "1.0"] for i in range(1, 5)]
    assert of(edited(run, lambda rows: [*rows, *strangers]), FOUR).median.tolist() == before


def test_the_order_of_the_samples_does_not_matter(tmp_path: Path) -> None:
    run = saved(tmp_path, FOUR)
    before = of(run, FOUR).median.tolist()
    blocks = edited(run, lambda rows: [rows[0], *rows[5:], *rows[1:5]])
    assert of(blocks, FOUR).median.tolist() == before


@pytest.mark.parametrize(
    "key",
    [
        lambda row: -int(row[1]),
        lambda row: (row[1], row[0]),
        lambda row: (row[0], -int(row[1])),
    ],
    ids=["backwards", "by token", "each backwards"],
)
def test_rows_in_another_order_give_no_wrong_times(
    tmp_path: Path, key: Callable[[list[str]], object]
) -> None:
    """Sorted in a spreadsheet: put back in order, or left out, but never a negative time."""
    run = saved(tmp_path, FOUR)
    before = of(run, FOUR).median.tolist()
    after = latencies(edited(run, lambda rows: [rows[0], *sorted(rows[1:], key=key)]), [FOUR.id])
    assert after == {} or after[FOUR.id].median.tolist() == before


@pytest.mark.parametrize("column", [0, 2])
def test_a_missing_column_is_a_sentence(tmp_path: Path, column: int) -> None:
    run = edited(
        saved(tmp_path, FOUR), lambda rows: [row[:column] + row[column + 1 :] for row in rows]
    )
    with pytest.raises(UserError, match=r"tokens\.csv"):
        latencies(run, [FOUR.id])


@pytest.mark.parametrize("value", ["abc", "", "inf", "0", "-1", "nan"])
def test_a_time_that_is_none_is_a_sentence(tmp_path: Path, value: str, snapshot: object) -> None:
    def spoil(rows: list[list[str]]) -> list[list[str]]:
        rows[3][2] = value
        return rows

    run = edited(saved(tmp_path, FOUR), spoil)
    with pytest.raises(UserError) as caught:
        latencies(run, [FOUR.id])
    assert str(caught.value) == snapshot


def test_a_time_before_that_of_the_token_before_is_a_sentence(
    tmp_path: Path, snapshot: object
) -> None:
    def spoil(rows: list[list[str]]) -> list[list[str]]:
        rows[3][2] = "1e-9"
        return rows

    run = edited(saved(tmp_path, FOUR), spoil)
    with pytest.raises(UserError) as caught:
        latencies(run, [FOUR.id])
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("value", ["1.5", "", "second"])
def test_a_number_of_a_token_that_is_none_is_a_sentence(
    tmp_path: Path, value: str, snapshot: object
) -> None:
    def spoil(rows: list[list[str]]) -> list[list[str]]:
        rows[2][1] = value
        return rows

    run = edited(saved(tmp_path, FOUR), spoil)
    with pytest.raises(UserError) as caught:
        latencies(run, [FOUR.id])
    assert str(caught.value) == snapshot


def test_a_run_without_the_table_is_a_sentence(tmp_path: Path, snapshot: object) -> None:
    run = saved(tmp_path, FOUR)
    (run.path / "tokens.csv").unlink()
    with pytest.raises(UserError) as caught:
        latencies(load_run(run.path), [FOUR.id])
    assert str(caught.value) == snapshot


# Thinning


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return seven samples of 3,001 tokens, 1 ms apart except for spikes."""
    case = make_case(max_new_tokens=3001)
    rng = np.random.default_rng(6)
    shared = np.full(3001, 1e-3)
    # In all samples, so the quartiles contain them.
    shared[[1, 700, 1500, 3000]] = [0.05, 0.06, 0.07, 0.08]

    def times(sample: Sample) -> Sequence[float]:
        return np.cumsum(shared * rng.lognormal(0, 0.01, 3001)).tolist()

    folder = tmp_path_factory.mktemp("long")
    return load_run(save(folder / "run", arm(case, [3.0] * 7), times))


def test_many_positions_are_thinned(long_run: Run) -> None:
    (found,) = latencies(long_run, [long_run.samples[0].case_id]).values()
    assert len(found.positions) == 400
    assert np.all(np.diff(found.positions) > 0)
    assert 2 <= found.positions[0] < found.positions[-1] <= 3001
    assert len(found.median) == len(found.low) == len(found.high) == 400


def test_no_spike_of_the_band_is_thinned_away(long_run: Run) -> None:
    case = make_case(max_new_tokens=3001)
    found, gaps = of(long_run, case), gaps_of(long_run, case)
    low, high = np.percentile(gaps, [25, 75], axis=0)
    assert sorted(found.high)[-4:] == pytest.approx(sorted(high)[-4:])
    assert found.high.max() == high.max()
    assert found.low.min() == low.min()
    spans = np.abs(np.subtract.outer(found.positions, np.arange(2, 3002))).argmin(axis=0)
    # Each point's band contains all quartiles of its nearest positions, except for those on the
    # border between two.
    inside = (found.low[spans] <= low) & (high <= found.high[spans])
    assert inside.mean() > 0.9


def test_the_median_of_a_point_is_that_of_its_positions(long_run: Run) -> None:
    found = of(long_run, make_case(max_new_tokens=3001))
    assert np.all(found.low <= found.median)
    assert np.all(found.median <= found.high)
    # A spike is one position of several: it does not raise the line.
    assert np.median(found.median) == pytest.approx(1e-3, rel=0.02)
    assert found.median.max() < 2e-3


@pytest.mark.parametrize(("tokens", "points"), [(401, 400), (402, 400), (400, 399)])
def test_as_many_positions_as_points_are_left_as_they_are(
    tmp_path: Path, tokens: int, points: int
) -> None:
    case = make_case(max_new_tokens=tokens)
    run = saved(tmp_path, case, samples=2)
    found, gaps = of(run, case), gaps_of(run, case)
    assert len(found.positions) == points
    if tokens <= 401:
        assert found.median == pytest.approx(np.median(gaps, axis=0))
    assert found.high.max() == np.percentile(gaps, 75, axis=0).max()
