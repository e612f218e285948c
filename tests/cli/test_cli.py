"""Tests of the command line, run in this process with an engine that measures nothing."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kvbench
from kvbench import api
from kvbench.catalogue import CATALOGUE
from kvbench.cli import app, main
from kvbench.options import DESCRIPTIONS
from kvbench.plan import Plan
from kvbench.records.run import load_run
from tests.fakes import FakeEngine, make_environment

SMALL = ["sweep", "-d", "cpu", "-n", "5", "-r", "2", "--name", "run"]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """The engine that `kvbench sweep` uses in a test; runs land in an empty folder."""
    fake = FakeEngine()
    monkeypatch.setattr(api, "_local_engine", lambda plan: fake)
    monkeypatch.setattr(api, "environment", make_environment)
    monkeypatch.setattr("kvbench.report.write.write_charts", lambda *arguments: [])
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture(autouse=True)
def interrupt_is_restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@dataclass(frozen=True)
class Called:
    """What a command left behind: its exit code and what it printed."""

    code: object
    out: str
    err: str


Call = Callable[..., Called]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the program with arguments."""

    def run(*arguments: str) -> Called:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Called(ended.value.code or 0, *capsys.readouterr())

    return run


# Help


def test_help_names_every_command(call: Call) -> None:
    called = call("--help")
    assert (called.code, called.err) == (0, "")
    for command in ("sweep", "models", "env"):
        assert re.search(rf"^  {command} ", called.out, re.MULTILINE)


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", ["sweep", "models", "env"])
def test_every_command_has_help(call: Call, command: str, option: str) -> None:
    called = call(command, option)
    assert (called.code, called.err) == (0, "")
    assert called.out.startswith(f"Usage: kvbench {command} ")


def test_every_key_of_a_plan_is_an_option_described_as_in_the_docs(call: Call) -> None:
    text = " ".join(call("sweep", "--help").out.split())
    for key, description in DESCRIPTIONS.items():
        assert f"--{key.replace('_', '-')} " in text
        assert description in text


def test_the_version_is_printed(call: Call) -> None:
    called = call("--version")
    assert (called.code, called.out, called.err) == (0, f"kvbench {kvbench.__version__}\n", "")


def test_without_a_command_there_is_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "Usage: " in result.output
    assert "sweep" in result.output


def test_python_m_is_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["kvbench", "models", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("kvbench", run_name="__main__")
    assert ended.value.code == 0


# Models, environment, dry run


def test_models_are_listed(call: Call) -> None:
    called = call("models")
    assert (called.code, called.err) == (0, "")
    assert [line.split()[0] for line in called.out.splitlines()[1:-1]] == list(CATALOGUE)
    assert re.search(r"^gpt2 .* 73,728 ", called.out, re.MULTILINE)


def test_models_take_a_dtype(call: Call) -> None:
    assert re.search(r"^gpt2 .* 36,864 ", call("models", "--dtype", "bfloat16").out, re.MULTILINE)


def test_the_environment_is_printed_as_text_and_as_json(call: Call, engine: FakeEngine) -> None:
    text, as_json = call("env"), call("env", "--json")
    assert (text.code, as_json.code) == (0, 0)
    assert "Linux-6.1" in text.out
    keys = json.loads(as_json.out)
    assert (keys["platform"], keys["devices"][1]["hardware"]) == ("Linux-6.1", "Some GPU")


def test_a_dry_run_lists_the_cases_and_runs_nothing(call: Call, engine: FakeEngine) -> None:
    called = call("sweep", "--device", "cpu", "--dry-run", "-n", "10,20", "-b", "1-4*2")
    assert (called.code, called.err) == (0, "")
    cases = Plan.parse({"device": "cpu", "max_new_tokens": "10,20", "batch_size": "1-4*2"}).cases()
    shown = [line.split()[0] for line in called.out.splitlines()[1:-1]]
    assert shown == [case.id for case in cases]
    assert called.out.endswith("12 cases; nothing was run.\n")
    assert (engine.checked, list(Path().iterdir())) == ([], [])


def test_options_go_over_the_keys_of_the_file(call: Call, engine: FakeEngine) -> None:
    Path("plan.yaml").write_text("device: cpu\nmodel: [a, b]\nmax_new_tokens: [10, 20, 30]\n")
    called = call("sweep", "plan.yaml", "--dry-run", "-m", "c", "--use-cache", "false")
    assert called.out.splitlines()[-1].startswith("All: model c, ")
    assert called.out.endswith("cache off. 3 cases; nothing was run.\n")


def test_every_option_of_a_plan_reaches_it(call: Call, engine: FakeEngine) -> None:
    given = {
        "model": "m",
        "weights": "random",
        "device": "cpu",
        "dtype": "bfloat16",
        "attention": "eager",
        "cache": "off",
        "batch_size": "3",
        "prompt": "a, b",
        "prompt_tokens": "9",
        "max_new_tokens": "5",
        "repeats": "1",
        "min_repeats": "2",
        "max_repeats": "4",
        "min_seconds": "0.5",
        "max_spread": "0.25",
        "max_case_seconds": "7",
        "seed": "11",
    }
    options = [part for k, v in given.items() for part in (f"--{k.replace('_', '-')}", v)]
    called = call("sweep", *options, "--trust-remote-code", "--name", "run", "--quiet")
    assert called.code == 0
    assert load_run(Path("results/run")).info.plan == Plan.parse(
        given | {"trust_remote_code": True}
    ).model_dump(mode="json")


def test_a_list_may_be_given_by_repeating_an_option(call: Call, engine: FakeEngine) -> None:
    called = call("sweep", "-d", "cpu", "-n", "5", "-n", "10-20+5", "-c", "off", "--dry-run")
    assert called.out.endswith(" 4 cases; nothing was run.\n")


# A sweep


def test_a_sweep_prints_table_answer_and_files(call: Call, engine: FakeEngine) -> None:
    called = call(*SMALL)
    assert (called.code, called.err) == (0, "")
    assert "[2/2] cpu: " in called.out
    assert "2.00x (2.00-2.00)" in called.out
    answer = "On cpu, with the cache, 5 new tokens of gpt2 take 5.00 ms instead of 10.0 ms: 2.00"
    assert answer in called.out
    assert f"  {Path('results/run/summary.md')}" in called.out.splitlines()
    assert len(load_run(Path("results/run")).samples) == 6


def test_quiet_leaves_the_progress_out(call: Call, engine: FakeEngine) -> None:
    called = call(*SMALL, "--quiet")
    assert called.code == 0
    assert "loading" not in called.out
    assert "2.00x" in called.out


def test_json_is_all_that_stands_on_standard_output(call: Call, engine: FakeEngine) -> None:
    called = call(*SMALL, "--json")
    samples = load_run(Path("results/run")).samples
    assert called.code == 0
    assert [json.loads(line)["sample_id"] for line in called.out.splitlines()] == [
        sample.sample_id for sample in samples
    ]
    assert "loading gpt2" in called.err
    assert "Written:" in called.err


def test_a_case_that_failed_is_exit_code_1(call: Call, engine: FakeEngine) -> None:
    engine.failure = lambda task: (
        ("oom", "decode", "No memory left.") if task.case.cache == "off" else None
    )
    called = call(*SMALL)
    assert called.code == 1
    assert "1 of 2 cases " in called.out
    assert "No memory left." in called.out


def test_the_command_line_is_recorded(
    call: Call,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/kvbench", *SMALL])
    call(*SMALL)
    assert load_run(Path("results/run")).info.command == ("kvbench", *SMALL)


def test_the_first_interrupt_ends_the_sweep_after_the_sample(
    call: Call, engine: FakeEngine
) -> None:
    def seconds(task: object) -> float:
        if len(engine.tasks) == 3:
            signal.raise_signal(signal.SIGINT)
        return 0.5

    engine.seconds = seconds
    called = call(*SMALL)
    assert called.code == 130
    assert called.err.strip() == (
        "Stopping after the sample in flight; press Ctrl-C again to stop at once."
    )
    assert "Interrupted: what was measured until then is kept." in called.out
    run = load_run(Path("results/run"))
    assert (run.info.state, len(run.samples)) == ("interrupted", 3)


def test_the_second_interrupt_ends_it_at_once(call: Call, engine: FakeEngine) -> None:
    def seconds(task: object) -> float:
        if len(engine.tasks) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return 0.5

    engine.seconds = seconds
    called = call(*SMALL)
    assert called.code == 130
    assert "Traceback" not in called.err
    run = load_run(Path("results/run"))
    assert (run.info.state, len(run.samples)) == ("interrupted", 2)


# Mistakes

PLAN_MISTAKES = [
    (["-m", ""], r"model: '' is not right"),
    (["--weights", "heavy"], r"weights: 'heavy' is not right"),
    (["-d", "gpu"], r"device: 'gpu' is not cpu, cuda, cuda:N or auto\."),
    (["-d", "cuda:99"], r"device: 'cuda:99' is not present on this machine; present: cpu"),
    (["--dtype", "flaot32"], r"did you mean 'float32'\?"),
    (["-c", "dynamc"], r"did you mean 'dynamic'\?"),
    (["-c", "zzz"], r"cache: no strategy 'zzz'; known: off, dynamic\."),
    (["--use-cache", "maybe"], r"use_cache: 'maybe' is not true or false\."),
    (["-c", "off", "--use-cache", "true"], r"use_cache and cache say the same thing"),
    (["-b", "0"], r"batch_size: 0 is not right"),
    (["-b", "two"], r"batch_size: 'two' is not a size; write 10, 10-910\+100 or 16-1024\*2\."),
    (["-n", "5-1"], r"max_new_tokens: the range '5-1' runs backwards\."),
    (["-n", "1-5+0"], r"max_new_tokens: the range '1-5\+0' never ends\."),
    (["-n", "99999999999"], r"max_new_tokens: 99999999999 is larger than 2,147,483,647\."),
    (["-n", "1-99999"], r"The grid has 199,998 cases, over 10,000: say --yes if that is meant\."),
    (["-p", "0"], r"prompt_tokens: 0 is not right"),
    (["--prompt", ""], r"prompt: '' is not right"),
    (["--prompt-file", "no.txt"], r"no\.txt: there is no such prompt file\."),
    (["--prompt-file", "empty.txt"], r"prompt_file: empty\.txt has no text in it\."),
    (["-r", "0"], r"repeats: '0' is not right"),
    (["-r", "x"], r"repeats: 'x' is not right"),
    (["--seed", "-1"], r"seed: '-1' is not right"),
    (["--min-repeats", "9", "--max-repeats", "8"], r"max_repeats \(8\) is below min_repeats \(9\)"),
    (["no.yaml"], r"no\.yaml: there is no such plan\."),
    (["folder"], r"folder: the plan cannot be read: Is a directory\."),
    (["typo.yaml"], r"'modle' is not a key of a plan; did you mean 'model'\?"),
    (["unknown.yaml"], r"'zzz' is not a key of a plan\."),
    (["twice.yaml"], r"twice\.yaml line 1: not a plan in YAML: the key 'seed' stands twice\."),
    (["anchor.yaml"], r"anchors and aliases are not taken; write the values out\."),
    (["list.yaml"], r"a plan is a mapping of keys to values, such as 'model: gpt2'\."),
    (["cut.yaml"], r"cut\.yaml line 2: not a plan in YAML: "),
    (["bytes.yaml"], r"bytes\.yaml: not UTF-8 text\."),
]
RUN_MISTAKES = [
    (["--name", ""], r"--name: '' is not a plain folder name"),
    (["--name", "a/b"], r"--name: 'a/b' is not a plain folder name"),
    (["--name", "../x"], r"--name: '\.\./x' is not a plain folder name"),
    (["--name", "a\\b"], r"is not a plain folder name"),
    (["--name", "a\nb"], r"--name: 'a\\nb' is not a plain folder name"),
    (["--name", "\x1b[31m"], r"--name: '\\x1b\[31m' is not a plain folder name"),
    (["--name", "x" * 300], r"--name: longer than 200 bytes"),
    (["--name", "there"], r"results/there exists, and a run is never overwritten: choose another"),
    (["--out", "empty.txt"], r"empty\.txt"),
    (["--out", "typo.yaml/deeper"], r"typo\.yaml"),
]


@pytest.fixture
def mistakes(engine: FakeEngine) -> None:
    """The files that the mistakes speak of."""
    Path("folder").mkdir()
    Path("results/there").mkdir(parents=True)
    for name, content in {
        "empty.txt": b"\n",
        "typo.yaml": b"modle: gpt2\n",
        "unknown.yaml": b"zzz: 1\n",
        "twice.yaml": b"seed: 1\nseed: 2\n",
        "anchor.yaml": b"seed: &a 1\n",
        "list.yaml": b"- seed\n",
        "cut.yaml": b"model: [a\nseed: 1\n",
        "bytes.yaml": b"\xff\xfe",
    }.items():
        Path(name).write_bytes(content)


def check_one_sentence(called: Called, pattern: str) -> None:
    assert called.code == 2
    assert called.out == ""
    assert called.err.startswith("kvbench: ")
    assert called.err.endswith("\n")
    lines = called.err.splitlines()
    assert len(lines) == 1
    assert re.search(pattern, lines[0])
    assert lines[0][-1] in ".?"


@pytest.mark.parametrize(("arguments", "pattern"), PLAN_MISTAKES)
@pytest.mark.parametrize("mode", ["--dry-run", "--quiet"])
def test_a_mistake_in_a_plan_is_one_sentence_and_exit_code_2(
    call: Call,
    mistakes: None,
    engine: FakeEngine,
    mode: str,
    arguments: list[str],
    pattern: str,
) -> None:
    device = [] if "-d" in arguments else ["-d", "cpu"]
    check_one_sentence(call("sweep", mode, *device, *arguments), pattern)
    assert engine.checked == []
    assert [path.name for path in Path("results").iterdir()] == ["there"]


@pytest.mark.parametrize(("arguments", "pattern"), RUN_MISTAKES)
def test_a_mistake_about_the_folder_is_one_sentence_and_exit_code_2(
    call: Call,
    mistakes: None,
    engine: FakeEngine,
    arguments: list[str],
    pattern: str,
) -> None:
    check_one_sentence(call("sweep", "-d", "cpu", "-n", "5", *arguments), pattern)
    assert engine.opened == []
    assert [path.name for path in Path("results").iterdir()] == ["there"]


def test_a_file_in_the_place_of_the_folder_is_not_called_a_run(call: Call, mistakes: None) -> None:
    assert "never overwritten" not in call(*SMALL, "--out", "empty.txt").err


def test_a_model_that_cannot_be_had_is_one_sentence(call: Call, engine: FakeEngine) -> None:
    engine.refusal = "model: there is no 'x'."
    check_one_sentence(call(*SMALL), "model: there is no 'x'")
    assert list(Path().iterdir()) == []


def test_models_that_do_not_load_are_one_sentence(call: Call, engine: FakeEngine) -> None:
    engine.unloadable = {"gpt2": ("unsupported", "gpt2 does not generate.")}
    check_one_sentence(call(*SMALL, "--quiet"), "gpt2 does not generate")
    assert list(Path("results").iterdir()) == []


def test_an_unknown_dtype_of_models_is_one_sentence(call: Call) -> None:
    check_one_sentence(call("models", "--dtype", "int4"), "dtype: 'int4' is not one of")


def test_a_disk_that_is_full_is_one_sentence(
    call: Call,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "results/run/samples.csv")

    monkeypatch.setattr("kvbench.records.writer.RunWriter.append", full)
    called = call(*SMALL, "--quiet")
    check_one_sentence(called, r"results/run/samples\.csv: No space left on device\.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "--nope"], "No such option: --nope"),
        (["sweep", "--modle", "gpt2"], "No such option: --modle"),
        (["sweep", "--repeats"], "Option '--repeats' requires an argument."),
        (["sweep", "a.yaml", "b.yaml"], "(b.yaml)"),
        (["nope"], "No such command 'nope'."),
        (["models", "extra"], "(extra)"),
    ],
)
def test_wrong_usage_is_one_sentence_below_the_usage(
    call: Call,
    arguments: list[str],
    words: str,
) -> None:
    called = call(*arguments)
    assert (called.code, called.out) == (2, "")
    *above, last = called.err.strip().splitlines()
    assert last.startswith("Error: ")
    assert words in last
    assert [line for line in above if line and not line.startswith(("Usage: ", "Try "))] == []


def test_debug_shows_where_a_mistake_was_found(call: Call, mistakes: None) -> None:
    with pytest.raises(kvbench.UserError, match="'modle' is not a key"):
        main(["sweep", "typo.yaml", "--debug"])


def test_an_error_that_is_nobodys_mistake_is_not_hidden(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "plan_cases", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["sweep", "--dry-run"])
