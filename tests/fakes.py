"""A scripted engine that measures nothing, and hand-made records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvbench.analysis.summary import CaseSummary
from kvbench.analysis.trace import Prefix
from kvbench.errors import UserError
from kvbench.methods import Job, JobResult, Row
from kvbench.methods.each import EACH
from kvbench.plan.axes import AXES, Axis
from kvbench.plan.case import Case, Group, ModelKey, Prompt, Task
from kvbench.plan.texts import Text
from kvbench.records.check import Check, Verdict, check_of
from kvbench.records.columns import columns_of
from kvbench.records.environment import Device, Environment
from kvbench.records.events import Event, LoadFailed, ModelLoaded, SampleEnded
from kvbench.records.finding import Finding
from kvbench.records.inspection import Arm, CacheLayers, Inspection, Step
from kvbench.records.quality import Quality, QualitySize, quality_of
from kvbench.records.rates import Rates
from kvbench.records.run import RunInfo
from kvbench.records.sample import Sample, Stage, Status, sample_of, utc_now
from kvbench.records.writer import RunWriter
from kvbench.theory.shapes import Shapes

Failure = tuple[Status, Stage, str]


def seconds_of(task: Task) -> float:
    """Return the scripted time unless a test overrides it: double per token without a cache."""
    return task.new_tokens * (0.002 if task.case.cache == "off" else 0.001)


def no_failure(task: Task) -> Failure | None:
    """The script of an engine on which nothing fails."""
    return None


def same_tokens(task: Task) -> str:
    """Return the hash of an engine whose strategies all produce the same tokens."""
    return "0123456789abcdef"


@dataclass
class FakeEngine:
    """A scripted kvbench.run.engine.Engine that keeps the requests it received.

    Attributes:
        seconds: the time that a task takes.
        failure: status, stage and error of a task that is to fail.
        unloadable: models that do not load, with status and error.
        refusal: what `check` raises, if anything.
        needs: why strategies cannot run on this machine.
        room_bytes: what the device has free once a model is loaded.
        lost_reading: strategies over whose quality the process is lost.
    """

    seconds: Callable[[Task], float] = seconds_of
    failure: Callable[[Task], Failure | None] = no_failure
    unloadable: Mapping[str, tuple[Status, str]] = field(default_factory=dict)
    refusal: str | None = None
    memory_pass: bool = False
    says: tuple[str, ...] = ()
    verdict: Verdict = "pass"
    machine: Environment | None = None
    verified: list[str] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    checked: list[Group] = field(default_factory=list)
    opened: list[ModelKey] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    probed: list[str] = field(default_factory=list)
    inspected: list[tuple[Case, int]] = field(default_factory=list)
    reached: list[Case | None] = field(default_factory=list)
    needs: Mapping[str, str] = field(default_factory=dict)
    compared: list[Case] = field(default_factory=list)
    output_verdict: Verdict = "fail"
    tokens_of: Callable[[Task], str] = same_tokens
    read: list[tuple[str, str]] = field(default_factory=list)
    lost_reading: tuple[str, ...] = ()
    room_bytes: int | None = None
    closed: int = 0
    process: int = 0
    lost: bool = False

    def __post_init__(self) -> None:
        self.open_model: ModelKey | None = None

    def lose(self) -> None:
        """Lose the measuring process; the next load starts another one."""
        self.open_model = None
        self.lost = True

    def environment(self) -> Environment:
        return self.machine or make_environment()

    def probe(self, device: str) -> Rates:
        self.probed.append(device)
        hardware = self.environment().hardware(device)
        return make_rates(device=device, hardware=hardware)

    def check(self, groups: Iterable[Group]) -> None:
        self.checked.extend(groups)
        if self.refusal is not None:
            raise UserError(self.refusal)

    def open(self, key: ModelKey) -> ModelLoaded | LoadFailed:
        self.opened.append(key)
        self.process += self.lost
        self.open_model, self.lost = None, False
        if key.model in self.unloadable:
            return LoadFailed(key, *self.unloadable[key.model])
        self.open_model = key
        return ModelLoaded(
            key,
            seconds=0.5,
            parameters=1_000_000,
            weights_bytes=4_000_000,
            needs_memory_pass=self.memory_pass,
            notices=self.says,
            room_bytes=self.room_bytes,
        )

    def verify_output(self, case: Case) -> tuple[Check, ...]:
        assert self.open_model == case.model_key
        self.compared.append(case)
        return (
            check_of(
                case.model_key,
                case.cache,
                "output",
                self.output_verdict,
                "Parted.",
                case_id=case.id,
            ),
        )

    def unmet(self, cache: str) -> str | None:
        return self.needs.get(cache)

    def verify(
        self,
        cache: str,
        new_tokens: int = 32,
        generations: int = 6,
        reach: Case | None = None,
    ) -> tuple[Check, ...]:
        assert self.open_model is not None
        self.verified.append(cache)
        self.reached.append(reach)
        if cache in self.needs:
            return ()
        return (
            check_of(self.open_model, cache, "logits", self.verdict, "As scripted."),
            check_of(self.open_model, cache, "leak", "pass", "Nothing is left."),
        )

    def run(self, job: Job, timeout_s: float | None = None) -> JobResult:
        task = job.task
        assert self.open_model == task.case.model_key
        self.tasks.append(task)
        self.timeouts.append(timeout_s)
        failed = self.failure(task)
        if failed is not None:
            status, stage, error = failed
            if status in ("crashed", "timeout"):
                # As a worker that is lost, or too slow.
                self.lose()
            return JobResult(status, utc_now(), {"stage": stage, "error": error})
        total = self.seconds(task)
        times = tuple(total * (i + 1) / task.new_tokens for i in range(task.new_tokens))
        fields = readings_of(task) | {"output_sha256": self.tokens_of(task)}
        parts = tuple(Prefix(one.new_tokens, self.tokens_of(one)) for one in job.tasks[:-1])
        return JobResult("ok", utc_now(), fields, total, times, parts)

    def free_bytes(self, device: str) -> int:
        return self.room_bytes or 0

    def shapes(self, config: Mapping[str, Any]) -> Shapes:
        raise UserError(f"{config.get('model_type')}: no fake has it.", kind="unknown_family")

    def quality(self, cache: str, text: Text, size: QualitySize) -> Quality:
        assert self.open_model is not None
        key = self.open_model
        self.read.append((key.model, cache))
        if cache in self.lost_reading:
            self.lose()
            return quality_of(key, cache, text, reason="the worker process was killed")
        return quality_of(key, cache, text, perplexity=10.1, baseline_perplexity=10.0)

    def inspect(self, case: Case, layer: int) -> Inspection:
        assert self.open_model == case.model_key
        self.inspected.append((case, layer))
        return make_inspection(model=case.model, layer=layer)

    def take_log(self) -> str:
        return ""

    def close(self) -> None:
        self.open_model = None
        self.closed += 1


def run_task(engine: Any, task: Task, **options: Any) -> Row:
    """Return the one row of a task that an engine runs as a job of the method `each`."""
    (job,) = EACH.jobs([task])
    (row,) = EACH.rows(job, engine.run(job, **options))
    return row


def timed_sample(task: Task, total: float, **fields: Any) -> Sample:
    """A sample of a task that took `total` seconds."""
    known: dict[str, Any] = {
        "total_s": total,
        "ttft_s": total / task.new_tokens,
        "itl_s": total / task.new_tokens,
        "tokens_per_s": task.case.batch_size * task.new_tokens / total,
    }
    return sample_of(task, **(readings_of(task) | known | fields))


def readings_of(task: Task) -> dict[str, Any]:
    """Return the readings of a successful generation."""
    return {
        "new_tokens": task.new_tokens,
        "prompt_tokens": task.case.prompt.tokens or 6,
        "attention_used": "sdpa",
        "output_sha256": "0123456789abcdef",
        "kv_cache_bytes": 0 if task.case.cache == "off" else 73_728 * (5 + task.new_tokens),
        "weights_bytes": 4_000_000,
        "rss_before_bytes": 500 << 20,
        "rss_peak_bytes": 600 << 20,
    }


def make_case(**fields: Any) -> Case:
    known: dict[str, Any] = {
        "model": "gpt2",
        "weights": "random",
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "cache": "dynamic",
        "batch_size": 1,
        "prompt": Prompt.of_text("What is KV caching?"),
        "max_new_tokens": 100,
    }
    return Case(**(known | fields))


def another(axis: Axis) -> Any:
    """Return a value of an added axis that differs from its legacy value."""
    if axis.is_number:
        return axis.legacy + 1
    return next((value for value in axis.choices if value != axis.legacy), "another")


OTHER: dict[str, Any] = {
    "model": "smollm2-135m",
    "weights": "pretrained",
    "device": "cuda",
    "dtype": "bfloat16",
    "attention": "eager",
    "cache": "off",
    "batch_size": 2,
    "prompt": Prompt.of_tokens(6),
    "max_new_tokens": 101,
    **{axis.name: another(axis) for axis in AXES.values() if axis.is_added},
}
"""For each axis, a value that differs from that of `make_case()`."""


LEGACY: dict[str, Any] = {axis.name: axis.legacy for axis in AXES.values() if axis.is_added}
"""The values in `make_case()` of axes that were added later."""


def make_task(case: Case | None = None, repeat: int = 0, **fields: Any) -> Task:
    case = case or make_case()
    known: dict[str, Any] = {
        "phase": "measure",
        "round": repeat,
        "repeat": repeat,
        "new_tokens": case.max_new_tokens,
    }
    return Task(case, **(known | fields))


def arm(case: Case, totals: Iterable[float], **fields: Any) -> list[Sample]:
    """Return the counted samples of one case, one per round."""
    return [
        timed_sample(make_task(case, repeat), total, **fields)
        for repeat, total in enumerate(totals)
    ]


def make_summary(**fields: Any) -> CaseSummary:
    """Return a timed case of ten samples; the time is proportional to the length unless given."""
    tokens = fields.get("max_new_tokens", 100)
    cache = fields.get("cache", "dynamic")
    middle = fields.get("total_s_median", tokens * (0.02 if cache == "off" else 0.01))
    known: dict[str, Any] = {
        "case_id": f"{cache}-{tokens}",
        "model": "gpt2",
        "weights": "random",
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "cache": cache,
        "use_cache": cache != "off",
        "batch_size": 1,
        "prompt": "text:What is KV caching?",
        "prompt_tokens": 6,
        "max_new_tokens": tokens,
        "status": "ok",
        "attention_used": "sdpa",
        "samples": 10,
    }
    if middle is not None:
        known |= {
            "total_s_median": middle,
            "total_s_q1": middle * 0.9,
            "total_s_q3": middle * 1.2,
            "total_s_min": middle * 0.5,
            "total_s_max": middle * 2.0,
        }
    return CaseSummary(**(known | fields))


def make_finding(**fields: Any) -> Finding:
    """Return a verification result of the strategy dynamic on GPT-2."""
    known: dict[str, Any] = {
        "model": "gpt2",
        "weights": "random",
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "cache": "dynamic",
        "verdict": "pass",
        "detail": "All agree.",
    }
    return Finding(**(known | fields))


def make_step(fed: int, seen: int, cached: bool, **fields: Any) -> Step:
    """A forward of one layer of 4 heads over 2 heads of keys and values of size 8."""
    kept = CacheLayers(count=3, keys=(1, 2, seen, 8), values=(1, 2, seen, 8))
    known: dict[str, Any] = {
        "input_ids": (1, fed),
        "query": (1, 4, fed, 8),
        "made_keys": (1, 2, fed, 8),
        "made_values": (1, 2, fed, 8),
        "keys": (1, 2, seen, 8),
        "values": (1, 2, seen, 8),
        "cache": (kept,) if cached else (),
        "cache_bytes": 3 * 2 * 2 * seen * 8 * 4 if cached else 0,
        "flops_counted": fed * 1_000_000,
        "flops_theory": fed * 1_000_000,
        "token_ids": (seen,),
        "texts": (f" word{seen}",),
    }
    return Step(**(known | fields))


def make_inspection(**fields: Any) -> Inspection:
    """Three steps after a prompt of four tokens, of a model of three layers."""
    lengths = (4, 5, 6)
    off = Arm(cache="off", steps=tuple(make_step(n, n, False) for n in lengths))
    fed = zip((4, 1, 1), lengths, strict=True)
    cached = Arm(cache="dynamic", steps=tuple(make_step(new, n, True) for new, n in fed))
    known: dict[str, Any] = {
        "model": "gpt2",
        "weights": "random",
        "device": "cpu",
        "dtype": "float32",
        "dtype_bytes": 4,
        "attention": "sdpa",
        "prompt": "tokens:4",
        "prompt_ids": ((7, 8, 9, 10),),
        "first_positions": 4,
        "layer": 0,
        "layers": 3,
        "off": off,
        "cached": cached,
        "largest_difference": 2e-7,
        "notes": (),
    }
    return Inspection(**(known | fields))


def make_environment(**fields: Any) -> Environment:
    known: dict[str, Any] = {
        "platform": "Linux-6.1",
        "python": "3.11.7",
        "cpu": "Some CPU",
        "logical_cpus": 2,
        "physical_cpus": 1,
        "usable_cpus": 2,
        "memory_bytes": 24 << 30,
        "threads": 2,
        "governor": None,
        "devices": (
            Device(name="cpu", hardware="Some CPU", memory_bytes=24 << 30),
            Device(name="cuda", hardware="Some GPU", memory_bytes=80 << 30, uuid="a-b"),
        ),
        "versions": {"kvbench": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    }
    return Environment(**(known | fields))


def make_rates(**fields: Any) -> Rates:
    """Return what a probe of a CPU with two threads may have measured."""
    known: dict[str, Any] = {
        "device": "cpu",
        "hardware": "Some CPU",
        "source": "probe",
        "read_bytes_per_s": 20e9,
        "copy_bytes_per_s": 18e9,
        "flops_per_s": {"float32": 2e11, "bfloat16": 5e10},
        "overhead_s": 4e-6,
        "measured_at": "2026-01-02T03:04:05.678+00:00",
        "threads": 2,
        "torch": "2.13.0",
        "repeats": 7,
        "working_set_bytes": 256 << 20,
        "spread": {"read": (19e9, 21e9), "overhead": (3e-6, 5e-6)},
    }
    return Rates(**(known | fields))


def make_info(**fields: Any) -> RunInfo:
    known: dict[str, Any] = {
        "name": "a-run",
        "state": "finished",
        "kvbench": "0.1.0",
        "started_at": "2026-01-02T03:04:05.678+00:00",
        "cases": ({"device": "cpu"},),
        "environment": make_environment(),
    }
    return RunInfo(**(known | fields))


def write_run(path: Path, samples: Iterable[Sample], **info: Any) -> Path:
    """Write a finished run folder with these samples and no derived files."""
    with RunWriter.create(path, make_info(name=path.name, **info | {"state": "running"})) as writer:
        for sample in samples:
            writer.append(sample)
        writer.finish("finished")
    return path


def by_column(samples: Iterable[Sample]) -> dict[str, list[Any]]:
    """Return samples by column, as in a run that was read."""
    rows = list(samples)
    return {c.name: [getattr(row, c.name) for row in rows] for c in columns_of(Sample)}


def samples_of(events: Iterable[Event]) -> list[Sample]:
    return [event.sample for event in events if isinstance(event, SampleEnded)]
