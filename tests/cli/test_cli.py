"""Tests of the command line, with an engine that measures nothing, and once with a real one."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import kvbench
from kvbench.catalogue import CATALOGUE
from kvbench.cli import app, main
from kvbench.plan.options import DESCRIPTIONS
from kvbench.plan.plan import QUICKSTART, Plan
from kvbench.records.run import load_run
from kvbench.records.sample import STATUSES
from kvbench.run.engine import Interrupted
from tests.calling import Call, Called, caller
from tests.fakes import FakeEngine, make_environment

ROOT = Path(kvbench.__file__).parents[1]
SMALL = ["sweep", "-d", "cpu", "-n", "5", "-r", "2", "--name", "run"]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """Return the engine that `kvbench sweep` uses in a test; runs go to an empty folder."""
    fake = FakeEngine()
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", lambda **options: fake)
    monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture(autouse=True)
def signals_are_restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the program with arguments."""
    return caller(capsys)


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
    shown = call("sweep", "--help").out
    # Lines break at hyphens too.
    text = "".join(shown.split())
    for key, description in DESCRIPTIONS.items():
        assert f"--{key.replace('_', '-')} " in shown
        assert "".join(description.split()) in text


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
    text, as_json = call("env"), call("env", "-o", "json")
    assert (text.code, as_json.code) == (0, 0)
    assert "Linux-6.1" in text.out
    keys = json.loads(as_json.out)
    assert (keys["platform"], keys["devices"][1]["hardware"]) == ("Linux-6.1", "Some GPU")


def test_a_dry_run_lists_the_cases_and_runs_nothing(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    called = call("sweep", "--device", "cpu", "--dry-run", "-n", "10,20", "-b", "1-4*2")
    assert called.code == 0 and "--method trace" in called.err
    cases = Plan.parse({"device": "cpu", "max_new_tokens": "10,20", "batch_size": "1-4*2"}).cases()
    shown = [line.split()[0] for line in called.out.splitlines()[1:-1]]
    assert shown == [case.id for case in cases]
    assert re.search(
        r" 12 cases, about \d+ (s|min), peak 0\.\d+ GiB of .*; nothing was measured.\n$", called.out
    )
    assert (engine.checked, list(Path().iterdir())) == ([], [])


def test_options_go_over_the_keys_of_the_file(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    Path("plan.yaml").write_text("device: cpu\nmodel: [a, b]\nmax_new_tokens: [10, 20, 30]\n")
    called = call("sweep", "plan.yaml", "--dry-run", "-m", "c", "--use-cache", "false")
    assert called.out.splitlines()[-1].startswith("All: model c, ")
    # Nothing is known of a model with this name, so that its memory is not claimed.
    assert re.search(r"cache off\. 3 cases, about \d+ \w+; nothing was measured\.\n$", called.out)


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
        "case_timeout": "12.5",
    }
    options = [part for k, v in given.items() for part in (f"--{k.replace('_', '-')}", v)]
    flags = ["--trust-remote-code", "--keep-going-after-oom", "--no-verify"]
    called = call("sweep", *options, *flags, "--name", "run", "--quiet")
    assert called.code == 0
    set_by_flags = {"trust_remote_code": True, "keep_going_after_oom": True, "verify": False}
    assert load_run(Path("results/run")).info.plan == Plan.parse(given | set_by_flags).model_dump(
        mode="json"
    )


def test_verify_goes_over_a_file_that_says_no(call: Call, engine: FakeEngine) -> None:
    Path("plan.yaml").write_text("device: cpu\nmax_new_tokens: 5\nrepeats: 1\nverify: false\n")
    assert call("sweep", "plan.yaml", "--name", "file").code == 0
    assert engine.verified == []
    assert call("sweep", "plan.yaml", "--name", "option", "--verify").code == 0
    assert engine.verified == ["dynamic"]


def test_a_list_may_be_given_by_repeating_an_option(call: Call, engine: FakeEngine) -> None:
    called = call("sweep", "-d", "cpu", "-n", "5", "-n", "10-20+5", "-c", "off", "--dry-run")
    assert [line.split()[-1] for line in called.out.splitlines()[1:-1]] == ["5", "10", "15", "20"]


def test_the_help_says_what_is_measured_without_a_file(call: Call) -> None:
    *lengths, last = QUICKSTART["max_new_tokens"]
    said = f"{', '.join(map(str, lengths))} and {last} new tokens, {QUICKSTART['repeats']} repeats"
    assert said in " ".join(call("sweep", "--help").out.split())


# Verify


def test_verify_prints_the_checks_and_what_they_come_to(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    called = call("verify", "gpt2", "-d", "cpu")
    assert (called.code, called.err, engine.verified) == (0, "", ["dynamic"])
    assert called.out == snapshot
    # Nothing is timed or written.
    assert (engine.tasks, list(Path().iterdir())) == ([], [])
    assert engine.closed


def test_a_model_that_does_other_work_is_exit_code_1(call: Call, engine: FakeEngine) -> None:
    engine.verdict = "fail"
    assert call("verify", "gpt2", "-d", "cpu").code == 1


def test_a_strategy_that_cannot_run_is_not_verified_and_says_why(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    engine.needs = {"static-compiled": "static-compiled: it needs a CUDA device."}
    called = call("verify", "gpt2", "-d", "cpu", "-c", "static-compiled,dynamic")
    assert called.code == 0
    assert called.out == snapshot


def test_each_device_and_dtype_is_verified(call: Call, engine: FakeEngine) -> None:
    called = call("verify", "gpt2", "--dtype", "float32,bfloat16", "-o", "json")
    assert called.code == 0
    checks = json.loads(called.out)
    checks = [check for check in checks if check["check"] == "logits"]
    assert [(check["device"], check["dtype"], check["cache"]) for check in checks] == [
        (device, dtype, "dynamic")
        for device in ("cpu", "cuda")
        for dtype in ("float32", "bfloat16")
    ]
    assert "loading gpt2" in called.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["gpt2", "-c", "off"],
        ["gpt2", "-n", "1"],
        ["gpt2", "--generations", "2"],
        ["gpt2", "-d", "gpu"],
        ["", "-d", "cpu"],
    ],
    ids=" ".join,
)
def test_a_mistake_about_what_to_verify_is_one_sentence(
    call: Call, engine: FakeEngine, arguments: list[str], snapshot: object
) -> None:
    assert call("verify", *arguments).sentence == snapshot
    assert engine.verified == []


def test_a_model_that_cannot_be_verified_is_one_sentence(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    engine.unloadable = {"gpt2": ("oom", "It does not fit.")}
    called = call("verify", "gpt2", "-d", "cpu", "--format", "json")
    assert (called.code, called.out) == (2, "")
    assert called.err.splitlines()[-1] == snapshot


def test_an_interrupt_while_verifying_is_exit_code_130(
    call: Call, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeEngine, "verify", stop)
    called = call("verify", "gpt2", "-d", "cpu")
    assert called.code == 130
    assert "Traceback" not in called.err
    assert engine.closed


# A sweep


def test_a_sweep_prints_table_answer_and_files(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    called = call(*SMALL, "-r", "6")
    assert (called.code, called.err) == (0, "")
    assert called.out == snapshot
    assert len(load_run(Path("results/run")).samples) == 14


def test_quiet_leaves_the_progress_out(call: Call, engine: FakeEngine) -> None:
    called = call(*SMALL, "--quiet")
    assert called.code == 0
    assert "loading" not in called.out
    assert "2.00x" in called.out


def test_json_is_all_that_stands_on_standard_output(call: Call, engine: FakeEngine) -> None:
    called = call(*SMALL, "--format", "jsonl")
    samples = load_run(Path("results/run")).samples
    assert called.code == 0
    assert [json.loads(line)["sample_id"] for line in called.out.splitlines()] == [
        sample.sample_id for sample in samples
    ]
    assert "loading gpt2" in called.err
    assert "Files:" in called.err


def test_the_command_line_is_recorded(
    call: Call,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/kvbench", *SMALL])
    call(*SMALL)
    assert load_run(Path("results/run")).info.command == ("kvbench", *SMALL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_ends_the_sweep_after_the_sample(
    call: Call, engine: FakeEngine, number: signal.Signals
) -> None:
    def seconds(task: object) -> float:
        if len(engine.tasks) == 3:
            signal.raise_signal(number)
        return 0.5

    engine.seconds = seconds
    called = call(*SMALL)
    assert called.code == 130
    assert "Ctrl-C" in called.err
    assert resume_command(called) == ["sweep", "--resume", "results/run"]
    run = load_run(Path("results/run"))
    assert (run.info.state, len(run.samples)) == ("interrupted", 3)
    assert (run.path / "summary.md").exists()


def test_the_second_interrupt_ends_it_at_once(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    def seconds(task: object) -> float:
        if len(engine.tasks) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return 0.5

    engine.seconds = seconds
    called = call(*SMALL)
    assert called.code == 130
    assert called.err == snapshot
    assert resume_command(called) == ["sweep", "--resume", "results/run"]
    run = load_run(Path("results/run"))
    assert (run.info.state, len(run.samples)) == ("interrupted", 2)


def test_an_interrupt_before_anything_was_measured_leaves_nothing(
    call: Call, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    monkeypatch.setattr(FakeEngine, "environment", interrupt)
    called = call(*SMALL)
    assert called.code == 130
    assert called.out == snapshot
    assert list(Path().iterdir()) == []


def interrupt(*arguments: object) -> None:
    raise Interrupted


# Resuming


def stop_after(engine: FakeEngine, count: int) -> None:
    """Make the engine press Ctrl-C during this task from now on."""
    last = len(engine.tasks) + count

    def seconds(task: object) -> float:
        if len(engine.tasks) == last:
            signal.raise_signal(signal.SIGINT)
        return 0.5

    engine.seconds = seconds


def resume_command(called: Called) -> list[str]:
    """Return the arguments that the program printed for resuming."""
    (line,) = (line for line in called.out.splitlines() if "--resume" in line)
    return shlex.split(line[line.index("kvbench ") :])[1:]


@pytest.mark.parametrize("out", ["results", "my results", "it's; here", "明天 $HOME"])
def test_the_command_that_is_printed_goes_on(call: Call, engine: FakeEngine, out: str) -> None:
    stop_after(engine, 4)
    called = call(*SMALL, "--out", out)
    assert called.code == 130
    path = Path(out) / "run"
    before = load_run(path).samples
    assert resume_command(called) == ["sweep", "--resume", str(path)]
    again = call(*resume_command(called))
    assert again.code == 0
    run = load_run(path)
    assert run.info.state == "finished"
    assert run.samples[:4] == before
    assert Counter(s.cache for s in run.samples if s.phase == "measure") == {"off": 2, "dynamic": 2}
    assert f"{path}: " in again.out


def test_a_finished_run_is_shown_again(call: Call, engine: FakeEngine, snapshot: object) -> None:
    first = call(*SMALL)
    engine.tasks.clear()
    called = call("sweep", "--resume", "results/run")
    assert (called.code, engine.tasks) == (0, [])
    notice, _, table = called.out.partition("\n")
    assert notice == snapshot
    assert first.out.endswith(table)


def test_a_changed_plan_or_machine_is_one_sentence(
    call: Call, engine: FakeEngine, snapshot: object
) -> None:
    assert call(*SMALL).code == 0
    changed = call("sweep", "--resume", "results/run", "--repeats", "3")
    assert changed.sentence == snapshot
    engine.machine = make_environment(driver="550.54")
    assert "550.54" in call("sweep", "--resume", "results/run").sentence
    assert len(load_run(Path("results/run")).samples) == 6


@pytest.mark.parametrize("extra", [["plan.yaml"], ["--name", "other"], ["--dry-run"]])
def test_a_resume_has_its_plan_and_its_name(
    call: Call, engine: FakeEngine, extra: list[str], snapshot: object
) -> None:
    stop_after(engine, 4)
    call(*SMALL)
    Path("plan.yaml").write_text("device: cpu\n")
    tasks = len(engine.tasks)
    assert call("sweep", "--resume", "results/run", *extra).sentence == snapshot
    assert len(engine.tasks) == tasks


@pytest.mark.parametrize("path", ["results/none", "plan.yaml", "."])
def test_a_resume_of_what_is_no_run_is_one_sentence(
    call: Call, engine: FakeEngine, path: str, snapshot: object
) -> None:
    Path("plan.yaml").write_text("device: cpu\n")
    assert call("sweep", "--resume", path).sentence == snapshot


def test_an_interrupt_while_a_resume_begins_says_how_to_go_on(
    call: Call, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(engine, 4)
    call(*SMALL)
    monkeypatch.setattr(FakeEngine, "check", interrupt)
    called = call("sweep", "--resume", "results/run")
    assert called.code == 130
    assert resume_command(called) == ["sweep", "--resume", "results/run"]


# Exit codes


@pytest.mark.parametrize("status", sorted(set(STATUSES) - {"ok"}))
def test_a_case_that_failed_in_any_way_is_exit_code_1(
    call: Call, engine: FakeEngine, status: Any
) -> None:
    engine.failure = lambda task: (
        (status, "decode", "It failed.") if task.case.cache == "off" else None
    )
    assert call(*SMALL, "--quiet").code == 1


def test_what_all_leaves_out_is_a_row_and_no_failure(call: Call, engine: FakeEngine) -> None:
    engine.failure = lambda task: (
        ("unsupported", "load", "It needs a GPU.") if task.case.cache == "offloaded" else None
    )
    called = call("sweep", "-n", "4", "-r", "1", "-d", "cpu", "--cache", "all")
    assert called.code == 0
    assert "It needs a GPU." in called.out
    named = call("sweep", "-n", "4", "-r", "1", "-d", "cpu", "--cache", "off,offloaded")
    assert named.code == 1


def test_the_cache_strategies_are_listed_with_what_this_machine_lacks(
    call: Call, engine: FakeEngine
) -> None:
    called = call("caches")
    assert called.code == 0
    rows = [line.split() for line in called.out.splitlines()]
    assert ["dynamic", "exact", "cpu,", "cuda"] in [row[:4] for row in rows]
    assert ["offloaded", "exact", "cuda"] in [row[:3] for row in rows]


@pytest.mark.parametrize(("verdict", "code"), [("fail", 1), ("near_tie", 0), ("inconclusive", 0)])
def test_samples_with_other_tokens_are_exit_code_1_where_nothing_explains_them(
    call: Call, engine: FakeEngine, verdict: Any, code: int
) -> None:
    engine.tokens_of = lambda task: ("a" if task.case.cache == "off" else "b") * 16
    engine.output_verdict = verdict
    assert call(*SMALL).code == code


@pytest.mark.parametrize(
    ("verdict", "code"), [("fail", 1), ("near_tie", 0), ("exempt", 0), ("inconclusive", 0)]
)
def test_a_cache_that_does_other_work_is_exit_code_1(
    call: Call, engine: FakeEngine, verdict: Any, code: int
) -> None:
    engine.verdict = verdict
    assert call(*SMALL, "--quiet").code == code


def test_a_sweep_that_was_not_verified_says_so(call: Call, engine: FakeEngine) -> None:
    called = call(*SMALL, "--no-verify")
    assert (called.code, engine.verified) == (0, [])
    (said,) = (line for line in called.out.splitlines() if "--no-verify" in line)
    assert said in Path("results/run/summary.md").read_text(encoding="utf-8")


# Mistakes

PLAN_MISTAKES = [
    ["-d", "cuda:99"],
    ["-n", "1-99999"],
    ["cut.yaml"],
]
RUN_MISTAKES = [
    ["--name", "a/b"],
    ["--name", "\x1b[31m"],
    ["--name", "x" * 300],
    ["--name", "there"],
    ["--out", "empty.txt", "--name", "run"],
]


@pytest.fixture
def mistakes(engine: FakeEngine) -> None:
    """Create the files that the mistakes refer to."""
    Path("results/there").mkdir(parents=True)
    Path("results/there/thesis.tex").touch()
    for name, content in {
        "empty.txt": b"\n",
        "typo.yaml": b"modle: gpt2\n",
        "cut.yaml": b"model: [a\nseed: 1\n",
    }.items():
        Path(name).write_bytes(content)


@pytest.mark.parametrize("arguments", PLAN_MISTAKES, ids=" ".join)
def test_a_mistake_in_a_plan_is_one_sentence_and_exit_code_2(
    call: Call, mistakes: None, engine: FakeEngine, arguments: list[str], snapshot: object
) -> None:
    device = [] if "-d" in arguments else ["-d", "cpu"]
    called = call("sweep", *device, *arguments)
    assert (called.sentence, called.out) == (snapshot, "")
    assert engine.checked == []
    assert [path.name for path in Path("results").iterdir()] == ["there"]


@pytest.mark.parametrize("arguments", RUN_MISTAKES, ids=lambda arguments: arguments[1][:9])
def test_a_mistake_about_the_folder_is_one_sentence_and_exit_code_2(
    call: Call, mistakes: None, engine: FakeEngine, arguments: list[str], snapshot: object
) -> None:
    called = call("sweep", "-d", "cpu", "-n", "5", *arguments)
    assert (called.sentence, called.out) == (snapshot, "")
    assert engine.opened == []
    assert [path.name for path in Path("results").iterdir()] == ["there"]


def test_a_model_that_cannot_be_had_is_one_sentence(call: Call, engine: FakeEngine) -> None:
    engine.refusal = "model: there is no 'x'."
    assert call(*SMALL).sentence.endswith(engine.refusal)
    assert list(Path().iterdir()) == []


def test_models_that_do_not_load_are_one_sentence(call: Call, engine: FakeEngine) -> None:
    engine.unloadable = {"gpt2": ("unsupported", "gpt2 does not generate.")}
    assert call(*SMALL, "--quiet").sentence.endswith(engine.unloadable["gpt2"][1])
    assert list(Path("results").iterdir()) == []


def test_an_unknown_dtype_of_models_is_one_sentence(call: Call) -> None:
    assert "int4" in call("models", "--dtype", "int4").sentence


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "--nope"],
        ["sweep", "--modle", "gpt2"],
        ["sweep", "--repeats"],
        ["sweep", "a.yaml", "b.yaml"],
        ["nope"],
        ["models", "extra"],
    ],
)
def test_wrong_usage_is_one_sentence_below_the_usage(
    call: Call,
    arguments: list[str],
    snapshot: object,
) -> None:
    called = call(*arguments)
    assert (called.code, called.out) == (2, "")
    *above, last = called.err.strip().splitlines()
    assert last.startswith("Error: ")
    assert last == snapshot
    assert [line for line in above if line and not line.startswith(("Usage: ", "Try "))] == []


def test_debug_shows_where_a_mistake_was_found(
    call: Call, mistakes: None, snapshot: object
) -> None:
    with pytest.raises(kvbench.UserError) as caught:
        main(["sweep", "typo.yaml", "--debug"])
    assert str(caught.value) == snapshot


# With a real worker process that loads torch, started once for all of these


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Called]]:
    """A sweep of a tiny model by the program itself, and then its resume: the folder and both."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "tiny").mkdir()
    keys = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 99}
    (folder / "tiny" / "config.json").write_text(json.dumps(keys | {"initializer_range": 0.3}))
    plan = ["-m", "tiny", "--weights", "random", "-p", "4", "-n", "6", "-r", "2", "-d", "cpu"]
    calls = []
    for arguments in (
        ["sweep", *plan, "--name", "run", "-o", "jsonl"],
        ["sweep", "--resume", "results/run"],
    ):
        # The second finds the run as a kill in the second round leaves it.
        for table in (folder / "results" / "run").glob("samples.csv"):
            table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:5]))
        done = subprocess.run(
            [sys.executable, "-m", "kvbench", *arguments],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        calls.append(Called(done.returncode, done.stdout, done.stderr))
    return folder / "results" / "run", calls


def test_a_real_sweep_ends_well(real: tuple[Path, list[Called]]) -> None:
    path, (swept, _) = real
    assert swept.code == 0, swept.err
    samples = [json.loads(line) for line in swept.out.splitlines()]
    assert Counter((s["cache"], s["phase"], s["status"]) for s in samples) == {
        (cache, phase, "ok"): count
        for cache in ("off", "dynamic")
        for phase, count in (("warmup", 1), ("measure", 2))
    }
    assert {s["sample_id"] for s in samples[:4]} <= {s.sample_id for s in load_run(path).samples}
    hashes = {s["output_sha256"] for s in samples if s["phase"] == "measure"}
    assert len(hashes) == 1 and None not in hashes
    assert [one.verdict for one in load_run(path).info.findings] == ["pass"]


def test_a_real_run_is_gone_on_with(real: tuple[Path, list[Called]]) -> None:
    path, (_, resumed) = real
    assert resumed.code == 0, resumed.err
    run = load_run(path)
    assert run.info.state == "finished"
    assert [s.session for s in run.samples if s.phase == "measure"] == [0, 0, 1, 1]
    assert Counter(s.attempt for s in run.samples if s.phase == "warmup") == {0: 2, 1: 2}
    # The same process of the same machine in the same environment: no flag, nothing verified again.
    assert all("environment_changed" not in (s.flags or "") for s in run.samples)
    assert {check.session for check in run.checks} == {0}
    assert not list(path.glob(".lock*"))


def test_a_program_that_is_not_to_hear_of_a_closed_terminal_does_not(engine: FakeEngine) -> None:
    from kvbench.cli.sweep import _interruptible

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _interruptible() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_is_no_longer_written_to(tmp_path: Path) -> None:
    code = (
        "import os, pty, signal, sys\n"
        "master, slave = pty.openpty()\n"
        "for number in (1, 2): os.dup2(slave, number)\n"
        "os.close(slave)\n"
        "from kvbench.cli.sweep import _interruptible\n"
        "with _interruptible() as asked:\n"
        "    os.close(master)\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    for stream in (sys.stdout, sys.stderr): print('on it goes', file=stream, flush=True)\n"
        "    os._exit(7 if asked() else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 7


# What nobody foresaw


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A fault of kvbench in `kvbench models`; the folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fault(*arguments: Any) -> None:
        raise ZeroDivisionError("the \x1b[31mmodel\n" + "x" * 100_000)

    monkeypatch.setattr("kvbench.console.show_models", fault)
    return tmp_path


def test_an_internal_error_is_one_sentence_and_its_traceback_is_kept(
    call: Call, broken: Path
) -> None:
    called = call("models", "--dtype", "float32")
    assert (called.code, called.out) == (1, "")
    (file,) = broken.glob("kvbench-error-*.txt")
    (line,) = called.err.splitlines()
    assert line.startswith("kvbench: internal error (ZeroDivisionError: the \\x1b[31mmodel\\nxxx")
    assert str(file) in line
    assert len(line) < 500
    kept = file.read_text()
    assert kept.startswith(f"kvbench {kvbench.__version__}, Python ")
    assert "kvbench models --dtype float32\n" in kept
    assert "Traceback (most recent call last)" in kept


def test_a_traceback_that_cannot_be_kept_is_said(
    call: Call, broken: Path, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(broken / "none"))
    called = call("models")
    assert called.code == 1
    assert called.err == snapshot


def test_debug_shows_an_internal_error(broken: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        main(["models", "--debug"])
    assert list(broken.iterdir()) == []


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["sweep", "--dry-run", "-d", "cpu", *more]
            for more in (
                ["--name", LONG],
                [LONG],
                ["--dtype", LONG],
                ["--cache", LONG],
                ["-n", LONG],
                ["--use-cache", "a b " * 25_000],
                ["--repeats", LONG],
                ["--prompt-file", LONG],
                ["-d", "a b " * 25_000],
                ["--weights", LONG],
                ["--seed", "1" * 100_000],
            )
        ),
        *(
            ["estimate", *more]
            for more in (
                [LONG],
                ["gpt2", "--dtype", LONG],
                ["gpt2", "-n", LONG],
                ["gpt2", "-n", "9" * 4000],
                ["gpt2", "--device", LONG],
                ["gpt2", "--device-memory", LONG],
                ["gpt2", "-o", LONG],
                ["gpt2", "--chart", LONG],
                [f"./{LONG}"],
                [f"{LONG}.gguf"],
            )
        ),
        *([command, LONG] for command in ("show", "report", "compare", "runs")),
        ["compare", "a", "b", "--threshold", LONG],
        ["models", "--dtype", LONG],
        [LONG],
        ["models", f"--{LONG}"],
        ["models", LONG],
    ],
    ids=lambda arguments: " ".join(part[:12] for part in arguments),
)
def test_no_sentence_quotes_much_of_what_was_given(
    engine: FakeEngine, call: Call, arguments: list[str]
) -> None:
    called = call(*arguments)
    assert (called.code, called.out) == (2, "")
    assert len(called.err) < 700


def test_usage_errors_carry_no_terminal_escapes(call: Call) -> None:
    for arguments in (["\x1b[31m"], ["models", "--\x1b[31m"], ["estimate", "gpt2", "-n", "\x1b[3"]):
        assert "\x1b" not in call(*arguments).err


def test_a_dry_run_takes_the_names_that_the_real_run_takes(
    engine: FakeEngine, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "results" / "other").mkdir(parents=True)
    (tmp_path / "results" / "other" / "file").touch()
    for name in ("../x", "other", "", "a" * 201):
        arguments = ["sweep", "-d", "cpu", "--name", name]
        dry, real = call(*arguments, "--dry-run"), call(*arguments)
        assert (dry.code, dry.out) == (2, "")
        assert dry.err == real.err


# Terminals of other encodings


@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        *((command, "latin-1") for command in ("show", "dry", "json", "error")),
        ("usage", "ascii"),
        ("show", "utf-8"),
        ("error", "utf-8"),
    ],
)
def test_what_an_encoding_lacks_is_replaced(tmp_path: Path, encoding: str, command: str) -> None:
    run = ROOT / "tests" / "golden" / "gpt2-cpu"
    arguments = {
        "show": ["show", str(run)],
        "dry": ["sweep", "-d", "cpu", "--prompt", "明天降温了 é", "--dry-run"],
        "json": ["compare", str(run), "--by", "cache", "--format", "json"],
        "error": ["show", "明天降温了 é"],
        "usage": ["明天降温了 é"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "kvbench", *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == (2 if command in ("error", "usage") else 0), done.stderr
    assert b"Traceback" not in done.stderr
    # Wrong usage is printed by a library, which writes UTF-8 where it finds ASCII.
    text = (done.stdout + done.stderr).decode(
        "utf-8" if command == "usage" else encoding, "replace"
    )
    if command == "json":
        json.loads(text)
    elif command == "show":
        dash = "\N{EN DASH}" if encoding == "utf-8" else "-"
        assert f"median [min{dash}max]" in text and "?" not in text
    elif command != "usage":
        assert ("明天降温了" in text) == (encoding == "utf-8")


@pytest.mark.parametrize("arguments", [["-m", "./nothing"], ["--attention", "spda"]])
def test_a_dry_run_sees_names_that_cannot_be_right(
    call: Call, engine: FakeEngine, arguments: list[str]
) -> None:
    called = call("sweep", "-d", "cpu", "--dry-run", *arguments)
    assert called.code == 2
    assert arguments[-1] in called.err
