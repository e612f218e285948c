"""The parts of scripts/gpu_proof.sh that are no shell: what is there, what a run holds, checks.

    machine                  versions, packages that are missing, the CUDA device
    tests XML                the result of pytest's report in one line
    describe RUN             a run folder in one line
    expect RUN DEVICE N      seconds that a pair of N new tokens would take, from what was measured
    checks RUNS OUT          checks with numbers, printed and written as JSON
    pack RUNS OUT MIB        the run folders as one .tar.gz

All but `checks` need the standard library alone, so that they work where something is missing.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import math
import operator
import os
import statistics
import sys
import tarfile
import threading
import time
import tomllib
import traceback
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvbench.models.load import LoadedModel
    from kvbench.records.run import Run

MIB = 1 << 20

NO_CUDA = 3
"""Exit code of `machine` where all is there but a CUDA device."""

# Module to the package that brings it.
NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "huggingface_hub": "huggingface_hub",
    "safetensors": "safetensors",
    "typer": "typer",
    "rich": "rich",
    "numpy": "numpy",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "psutil": "psutil",
    "pynvml": "nvidia-ml-py",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "platformdirs": "platformdirs",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
}

# Left out of the package first: `kvbench report` makes them again.
DERIVED = ("report.html", "charts")


def main(arguments: Sequence[str]) -> int:
    commands: dict[str, Callable[..., int]] = {
        "machine": machine,
        "tests": tests,
        "describe": describe,
        "expect": expect,
        "checks": checks,
        "pack": pack,
    }
    if not arguments or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    return commands[arguments[0]](*arguments[1:])


def machine() -> int:
    """Say what is installed and which device there is."""
    print(f"Python {sys.version.split()[0]}")
    missing = [package for module, package in NEEDED.items() if not _is_there(module)]
    asked = _asked_for()
    for package in NEEDED.values():
        if package not in missing:
            print(
                f"{package} {_version(package)} (at least {asked.get(package, '0')} is asked for)"
            )
    # The last line is the one that the table shows.
    if missing:
        print(f"missing: {', '.join(missing)}; give --wheels a folder that has them")
        return 1
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device")
        return NO_CUDA
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    print(
        f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB; torch {torch.__version__}, "
        f"transformers {_version('transformers')}"
    )
    return 0


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _asked_for() -> dict[str, str]:
    """Package to the range that pyproject.toml states."""
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    keys = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lines = [*keys["dependencies"], *keys["optional-dependencies"]["dev"]]
    return {name: least for name, _, least in (line.partition(">=") for line in lines)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(no version)"


def tests(report: str) -> int:
    """Count what pytest wrote to its report; 1 if nothing passed."""
    counts: Counter[str] = Counter()
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        print(f"no report of the tests: {error}")
        return 1
    for case in cases:
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        # A test may fail and then fail again while it is cleaned up.
        counts[min(kinds) if kinds else "passed"] += 1
    failed = counts["failure"] + counts["error"]
    print(f"{counts['passed']} passed, {failed} failed, {counts['skipped']} skipped")
    return 0 if counts["passed"] else 1


def describe(run: str) -> int:
    """Cases and samples of a run folder in one line; 1 if no case has a sample."""
    try:
        info, rows = _info_of(run), _rows_of(run)
    except (OSError, ValueError, KeyError):
        print("no run was left")
        traceback.print_exc()
        return 1
    samples: Counter[str] = Counter(r["case_id"] for r in rows if _counts(r))
    least, most = min(samples.values(), default=0), max(samples.values(), default=0)
    each = f"{least} to {most} samples" if least != most else f"{most} sample{'s' * (most != 1)}"
    parts = [f"{len(samples)} of {len(info['cases'])} cases, {each} each"]
    failed = Counter(row["status"] for row in rows if row["status"] != "ok")
    parts += [f"{count} {status}" for status, count in sorted(failed.items())]
    parts += [
        f"verify {finding['cache']} on {finding['device']}: {finding['verdict']}"
        for finding in info.get("findings", ())
        if finding["verdict"] != "pass"
    ]
    flags = Counter(flag for row in rows if _counts(row) for flag in row["flags"].split())
    parts += [f"{flag} {count}" for flag, count in sorted(flags.items())]
    print("; ".join(parts))
    return 0 if samples else 1


def expect(run: str, device: str, new_tokens: str) -> int:
    """Whole seconds that both arms of a longer case would take once, rather more than less."""
    longest: dict[str, tuple[int, float]] = {}
    for row in _rows_of(run):
        if _counts(row) and row["device"] == device:
            measured = (int(row["max_new_tokens"]), float(row["total_s"]))
            longest[row["cache"]] = max(longest.get(row["cache"], measured), measured)
    if not {"off", "dynamic"} <= set(longest):
        print(f"{run} has no pair on {device}", file=sys.stderr)
        return 1
    # Without a cache the work grows with the square of the length, at most.
    powers = {"off": 2.0, "dynamic": 1.3}
    seconds = sum(
        longest[cache][1] * (int(new_tokens) / longest[cache][0]) ** power
        for cache, power in powers.items()
    )
    print(math.ceil(seconds))
    return 0


def _info_of(run: str) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))
    return info


def _rows_of(run: str) -> list[dict[str, str]]:
    with (Path(run) / "samples.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _counts(row: dict[str, str]) -> bool:
    return row["phase"] == "measure" and row["status"] == "ok"


# Checks with numbers


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at: `ok` or `failed` where there is a bound, else `told`, or `skipped`."""

    name: str
    status: str
    sentence: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)


class Skip(Exception):
    """A check cannot be made here; the text says why."""


def checks(runs: str, out: str, device: str = "cuda", seconds: str = "30") -> int:
    """Make all checks; one that breaks costs no other. 1 if one failed."""
    folders = sorted(path.parent for path in Path(runs).glob("*/run.json"))
    live = [
        ("memory", lambda: memory(device)),
        ("stamps", lambda: stamps(device, float(seconds) / 2)),
        ("energy", lambda: energy(device, min(6.0, float(seconds) / 5))),
    ]
    from_runs = [
        (f"{check.__name__} {folder.name}", lambda check=check, folder=folder: check(folder))
        for check in (cache_bytes, pays_from, decode_mbu)
        for folder in folders
    ]
    found: list[Check] = []
    for name, make in (*live, *from_runs):
        for check in _made(name, make):
            found.append(check)
            print(f"{check.status:8} {check.name}: {check.sentence}", flush=True)
            # After each, so that what a later one breaks takes none of it away.
            text = json.dumps([dataclasses.asdict(one) for one in found], indent=2)
            Path(out).write_text(text + "\n", encoding="utf-8")
    counts = Counter(check.status for check in found)
    print(", ".join(f"{counts[status]} {status}" for status in ("ok", "failed", "told", "skipped")))
    return 1 if counts["failed"] else 0


def _made(name: str, make: Callable[[], Check | list[Check]]) -> list[Check]:
    try:
        made = make()
    except Skip as reason:
        return [Check(name, "skipped", str(reason))]
    except Exception as error:
        # Whatever it was: the next check may still say something.
        traceback.print_exc()
        return [Check(name, "failed", f"{type(error).__name__}: {error}")]
    return made if isinstance(made, list) else [made]


def _gpt2(device: str) -> LoadedModel:
    from kvbench.case import ModelKey
    from kvbench.models.load import load_model

    return load_model(ModelKey("gpt2", "random", device, "float32", "auto"))


def _synchronise(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def memory(device: str) -> Check:
    """NVML's growth against the allocator's against the exact bytes of the cache and theory's."""
    import gc

    import torch

    from kvbench.case import Prompt
    from kvbench.measure.cache import cache_bytes as bytes_of
    from kvbench.measure.generate import generate
    from kvbench.measure.nvml import Nvml, NvmlUnavailable
    from kvbench.models.prompts import Encoder
    from kvbench.strategies import strategy
    from kvbench.theory.architecture import Architecture
    from kvbench.theory.cache import cache_bytes as in_theory

    if not device.startswith("cuda"):
        raise Skip("needs a CUDA device")
    batch, prompt, tokens = 32, 32, 200
    loaded = _gpt2(device)
    inputs = Encoder(loaded, 0).encode(Prompt.of_tokens(prompt), batch)
    try:
        nvml = Nvml()
        gpu = nvml.device(str(torch.cuda.get_device_properties(loaded.device).uuid))
    except NvmlUnavailable as reason:
        raise Skip(str(reason)) from reason

    def run() -> Any:
        return generate(
            loaded,
            inputs,
            strategy("dynamic"),
            tokens,
            clock=None,
            synchronise=torch.cuda.synchronize,
        )

    # Once before: libraries and their workspaces come with the first call.
    run()
    gc.collect()
    torch.cuda.empty_cache()
    before = gpu.used_bytes(), torch.cuda.memory_reserved()
    generation = run()
    after = gpu.used_bytes(), torch.cuda.memory_reserved()
    nvml.close()
    if before[0] is None or after[0] is None:
        raise Skip("NVML does not tell the memory in use")
    exact = bytes_of(generation.cache)
    architecture = Architecture.from_config(
        json.loads(loaded.model.config.to_json_string(use_diff=False))
    )
    theory = in_theory(architecture, "dynamic", batch, prompt, tokens, "float32")
    used, reserved = after[0] - before[0], after[1] - before[1]
    # The driver hands memory out in blocks of 2 MiB.
    holds = abs(used - reserved) <= 32 * MIB and reserved >= exact == theory
    return Check(
        "memory",
        "ok" if holds else "failed",
        f"NVML grew by {used / MIB:.0f} MiB, torch's allocator by {reserved / MIB:.0f} MiB, the "
        f"cache has {exact / MIB:.1f} MiB and should have {theory / MIB:.1f} (GPT-2, batch "
        f"{batch}, {tokens} new tokens); wanted: the first two within 32 MiB, the last two equal",
        {"nvml_bytes": used, "reserved_bytes": reserved, "cache": exact, "theory": theory},
    )


def stamps(device: str, seconds: float) -> Check:
    """Time of a cached generation with a stamp per token over the same without."""
    from kvbench.analysis.statistics import ratio_interval, ratio_of_medians
    from kvbench.case import Prompt
    from kvbench.measure.clock import TokenClock
    from kvbench.measure.generate import generate
    from kvbench.models.prompts import Encoder
    from kvbench.strategies import strategy

    on_gpu = device.startswith("cuda")
    loaded, tokens, least = _gpt2(device), 100 if on_gpu else 4, 8 if on_gpu else 3
    inputs = Encoder(loaded, 0).encode(Prompt.of_tokens(6), 1)

    def run(stamped: bool) -> float:
        return generate(
            loaded,
            inputs,
            strategy("dynamic"),
            tokens,
            clock=TokenClock() if stamped else None,
            synchronise=_synchronise(device),
        ).total_s

    run(True), run(False)
    times: dict[bool, list[float]] = {True: [], False: []}
    start, pairs = time.monotonic(), 0
    while pairs < least or (pairs < 60 and time.monotonic() - start < seconds):
        # The order swapped each time, so that drift falls on neither.
        for stamped in (True, False) if pairs % 2 else (False, True):
            times[stamped].append(run(stamped))
        pairs += 1
    ratio = ratio_of_medians(times[True], times[False])
    interval = ratio_interval(times[True], times[False])
    known = f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}, " if interval else ""
    verdict = "ok" if abs(ratio - 1) <= 0.02 else "failed"
    return Check(
        "stamps",
        # Two busy cores say nothing of a GPU.
        verdict if on_gpu else "told",
        f"with a stamp per token {ratio:.4f} times as long as without ({known}{pairs} "
        f"pairs of {tokens} tokens); wanted: 1.00 +- 0.02",
        {"ratio": ratio, "interval": interval, "pairs": pairs},
    )


def energy(device: str, seconds: float) -> Check:
    """NVML's energy counter against its power readings, summed over the same window of work."""
    if not device.startswith("cuda"):
        raise Skip("needs a CUDA device")
    import pynvml
    import torch

    pynvml.nvmlInit()
    try:
        uuid = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
        handle = _handle(pynvml, uuid)
        try:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            pynvml.nvmlDeviceGetPowerUsage(handle)
        except pynvml.NVMLError as error:
            raise Skip(f"no energy counter or no power reading here: {error}") from error
        with _busy(device):
            # The power reading is an average over a second on some boards.
            time.sleep(2.0)
            joules, watts, window = _readings(pynvml, handle, seconds)
    finally:
        pynvml.nvmlShutdown()
    summed = statistics.fmean(watts) * window
    ratio = joules / summed
    return Check(
        "energy",
        "ok" if abs(ratio - 1) <= 0.1 else "failed",
        f"the counter says {joules:.0f} J, the power readings {summed:.0f} J over {window:.1f} s "
        f"({min(watts):.0f} to {max(watts):.0f} W, {len(watts)} readings): ratio {ratio:.3f}; "
        "wanted: 1.0 +- 0.1",
        {"counter_j": joules, "power_j": summed, "ratio": ratio, "window_s": window},
    )


def _handle(pynvml: Any, uuid: str) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        raise Skip("NVML knows no whole board of that UUID: a MIG instance?") from None


def _readings(pynvml: Any, handle: Any, seconds: float) -> tuple[float, list[float], float]:
    """Joules by the counter, watts read every 20 ms, and the seconds between the two readings."""

    def tick() -> tuple[int, float]:
        # From one step of the counter to another: it moves about every 100 ms.
        first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        deadline = time.perf_counter() + 1.0
        while time.perf_counter() < deadline:
            now = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            if now != first:
                return now, time.perf_counter()
            time.sleep(0.001)
        raise Skip("the energy counter stands still under load")

    before, start = tick()
    watts: list[float] = []
    while time.perf_counter() - start < seconds:
        watts.append(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        time.sleep(0.02)
    after, end = tick()
    return (after - before) / 1000, watts, end - start


class _busy:
    """Keeps a GPU at work in a thread while the block runs."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        import torch

        left = torch.randn(4096, 4096, dtype=torch.bfloat16, device=self._device)
        while not self._done.is_set():
            for _ in range(20):
                torch.mm(left, left)
            torch.cuda.synchronize(self._device)


def _run(folder: Path) -> Run:
    from kvbench.records.run import load_run

    return load_run(folder)


def cache_bytes(folder: Path) -> Check:
    """The exact bytes of every cache that was measured against those of theory."""
    from kvbench.analysis.expected import summarise_run

    cases = [
        case
        for case in summarise_run(_run(folder))
        if case.use_cache and case.samples and case.expected_cache_bytes is not None
    ]
    if not cases:
        raise Skip("no cached case whose cache theory knows")
    wrong = [case for case in cases if case.kv_cache_bytes != case.expected_cache_bytes]
    name = f"cache_bytes {folder.name}"
    if wrong:
        one = wrong[0]
        return Check(
            name,
            "failed",
            f"{len(wrong)} of {len(cases)} caches differ from theory: batch {one.batch_size}, "
            f"{one.max_new_tokens} new tokens: {one.kv_cache_bytes} and {one.expected_cache_bytes}",
        )
    return Check(name, "ok", f"{len(cases)} cases: each cache has to the byte what theory says")


def pays_from(folder: Path) -> list[Check]:
    """From which new token on the cached arm is ahead by 5 %, read off the stamps of each token."""
    import numpy as np

    run = _run(folder)
    elapsed = {
        str(sample): table["elapsed_s"].to_numpy()
        for sample, table in run.tokens_table.groupby("sample_id", observed=True)
    }
    found = []
    for (device, model, tokens), arms in _pairs(run):
        times = {
            cache: np.median([elapsed[sample] for sample in samples], axis=0)
            for cache, samples in arms.items()
        }
        ahead = times["off"] > 1.05 * times["dynamic"]
        # The token after the last one at which it is not ahead.
        behind = np.flatnonzero(~ahead)
        first = int(behind[-1]) + 2 if len(behind) else 1
        ends = float(times["off"][-1] / times["dynamic"][-1])
        where = f"from new token {first} on" if ahead[-1] else f"not within {tokens} tokens"
        found.append(
            Check(
                f"pays_from {folder.name}",
                "told",
                f"{model} on {device}, batch 1: the cache is ahead by 5 % {where}; "
                f"{ends:.2f} times as fast over all {tokens}",
                {"device": device, "from": first if ahead[-1] else None, "speedup": ends},
            )
        )
    if not found:
        raise Skip("no pair of arms at batch 1")
    return found


def _pairs(run: Run) -> Iterator[tuple[tuple[str, str, int], dict[str, list[str]]]]:
    """The sample ids of both arms, batch 1, at the longest length of each model and device."""
    arms: dict[tuple[str, str, int], dict[str, list[str]]] = {}
    for sample in run.samples:
        if sample.phase == "measure" and sample.status == "ok" and sample.batch_size == 1:
            key = (sample.device, sample.model, sample.max_new_tokens)
            arms.setdefault(key, {}).setdefault(sample.cache, []).append(sample.sample_id)
    both = {key: found for key, found in arms.items() if {"off", "dynamic"} <= set(found)}
    for key, found in both.items():
        if key[2] == max(other[2] for other in both if other[:2] == key[:2]):
            yield key, found


def decode_mbu(folder: Path) -> list[Check]:
    """Share of the bandwidth that cached decoding used, at batch 1 and the longest length."""
    from kvbench.theory.architecture import Architecture
    from kvbench.theory.floors import floor
    from kvbench.theory.peaks import rates_for

    run = _run(folder)
    by_id = {sample.sample_id: sample for sample in run.samples}
    found = []
    for (device, model, tokens), arms in _pairs(run):
        rates = rates_for(run.info.environment, device)
        if rates is None or tokens < 2:
            raise Skip(f"the rates of {device} are not known: was it probed?")
        samples = [by_id[name] for name in arms["dynamic"]]
        one = samples[0]
        assert one.prompt_tokens is not None
        limits = floor(
            Architecture.from_config(run.info.configs[model]),
            "dynamic",
            1,
            one.prompt_tokens,
            tokens,
            one.dtype,
            rates,
        )
        decoding = statistics.median((s.total_s or 0.0) - (s.ttft_s or 0.0) for s in samples)
        mbu = float(limits.moved[1:].sum()) / rates.read_bytes_per_s / decoding
        step = decoding / (tokens - 1)
        found.append(
            Check(
                f"decode_mbu {folder.name}",
                # More than was ever read per second means that the probe or the bytes are wrong.
                "failed" if mbu > 1.1 else "told",
                f"{model} in {one.dtype} on {device}: {mbu:.1%} of {rates.read_bytes_per_s:.3g} "
                f"bytes/s ({rates.source}), {step * 1e3:.2f} ms a token, {tokens} new tokens",
                {"device": device, "mbu": mbu, "itl_s": step, "rates": rates.source},
            )
        )
    if not found:
        raise Skip("no pair of arms at batch 1")
    return found


# The package


def pack(runs: str, out: str, mib: str = "16") -> int:
    """Pack the run folders. What is over the limit is left out, and said.

    First what can be made again, then the largest tokens.csv, and the next.
    """
    limit = int(float(mib) * MIB)
    root = Path(runs)
    tables = sorted(root.rglob("tokens.csv"), key=lambda path: path.stat().st_size, reverse=True)
    largest = [table.relative_to(root) for table in tables]
    steps: list[tuple[str, Callable[[Path], bool]]] = [
        ("charts and report.html", lambda path: bool(set(path.parts) & set(DERIVED))),
        *((str(table), functools.partial(operator.eq, table)) for table in largest),
    ]
    left_out: list[Callable[[Path], bool]] = []
    said: list[str] = []
    size = _write(root, Path(out), left_out)
    while size > limit and steps:
        name, rule = steps.pop(0)
        left_out.append(rule)
        said.append(name)
        size = _write(root, Path(out), left_out)
    without = f", without {', '.join(said)}" if said else ""
    print(f"{size / MIB:.1f} MiB{without}")
    return 0 if size <= limit else 1


def _write(root: Path, out: Path, left_out: Sequence[Callable[[Path], bool]]) -> int:
    part = out.with_name(out.name + ".part")
    with tarfile.open(part, "w:gz") as archive:
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not any(rule(inside) for rule in left_out):
                archive.add(path, Path("runs") / inside)
    os.replace(part, out)
    return out.stat().st_size


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main(sys.argv[1:]))
