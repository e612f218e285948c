"""Edits of samples.csv, each value valid, that contradict the row, the case or run.json."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.records.run import load_run

ROOT = Path(__file__).parents[1]
GOLDEN = sorted((ROOT / "golden").iterdir())

Rows = list[dict[str, str]]


def measured(rows: Rows, cache: str = "dynamic") -> dict[str, str]:
    """Return a timed sample in the middle of a case: its third, of more than one token."""
    found = [r for r in rows if (r["phase"], r["status"], r["cache"]) == ("measure", "ok", cache)]
    return next(r for r in found if r["repeat"] == "2")


def put(**values: object) -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        measured(rows).update({name: str(value) for name, value in values.items()})

    return edit


def scaled(name: str, by: float) -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        row = measured(rows)
        row[name] = repr(float(row[name]) * by)

    return edit


def less(name: str) -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        row = measured(rows)
        row[name] = str(int(row[name]) - 1)

    return edit


def whole_case(**values: str) -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        case = measured(rows)["case_id"]
        for row in rows:
            if row["case_id"] == case:
                row.update(values)

    return edit


def swapped(*names: str) -> Callable[[Rows], None]:
    """Return an edit that swaps the values of two cases in these columns."""

    def edit(rows: Rows) -> None:
        one, other = measured(rows), measured(rows, "off")
        for name in names:
            one[name], other[name] = other[name], one[name]

    return edit


def renamed_case(rows: Rows) -> None:
    case = measured(rows)["case_id"]
    for row in rows:
        if row["case_id"] == case:
            row["sample_id"] = row["sample_id"].replace(case, "0123456789")
            row["case_id"] = "0123456789"


def from_a_failed_one(rows: Rows) -> None:
    measured(rows)["status"] = "oom"


EDITS: dict[str, Callable[[Rows], None]] = {
    "TTFT beyond the total": put(ttft_s=999.0),
    "a billion tokens per second": put(tokens_per_s=1e9),
    "tokens per second, a little": scaled("tokens_per_s", 1.001),
    "total alone, faster": scaled("total_s", 0.5),
    "total alone, slower": scaled("total_s", 1.05),
    "TTFT alone": scaled("ttft_s", 0.5),
    "ITL alone": scaled("itl_s", 0.9),
    "one token": put(new_tokens=1),
    "a token less": less("new_tokens"),
    "more tokens": put(new_tokens=999),
    "no tokens": put(new_tokens=""),
    "no total": put(total_s=""),
    "another batch": put(batch_size=64),
    "another length": put(max_new_tokens=7),
    "another model": put(model="llama"),
    "another dtype": put(dtype="bfloat16"),
    "another device": put(device="cuda"),
    "other weights": put(weights="pretrained"),
    "another attention": put(attention="eager"),
    "another strategy": put(cache="off", use_cache="false"),
    "another prompt": put(prompt="text:Hi"),
    "another length of the prompt": put(prompt_tokens=600),
    "a whole case of another model": whole_case(model="llama"),
    "a whole case in another dtype": whole_case(dtype="float16"),
    "a whole case with another name": renamed_case,
    "use_cache turned": put(use_cache="false"),
    "the other case's id": put(case_id="0123456789"),
    "another repeat": put(repeat=77),
    "another phase": put(phase="warmup"),
    "a second attempt": put(attempt=1),
    "peak below before": put(rss_peak_bytes=1),
    "before above peak": put(rss_before_bytes=1 << 50),
    "a GPU's memory on a CPU": put(nvml_peak_bytes=5),
    "a GPU's clock on a CPU": put(gpu_sm_clock_mhz=5),
    "other weights bytes": put(weights_bytes=1),
    "a session that never was": put(session=9),
    "no time": put(started_at="yesterday"),
    "no digest": put(output_sha256="same"),
    "ok with an error": put(error="boom"),
    "ok with a stage": put(stage="decode"),
    "ok with bytes of an OOM": put(oom_bytes=5),
    "failed with a time": from_a_failed_one,
    "compiling longer than all": put(compile_s=999.0),
    "more than all processors": put(other_cpu_share=3.0),
    "times of another case": swapped("total_s", "ttft_s", "itl_s", "started_at", "batch_size"),
    "an integer of 400 digits": put(new_tokens="9" * 400),
}


def edited(folder: Path, edit: Callable[[Rows], None]) -> Path:
    run = folder / "run"
    shutil.copytree(ROOT / "golden" / "gpt2-cpu", run)
    with (run / "samples.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames or []
    edit(rows)
    with (run / "samples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return run


@pytest.mark.parametrize("edit", EDITS)
def test_a_hand_edit_is_not_believed(tmp_path: Path, edit: str, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        load_run(edited(tmp_path, EDITS[edit]))
    assert caught.value.kind == "contradiction"
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("run", GOLDEN, ids=lambda run: run.name)
def test_a_run_as_it_was_measured_is_read(run: Path) -> None:
    assert load_run(run).samples


def test_what_may_differ_is_believed(tmp_path: Path) -> None:
    # NVML covers all processes; the kernel's counts are late by some pages.
    def edit(rows: Rows) -> None:
        row = measured(rows)
        row["rss_peak_bytes"] = str(int(row["rss_before_bytes"]) - (1 << 20))
        row["output_sha256"] = "f" * 16
        row["load_average"] = "99.5"
        row["flags"] = "a:b of_later_versions"

    assert load_run(edited(tmp_path, edit)).samples


def test_a_case_that_run_json_no_longer_plans_is_known_by_its_id(tmp_path: Path) -> None:
    run = edited(tmp_path, lambda rows: None)
    keys = json.loads((run / "run.json").read_text())
    keys["cases"] = keys["cases"][:1]
    (run / "run.json").write_text(json.dumps(keys))
    assert load_run(run).samples


def test_the_first_row_of_several_is_named(tmp_path: Path) -> None:
    def edit(rows: Rows) -> None:
        for row in rows[3:]:
            row["tokens_per_s"] = "1e9"

    run = edited(tmp_path, edit)
    with (run / "samples.csv").open(newline="") as file:
        third = list(csv.DictReader(file))[3]["sample_id"]
    with pytest.raises(UserError, match=f"sample {third} "):
        load_run(run)
