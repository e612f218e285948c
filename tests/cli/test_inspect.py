"""Tests of `kvbench inspect`, with an engine that inspects nothing, and once with a real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvbench
from kvbench.cli import main
from kvbench.errors import UserError
from kvbench.plan.plan import Plan
from tests.fakes import FakeEngine

ROOT = Path(kvbench.__file__).parents[1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that the command uses in a test."""
    fake = FakeEngine()
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", lambda **options: fake)
    return fake


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *arguments])
    return (ended.value.code or 0, *capsys.readouterr())


def test_by_default_it_is_the_default_case_of_a_sweep(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "gpt2")
    assert code == 0
    assert "without a cache" in out
    assert "loading gpt2" in err
    # But for the tokens, and on the CPU, where a sweep takes all that is there.
    (expected,) = Plan.parse(
        {"model": "gpt2", "device": "cpu", "cache": "dynamic", "max_new_tokens": 5}
    ).cases()
    assert engine.inspected == [(expected, 0)]
    assert (engine.checked[0].cases, engine.closed, engine.tasks) == ((expected,), 1, [])


def test_every_option_reaches_the_case(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "prompt": "a, b",
        "weights": "pretrained",
        "device": "cuda",
        "dtype": "bfloat16",
        "attention": "eager",
        "cache": "dynamic",
        "batch-size": "3",
        "max-new-tokens": "7",
        "layer": "2",
        "seed": "11",
    }
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert call(capsys, "m", *options, "--trust-remote-code")[0] == 0
    ((case, layer),) = engine.inspected
    assert (case.model, case.weights, case.device, case.dtype) == (
        "m",
        "pretrained",
        "cuda",
        "bfloat16",
    )
    assert (case.attention, case.cache, case.batch_size) == ("eager", "dynamic", 3)
    assert (case.prompt.texts, case.max_new_tokens, layer) == (("a, b",), 7, 2)


def test_the_seed_and_the_trust_reach_the_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {}

    def make(**options: object) -> FakeEngine:
        known.update(options)
        return FakeEngine()

    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", make)
    call(capsys, "m", "--seed", "11", "--trust-remote-code")
    assert (known["seed"], known["trust_remote_code"]) == (11, True)


def test_a_number_of_tokens_stands_for_a_prompt(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "gpt2", "--prompt-tokens", "9")
    assert engine.inspected[0][0].prompt.tokens == 9


def test_json_is_all_that_standard_output_gets(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "gpt2", "-o", "json")
    assert (code, json.loads(out)["model"]) == (0, "gpt2")


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["gpt2", "-n", "0"], r"new_tokens: 0 is too few; at least 1 is needed\."),
        (["gpt2", "-n", "-3"], r"new_tokens: -3 is too few"),
        (["gpt2", "-c", "off"], r"One case beside 'off' can be inspected .* name 0"),
        (["gpt2", "-c", "dynamc"], r"did you mean 'dynamic'\?"),
        (["gpt2", "-d", "auto"], r"One case beside 'off' .* name 2: give one"),
        (["gpt2", "-d", "gpu"], r"device: 'gpu' is not cpu, cuda, cuda:N or auto\."),
        (["gpt2", "--dtype", "float32,bfloat16"], r"One case beside 'off' .* name 2"),
        (["gpt2", "--dtype", "flaot32"], r"did you mean 'float32'\?"),
        (["gpt2", "-b", "0"], r"batch_size: 0 is not right"),
        (["gpt2", "--prompt", ""], r"prompt: '' is not right"),
        (["gpt2", "--prompt-tokens", "0"], r"prompt_tokens: 0 is not right"),
        (["gpt2", "--prompt", "a", "--prompt-tokens", "3"], r"One case beside 'off' .* name 2"),
        (["gpt2", "--weights", "heavy"], r"weights: 'heavy' is not right"),
        (["gpt2", "-o", "xml"], r"no format 'xml'; known: table, csv, json, markdown\."),
        ([""], r"model: '' is not right"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    pattern: str,
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert re.search(rf"^kvbench: .*{pattern}", line)
    assert (engine.opened, engine.inspected) == ([], [])


def test_a_model_that_does_not_load_is_told(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.unloadable = {"gpt2": ("unsupported", "gpt2 does not generate.")}
    code, out, err = call(capsys, "gpt2")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "kvbench: gpt2 does not generate."
    assert engine.closed


def test_debug_shows_where_a_mistake_was_found(engine: FakeEngine) -> None:
    with pytest.raises(UserError, match="new_tokens: 0"):
        main(["inspect", "gpt2", "-n", "0", "--debug"])


# For real: a worker process with torch in it


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "tiny").mkdir()
    keys = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 99}
    (folder / "tiny" / "config.json").write_text(json.dumps(keys))
    return folder


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvbench", "inspect", "tiny", "--weights", "random", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_real_inspection_ends_well(tiny: Path) -> None:
    done = program(tiny, "--prompt-tokens", "3", "-n", "4", "-l", "1", "-o", "json")
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout)
    assert (known["layer"], known["layers"], known["same_tokens"]) == (1, 2, True)
    shapes = [step["cache_shape"] for step in known["cached"]["steps"]]
    assert shapes == [[2, 2, 1, 2, n, 16] for n in (3, 4, 5, 6)]
    assert [step["query"] for step in known["off"]["steps"]] == [
        [1, 2, n, 16] for n in (3, 4, 5, 6)
    ]
    assert list(tiny.iterdir()) == [tiny / "tiny"]


def test_a_real_mistake_is_told_by_the_program(tiny: Path) -> None:
    done = program(tiny, "--prompt-tokens", "3", "--layer", "2")
    assert (done.returncode, done.stdout) == (2, "")
    said = "kvbench: layer: 2 is out of range; tiny has layers 0 to 1."
    assert done.stderr.splitlines()[-1] == said
