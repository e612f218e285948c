"""scripts/gpu_proof.sh with an interpreter that only pretends: what it leaves, and how it goes on.

The pretender notes each call in a file and does what a table in the environment says of it: fail,
hang, or what the real one would leave behind.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.run.faults import PATIENCE_S, ROOT, wait_until

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")

SCRIPT = ROOT / "scripts" / "gpu_proof.sh"
GOLDEN = ROOT / "tests" / "golden" / "gpt2-cpu"
GPU_STEPS = ("cuda tests", "gpt2-cuda", "batch", "llama-7b", "chinese-cuda")
ALL_STEPS = (
    "machine",
    "cuda tests",
    "env",
    "probe",
    "gpt2-cuda",
    "gpt2-both",
    "batch",
    "llama-7b",
    "chinese-cuda",
    "chinese-cpu",
    "checks",
    "compare",
    "gpt2-cpu",
    "package",
)

# In the place of Python: the first word of a call that stands in PRETEND decides.
PRETENDER = """\
#!/usr/bin/env bash
all=$*
printf '%s\\n' "$all" >>"$CALLS"
case $all in
  *'gpu_proof.py machine'*) what=machine ;;
  *'gpu_proof.py checks'*) what=checks ;;
  *gpu_proof.py*) exec "$REAL" "$@" ;;
  *'-m pip'*) what=wheels ;;
  *'-m pytest'*) what=tests ;;
  *'-m kvbench env'*) what=env ;;
  *'-m kvbench probe'*) what=probe ;;
  *'-m kvbench compare'*) what=compare ;;
  *'-m kvbench report'*) what=report ;;
  *'-m kvbench sweep'*) what=${all##*--name }; what=${what%% *} ;;
esac
how=$(sed -n "s/^$what //p" "$PRETEND" | head -n 1)
leave() {
  case $what in
    machine) echo "Pretended GPU" ;;
    tests) echo '<testsuite><testcase name="a"/></testsuite>' >"$JUNIT" ;;
    wheels) touch "${*: -1}.seen" ;;
    env) echo '{}' ;;
    compare) echo 'a table' ;;
    probe|checks|report) echo "$what is done" ;;
    *) mkdir -p "$RUNS" && cp -r "$GOLDEN" "$RUNS/$what"
       [[ $how == hang ]] || touch "$RUNS/$what/summary.csv" ;;
  esac
}
[[ $what != tests ]] || JUNIT=$(sed 's/.*--junitxml=\\([^ ]*\\).*/\\1/' <<<"$all")
[[ $all != *--out* ]] || RUNS=$(sed 's/.*--out \\([^ ]*\\).*/\\1/' <<<"$all")
case $how in
  hang) leave "$@"; echo "$what hangs" >>"$CALLS"; exec sleep 1000 ;;
  stubborn) trap '' INT; leave "$@"; echo "$what hangs" >>"$CALLS"; exec sleep 1000 ;;
  '') leave "$@" ;;
  *) echo "$what broke"; exit "$how" ;;
esac
"""


@pytest.fixture(scope="module")
def helper() -> ModuleType:
    """scripts/gpu_proof.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("gpu_proof", SCRIPT.with_suffix(".py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_proof"] = module
    spec.loader.exec_module(module)
    return module


class Proof:
    """A proof with the pretender: how each call goes, and what came of it."""

    def __init__(self, folder: Path, **how: object) -> None:
        self.out = folder / "out"
        self.calls = folder / "calls"
        self.calls.touch()
        pretend = folder / "pretend"
        pretend.write_text("".join(f"{what} {way}\n" for what, way in how.items()))
        program = folder / "python"
        program.write_text(PRETENDER)
        program.chmod(0o755)
        self.environment = os.environ | {
            "PYTHON": str(program),
            "REAL": sys.executable,
            "CALLS": str(self.calls),
            "PRETEND": str(pretend),
            "GOLDEN": str(GOLDEN),
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir()
        self.tmp = folder / "tmp"
        self.text = ""

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), str(self.out), *options],
            env=self.environment,
            cwd=self.tmp,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str) -> int:
        with self.start(*options) as process:
            return self.end(process)

    def end(self, process: subprocess.Popen[str]) -> int:
        self.text = process.communicate(timeout=PATIENCE_S)[0]
        return process.returncode

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()

    def results(self) -> dict[str, tuple[str, str]]:
        """Result and note of each step, from summary.txt."""
        lines = (self.out / "summary.txt").read_text().splitlines()
        rows = [re.fullmatch(r"(.{14}) (.{8}) +\d+ s  (.*)", line) for line in lines]
        return {row[1].strip(): (row[2].strip(), row[3]) for row in rows if row}

    def packed(self) -> list[str]:
        with tarfile.open(self.out / "runs.tar.gz") as archive:
            return archive.getnames()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # Not even an interrupted proof leaves its working folder behind.
    assert list((tmp_path / "tmp").glob("tmp.*")) == []


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    """A proof in which all went well."""
    proof = Proof(tmp_path_factory.mktemp("done"))
    assert proof.run() == 0, proof.text
    return proof


def test_all_steps_are_done_in_order_and_what_is_left_is_small(done: Proof) -> None:
    found = done.results()
    assert tuple(found) == ALL_STEPS
    # The golden run's machine is slow: it is foretold that the CPU would take hours.
    assert re.fullmatch(
        r"1000 tokens would take about \d{4,} s, \d+ s were left", found.pop("gpt2-cpu")[1]
    )
    assert {result for result, _ in found.values()} == {"ok"}
    assert found["machine"][1] == "Pretended GPU"
    assert found["cuda tests"][1] == "1 passed, 0 failed, 0 skipped"
    assert found["gpt2-both"][1].startswith("12 of 12 cases, 6 samples each; busy_cpu ")
    assert found["gpt2-both"][1].endswith("; shortened: 200 tokens of 1000")
    files = sorted(path.name for path in done.out.rglob("*"))
    # The real program leaves checks.json and compare.png too.
    assert files == ["cuda-tests.xml", "env.json", "log.txt", "runs.tar.gz", "summary.txt"]
    assert {"runs/llama-7b/samples.csv", "runs/compare.txt"} <= set(done.packed())


def test_the_table_comes_last(done: Proof) -> None:
    table = (done.out / "summary.txt").read_text()
    assert done.text.endswith("\n" + table)
    assert (done.out / "log.txt").read_text().endswith("\n" + table)


def test_sweeps_have_the_plans_of_the_repository_and_random_weights(done: Proof) -> None:
    sweeps = [call for call in done.called() if " sweep " in call]
    plans = {re.findall(r"sweep (\S+)", call)[0] for call in sweeps}
    names = ("gpt2-colab", "gpt2-chinese", "batch", "llama-7b")
    assert plans == {f"configs/{name}.yaml" for name in names}
    assert all((ROOT / plan).exists() for plan in plans)
    assert [call for call in sweeps if "pretrained" in call] == []


def test_every_sweep_is_one_that_kvbench_takes(
    done: Proof, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvbench import api
    from kvbench.cli import main
    from kvbench.records.environment import Device, Environment

    machine = Environment(
        platform="Linux",
        python="3.12",
        cpu="CPU",
        logical_cpus=1,
        physical_cpus=1,
        usable_cpus=1,
        memory_bytes=1,
        threads=1,
        governor=None,
        devices=(Device(name="cpu", hardware="CPU"), Device(name="cuda", hardware="GPU")),
    )
    monkeypatch.setattr(api, "_look", lambda: machine)
    monkeypatch.chdir(ROOT)
    for call in done.called():
        if " sweep " in call:
            with pytest.raises(SystemExit) as ended:
                main([*call.split()[2:], "--dry-run"])
            assert ended.value.code == 0, call
    assert "cuda" in capsys.readouterr().out


def test_a_failed_step_costs_no_other_and_is_named(folder: Path) -> None:
    proof = Proof(folder, probe=2, batch=1)
    assert proof.run() == 1
    found = proof.results()
    assert tuple(found) == ALL_STEPS
    failed = [name for name, (result, _) in found.items() if result == "FAILED"]
    assert failed == ["probe", "batch"]
    assert found["probe"][1] == "exit code 2"
    assert found["batch"][1] == "exit code 1: no run was left; fewer repeats than the plan"
    assert (proof.out / "summary.txt").read_text().endswith("\nfailed: probe, batch\n")
    # What it said is on the screen, not only in the log.
    assert "probe broke" in proof.text


def test_a_step_that_hangs_is_ended_at_its_mark(folder: Path) -> None:
    proof = Proof(folder, machine="hang")
    # Seconds in which the first mark comes soon.
    assert proof.run("--seconds", "40") == 1
    found = proof.results()
    result, note = found["machine"]
    assert result == "FAILED"
    assert re.fullmatch(r"ended after \d s; Pretended GPU", note)
    assert found["gpt2-both"][0] == "ok"


def test_a_sweep_that_is_ended_keeps_what_it_has(folder: Path) -> None:
    proof = Proof(folder, **{"machine": 3, "gpt2-both": "hang"})
    assert proof.run("--rehearse", "--seconds", "14") == 0, proof.text
    result, note = proof.results()["gpt2-both"]
    assert result == "stopped"
    assert note.startswith("stopped early: 12 of 12 cases, 6 samples each")
    # It had no time to make its tables.
    reports = [call for call in proof.called() if " report " in call]
    assert len(reports) == 1 and reports[0].endswith("/gpt2-both")
    assert "runs/gpt2-both/samples.csv" in proof.packed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step_and_still_packs(folder: Path, number: int) -> None:
    proof = Proof(folder, batch="hang")
    with proof.start() as process:
        wait_until(lambda: "batch hangs" in proof.called(), "the step hangs")
        process.send_signal(number)
        assert proof.end(process) == 130
    found = proof.results()
    assert found["gpt2-both"][0] == "ok"
    assert found["batch"][0] == "stopped"
    assert found["checks"] == ("not run", "interrupted")
    assert "runs/gpt2-both/samples.csv" in proof.packed()
    assert proof.text.endswith((proof.out / "summary.txt").read_text())


def test_a_second_interrupt_does_not_wait(folder: Path) -> None:
    proof = Proof(folder, env="stubborn")
    with proof.start() as process:
        wait_until(lambda: "env hangs" in proof.called(), "the step hangs")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert proof.end(process) == 130
    assert proof.results()["env"][0] == "stopped"


def test_without_a_gpu_its_steps_are_skipped_and_the_proof_fails(folder: Path) -> None:
    proof = Proof(folder, machine=3)
    assert proof.run() == 1
    found = proof.results()
    assert found["machine"][0] == "FAILED"
    assert {found[name] for name in GPU_STEPS} == {("skipped", "no CUDA device")}
    assert found["gpt2-both"][0] == "ok"
    assert not [call for call in proof.called() if "cuda" in call]


def test_a_rehearsal_without_a_gpu_passes(folder: Path) -> None:
    proof = Proof(folder, machine=3)
    assert proof.run("--rehearse") == 0, proof.text
    found = proof.results()
    assert tuple(found) == ALL_STEPS
    assert found["machine"][0] == "skipped"
    assert {found[name] for name in GPU_STEPS} == {("skipped", "no CUDA device")}


def test_missing_packages_are_not_taken_for_a_missing_gpu(folder: Path) -> None:
    proof = Proof(folder, machine=1)
    assert proof.run("--rehearse") == 1
    found = proof.results()
    assert found["machine"][0] == "FAILED"


def test_wheels_are_installed_first_and_from_the_folder_alone(folder: Path) -> None:
    wheels = folder / "wheels"
    wheels.mkdir()
    (wheels / "some-1-py3-none-any.whl").touch()
    proof = Proof(folder)
    assert proof.run("--wheels", str(wheels)) == 0, proof.text
    assert next(iter(proof.results())) == "wheels"
    first = proof.called()[0]
    assert "--no-index --no-deps" in first
    assert first.endswith(str(wheels / "some-1-py3-none-any.whl"))


def test_what_an_earlier_proof_left_is_gone(folder: Path) -> None:
    proof = Proof(folder, checks=1)
    proof.out.mkdir()
    (proof.out / "checks.json").write_text("of yesterday")
    (proof.out / "mine.txt").write_text("kept")
    proof.run()
    assert not (proof.out / "checks.json").exists()
    assert (proof.out / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    "options", [["--frobnicate"], ["a", "b"], ["--minutes"], ["--seconds", "0"]]
)
def test_wrong_usage_is_told(folder: Path, options: Sequence[str]) -> None:
    proof = Proof(folder)
    assert proof.run(*options) == 2
    assert "gpu_proof.sh [OUT] [--wheels DIR]" in proof.text
    assert proof.called() == []


# The helper


def test_the_packages_are_those_of_the_project(helper: ModuleType) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[>=<]", one)[0] for one in project["dependencies"]}
    # Only GGUF files need these two.
    assert set(helper.NEEDED.values()) == names - {"gguf", "accelerate"} | {
        "pytest",
        "pytest-timeout",
    }


def test_a_missing_package_is_named(
    helper: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(helper.NEEDED, "no_such_module", "no-such-package")
    assert helper.machine() == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("missing: no-such-package;")


def test_tests_are_counted(
    helper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "junit.xml"
    cases = ["", "<skipped/>", "<failure/>", "<failure/><error/>", "<error/>", ""]
    report.write_text(f"<s>{''.join(f'<testcase>{one}</testcase>' for one in cases)}</s>")
    assert helper.tests(str(report)) == 0
    assert capsys.readouterr().out == "2 passed, 3 failed, 1 skipped\n"
    report.write_text("<s><testcase><skipped/></testcase></s>")
    assert helper.tests(str(report)) == 1
    assert helper.tests(str(tmp_path / "none.xml")) == 1


def test_a_longer_pair_is_foretold_from_the_longest(
    helper: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [("off", 10, 1.0), ("off", 20, 2.0), ("dynamic", 10, 1.0), ("dynamic", 20, 1.0)]
    with (tmp_path / "samples.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["phase", "status", "device", "cache", "max_new_tokens", "total_s"])
        table.writerows(["measure", "ok", "cpu", *row] for row in rows)
        table.writerow(["warmup", "ok", "cpu", "off", 20, 99.0])
    assert helper.expect(str(tmp_path), "cpu", "40") == 0
    # 2 x 4 and 1 x 2 to the power of 1.3.
    assert capsys.readouterr().out == "11\n"
    assert helper.expect(str(tmp_path), "cuda", "40") == 1


def test_what_is_not_there_is_no_run(
    helper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert helper.describe(str(tmp_path)) == 1
    assert capsys.readouterr().out.startswith("no run was left")


def run_folders(root: Path) -> Path:
    """Two runs whose tables do not compress."""
    for name, size in (("a", 300_000), ("b", 200_000)):
        run = root / "runs" / name
        (run / "charts").mkdir(parents=True)
        for file, count in (("tokens.csv", size), ("report.html", 100_000), ("run.json", 10)):
            (run / file).write_bytes(os.urandom(count))
        (run / "charts" / "one.png").write_bytes(os.urandom(100_000))
    return root / "runs"


@pytest.mark.parametrize(
    ("mib", "code", "left_out"),
    [
        ("16", 0, ""),
        ("0.6", 0, ", without charts and report.html"),
        ("0.3", 0, ", without charts and report.html, a/tokens.csv"),
        ("0.1", 0, ", without charts and report.html, a/tokens.csv, b/tokens.csv"),
        ("0", 1, ", without charts and report.html, a/tokens.csv, b/tokens.csv"),
    ],
)
def test_what_is_too_large_is_left_out_and_said(
    helper: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mib: str,
    code: int,
    left_out: str,
) -> None:
    out = tmp_path / "runs.tar.gz"
    assert helper.pack(str(run_folders(tmp_path)), str(out), mib) == code
    said = capsys.readouterr().out
    assert re.fullmatch(r"\d+\.\d MiB" + re.escape(left_out) + "\n", said)
    with tarfile.open(out) as archive:
        names = archive.getnames()
    assert ("runs/a/charts/one.png" in names) == (left_out == "")
    assert ("runs/a/tokens.csv" in names) == ("a/tokens" not in left_out)
    assert ("runs/b/tokens.csv" in names) == ("b/tokens" not in left_out)
    assert "runs/a/run.json" in names
    assert not out.with_name("runs.tar.gz.part").exists()


def test_checks_of_saved_runs_need_no_gpu(
    helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "runs" / "gpt2-cpu")
    for live in ("memory", "stamps", "energy"):
        monkeypatch.setattr(helper, live, skipping(helper))
    out = tmp_path / "checks.json"
    assert helper.checks(str(tmp_path / "runs"), str(out), "cpu", "1") == 0
    found: dict[str, Any] = {one["name"]: one for one in json.loads(out.read_text())}
    assert found["memory"]["status"] == "skipped"
    bytes_ = found["cache_bytes gpt2-cpu"]
    assert (bytes_["status"], bytes_["sentence"]) in {
        ("ok", "6 cases: each cache has to the byte what theory says"),
        # Without the rates of the machine theory says nothing.
        ("skipped", "no cached case whose cache theory knows"),
    }
    pays = found["pays_from gpt2-cpu"]
    assert (pays["status"], pays["numbers"]["device"]) == ("told", "cpu")
    assert pays["numbers"]["speedup"] > 1


def skipping(helper: ModuleType) -> Any:
    def skip(*arguments: object) -> None:
        raise helper.Skip("not here")

    return skip


def test_a_check_that_breaks_costs_no_other(
    helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object) -> None:
        raise ZeroDivisionError("as it must")

    monkeypatch.setattr(helper, "memory", breaks)
    for live in ("stamps", "energy"):
        monkeypatch.setattr(helper, live, skipping(helper))
    out = tmp_path / "checks.json"
    assert helper.checks(str(tmp_path), str(out), "cpu", "1") == 1
    found = {one["name"]: one for one in json.loads(out.read_text())}
    assert (found["memory"]["status"], found["stamps"]["status"]) == ("failed", "skipped")
    assert found["memory"]["sentence"] == "ZeroDivisionError: as it must"


def test_the_energy_of_a_known_board_is_its_power_over_time(
    helper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    class Board:
        """300 W by both readings; the counter moves as often as it is read."""

        @staticmethod
        def nvmlDeviceGetTotalEnergyConsumption(handle: object) -> int:
            return int(time.perf_counter() * 300_000)

        @staticmethod
        def nvmlDeviceGetPowerUsage(handle: object) -> int:
            return 300_000

    joules, watts, window = helper._readings(Board, None, 0.1)
    assert set(watts) == {300.0}
    assert joules == pytest.approx(300 * window, rel=0.05)


def test_the_script_is_bash_that_parses() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_the_pretender_is_bash_that_parses() -> None:
    subprocess.run(["bash", "-n"], input=textwrap.dedent(PRETENDER), text=True, check=True)
