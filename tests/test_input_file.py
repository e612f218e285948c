"""User-supplied files are read only if they are regular and within a size limit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvbench.errors import UserError
from kvbench.input_file import read_regular, read_text
from kvbench.models.config_file import find_config
from kvbench.plan.plan import Plan
from kvbench.records.index import list_runs
from kvbench.records.rates import STATE_VARIABLE, read_rates
from kvbench.records.run import load_checks, load_info, load_run
from kvbench.records.tokens import load_tokens

GOLDEN = Path(__file__).parent / "golden" / "gpt2-cpu"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


KINDS = {"pipe": pipe, "device": device, "huge": huge}


def prompts_of(path: Path) -> None:
    assert Plan.parse({"prompt_file": [str(path)]}).prompts


def config_of(path: Path) -> None:
    assert find_config(str(path.parent))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "plan": ("plan.yaml", Plan.load),
    "prompts": ("prompts.txt", prompts_of),
    "config.json": ("config.json", config_of),
    "run.json": ("run.json", lambda path: load_info(path.parent)),
    "rates.json": ("rates.json", lambda path: read_rates()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_or_too_large_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, kind: str, snapshot: object
) -> None:
    name, read = READERS[reader]
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    KINDS[kind](tmp_path / name)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert str(caught.value) == snapshot


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("samples.csv", load_run),
        ("verify.csv", load_checks),
        ("tokens.csv", lambda path: load_tokens(path / "tokens.csv")),
    ],
)
def test_tables_are_regular_files(
    tmp_path: Path, name: str, read: Callable[[Path], Any], kind: str, snapshot: object
) -> None:
    run = tmp_path / "run"
    shutil.copytree(GOLDEN, run)
    (run / name).unlink(missing_ok=True)
    KINDS[kind](run / name)
    with pytest.raises(UserError) as caught:
        read(run)
    assert str(caught.value) == snapshot


def test_a_strange_run_among_others_is_listed(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "good")
    (tmp_path / "odd").mkdir()
    pipe(tmp_path / "odd" / "run.json")
    states = {run.path.name: run.state for run in list_runs(tmp_path)}
    assert states["good"] == "finished"
    assert states["odd"].startswith("unreadable: ")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path, snapshot: object) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3 << 20))
    assert read_regular(file, 3 << 20, "thing") == bytes(3 << 20)
    with pytest.raises(UserError) as caught:
        read_regular(file, (3 << 20) - 1, "thing")
    assert str(caught.value) == snapshot


def test_a_file_that_tells_no_size_is_read() -> None:
    assert os.stat("/proc/self/status").st_size == 0
    assert "Name:" in read_text(Path("/proc/self/status"), 1 << 20, "thing")


def test_a_folder_is_no_file(tmp_path: Path, snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, 10, "thing")
    assert str(caught.value) == snapshot


def test_a_path_with_a_zero_byte_is_no_file(snapshot: object) -> None:
    with pytest.raises(UserError) as caught:
        read_text(Path("a\0b"), 10, "thing")
    assert str(caught.value) == snapshot


def test_the_encoding_of_run_json_does_not_matter_to_who_reads_it(tmp_path: Path) -> None:
    info = load_info(GOLDEN)
    keys = json.loads((GOLDEN / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(keys), encoding="utf-8-sig")
    assert load_info(tmp_path) == info


def test_lines_end_with_a_newline_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "file", 100, "thing") == "a\nb\nc\n"
