"""Tests of kvbench/cli/estimate.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.records.rates import STATE_VARIABLE, keep_rates
from tests.fakes import make_rates
from tests.in_process import in_process
from tests.tiny import LLAMA


@pytest.fixture(autouse=True)
def _nothing_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))


def run_cli(*arguments: object) -> int:
    from kvbench.cli.app import main

    try:
        main([str(argument) for argument in arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert run_cli("estimate", *arguments, "--format", "json") == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run_cli("estimate", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_builtin_architecture_needs_nothing(
    capsys: pytest.CaptureFixture[str], snapshot: object
) -> None:
    assert run_cli("estimate", "llama-2-7b", "-b", 2, "--prompt-tokens", 1, "-n", 4096) == 0
    out = capsys.readouterr().out
    assert out == snapshot


@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_folder_and_a_file_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA), encoding="utf-8")
    found = told(capsys, tmp_path if place == "folder" else file, "-n", 10)
    assert found["model_type"] == "llama"
    assert found["work"]["new_tokens"] == 10


def test_a_hub_id_is_asked_for_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA), encoding="utf-8")
    asked = []

    def download(*arguments: str, revision: str | None) -> str:
        asked.append((*arguments, revision))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert told(capsys, "some/model")["model"] == "some/model"
    assert told(capsys, "some/model@v2")["model"] == "some/model@v2"
    assert asked == [("some/model", "config.json", None), ("some/model", "config.json", "v2")]


def test_a_hub_that_cannot_be_reached_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    def download(*arguments: str, revision: str | None) -> str:
        raise OSError("No connection.\nhttp://somewhere")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    said = refused(capsys, "some/model")
    assert said == snapshot


def test_what_was_probed_here_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    keep_rates(make_rates(hardware="This CPU"))
    names = [one["hardware"] for one in told(capsys, "gpt2")["floors"]]
    assert names == ["This CPU", "T4", "A100-SXM4-80GB", "H100 80GB HBM3"]
    only = told(capsys, "gpt2", "--device", "cpu,L4")["floors"]
    assert [one["hardware"] for one in only] == ["This CPU", "L4"]


def test_a_chart_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "gpt2", "--chart", tmp_path / "deep" / "memory.svg")
    assert b"<svg" in (tmp_path / "deep" / "memory.svg").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("gpt3",),
        ("gpt2", "-n", 0),
        ("gpt2", "--dtype", "int3"),
        ("gpt2", "--device-memory", "lots"),
        ("gpt2", "--device", "cpu"),
        ("gpt2", "--device", "H10O PCIe"),
        ("gpt2", "--format", "xml"),
        ("gpt2", "--chart", "x.pdf"),
        ("nowhere/at/all",),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], snapshot: object
) -> None:
    assert refused(capsys, *arguments) == snapshot


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": 7}', "{}"])
def test_a_file_that_is_no_configuration_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    refused(capsys, tmp_path)


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_builtin_architecture_can_be_estimated(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = told(capsys, name, "--device", "H100 PCIe")
    assert found["parameters"] == CATALOGUE[name].parameters
    assert found["floors"][0]["speedup"] > 1
    assert found["cache_bytes"] > 0


COHERE = {"model_type": "cohere", "num_hidden_layers": 2, "hidden_size": 64}
COHERE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97}


def test_a_family_without_formulas_is_read_off_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(COHERE), encoding="utf-8")
    found = told(capsys, tmp_path, "-n", 10, "--prompt-tokens", 3, "--device-memory", "1GiB")
    # 2 layers, keys and values, 2 heads of 16, 12 positions, 4 bytes.
    assert found["cache_bytes"] == 2 * 2 * 2 * 16 * 12 * 4
    assert found["formula"] == [
        "2 layers x batch 1 x 2 x 2 kv heads x 16 head dim x 12 positions x 4 bytes = 6,144 bytes"
    ]
    assert found["parameters"] == found["weights_bytes"] / 4 > 97 * 64
    assert found["longest_context"] == found["max_positions"] == 8192
    assert found["flops_on"] is None and found["floors"] == []
    assert "cohere: FLOPs cannot be counted: " in found["notes"][0]


def test_a_family_that_nobody_knows_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbench.api.WorkerEngine", in_process)
    (tmp_path / "config.json").write_text('{"model_type": "gpt7"}', encoding="utf-8")
    assert "Transformers cannot read the configuration of 'gpt7'" in refused(capsys, tmp_path)


def test_no_torch_and_no_matplotlib_are_imported() -> None:
    program = (
        "import sys; from kvbench.cli.app import main\n"
        "try: main(['estimate', 'gpt2'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('torch', 'transformers', 'matplotlib', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
