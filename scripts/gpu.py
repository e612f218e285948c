"""Run the CUDA tests, configs/gpu.yaml and the checks on a GPU; docs/gpu.md says how to read it.

    python3 scripts/gpu.py [OUT] [--minutes N] [--wheels DIR]

Needs the packages of pyproject.toml, pytest and pytest-timeout, not kvbench itself; no network.
Exit codes: 0 all passed, 1 a step failed or was ended, 2 nothing can be run here, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 15.0
"""Seconds for a step to end by itself, at each of the two signals before it is killed."""

LOOK = """
import sys
try:
    import torch
    if not torch.cuda.is_available():
        sys.exit(f"No CUDA device: torch {torch.__version__} (CUDA {torch.version.cuda}) has none.")
    import hypothesis, pytest, pytest_timeout, transformers
    import kvbench.cli, kvbench.measure.engine
except ImportError as error:
    sys.exit(f"{error}; --wheels DIR adds the wheels of a folder.")
memory = torch.cuda.get_device_properties(0).total_memory / 2**30
print(f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB; Python {sys.version.split()[0]}, "
      f"torch {torch.__version__}, Transformers {transformers.__version__}")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = f"results/gpu-{time.strftime('%Y-%m-%d-%H%M%S')}"
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / default)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all steps together")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of what the machine lacks")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    out = options.out.resolve()
    # The steps have their own process groups, which this script must end. If it was started in the
    # background, SIGINT is ignored here and would be ignored there.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as site:
        for wheel in options.wheels.glob("*.whl") if options.wheels else ():
            zipfile.ZipFile(wheel).extractall(site)
        if not look(site, out):
            return 2
        out.mkdir(parents=True, exist_ok=True)
        try:
            return carry_out(steps(out), out, deadline)
        except KeyboardInterrupt:
            return 130


def look(site: str, out: Path) -> bool:
    """Set the environment of the steps, print what is present, and return whether that suffices."""
    path = [site, str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ |= {
        # The steps run in the repository, wherever this was started.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "KVBENCH_GPU_RUN": str(out / "run"),
        # Warnings are errors in the tests: keep plugins that happen to be installed from adding
        # some.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run([sys.executable, "-c", LOOK]).returncode == 0


def steps(out: Path) -> list[tuple[str, float, list[str]]]:
    """Return the name of each step, its share of the time, and its command."""
    # Only files with such tests: others may need packages that are missing.
    files = sorted(ROOT.glob("tests/**/test_*.py"))
    files = [file for file in files if "mark.cuda" in file.read_text("utf-8")]
    checks = [str(file) for file in files if file.parent.name == "gpu"]
    tests = [str(file) for file in files if file.parent.name != "gpu"]
    pytest = ["-m", "pytest", "-m", "cuda", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    pytest += ["--durations=15"]
    config = str(ROOT / "kvbench" / "configs" / "gpu.yaml")
    return [
        ("tests", 2.0, [*pytest, *tests]),
        ("sweep", 5.0, ["-m", "kvbench", "sweep", config, "--out", str(out), "--name", "run"]),
        ("checks", 1.0, [*pytest, "-s", f"--junitxml={out / 'checks.xml'}", *checks]),
    ]


def carry_out(todo: list[tuple[str, float, list[str]]], out: Path, deadline: float) -> int:
    lines = []
    for index, (name, share, command) in enumerate(todo):
        # Time that a step leaves goes to those after it.
        left = deadline - time.monotonic()
        limit = max(left, 1.0) * share / sum(other for _, other, _ in todo[index:])
        print(f"--- {name}, at most {limit:.0f} s", flush=True)
        start = time.monotonic()
        how = run([sys.executable, *command], limit, out / f"{name}.txt")
        lines.append(f"{name:8} {how:16} {time.monotonic() - start:4.0f} s")
    print("\n" + "\n".join(lines) + f"\n{out}", flush=True)
    return 0 if all(" ok " in line for line in lines) else 1


def run(command: list[str], limit: float, log: Path) -> str:
    """Run a command for at most this many seconds, copy its output, and return how it ended."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    copier = threading.Thread(target=copy, args=(process.stdout, log), daemon=True)
    copier.start()
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return "ended: no time"
    finally:
        stop(process)
        copier.join(GRACE_S)
    return f"exit code {code}" if code else "ok"


def copy(pipe: IO[bytes], log: Path) -> None:
    with pipe, log.open("wb") as file:
        for line in pipe:
            file.write(line)
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process group: a sweep ends after its sample, and at the second signal at once."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
