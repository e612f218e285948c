"""Tests of kvbench/run/fit.py: with a fake engine, and once with a real one under a limit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from kvbench import api
from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.plan.case import Task
from kvbench.plan.plan import Plan
from kvbench.report.fit import fit_reasons, fit_table
from kvbench.theory.advice import largest_batch, needed_bytes
from kvbench.theory.architecture import Architecture
from kvbench.theory.work import Work
from tests.fakes import Failure, FakeEngine
from tests.tiny import LLAMA, config_folder

ROOM = 1 << 30


def failure(task: Task) -> Failure | None:
    """Fit 37 sequences, or 5 with `static`, whose process ends when it gets no memory."""
    if task.case.cache == "window" and task.case.batch_size > 1:
        return "error", "prefill", "no such operator"
    if task.case.cache == "static" and task.case.batch_size > 5:
        return "crashed", "decode", "terminate called after std::bad_alloc"
    positions = (task.case.prompt.tokens or 0) + task.new_tokens - 1
    fits = task.case.batch_size <= 37 and positions <= 700
    return None if fits else ("oom", "prefill", "not enough memory")


def plan(*caches: str, **keys: Any) -> Plan:
    known = {"model": ["gpt2"], "device": ["cpu"], "weights": "random", "cache": list(caches)}
    return Plan.parse(known | {"prompt_tokens": 256, "max_new_tokens": 16} | keys)


def test_each_strategy_is_searched_in_a_process_of_its_own(snapshot: object) -> None:
    engine = FakeEngine(
        failure=failure, room_bytes=ROOM, needs={"offloaded": "offloaded: it needs a CUDA device."}
    )
    rows = api.fit(plan("dynamic", "static", "offloaded", "window"), engine=engine)
    assert [(row.status, row.largest, row.fails_at) for row in rows] == [
        ("found", 36, 38),
        ("found", 5, 6),
        ("unsupported", None, None),
        ("failed", None, None),
    ]
    known = Architecture.from_config(CATALOGUE["gpt2"].config)
    work = Work(prompt_tokens=256, new_tokens=16)
    assert rows[0].predicted == largest_batch(known, work, "dynamic", ROOM)
    assert rows[0].needed_bytes == needed_bytes(known, work.with_batch(36), "dynamic")
    assert rows[1].reason == "terminate called after std::bad_alloc"
    # A new process for each strategy, and after each generation that failed; the last is ended.
    failed = sum(failure(task) is not None for task in engine.tasks)
    assert engine.closed == 4 + failed + 1
    table = fit_table(rows)
    assert (table.heads, table.rows, table.caption, fit_reasons(rows)) == snapshot


def test_a_context_grows_by_its_prompt_up_to_the_positions_of_the_model() -> None:
    engine = FakeEngine(failure=failure, room_bytes=ROOM)
    (row,) = api.fit(plan("dynamic"), find="context", engine=engine)
    assert (row.status, row.prompt_tokens, row.batch_size) == ("found", None, 1)
    assert row.largest is not None and row.fails_at is not None
    assert row.largest <= 700 < row.fails_at <= row.largest * 17 / 16
    assert {task.new_tokens for task in engine.tasks} == {16}
    engine = FakeEngine(room_bytes=ROOM)
    (row,) = api.fit(plan("dynamic"), find="context", engine=engine)
    assert (row.status, row.largest) == ("at_most", 1024)


def test_no_context_is_smaller_than_the_new_tokens() -> None:
    with pytest.raises(UserError) as caught:
        api.fit(plan("dynamic"), find="context", most=15, engine=FakeEngine())
    assert (caught.value.kind, caught.value.fields["name"]) == ("too_few", "--most")
    engine = FakeEngine(failure=lambda task: ("oom", "prefill", "none"), room_bytes=ROOM)
    (row,) = api.fit(plan("dynamic", max_new_tokens=200), find="context", engine=engine)
    assert (row.status, row.largest) == ("nothing_fits", 0)
    # Below 200 positions there is nothing else to generate.
    prompts = [task.case.prompt.tokens for task in engine.tasks]
    assert len(prompts) == len(set(prompts)) == row.attempts


def test_several_sizes_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        api.fit(plan("dynamic", batch_size=[1, 2]), engine=FakeEngine())
    assert caught.value.kind == "one_case_only"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_under_a_limit_what_is_found_fits_and_a_little_more_does_not(tmp_path: Path) -> None:
    # Much cache and little work: 256 KiB for each position of each sequence.
    wide = LLAMA | {"num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16}
    folder = config_folder(tmp_path, wide | {"head_dim": 256})
    before = set(psutil.Process().children(recursive=True))
    limited = plan("static", model=[folder], prompt_tokens=8, max_new_tokens=3)
    (row,) = api.fit(limited, memory_limit=768 << 20)
    assert row.status == "found", row
    assert row.largest and row.largest < (row.fails_at or 0) <= row.largest * 17 / 16 + 1
    assert row.room_bytes is not None and row.room_bytes < 768 << 20
    assert row.predicted and 0.3 < row.predicted / row.largest < 2
    assert set(psutil.Process().children(recursive=True)) <= before
