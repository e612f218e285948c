"""Build the wheel, install it in an empty environment, and run a tiny sweep from it.

A release must pass this check: it detects a package that works only from its clone. Run it with
each Python that kvbench supports: `PYTHON=python3.13 make release-check`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DATA = (
    "kvbench/py.typed",
    "kvbench/theory/peaks.yaml",
    "kvbench/report/templates/",
    "kvbench/configs/quickstart.yaml",
    "kvbench/configs/gpu.yaml",
)
"""Files that are not modules, which are the first to be missing from a wheel."""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = build_wheel(folder)
        check_contents(wheel)
        check_sweep(install(wheel, folder), folder)
    print(f"{wheel.name} works on Python {sys.version_info.major}.{sys.version_info.minor}.")


def build_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    run([*command, str(folder), str(ROOT)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    missing = [data for data in DATA if not any(name.startswith(data) for name in names)]
    foreign = [name for name in names if name.startswith(("tests/", "scripts/", "results/"))]
    if missing or foreign:
        sys.exit(f"{wheel.name}: missing {missing}, not wanted {foreign[:5]}")


def install(wheel: Path, folder: Path) -> Path:
    """Return the scripts folder of an environment with the wheel and its dependencies."""
    run([sys.executable, "-m", "venv", str(folder / "venv")])
    programs = folder / "venv" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
    run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)])
    return programs


def check_sweep(programs: Path, folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    kvbench = str(programs / "kvbench")
    tiny = ["--device", "cpu", "--max-new-tokens", "2", "--repeats", "1", "--name", "tiny"]
    for command in (
        [kvbench, "--version"],
        [kvbench, "configs"],
        [kvbench, "sweep", "quickstart", *tiny],
        [kvbench, "report", "results/tiny"],
    ):
        run(command, cwd=empty)
    made = {path.name for path in (empty / "results" / "tiny").iterdir()}
    if not {"samples.csv", "summary.csv", "report.html", "charts"} <= made:
        sys.exit(f"the run folder holds only {sorted(made)}")


def run(command: Sequence[str], cwd: Path | None = None) -> None:
    print("$", " ".join(Path(word).name if word == command[0] else word for word in command))
    subprocess.run(command, cwd=cwd, check=True)


if __name__ == "__main__":
    main()
