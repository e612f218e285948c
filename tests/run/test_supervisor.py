"""Tests of kvbench/run/supervisor.py with real workers: asked, killed, stopped, left alone.

If it does not matter what is measured, the worker is a light one; see tests/run/faults.py.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kvbench.errors import UserError
from kvbench.plan.case import Case, Group, Prompt
from kvbench.records.events import LoadFailed, ModelLoaded
from kvbench.records.sample import Sample
from kvbench.run import launch, process
from kvbench.run.engine import Interrupted
from kvbench.run.loss import oom_kills
from kvbench.run.supervisor import WorkerEngine
from tests.fakes import run_task
from tests.run.faults import (
    PATIENCE_S,
    ROOT,
    Script,
    is_gone,
    light_main,
    mark_environment,
    marked,
    slow_main,
    start,
    wait_until,
)
from tests.tiny import GPT2, case, config_folder, group, task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and limits as Linux has")

# Too long ever to end.
FOREVER_S = 10 * PATIENCE_S
KILLED = "the worker process was killed by SIGKILL"


@pytest.fixture
def engine() -> Iterator[WorkerEngine]:
    engine = WorkerEngine()
    yield engine
    pid = engine.worker_pid
    engine.close()
    assert pid is None or is_gone(pid)


@pytest.fixture(scope="module")
def shared() -> Iterator[WorkerEngine]:
    """Return a shared worker for tests that leave it unchanged: it takes seconds to start."""
    engine = WorkerEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a case of a tiny model."""
    return case(config_folder(tmp_path_factory.mktemp("models") / "gpt2", GPT2))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a case whose generation takes hours."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    return case(config_folder(folder, GPT2, n_positions=1_000_000), max_new_tokens=900_000)


Light = Callable[[Script], str]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Light:
    """Make the next workers light ones that follow a script; return their mark."""
    mark = uuid.uuid4().hex
    monkeypatch.setattr(launch, "_START", start(light_main))

    def use(script: Script) -> str:
        for name, value in mark_environment(mark, script).items():
            monkeypatch.setenv(name, value)
        return mark

    use(Script())
    return use


def opened(engine: WorkerEngine, one: Case) -> int:
    """Open the model of a case; return the id of the worker."""
    loaded = engine.open(one.model_key)
    assert isinstance(loaded, ModelLoaded), loaded
    assert engine.open_model == one.model_key
    assert engine.worker_pid is not None
    return engine.worker_pid


def measured_over(engine: WorkerEngine, one: Case, fault: Callable[[int], object]) -> Sample:
    """Return the unfinished sample during whose decoding something happened to the worker."""
    sample, times = measured_while(engine, one, fault)
    assert times == ()
    return sample


def measured_while(
    engine: WorkerEngine, one: Case, fault: Callable[[int], object]
) -> tuple[Sample, tuple[float, ...]]:
    """Return a sample during whose decoding something happens to the worker."""
    worker, pid, decoding = engine._client.worker, engine.worker_pid, threading.Event()
    assert worker is not None and pid is not None
    receive = worker._connection.recv

    def listen() -> Any:
        message = receive()
        if getattr(message, "stage", None) == "decode":
            decoding.set()
        return message

    def befall() -> None:
        assert decoding.wait(PATIENCE_S)
        fault(pid)

    worker._connection.recv = listen  # type: ignore[method-assign]
    thread = threading.Thread(target=befall)
    thread.start()
    measured = run_task(engine, task(one))
    thread.join()
    return measured


def kill(number: int) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, number)


# Asked


def test_a_worker_says_where_it_is_and_measures(shared: WorkerEngine, gpt2: Case) -> None:
    environment = shared.environment()
    assert {"torch", "transformers"} <= set(environment.versions)
    assert environment.devices[0].name == "cpu"
    shared.check([group(gpt2)])
    pid = opened(shared, gpt2)
    sample, times = run_task(shared, task(gpt2))
    assert (sample.status, sample.new_tokens, len(times)) == ("ok", 8, 8)
    assert sample.sample_id == task(gpt2).sample_id
    assert shared.worker_pid == pid != os.getpid()
    assert shared.take_log() == ""


def test_what_a_person_can_mend_crosses_and_the_worker_stays(
    shared: WorkerEngine, gpt2: Case
) -> None:
    pid = opened(shared, gpt2)
    with pytest.raises(UserError, match="no-such-model"):
        shared.check([group(case("./no-such-model"))])
    assert (shared.worker_pid, shared.open_model) == (pid, gpt2.model_key)


def test_a_failed_sample_leaves_the_worker_and_its_model(shared: WorkerEngine, gpt2: Case) -> None:
    pid = opened(shared, gpt2)
    sample, _ = run_task(shared, task(case(gpt2.model, max_new_tokens=1000)))
    assert (sample.status, sample.stage) == ("unsupported", "load")
    assert (shared.worker_pid, shared.open_model) == (pid, gpt2.model_key)


def test_a_model_that_does_not_load_leaves_none_open(shared: WorkerEngine, gpt2: Case) -> None:
    pid = opened(shared, gpt2)
    failed = shared.open(case("./no-such-model").model_key)
    assert isinstance(failed, LoadFailed)
    assert (failed.status, failed.died) == ("unsupported", False)
    assert (shared.worker_pid, shared.open_model) == (pid, None)


@pytest.mark.parametrize("entry", [Path("/of/no/use"), b"/of/no/use"])
def test_entries_of_the_import_path_that_are_no_text_do_no_harm(
    engine: WorkerEngine, light: Light, monkeypatch: pytest.MonkeyPatch, entry: Any
) -> None:
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    assert engine.environment().cpu == "Scripted CPU"


def test_a_large_prompt_crosses_whole(engine: WorkerEngine, light: Light) -> None:
    long = Prompt.of_text("kv " * 10_000_000)
    one = case("gpt2", prompt=long)
    engine.check([Group(one.model_key, (one,))])
    opened(engine, one)
    sample, _ = run_task(engine, task(one))
    assert (sample.status, sample.prompt) == ("ok", long.label)


def test_the_supervisor_imports_no_torch_and_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "a script.py"
    script.write_text(
        textwrap.dedent(
            f"""\
            import sys
            # Of no use to an import, but people have them there.
            sys.path += [{str(ROOT)!r}, ""]
            from kvbench.run import launch, supervisor
            from tests.run.faults import light_main, start
            launch._START = start(light_main)
            print("once")
            engine = supervisor.WorkerEngine()
            print(engine.environment().cpu, "torch" in sys.modules)
            engine.close()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("once\nScripted CPU False\n", "")


def test_it_may_be_asked_from_any_thread(engine: WorkerEngine, light: Light) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(engine.environment().cpu))
    thread.start()
    thread.join()
    assert found == ["Scripted CPU"]
    assert engine.environment().cpu == "Scripted CPU"


def test_two_of_them_do_not_disturb_each_other(light: Light) -> None:
    one, two = WorkerEngine(), WorkerEngine()
    try:
        opened(one, case("gpt2"))
        opened(two, case("gpt2"))
        one.close()
        assert run_task(two, task(case("gpt2")))[0].status == "ok"
    finally:
        one.close()
        two.close()


# Killed


def test_killed_while_it_waits_it_costs_no_sample(engine: WorkerEngine, light: Light) -> None:
    pid = opened(engine, case("gpt2"))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine.open_model is None, "word of its end")
    assert is_gone(pid)
    assert opened(engine, case("gpt2")) != pid
    assert run_task(engine, task(case("gpt2")))[0].status == "ok"


def test_killed_while_it_waits_it_is_lost_before_it_can_be_waited_for(
    engine: WorkerEngine, light: Light, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = opened(engine, case("gpt2"))
    assert engine._client.worker is not None
    # Until another thread of the process has ended.
    monkeypatch.setattr(engine._client.worker.process, "poll", lambda: None)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine.open_model is None, "word of its end")
    assert is_gone(pid)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGBUS"])
def test_killed_while_it_measures_it_costs_the_sample(
    engine: WorkerEngine, light: Light, name: str
) -> None:
    light(Script(slow={"8": FOREVER_S}))
    slow, one = case("gpt2"), case("gpt2", max_new_tokens=2)
    pid = opened(engine, slow)
    sample = measured_over(engine, slow, kill(signal.Signals[name]))
    assert (sample.status, sample.stage) == ("crashed", "decode")
    assert sample.sample_id == task(slow).sample_id
    error = sample.error or ""
    assert name in error
    log = engine.take_log()
    if name in ("SIGSEGV", "SIGABRT", "SIGBUS"):
        # The output of faulthandler: the fatal error, and where every thread was.
        assert "Fatal Python error" in log and "in run" in log
        assert log.splitlines()[0] in error
    else:
        assert log == ""
    assert engine.take_log() == ""
    assert engine.open_model is None and is_gone(pid)
    opened(engine, one)
    assert run_task(engine, task(one))[0].status == "ok"


def test_a_real_worker_that_segfaults_in_a_generation(
    engine: WorkerEngine, endless: Case, snapshot: object
) -> None:
    pid = opened(engine, endless)
    sample = measured_over(engine, endless, kill(signal.SIGSEGV))
    assert (sample.status, sample.stage) == ("crashed", "decode")
    assert sample.error == snapshot
    log = engine.take_log()
    assert "transformers/generation/utils.py" in log
    assert is_gone(pid)


@pytest.mark.parametrize("method", ["environment", "check"])
def test_a_worker_that_cannot_be_asked_at_all_is_said(
    engine: WorkerEngine, light: Light, method: str
) -> None:
    light(Script(exits={method: 3}))
    with pytest.raises(UserError) as caught:
        engine.environment()
        engine.check([group(case("gpt2"))])
    assert caught.value.kind == "worker_lost"
    assert "3" in str(caught.value)


def test_killed_once_while_it_starts_it_is_started_again(
    engine: WorkerEngine, light: Light
) -> None:
    light(Script(environment_s=0.5))
    killed: list[int] = []

    def kill_the_first() -> None:
        wait_until(lambda: engine.worker_pid, "a worker")
        pid = engine.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    assert engine.environment().cpu == "Scripted CPU"
    thread.join()
    assert killed != [engine.worker_pid]


def test_killed_while_it_loads(engine: WorkerEngine, light: Light, snapshot: object) -> None:
    light(Script(exits={"open": 9}))
    failed = engine.open(case("gpt2").model_key)
    assert failed == snapshot
    assert engine.open_model is None


def test_a_worker_that_ends_by_itself(engine: WorkerEngine, light: Light, snapshot: object) -> None:
    light(Script(exits={"run": 5}))
    opened(engine, case("gpt2"))
    sample, times = run_task(engine, task(case("gpt2")))
    assert (sample.status, sample.stage, times) == ("crashed", "load", ())
    assert sample.error == snapshot
    assert engine.open_model is None


def test_a_worker_that_raises_what_nobody_expects_is_replaced(
    engine: WorkerEngine, light: Light
) -> None:
    light(Script(raises=["run"]))
    pid = opened(engine, case("gpt2"))
    sample, _ = run_task(engine, task(case("gpt2")))
    assert sample.status == "crashed"
    assert sample.error == "LookupError: nobody expects this of run"
    assert "Traceback" in engine.take_log()
    assert engine.open_model is None and is_gone(pid)


def test_a_device_that_has_had_a_fault_costs_the_sample_and_the_worker(
    engine: WorkerEngine, light: Light
) -> None:
    light(Script(faults=[8]))
    pid = opened(engine, case("gpt2"))
    sample, _ = run_task(engine, task(case("gpt2")))
    assert (sample.status, sample.stage) == ("crashed", "prefill")
    assert engine.open_model is None and engine.worker_pid is None
    assert is_gone(pid)


def test_memory_that_runs_out_over_a_load(engine: WorkerEngine, tmp_path: Path) -> None:
    import resource

    engine.environment()
    pid = engine.worker_pid
    assert pid is not None
    limit = psutil.Process(pid).memory_info().vms + (512 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
    # One table of 4 GiB.
    large = case(config_folder(tmp_path / "large", GPT2, vocab_size=1 << 24))
    failed = engine.open(large.model_key)
    assert isinstance(failed, LoadFailed)
    assert (failed.status, failed.oom_bytes, failed.died) == ("oom", 1 << 32, False)
    assert engine.worker_pid == pid
    # And it goes on.
    opened(engine, case(config_folder(tmp_path / "small", GPT2)))


def test_a_child_that_outlives_a_worker_does_not_hold_the_sweep_up(
    engine: WorkerEngine, light: Light
) -> None:
    mark = light(Script(forks=["open"], slow={"8": FOREVER_S}))
    pid = opened(engine, case("gpt2"))
    try:
        done = threading.Event()
        samples: list[Sample] = []

        def measure() -> None:
            samples.append(run_task(engine, task(case("gpt2")))[0])
            done.set()

        thread = threading.Thread(target=measure)
        thread.start()
        os.kill(pid, signal.SIGKILL)
        in_time = done.wait(PATIENCE_S)
    finally:
        for orphan in marked(mark):
            os.kill(orphan, signal.SIGKILL)
    thread.join()
    assert in_time
    assert samples[0].status == "crashed"


def test_a_real_time_signal_is_a_signal_too(engine: WorkerEngine, light: Light) -> None:
    light(Script(slow={"8": FOREVER_S}))
    opened(engine, case("gpt2"))
    sample = measured_over(engine, case("gpt2"), kill(signal.SIGRTMIN + 3))
    assert sample.status == "crashed"


# Stopped


def test_a_sample_past_its_time_is_a_timeout_and_its_worker_is_gone(
    engine: WorkerEngine, light: Light, snapshot: object
) -> None:
    light(Script(slow={"8": FOREVER_S}))
    pid = opened(engine, case("gpt2"))
    sample, times = run_task(engine, task(case("gpt2")), timeout_s=0.5)
    assert (sample.status, sample.stage, times) == ("timeout", "decode", ())
    assert sample.error == snapshot
    assert engine.open_model is None
    assert is_gone(pid)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_load_past_its_time_is_a_timeout_and_its_worker_is_gone(
    light: Light, stopped: bool
) -> None:
    light(Script(load_s=0.0 if stopped else FOREVER_S))
    engine = WorkerEngine(step_timeout_s=0.5)
    try:
        engine.environment()
        pid = engine.worker_pid
        assert pid is not None
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        key = case("gpt2").model_key
        # Not a fault that another try would fix.
        error = "no result after 0.5 s; case_timeout also limits loading"
        assert engine.open(key) == LoadFailed(key, "timeout", error, died=False)
        assert engine.open_model is None and is_gone(pid)
    finally:
        engine.close()


def test_a_check_past_its_time_is_cut_off(light: Light, snapshot: object) -> None:
    light(Script(verify_s=FOREVER_S))
    engine = WorkerEngine()
    try:
        pid = opened(engine, case("gpt2"))
        # Not for the load, which has the same limit.
        engine._step_timeout_s = 0.25
        (check,) = engine.verify("dynamic")
        assert check.verdict != "pass"
        assert check.detail == snapshot
        assert engine.open_model is None and is_gone(pid)
    finally:
        engine.close()


def test_the_start_of_a_worker_is_no_part_of_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_START", start(slow_main))
    engine = WorkerEngine(step_timeout_s=1)
    try:
        # The first request is the load, as after losing a worker.
        opened(engine, case("gpt2"))
    finally:
        engine.close()


def test_a_worker_that_does_not_start_is_ended_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_START", start(slow_main))
    monkeypatch.setattr(process, "_START_TIMEOUT_S", 0.25)
    engine = WorkerEngine(step_timeout_s=0.25)
    try:
        failed = engine.open(case("gpt2").model_key)
        assert isinstance(failed, LoadFailed) and failed.status == "timeout"
    finally:
        engine.close()


def test_loads_checks_and_samples_have_limits_of_their_own(
    light: Light, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, float | None] = {}
    ask = process.Worker.ask

    def noted(self: Any, request: Any, timeout_s: float | None, stop: Any) -> Any:
        limits[request.method] = timeout_s
        return ask(self, request, timeout_s, stop)

    monkeypatch.setattr(process.Worker, "ask", noted)
    engine = WorkerEngine(step_timeout_s=PATIENCE_S)
    try:
        engine.environment()
        opened(engine, case("gpt2"))
        engine.verify("dynamic")
        run_task(engine, task(case("gpt2")), timeout_s=PATIENCE_S / 2)
    finally:
        engine.close()
    assert limits == {
        "environment": None,
        "open": PATIENCE_S,
        "verify": PATIENCE_S,
        "run": PATIENCE_S / 2,
    }


def test_a_real_worker_that_is_stopped_for_a_while_has_paused(
    shared: WorkerEngine, tmp_path: Path
) -> None:
    one = case(config_folder(tmp_path / "gpt2", GPT2, n_positions=1000), max_new_tokens=300)
    opened(shared, one)

    def hold(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)

    sample, times = measured_while(shared, one, hold)
    assert (sample.status, len(times)) == ("ok", 300)
    assert "paused" in (sample.flags or "").split()
    calm, _ = run_task(shared, task(one))
    assert "paused" not in (calm.flags or "").split()


def test_each_start_of_a_worker_has_a_number_of_its_own(engine: WorkerEngine, light: Light) -> None:
    one = case("gpt2")
    pid = opened(engine, one)
    first = engine.process
    engine.open(case("gpt2", dtype="bfloat16").model_key)
    assert engine.process == first
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine.open_model is None, "word of its end")
    opened(engine, one)
    assert engine.process == first + 1


def test_a_worker_that_is_stopped_for_good_is_a_timeout(engine: WorkerEngine, light: Light) -> None:
    pid = opened(engine, case("gpt2"))
    os.kill(pid, signal.SIGSTOP)
    sample, _ = run_task(engine, task(case("gpt2")), timeout_s=0.5)
    assert sample.status == "timeout"
    assert is_gone(pid)


def test_a_look_at_other_tokens_that_is_lost_accuses_nobody(
    engine: WorkerEngine, light: Light
) -> None:
    light(Script(exits={"verify_output": 3}))
    one = case("gpt2")
    opened(engine, one)
    (check,) = engine.verify_output(one)
    assert (check.check, check.verdict, check.case_id) == ("output", "inconclusive", one.id)
    assert "code 3" in check.detail
    assert engine.open_model is None


def test_a_verification_that_is_lost_is_not_finished(engine: WorkerEngine, light: Light) -> None:
    light(Script(exits={"verify": 3}))
    one = case("gpt2")
    opened(engine, one)
    (check,) = engine.verify("dynamic", reach=one)
    assert (check.check, check.verdict) == ("logits", "not_finished")


@pytest.mark.parametrize("method", ["environment", "check", "open", "verify"])
def test_stop_ends_at_once_what_is_not_worth_waiting_for(light: Light, method: str) -> None:
    seconds = {{"open": "load_s"}.get(method, f"{method}_s"): FOREVER_S}
    mark = light(Script(**seconds))
    asked = threading.Event()
    engine = WorkerEngine(stop=asked.is_set)
    one = case("gpt2")
    if method == "verify":
        opened(engine, one)
    calls: dict[str, Callable[[], object]] = {
        "environment": engine.environment,
        "check": lambda: engine.check([group(one)]),
        "open": lambda: engine.open(one.model_key),
        "verify": lambda: engine.verify("dynamic"),
    }
    asked.set()
    with pytest.raises(Interrupted):
        calls[method]()
    assert engine.worker_pid is None and engine.open_model is None
    assert not marked(mark)


def test_stop_lets_a_sample_finish(light: Light) -> None:
    light(Script(slow={"8": 1.0}))
    asked = threading.Event()
    engine = WorkerEngine(stop=asked.is_set)
    opened(engine, case("gpt2"))
    asked.set()
    try:
        assert run_task(engine, task(case("gpt2")))[0].status == "ok"
    finally:
        engine.close()


def test_a_keyboard_interrupt_leaves_no_worker(
    engine: WorkerEngine, light: Light, monkeypatch: pytest.MonkeyPatch
) -> None:
    light(Script(slow={"8": FOREVER_S}))
    pid = opened(engine, case("gpt2"))

    def interrupt(seconds: float | None) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_wait_s", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_task(engine, task(case("gpt2")))
    assert is_gone(pid) and engine.worker_pid is None


# Left alone


def test_a_worker_is_out_of_reach_of_the_terminals_signals(
    engine: WorkerEngine, light: Light
) -> None:
    pid = opened(engine, case("gpt2"))
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert os.getpgid(pid) != os.getpgid(0)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_engine_that_is_forgotten_takes_its_worker_along(light: Light) -> None:
    engine = WorkerEngine()
    pid = opened(engine, case("gpt2"))
    del engine
    gc.collect()
    wait_until(lambda: is_gone(pid), "the end of the worker")
    # Here and now, not in the next test, where its warnings would be errors.
    subprocess._cleanup()  # type: ignore[attr-defined]
    gc.collect()


SUPERVISOR = """
import sys
from kvbench.plan.case import Prompt, Task
from kvbench.run import launch, supervisor
from tests.fakes import make_case
from tests.fakes import run_task
from tests.run.faults import light_main, start
case = make_case(attention="auto", prompt=Prompt.of_tokens(5), max_new_tokens=8)
launch._START = start(light_main)
engine = supervisor.WorkerEngine()
if sys.argv[1] != "start":
    engine.environment()
if sys.argv[1] == "measure":
    engine.open(case.model_key)
print("ready", flush=True)
if sys.argv[1] == "start":
    engine.environment()
elif sys.argv[1] == "load":
    engine.open(case.model_key)
elif sys.argv[1] == "measure":
    run_task(engine, Task(case, "measure", 0, 0, 8))
sys.stdin.read()
"""


@pytest.mark.parametrize("when", ["start", "idle", "load", "measure"])
def test_a_worker_ends_with_its_supervisor(light: Light, tmp_path: Path, when: str) -> None:
    seconds = {"load": {"load_s": FOREVER_S}, "measure": {"slow": {"8": FOREVER_S}}}
    mark = light(Script(**seconds.get(when, {})))
    parent = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, when],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin and parent.stdout
    with parent:
        assert parent.stdout.readline() == b"ready\n"
        wait_until(lambda: set(marked(mark)) - {parent.pid}, "a worker")
        workers = set(marked(mark)) - {parent.pid}
        parent.kill()
    wait_until(lambda: all(map(is_gone, workers)), "the end of the worker")
    assert len(workers) == 1


# Kills for memory


def system(root: Path, **files: str) -> Path:
    """Create a root with these files; `__` is a slash and `_` a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


VMSTAT = "pgfault 5\noom_kill 52\n"


def test_kills_are_those_of_the_own_control_group(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__self__cgroup="4:memory:/other\n0::/box/7\n",
        sys__fs__cgroup__box__7__memory_events="oom 9\noom_kill 3\noom_group_kill 0\n",
        proc__vmstat=VMSTAT,
    )
    assert oom_kills(root) == 3


def test_without_a_control_group_kills_are_those_of_the_system(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
    assert oom_kills(system(tmp_path, proc__vmstat=VMSTAT)) == 52
    assert oom_kills(system(tmp_path, proc__self__cgroup="0::/\n")) == 52
