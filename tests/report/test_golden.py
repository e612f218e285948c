"""Real runs that are stored here: a change of the format must not silently misread them.

tests/golden/gpt2-cpu is a whole small sweep on a busy machine. gpt2-faults had 8 GB of address
space and 40 s per case, and its worker was killed; it was interrupted and resumed. Nothing in them
was edited. The asserted values were read from the files by hand.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from kvbench.analysis.latency import latencies
from kvbench.analysis.summary import CaseSummary, summarize_cases
from kvbench.records.run import FORMAT, Run, load_run
from kvbench.records.sample import latest
from kvbench.report.build import build
from kvbench.report.compare import compare_runs
from kvbench.report.words import answers, proofs
from tests.records.reading import rows_of

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def cpu() -> Run:
    return load_run(GOLDEN / "gpt2-cpu")


@pytest.fixture(scope="module")
def faults() -> Run:
    return load_run(GOLDEN / "gpt2-faults")


def by_case(run: Run) -> dict[tuple[str, int, int], CaseSummary]:
    return {(c.cache, c.batch_size, c.max_new_tokens): c for c in summarize_cases(run.samples)}


@pytest.mark.parametrize("name", ["gpt2-cpu", "gpt2-faults"])
def test_the_folders_are_small_and_hold_nothing_of_the_machine(name: str) -> None:
    files = {path.name: path for path in (GOLDEN / name).iterdir()}
    assert set(files) == {"run.json", "samples.csv", "tokens.csv", "verify.csv"}
    assert sum(path.stat().st_size for path in files.values()) < 200_000
    for path in files.values():
        text = path.read_text(encoding="utf-8")
        for word in ("/home", "/work", "/root", "/tmp", "/usr"):
            assert word not in text
    assert json.loads(files["run.json"].read_text())["format"] == FORMAT


# The whole sweep


def test_the_sweep_has_all_its_samples(cpu: Run) -> None:
    assert cpu.info.state == "finished"
    assert (cpu.info.name, len(cpu.info.cases)) == ("gpt2-cpu", 12)
    assert Counter((s.phase, s.status) for s in cpu.samples) == {
        ("warmup", "ok"): 12,
        ("measure", "ok"): 72,
    }
    assert cpu.info.environment.versions["transformers"] == "5.23.0"
    assert cpu.info.environment.threads == 1


def test_the_summary_of_the_sweep(cpu: Run) -> None:
    cases = by_case(cpu)
    assert list(cases) == [
        (cache, batch, n) for batch in (1, 2) for n in (5, 10, 20) for cache in ("off", "dynamic")
    ]
    assert {case.samples for case in cases.values()} == {6}
    # The exact size of the cache: 12 layers of keys and values, 768 numbers of 4 bytes each, for
    # the prompt's 6 tokens and all new ones but the last.
    for (cache, batch, n), case in cases.items():
        expected = 0 if cache == "off" else 2 * 12 * 768 * 4 * batch * (6 + n - 1)
        assert case.kv_cache_bytes == expected
    assert cases["off", 1, 20].weights_bytes == 497_759_232
    assert cases["off", 1, 20].total_s_median == pytest.approx(2.94, abs=0.01)
    assert cases["dynamic", 1, 20].total_s_median == pytest.approx(1.39, abs=0.01)
    # Six rounds: 2.95 / 1.36, 2.45 / 1.24, 2.38 / 1.35, 2.93 / 1.42, 5.90 / 4.05, 3.72 / 1.72 s.
    # The interval of six is their range; the estimate is the median of the 21 geometric means.
    ratios = [2.171, 1.974, 1.761, 2.068, 1.458, 2.172]
    means = [(a * b) ** 0.5 for a, b in combinations_with_replacement(ratios, 2)]
    found = cases["dynamic", 1, 20]
    assert found.speedup == pytest.approx(statistics.median(means), abs=0.01)
    assert (found.speedup_ci95_low, found.speedup_ci95_high) == pytest.approx(
        (1.458, 2.172), abs=0.01
    )
    assert all(case.same_output for case in cases.values() if case.cache == "dynamic")


def test_the_medians_are_those_of_the_file(cpu: Run) -> None:
    """Computed again without kvbench."""
    header, *rows = rows_of(cpu.path / "samples.csv")
    at = {name: i for i, name in enumerate(header)}
    times: dict[str, list[float]] = {}
    for row in rows:
        if row[at["phase"]] == "measure" and row[at["status"]] == "ok":
            times.setdefault(row[at["case_id"]], []).append(float(row[at["total_s"]]))
    found = {case.case_id: case.total_s_median for case in summarize_cases(cpu.samples)}
    assert found == pytest.approx({name: statistics.median(t) for name, t in times.items()})


def test_its_answer_its_proof_and_its_flags(cpu: Run, snapshot: object) -> None:
    cases = summarize_cases(cpu.samples)
    (answer,) = answers(cases)
    # In round 2 the ratio was 3.36 / 2.02, in round 5 7.83 / 3.35: a factor of 1.5 between them.
    assert answer == snapshot
    (proof,) = proofs(cpu.info)
    assert proof == snapshot
    busy = sum("busy_cpu" in (s.flags or "") for s in cpu.samples if s.phase == "measure")
    flags = [flag for case in cases for flag in (case.flags or "").split()]
    counted = sum(int(flag.partition(":")[2]) for flag in flags if flag.startswith("busy_cpu"))
    assert busy == counted > 40
    # The times of off at 10 tokens: 1.11, 1.12, 1.20, 1.77, 2.57, 9.53 s.
    assert by_case(cpu)["off", 1, 10].flags == snapshot


def test_its_token_times_are_there_for_each_sample(cpu: Run) -> None:
    cases = by_case(cpu)
    found = latencies(cpu, [case.case_id for case in cases.values()])
    for (_, _, n), case in cases.items():
        latency = found[case.case_id]
        assert (latency.samples, len(latency.positions)) == (6, n - 1)
        assert latency.positions.tolist() == list(range(2, n + 1))
        assert (latency.low > 0).all()


def test_the_checks_of_the_sweep(cpu: Run) -> None:
    assert {check.cache for check in cpu.checks} == {"dynamic"}
    assert {check.check for check in cpu.checks} == {"tokens", "logits", "shape", "leak"}
    logits = [check for check in cpu.checks if check.check == "logits"]
    assert {check.verdict for check in logits} == {"pass"}
    assert all(0 < (check.rms_over_std or 0) < 1e-4 for check in logits)


# The sweep with faults


def test_the_faults_are_read(faults: Run, snapshot: object) -> None:
    assert faults.info.state == "finished"
    assert len(faults.info.resumes) == 1
    assert Counter(s.status for s in faults.samples) == {
        "ok": 32,
        "oom": 6,
        "timeout": 2,
        "skipped_oom": 1,
        "crashed": 1,
    }
    assert {s.session for s in faults.samples} == {0, 1}
    (crashed,) = [s for s in faults.samples if s.status == "crashed"]
    assert crashed.error == snapshot
    assert crashed.total_s is None


def test_a_sample_that_crashed_and_was_tried_again_counts_once(faults: Run) -> None:
    counted = latest(faults.samples)
    assert not [s for s in counted if s.status == "crashed"]
    assert len(counted) == len({(s.case_id, s.phase, s.repeat) for s in faults.samples})
    again = [s for s in faults.samples if s.attempt]
    assert len(again) == len(faults.samples) - len(counted)


def test_the_summary_of_the_faults(faults: Run, snapshot: object) -> None:
    cases = by_case(faults)
    assert {key: (case.status, case.samples) for key, case in cases.items()} == {
        ("off", 1, 5): ("ok", 5),
        ("dynamic", 1, 5): ("ok", 5),
        ("off", 1, 20): ("oom", 2),
        ("dynamic", 1, 20): ("ok", 5),
        ("off", 1, 150): ("timeout", 0),
        ("dynamic", 1, 150): ("timeout", 0),
        ("off", 100_000, 5): ("oom", 0),
        ("dynamic", 100_000, 5): ("oom", 0),
        ("off", 100_000, 20): ("skipped_oom", 0),
        ("dynamic", 100_000, 20): ("oom", 0),
        ("off", 100_000, 150): ("oom", 0),
        ("dynamic", 100_000, 150): ("oom", 0),
    }
    lost = cases["off", 1, 150]
    assert (lost.total_s_median, lost.speedup) == (None, None)
    assert lost.error == snapshot
    assert "undersampled" in (cases["off", 1, 20].flags or "")
    failed = [s for s in faults.samples if s.case_id == cases["off", 100_000, 5].case_id]
    assert [s.oom_bytes for s in failed] == [1_843_200_000]


def test_the_report_of_the_faults(faults: Run, tmp_path: Path, snapshot: object) -> None:
    build([faults], tmp_path, formats=("markdown", "html"), charts=("total_time",))
    # Two rounds of off and dynamic are complete; medians of two and five mean nothing.
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == snapshot
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "RuntimeError" in page
    assert "busy_cpu" in page
    assert "<dt>resumed</dt><dd>once</dd>" in page


def test_both_are_compared_where_both_have_times(cpu: Run, faults: Run, snapshot: object) -> None:
    result = compare_runs([cpu, faults])
    assert result.differences == snapshot
    assert {(row.cache, row.batch_size, row.max_new_tokens) for row in result.rows} == {
        ("off", 1, 5),
        ("dynamic", 1, 5),
        ("off", 1, 20),
        ("dynamic", 1, 20),
    }
    ratios = {(row.cache, row.max_new_tokens): row.ratio for row in result.rows}
    assert ratios["dynamic", 20] == pytest.approx(3.55, abs=0.01)
    reasons = Counter(one.reason.split(":")[0] for one in result.unmatched)
    assert reasons == snapshot


def test_the_arms_of_the_sweep_are_compared(cpu: Run) -> None:
    result = compare_runs([cpu], "cache")
    assert len(result.rows) == 6
    assert result.unmatched == ()
    speedups = {
        (case.batch_size, case.max_new_tokens): case.speedup
        for case in summarize_cases(cpu.samples)
        if case.speedup
    }
    for row in result.rows:
        assert row.batch_size is not None and row.max_new_tokens is not None
        assert 1 / row.ratio == pytest.approx(speedups[row.batch_size, row.max_new_tokens])


# Runs of an H100


def test_cold_samples_of_a_gpu_make_no_claim(snapshot: object) -> None:
    """Off took 21.4, 6.54, 6.16 s and dynamic 20.24, 6.68: not 2.07 times as fast.

    The first of off is cold; that of dynamic has only one later sample, so that it cannot be told.
    Round 0 does not count all the same, and in round 1 the times were 6.54 and 6.68.
    """
    run = load_run(GOLDEN / "h100-llama-7b")
    cases = {case.cache: case for case in summarize_cases(run.samples)}
    off, on = cases["off"], cases["dynamic"]
    assert (off.flags, off.cold_starts) == ("undersampled cold_start:1", 1)
    assert off.cold_start_s == pytest.approx(21.4, abs=0.01)
    assert off.total_s_median == pytest.approx((6.54 + 6.16) / 2, abs=0.01)
    assert (on.flags, on.cold_starts) == ("undersampled", 0)
    assert (on.speedup, on.speedup_rounds) == (pytest.approx(6.54 / 6.68, abs=0.002), 1)
    assert on.speedup_ci95_low is None
    (answer,) = answers(list(cases.values()))
    assert answer == snapshot
    (row,) = compare_runs([run], "cache").rows
    assert (row.a_cold_starts, row.b_cold_starts, row.rounds, row.verdict) == (1, 0, 1, "unclear")


def test_drift_of_a_gpu_is_not_in_the_ratio(snapshot: object) -> None:
    """Off rose as 6.98, 8.52, 9.94 s and dynamic as 5.93, 6.65, 7.50: three rounds, no claim."""
    run = load_run(GOLDEN / "h100-gpt2-cuda")
    cases = {case.cache: case for case in summarize_cases(run.samples)}
    on = cases["dynamic"]
    # The median of the six geometric means of 1.177, 1.281 and 1.325.
    assert on.speedup == pytest.approx(1.265, abs=0.002)
    assert (on.speedup_round_min, on.speedup_round_max) == pytest.approx((1.177, 1.325), abs=0.002)
    assert on.speedup_ci95_low is None
    (answer,) = answers(list(cases.values()))
    assert answer == snapshot
    # 2287, 2476 and 2666 J without the cache, 840, 948 and 1045 J with it, 1000 tokens each.
    assert cases["off"].energy_j_per_token == pytest.approx(2.476, abs=0.001)
    assert on.energy_j_per_token == pytest.approx(0.948, abs=0.001)
    assert (on.energy_method, on.energy_rounds) == ("nvml-total-energy", 3)
    assert on.energy_ratio == pytest.approx(2.62, abs=0.01)
    assert on.energy_ratio_ci95_low is None
    (row,) = compare_runs([run], "cache", metric="energy").rows
    assert row.ratio == pytest.approx(1 / on.energy_ratio)
    assert (row.verdict, row.rounds) == ("unclear", 3)
    # A trend needs six samples to be distinguishable from chance.
    assert {case.flags for case in cases.values()} == {"undersampled"}
