"""Tests of kvbench/records/quality.py, and of what the tables and summaries make of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kvbench.analysis.quality import with_quality
from kvbench.analysis.summary import summarize_cases
from kvbench.errors import UserError
from kvbench.plan.case import ModelKey
from kvbench.plan.texts import Text, default_text, text_file
from kvbench.records.quality import (
    QUALITY_FILE,
    Quality,
    append_qualities,
    latest_qualities,
    load_qualities,
    quality_of,
)
from kvbench.records.sample import Sample
from kvbench.report.quality import quality_table
from kvbench.report.table import pair_table
from tests.fakes import arm, make_case

TEXT = Text("a text", "some words")
MEASURED = {
    "passages": 4,
    "prefill_tokens": 512,
    "steps": 64,
    "kl_divergence": 0.0125,
    "kl_divergence_max": 0.5,
    "top1_agreement": 0.95,
    "perplexity": 20.0,
    "baseline_perplexity": 16.0,
    "new_tokens": 64,
    "token_agreement": 0.75,
    "parted_passages": 1,
    "parted_at": 9,
    "needles": 5,
    "needles_found": 2,
    "baseline_needles_found": 4,
}


def row(cache: str = "quantized:backend=fp8", **fields: object) -> Quality:
    key = ModelKey("gpt2", "pretrained", device="cpu", dtype="float32", attention="auto")
    return quality_of(key, cache, TEXT, **(MEASURED | fields))


def both() -> list[Sample]:
    """Two samples without a cache, two with it."""
    return [one for cache in ("off", "dynamic") for one in arm(make_case(cache=cache), [1.0, 1.0])]


def of_dynamic(sample: Sample) -> Quality:
    """The row of the other strategy of the same model."""
    names = ("model", "weights", "device", "dtype", "attention")
    return dataclasses.replace(row("dynamic"), **{name: getattr(sample, name) for name in names})


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert load_qualities(tmp_path) == ()
    rows = [row(), row("window", parted_at=None), row("half", reason="it, failed\nhere")]
    append_qualities(tmp_path, rows[:1])
    append_qualities(tmp_path, rows[1:])
    assert list(load_qualities(tmp_path)) == rows


def test_a_torn_row_is_cut_before_the_next_is_written(tmp_path: Path) -> None:
    append_qualities(tmp_path, [row()])
    with (tmp_path / QUALITY_FILE).open("ab") as file:
        file.write(b"0,2026-")
    append_qualities(tmp_path, [row("window")])
    assert [one.cache for one in load_qualities(tmp_path)] == ["quantized:backend=fp8", "window"]


def test_a_value_that_is_wrong_is_named(tmp_path: Path) -> None:
    append_qualities(tmp_path, [row()])
    path = tmp_path / QUALITY_FILE
    path.write_text(path.read_text().replace("0.0125", "-1"))
    with pytest.raises(UserError, match=r"quality.csv line 2.*kl_divergence"):
        load_qualities(tmp_path)


def test_the_last_measurement_counts() -> None:
    first, last = row(), row(perplexity=18.0)
    assert list(latest_qualities([first, row("window"), last]).values()) == [last, row("window")]


def test_a_ratio_needs_both_perplexities() -> None:
    assert row().perplexity_ratio == 1.25
    assert row(perplexity=None).perplexity_ratio is None


def test_a_summary_has_the_quality_of_its_strategy_and_model() -> None:
    samples = both()
    cases = summarize_cases(samples)
    known = of_dynamic(samples[0])
    off, on = with_quality(cases, [known, row("window")])
    assert (off.kl_divergence, off.perplexity_ratio) == (None, None)
    assert (on.kl_divergence, on.top1_agreement, on.perplexity) == (0.0125, 0.95, 20.0)
    assert (on.perplexity_ratio, on.token_agreement, on.needles_found_ratio) == (1.25, 0.75, 0.5)
    other = dataclasses.replace(known, dtype="bfloat16")
    assert with_quality(cases, [other]) == cases


def test_the_table_has_quality_only_where_there_is_some() -> None:
    samples = both()
    cases = summarize_cases(samples)
    assert not {"KL", "same top-1", "perplexity"} & set(pair_table(cases).heads)
    known = of_dynamic(samples[0])
    table = pair_table(with_quality(cases, [known]))
    cells = dict(zip(table.heads, table.rows[0], strict=True))
    assert (cells["KL"], cells["same top-1"], cells["perplexity"]) == ("0.0125", "95.0%", "1.25x")
    assert "nats" in table.caption


def test_the_table_of_a_pass() -> None:
    nothing = dict.fromkeys(MEASURED)
    table = quality_table([row(), row("window", **nothing, reason="out of memory")])
    first, second = (dict(zip(table.heads, cells, strict=True)) for cells in table.rows)
    assert (first["ratio"], first["needles"], first["parted at"]) == ("1.25x", "2 of 4", "9")
    assert second["not measured"] == "out of memory"
    assert second["KL"] == "-"
    assert "4 passages of a text: 512 tokens at once, then 64" in table.caption
    assert "not measured" not in quality_table([row()]).heads


def test_the_default_text_is_the_same_whenever_it_is_asked_for() -> None:
    one, other = default_text(), default_text()
    assert one.sha256 == other.sha256 != TEXT.sha256
    assert len(one.content) > 300_000


def test_a_text_file_is_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("some words")
    assert text_file(path) == Text("book.txt", "some words")
    assert text_file(path).sha256 == TEXT.sha256
    with pytest.raises(UserError, match="no such text"):
        text_file(tmp_path / "none.txt")
