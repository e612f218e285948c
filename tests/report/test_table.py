"""Tests of kvbench/report/table.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvbench.analysis.summary import CaseSummary
from kvbench.report.table import Table, failures, pair_table
from tests.fakes import make_summary

ALWAYS = ("tokens", "batch", "off", "dynamic", "speedup", "tok/s", "cache MiB", "RSS MiB")


def both(**fields: Any) -> list[CaseSummary]:
    on = {
        "speedup": 2.0,
        "speedup_ci95_low": 1.9,
        "speedup_ci95_high": 2.1,
        "tokens_per_s_median": 117.6,
        "kv_cache_bytes": 15 << 19,
        "memory_peak_bytes": 600 << 20,
    }
    return [make_summary(cache="off", **fields), make_summary(**(on | fields))]


def cell(table: Table, head: str, row: int = 0) -> str:
    return table.rows[row][table.heads.index(head)]


def test_the_arms_stand_side_by_side() -> None:
    table = pair_table(both())
    assert table.heads == ALWAYS
    assert table.rows == (
        (
            "100",
            "1",
            "2.00 s [1.00\N{EN DASH}4.00]",
            "1.00 s [0.500\N{EN DASH}2.00]",
            "2.00x (1.90\N{EN DASH}2.10)",
            "118",
            "7.50",
            "600",
        ),
    )
    assert all(table.numeric)


def test_there_is_a_row_per_pair() -> None:
    table = pair_table([c for n in (10, 50, 100) for c in both(max_new_tokens=n)])
    assert [row[0] for row in table.rows] == ["10", "50", "100"]


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("model", "a", "b"),
        ("device", "cpu", "cuda"),
        ("dtype", "float32", "bfloat16"),
        ("attention", "sdpa", "eager"),
        ("prompt", "text:x", "tokens:6"),
    ],
)
def test_a_column_is_there_if_it_says_different_things(field: str, first: str, second: str) -> None:
    table = pair_table([*both(**{field: first}), *both(**{field: second})])
    assert [cell(table, field, row) for row in range(2)] == [first, second]
    assert not table.numeric[table.heads.index(field)]
    assert field not in pair_table(both(**{field: first})).heads


def test_two_strategies_get_a_column_for_their_name() -> None:
    off, on = both()
    static = make_summary(cache="static", speedup=1.5)
    table = pair_table([off, on, static])
    assert [cell(table, "cache", row) for row in range(2)] == ["dynamic", "static"]
    assert "with cache" in table.heads


@pytest.mark.parametrize(
    ("devices", "head"),
    [(["cpu"], "RSS MiB"), (["cuda"], "VRAM MiB"), (["cpu", "cuda:1"], "RSS/VRAM MiB")],
)
def test_memory_is_named_for_what_it_is(devices: list[str], head: str) -> None:
    table = pair_table([c for device in devices for c in both(device=device)])
    assert table.heads[-1] == head


def test_an_arm_that_was_not_measured_is_a_dash() -> None:
    off, on = both()
    alone = pair_table([on])
    assert (cell(alone, "off"), cell(alone, "dynamic")) == ("-", "1.00 s [0.500\N{EN DASH}2.00]")
    only_off = pair_table([off])
    assert cell(only_off, "off") == "2.00 s [1.00\N{EN DASH}4.00]"
    assert cell(only_off, "with cache") == "-"
    assert cell(only_off, "speedup") == "-"


def test_an_arm_that_failed_says_how() -> None:
    failed = make_summary(cache="off", total_s_median=None, status="oom", samples=0)
    assert cell(pair_table([failed, make_summary()]), "off") == "oom"


def test_an_arm_that_was_interrupted_before_its_first_sample_has_not_failed() -> None:
    waiting = make_summary(cache="off", total_s_median=None, samples=0)
    assert cell(pair_table([waiting, make_summary()]), "off") == "-"


def test_one_sample_has_no_spread_and_no_range() -> None:
    table = pair_table(
        both(samples=1, speedup_ci95_low=None, speedup_ci95_high=None, speedup_rounds=1)
    )
    assert (cell(table, "dynamic"), cell(table, "speedup")) == ("1.00 s", "2.00x")


def test_too_few_rounds_have_no_range_that_could_be_taken_for_an_interval() -> None:
    rounds = {"speedup_round_min": 1.5, "speedup_round_max": 2.5, "speedup_rounds": 3}
    table = pair_table(both(speedup_ci95_low=None, speedup_ci95_high=None, **rounds))
    assert cell(table, "speedup") == "2.00x"


def test_what_bears_on_the_speed_up_is_flagged_in_its_row(snapshot: object) -> None:
    off = make_summary(cache="off", flags="busy_cpu:2 cold_start:1 trend", cold_starts=1)
    on = make_summary(flags="outlier:2", speedup=2.0)
    table = pair_table([off, on, *both(max_new_tokens=10)])
    assert [cell(table, "flags", row) for row in range(2)] == snapshot
    assert table.caption == snapshot
    busy = make_summary(cache="off", flags="busy_cpu:2")
    assert "flags" not in pair_table([busy]).heads


def test_cold_samples_are_not_among_the_number_of_the_caption(snapshot: object) -> None:
    case = make_summary(samples=7, cold_starts=1)
    assert pair_table([case]).caption == snapshot


def test_a_long_prompt_is_cut() -> None:
    table = pair_table([*both(prompt="text:" + "x" * 99), *both(prompt="text:y")])
    assert cell(table, "prompt") == "text:xxxxxx...xxxxxxxxxx"


def test_the_caption_says_what_the_numbers_are(snapshot: object) -> None:
    assert pair_table(both()).caption == snapshot


NO_INTERVAL: dict[str, Any] = {"speedup_ci95_low": None, "speedup_ci95_high": None}


def test_the_caption_of_few_samples_says_that_there_is_no_interval(snapshot: object) -> None:
    caption = pair_table(both(samples=3, **NO_INTERVAL)).caption
    assert caption == snapshot


def test_the_caption_of_mixed_numbers_names_both(snapshot: object) -> None:
    few = both(samples=3, **NO_INTERVAL)
    caption = pair_table([*few, *both(samples=8, max_new_tokens=10)]).caption
    assert caption == snapshot


def test_one_sample_is_one_sample(snapshot: object) -> None:
    caption = pair_table(both(samples=1)).caption
    assert caption == snapshot


def test_a_run_in_which_all_failed_measured_nothing(snapshot: object) -> None:
    failed = make_summary(total_s_median=None, status="oom", samples=0)
    assert pair_table([failed]).caption == snapshot


def test_no_cases_make_a_table_without_rows(snapshot: object) -> None:
    table = pair_table([])
    assert table.rows == ()
    assert table.caption == snapshot


def test_failures_are_told_with_their_reason(snapshot: object) -> None:
    cases = [
        make_summary(),
        make_summary(status="oom", error="No memory left.", total_s_median=None, samples=0),
        make_summary(cache="off", status="timeout", total_s_median=None, samples=0, batch_size=2),
    ]
    assert failures(cases) == snapshot


# Energy


def powered(**fields: Any) -> list[CaseSummary]:
    off, on = both()
    energy = {"energy_ratio": 2.6, "energy_ratio_ci95_low": 2.4, "energy_ratio_ci95_high": 2.8}
    off = dataclasses.replace(off, energy_j_per_token=2.477, energy_samples=10)
    known = energy | {"energy_j_per_token": 0.948, "energy_samples": 10} | fields
    return [off, dataclasses.replace(on, **known)]


def test_energy_stands_for_each_strategy_with_its_ratio_and_interval(snapshot: object) -> None:
    table = pair_table(powered())
    assert table.heads[-3:] == ("off J/tok", "J/tok", "less energy")
    assert table.rows[0][-3:] == ("2.48", "0.948", "2.60x (2.40\N{EN DASH}2.80)")
    assert table.caption == snapshot


def test_energy_of_too_few_rounds_has_no_interval() -> None:
    table = pair_table(powered(energy_ratio_ci95_low=None, energy_ratio_ci95_high=None))
    assert cell(table, "less energy") == "2.60x"


def test_energy_of_the_uncached_strategy_alone_is_shown() -> None:
    off, on = powered()
    table = pair_table([off])
    assert (cell(table, "off J/tok"), "J/tok" in table.heads) == ("2.48", False)
    table = pair_table([off, dataclasses.replace(on, energy_j_per_token=None, energy_ratio=None)])
    assert table.heads[-1] == "off J/tok"


def test_the_caption_says_that_some_samples_were_too_short_for_their_energy(
    snapshot: object,
) -> None:
    caption = pair_table(powered(energy_samples=2)).caption
    assert caption == snapshot
