"""Tests of kvbench/analysis/trace.py: rows of shorter lengths, read from one generation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kvbench.analysis.trace import Prefix, can_trace, rows_of_trace
from kvbench.caches.registry import STRATEGIES
from kvbench.catalogue import CATALOGUE
from kvbench.measure.cache import allocated_bytes
from kvbench.measure.cache import cache_bytes as cache_tensor_bytes
from kvbench.measure.clock import TokenClock
from kvbench.plan.case import Task
from kvbench.records.sample import Sample, sample_of
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from tests import tiny
from tests.fakes import make_case

LENGTHS = (2, 5, 8)
TIMES = (0.5, 0.6, 0.75, 0.9, 1.0, 1.3, 1.4, 1.8)
TOTAL = 1.85


def gpt2() -> Architecture:
    config = CATALOGUE["gpt2"].config
    assert config is not None
    return Architecture.from_config(config)


def tasks(cache: str = "dynamic", batch_size: int = 1) -> list[Task]:
    return [
        Task(make_case(cache=cache, batch_size=batch_size, max_new_tokens=n), "measure", 3, 2, n)
        for n in LENGTHS
    ]


def whole(task: Task, **fields: Any) -> Sample:
    """The longest row, as an engine would give it."""
    known: dict[str, Any] = {
        "prompt_tokens": 6,
        "new_tokens": task.new_tokens,
        "total_s": TOTAL,
        "ttft_s": TIMES[0],
        "energy_j": 12.0,
        "rss_peak_bytes": 1 << 30,
        "memory_method": "vmhwm",
        "cache_class": "DynamicCache",
        "weights_bytes": 497_000_000,
        "started_at": "2026-11-26T20:00:00.000+00:00",
    }
    return sample_of(task, **known | fields)


def measured_bytes(task: Task) -> int:
    case = task.case
    sizes = (case.batch_size, 6, case.max_new_tokens)
    return cache_bytes(gpt2(), case.cache, *sizes, "float32")


def test_each_length_is_read_from_the_stamps_of_the_longest() -> None:
    asked = tasks(batch_size=2)
    rows = rows_of_trace(whole(asked[-1]), TIMES, asked)
    assert [row.max_new_tokens for row in rows] == [2, 5, 8]
    assert [row.new_tokens for row in rows] == [2, 5, 8]
    short, middle, _ = rows
    # Each ends as the whole did: 0.05 s after its last token.
    assert short.total_s == pytest.approx(0.65)
    assert middle.total_s == pytest.approx(1.05)
    assert (short.ttft_s, middle.ttft_s) == (0.5, 0.5)
    assert short.itl_s == pytest.approx(0.15)
    assert middle.itl_s == pytest.approx(0.55 / 4)
    assert middle.tokens_per_s == pytest.approx(2 * 5 / 1.05)


def test_a_length_of_one_token_has_no_time_between_tokens() -> None:
    asked = [*tasks(), Task(make_case(max_new_tokens=1), "measure", 3, 2, 1)]
    row = rows_of_trace(whole(asked[2]), TIMES, asked)[-1]
    assert (row.itl_s, row.total_s) == (None, pytest.approx(0.55))


def test_rows_say_which_generation_they_come_from() -> None:
    asked = tasks()
    rows = rows_of_trace(whole(asked[-1]), TIMES, asked)
    assert {row.method for row in rows} == {"trace"}
    assert {row.generation_id for row in rows} == {asked[-1].sample_id}
    assert [row.sample_id for row in rows] == [task.sample_id for task in asked]
    assert {(row.round, row.repeat) for row in rows} == {(3, 2)}


def test_the_longest_keeps_all_that_was_measured() -> None:
    asked = tasks()
    longest = whole(asked[-1])
    row = rows_of_trace(longest, TIMES, asked)[-1]
    again = dataclasses.replace(row, method="each", generation_id=None)
    assert again == longest


def test_peak_memory_and_energy_belong_to_the_whole() -> None:
    asked = tasks()
    short = rows_of_trace(whole(asked[-1]), TIMES, asked)[0]
    assert (short.energy_j, short.rss_peak_bytes, short.memory_method) == (None, None, None)
    # What does not depend on the length is kept.
    assert (short.cache_class, short.weights_bytes) == ("DynamicCache", 497_000_000)
    assert (short.prompt_tokens, short.started_at) == (6, "2026-11-26T20:00:00.000+00:00")


def test_bytes_of_the_cache_are_computed_where_the_end_agrees() -> None:
    asked = tasks(batch_size=2)
    size = measured_bytes(asked[-1])
    longest = whole(asked[-1], kv_cache_bytes=size, cache_allocated_bytes=size)
    rows = rows_of_trace(longest, TIMES, asked, architecture=gpt2())
    assert [row.kv_cache_bytes for row in rows] == [measured_bytes(task) for task in asked]
    assert [row.cache_allocated_bytes for row in rows] == [measured_bytes(t) for t in asked]
    assert rows[0].cache_host_bytes is None


def test_bytes_are_null_where_the_end_disagrees() -> None:
    asked = tasks()
    longest = whole(asked[-1], kv_cache_bytes=measured_bytes(asked[-1]) + 4)
    rows = rows_of_trace(longest, TIMES, asked, architecture=gpt2())
    assert [row.kv_cache_bytes for row in rows[:-1]] == [None, None]
    assert rows[-1].kv_cache_bytes == measured_bytes(asked[-1]) + 4


def test_bytes_are_null_where_theory_does_not_know_the_model() -> None:
    asked = tasks()
    longest = whole(asked[-1], kv_cache_bytes=measured_bytes(asked[-1]))
    assert rows_of_trace(longest, TIMES, asked)[0].kv_cache_bytes is None


def test_what_was_allocated_is_null_where_it_is_more_than_what_is_used() -> None:
    asked = tasks()
    size = measured_bytes(asked[-1])
    longest = whole(asked[-1], kv_cache_bytes=size, cache_allocated_bytes=2 * size)
    row = rows_of_trace(longest, TIMES, asked, architecture=gpt2())[0]
    assert (row.kv_cache_bytes, row.cache_allocated_bytes) == (measured_bytes(asked[0]), None)


def test_without_a_cache_there_are_no_bytes_whatever_the_model() -> None:
    asked = tasks("off")
    longest = whole(asked[-1], kv_cache_bytes=0, cache_allocated_bytes=0, cache_host_bytes=0)
    row = rows_of_trace(longest, TIMES, asked)[0]
    assert (row.kv_cache_bytes, row.cache_allocated_bytes, row.cache_host_bytes) == (0, 0, 0)


def test_a_generation_that_dies_leaves_the_lengths_below() -> None:
    asked = tasks()
    error = {"status": "oom", "stage": "decode", "error": "out of memory", "oom_bytes": 99}
    died = whole(asked[-1], total_s=None, ttft_s=None, new_tokens=None, **error)
    short, middle, longest = rows_of_trace(died, TIMES[:4], asked, architecture=gpt2())
    assert (short.status, short.total_s, short.error) == ("ok", 0.6, None)
    assert (middle.status, middle.total_s) == ("oom", None)
    assert (middle.stage, middle.error, middle.oom_bytes) == ("decode", "out of memory", 99)
    assert longest.status == "oom"
    assert {row.generation_id for row in (short, middle, longest)} == {asked[-1].sample_id}
    # Nothing was measured at the end, so that nothing is claimed of its parts.
    assert short.kv_cache_bytes is None


def test_a_length_whose_last_token_was_stamped_is_ok() -> None:
    asked = tasks()
    died = whole(asked[-1], status="crashed", total_s=None)
    assert [row.status for row in rows_of_trace(died, TIMES[:5], asked)] == ["ok", "ok", "crashed"]
    assert [row.status for row in rows_of_trace(died, TIMES[:1], asked)] == ["crashed"] * 3
    assert [row.status for row in rows_of_trace(died, (), asked)] == ["crashed"] * 3


def test_no_part_of_a_generation_with_another_number_of_tokens_counts() -> None:
    asked = tasks()
    wrong = whole(asked[-1], status="mismatch", total_s=None)
    assert {row.status for row in rows_of_trace(wrong, TIMES, asked)} == {"mismatch"}


def test_a_task_longer_than_the_generation_is_a_mistake_of_the_caller() -> None:
    asked = tasks()
    with pytest.raises(ValueError, match="longer than the generation"):
        rows_of_trace(whole(asked[1]), TIMES[:5], asked)


def test_flags_and_hashes_of_a_part_are_its_own() -> None:
    asked = tasks()
    longest = whole(asked[-1], flags="busy_cpu paused past_positions", output_sha256="f" * 16)
    prefixes = [Prefix(2, "a" * 16), Prefix(5, "b" * 16, ("paused",))]
    short, middle, last = rows_of_trace(longest, TIMES, asked, prefixes)
    assert (short.output_sha256, short.flags) == ("a" * 16, "busy_cpu")
    assert (middle.output_sha256, middle.flags) == ("b" * 16, "busy_cpu paused")
    assert (last.output_sha256, last.flags) == ("f" * 16, "busy_cpu paused past_positions")


def test_only_caches_that_grow_can_be_traced() -> None:
    known = {name for name, entry in STRATEGIES.items() if can_trace(entry)}
    assert {"off", "dynamic", "dynamic-full"} <= known
    others = {"static", "static-compiled", "offloaded", "offloaded-static", "quantized", "paged"}
    assert not others & known


@pytest.mark.parametrize("cache", ["off", "dynamic"])
@pytest.mark.parametrize("family", ["gpt2", "mistral", "t5"])
def test_a_real_trace_has_the_bytes_of_separate_generations(
    family: str, cache: str, tmp_path: Path
) -> None:
    config = tiny.ARCHITECTURES[family]
    model = tiny.load(tiny.config_folder(tmp_path / "model", config))
    asked = [
        Task(tiny.case("m", cache=cache, max_new_tokens=n), "measure", 0, 0, n) for n in LENGTHS
    ]
    inputs = tiny.inputs_of(model, [[5, 17, 9, 300, 44]])
    separate = []
    for task in asked:
        made = tiny.run(model, inputs, cache, task.new_tokens, TokenClock())
        separate.append(
            sample_of(
                task,
                prompt_tokens=inputs.tokens,
                new_tokens=made.new_tokens,
                total_s=made.total_s,
                kv_cache_bytes=cache_tensor_bytes(made.cache),
                cache_allocated_bytes=allocated_bytes(made.cache),
            )
        )
        times = made.token_times
    longest = separate[-1]
    architecture = Architecture.from_config(config)
    rows = rows_of_trace(longest, times, asked, architecture=architecture)
    for row, alone in zip(rows, separate, strict=True):
        assert alone.status == row.status == "ok"
        assert row.kv_cache_bytes == alone.kv_cache_bytes
        # A window that is full is a view of more than it shows: then it is not known of the parts.
        if longest.cache_allocated_bytes == longest.kv_cache_bytes:
            assert row.cache_allocated_bytes == alone.cache_allocated_bytes
        else:
            assert (family, cache) == ("mistral", "dynamic")
        assert row.new_tokens == alone.new_tokens
        assert row.prompt_tokens == alone.prompt_tokens
    assert rows[0].ttft_s == times[0]
