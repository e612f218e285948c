"""Tests of kvbench/analysis/fits.py: out of memory, a case says what would fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kvbench import api
from kvbench.analysis.expected import summarize_run
from kvbench.catalogue import CATALOGUE
from kvbench.plan.plan import Plan
from kvbench.records.run import Run
from kvbench.report.table import failures
from kvbench.theory.advice import needed_bytes
from kvbench.theory.architecture import Architecture
from kvbench.theory.estimate import Work
from tests.fakes import FakeEngine, make_environment

ROOM = 320 << 20
GPT2 = Architecture.from_config(CATALOGUE["gpt2"].config)


def run_out(path: Path, room: int | None, device: str = "cpu") -> Run:
    """A run whose largest case does not fit."""
    plan = Plan(
        cache=["off", "dynamic"],
        batch_size=[1, 16],
        prompt_tokens=[100],
        max_new_tokens=[100],
        repeats=1,
        device=[device],
    )
    machine = make_environment()
    versions = {**machine.versions, "transformers": "5.23.0"}
    engine = FakeEngine(
        failure=lambda task: (
            ("oom", "decode", "no memory")
            if task.case.batch_size == 16 and task.case.cache == "dynamic"
            else None
        ),
        room_bytes=room,
        machine=dataclasses.replace(machine, versions=versions),
    )
    return api.sweep(plan, out=path, name="run", engine=engine)


def test_what_ran_out_of_memory_says_what_would_fit(tmp_path: Path) -> None:
    run = run_out(tmp_path, ROOM)
    [row] = [sample for sample in run.samples if sample.status == "oom"]
    assert row.room_bytes == ROOM
    [case] = [case for case in summarize_run(run) if case.status == "oom"]
    work = Work(batch=16, prompt_tokens=100, new_tokens=100)
    assert case.needed_bytes == needed_bytes(GPT2, work, "dynamic") > ROOM
    assert case.fits_batch is not None and 1 <= case.fits_batch < 16
    names = (case.fits_caches or "").split()
    needs = [needed_bytes(GPT2, work, name) for name in names]
    # What needs a package that is not there is not advised.
    assert "offloaded" not in names
    assert "quantized:backend=fp8" in names and "quantized:backend=quanto:nbits=4" not in names
    assert needs == sorted(needs) and max(needs) < ROOM
    [line] = failures(summarize_run(run))
    assert "320 MiB free; would fit: batch" in line and names[0] in line
    assert line.replace("\\", "") in (run.path / "summary.md").read_text().replace("\\", "")


def test_on_a_gpu_an_offloaded_cache_is_advised(tmp_path: Path) -> None:
    [case] = [
        case for case in summarize_run(run_out(tmp_path, ROOM, "cuda")) if case.status == "oom"
    ]
    assert "offloaded" in (case.fits_caches or "").split()


def test_nothing_is_advised_where_the_room_is_not_known(tmp_path: Path) -> None:
    run = run_out(tmp_path, None)
    [case] = [case for case in summarize_run(run) if case.status == "oom"]
    assert (case.needed_bytes, case.fits_batch, case.fits_caches) == (None, None, None)
    [line] = failures(summarize_run(run))
    assert line.endswith("no memory")
