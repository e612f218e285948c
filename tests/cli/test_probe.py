"""Tests of `kvbench probe`, and of what `kvbench env` and a sweep say of rates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kvbench import api
from kvbench.cli import main
from kvbench.errors import UserError
from kvbench.records.environment import Device
from kvbench.records.rates import STATE_VARIABLE, Rates, keep_rates, read_rates, store_path
from tests.fakes import FakeEngine, make_environment, make_rates


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state" / "rates.json"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, store: Path) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr("kvbench.run.machine.WorkerEngine", lambda **options: fake)
    monkeypatch.setattr("kvbench.report.build.draw_charts", lambda *arguments: iter(()))
    return fake


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return (ended.value.code or 0, *capsys.readouterr())


def test_every_device_is_probed_and_stored(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, store: Path
) -> None:
    code, out, err = call(capsys, "probe")
    assert (code, err) == (0, "")
    assert engine.probed == ["cpu", "cuda"]
    assert [rates.device for rates in read_rates()] == ["cpu", "cuda"]
    assert engine.closed == 1
    assert "probing cpu (Some CPU) ..." in out
    assert "20.0 (19.0 to 21.0)" in out
    assert out.endswith(f"Stored in {store}; sweeps on this machine record it.\n")


@pytest.mark.parametrize(
    ("given", "probed"),
    [
        (["-d", "cuda:0"], ["cuda"]),
        (["--device", "cuda,cpu"], ["cuda", "cpu"]),
        (["-d", "cpu", "-d", "cpu"], ["cpu"]),
        (["-d", "auto"], ["cpu", "cuda"]),
    ],
)
def test_devices_are_named_as_in_a_plan(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, given: list[str], probed: list[str]
) -> None:
    assert call(capsys, "probe", *given)[0] == 0
    assert engine.probed == probed


def test_json_is_one_document_on_standard_output(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine
) -> None:
    code, out, err = call(capsys, "probe", "--format", "json", "-d", "cpu")
    assert code == 0
    assert [Rates(**keys).read_bytes_per_s for keys in json.loads(out)] == [20e9]
    assert err == "probing cpu (Some CPU) ...\n"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["-d", "gpu"], "device: 'gpu' is not present on this machine; present: cpu, cuda."),
        (["-d", "cuda:7"], "device: 'cuda:7' is not present on this machine; present: cpu, cuda."),
        (
            ["--format", "jsn"],
            "--format: no format 'jsn'; known: table, csv, json, markdown; did you mean 'json'?",
        ),
    ],
)
def test_a_slip_is_one_sentence(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, given: list[str], sentence: str
) -> None:
    code, out, err = call(capsys, "probe", *given)
    assert (code, out) == (2, "")
    assert err == f"kvbench: {sentence}\n"
    assert engine.probed == []


def test_why_there_is_no_gpu_is_said(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine
) -> None:
    cpu = make_environment().devices[:1]
    engine.machine = make_environment(devices=cpu, missing=("CUDA: built without it.",))
    _, _, err = call(capsys, "probe", "-d", "cuda")
    assert err.endswith("present: cpu. CUDA: built without it.\n")


def test_a_damaged_store_is_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, store: Path
) -> None:
    store.parent.mkdir()
    store.write_text("{")
    code, out, err = call(capsys, "probe")
    assert (code, out) == (2, "")
    assert err.startswith(f"kvbench: {store} is damaged (") and err.count("\n") == 1
    assert (engine.probed, store.read_text()) == ([], "{")


def test_what_was_probed_before_a_device_failed_is_kept(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def probe(device: str) -> Rates:
        if device == "cuda":
            raise UserError("Nothing can be measured.")
        return make_rates()

    monkeypatch.setattr(engine, "probe", probe)
    with pytest.raises(UserError):
        api.probe()
    assert read_rates() == (make_rates(),)


def test_doubts_and_published_peaks_stand_beside_the_rates(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.machine = make_environment(devices=(Device(name="cuda", hardware="NVIDIA H200"),))
    rates = make_rates(
        device="cuda",
        hardware="NVIDIA H200",
        read_bytes_per_s=2400e9,
        flags=("busy_cpu", "throttled"),
        other_cpu_share=0.25,
        load_average=3.5,
        notes=("float16 is left out: no.",),
    )
    monkeypatch.setattr(engine, "probe", lambda device: rates)
    out = call(capsys, "probe")[1]
    rows = [line.split() for line in out.splitlines()]
    (published,) = (row for row in rows if row[:1] == ["published"])
    assert published[1:] == ["4800", "-", "67.0", "990", "990", "-", "-"]
    (share,) = (row for row in rows if row[:1] == ["share"])
    assert share[1:3] == ["50%", "-"]
    assert (
        "- cuda: other processes used 25% of the processors meanwhile; the GPU's clocks were "
        "reduced; the load average was 3.50 before the probe; probe again when the machine is idle."
    ) in out
    assert "- cuda: float16 is left out: no." in out
    assert "- cuda: Tensor figures are half of the published ones" in out


def test_the_environment_says_what_was_probed(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine
) -> None:
    devices = (
        Device(name="cpu", hardware="Some CPU"),
        Device(name="cuda", hardware="NVIDIA L4"),
        Device(name="cuda:1", hardware="Some GPU"),
    )
    busy = make_rates(flags=("busy_cpu",))
    engine.machine = make_environment(devices=devices, rates=(busy,))
    lines = {
        " ".join(line.split()[:2]): " ".join(line.split()[2:])
        for line in call(capsys, "env")[1].splitlines()
        if line.startswith("rates ")
    }
    assert lines == {
        "rates cpu": "read 20.0 GB/s, copy 18.0 GB/s, float32 0.200 TFLOP/s, bfloat16 0.0500 "
        "TFLOP/s, launch 4.00 us; probed 2026-01-02, in doubt",
        "rates cuda": "not probed: run kvbench probe; published: read 300 GB/s, float32 30.3 "
        "TFLOP/s, bfloat16 121 TFLOP/s, float16 121 TFLOP/s",
        "rates cuda:1": "not probed: run kvbench probe",
    }


def test_a_newer_probe_does_not_stop_a_resume(engine: FakeEngine, tmp_path: Path) -> None:
    from kvbench.plan.plan import Plan

    plan = Plan.parse({"device": "cpu", "max_new_tokens": 5, "repeats": 1})
    engine.machine = make_environment(rates=(make_rates(),))
    first = api.sweep(
        plan, out=tmp_path, name="run", engine=engine, stop=lambda: len(engine.tasks) == 3
    )
    assert first.info.state == "interrupted"
    assert first.info.environment.rates == (make_rates(),)
    newer = dataclasses.replace(make_rates(), read_bytes_per_s=1e9)
    engine.machine = make_environment(rates=(newer,))
    again = api.resume(tmp_path / "run", engine=engine)
    assert again.info.state == "finished"
    assert again.info.environment.rates == (make_rates(),)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any user id in a container: no HOME, and no entry in the list of users."""
    for name in ("HOME", "XDG_STATE_HOME", STATE_VARIABLE):
        monkeypatch.delenv(name, raising=False)

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", no_entry)


def test_a_user_without_a_home_gets_the_figures(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, homeless: None
) -> None:
    code, out, _ = call(capsys, "probe", "-d", "cpu")
    assert (code, engine.probed) == (0, ["cpu"])
    first, *_, last = out.strip().splitlines()
    assert first.startswith("the rates will not be stored: there is no home directory; set HOME")
    assert last == "Not stored: sweeps on this machine do not record it."
    assert "20.0" in out


def test_a_user_without_a_home_has_no_stored_rates(
    capsys: pytest.CaptureFixture[str], homeless: None
) -> None:
    assert store_path() is None
    assert read_rates() == ()
    assert call(capsys, "estimate", "gpt2")[0] == 0
    with pytest.raises(OSError, match="no home directory"):
        keep_rates(make_rates())


def test_a_store_that_cannot_be_written_is_said_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], engine: FakeEngine, store: Path
) -> None:
    # A file where the folder should be: this holds for root, too.
    store.parent.write_text("in the way")
    code, out, _ = call(capsys, "probe", "-d", "cpu")
    assert code == 0
    first, second, *_, last = out.strip().splitlines()
    assert first.startswith(f"the rates will not be stored: {store}: ")
    assert second.startswith("probing cpu")
    assert last.startswith("Not stored")


def test_a_store_that_fails_at_the_end_costs_no_figures(
    capsys: pytest.CaptureFixture[str],
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
) -> None:
    def full(rates: Rates) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvbench.run.single.keep_rates", full)
    code, out, _ = call(capsys, "probe", "-d", "cpu")
    assert code == 0
    assert "the rates of cpu were not stored: No space left on device" in out
    assert "Not stored" in out


def test_a_tilde_without_a_home_is_a_sentence(
    capsys: pytest.CaptureFixture[str], homeless: None
) -> None:
    for name in ("~/model", "~nobody-of-that-name/model"):
        code, _, err = call(capsys, "estimate", name)
        assert (code, err) == (2, f"kvbench: model: there is no folder '{name}'.\n")
