"""Files in the current folder are data: no process of kvbench imports them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvbench.import_path import program_folder, without_current_folder

LIBRARY = os.path.dirname(os.__file__)

# Modules that the program and the worker import sooner or later: from the standard library, from
# installed packages, and optional ones.
NAMES = (
    *("json", "random", "re", "typing", "pickle", "socket", "tempfile", "dataclasses"),
    *("torch", "transformers", "numpy", "yaml", "rich", "typer", "pydantic", "safetensors"),
    *("optimum", "kvpress", "usercustomize"),
)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, full of modules that record who ran them."""
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in NAMES:
        place(folder, name)
    return folder


def place(folder: Path, name: str) -> None:
    log = folder.parent / "ran"
    (folder / f"{name}.py").write_text(
        f"import sys\nopen({str(log)!r}, 'a').write('{name} ' + ' '.join(sys.orig_argv) + '\\n')\n"
        "raise ImportError('a file of the current folder was run')\n"
    )


def ran(folder: Path) -> list[str]:
    log = folder.parent / "ran"
    return log.read_text().splitlines() if log.exists() else []


def python(*arguments: str, path: str | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What `pip` writes into bin/kvbench; the script's folder comes first there.
CONSOLE_SCRIPT = "import sys; del sys.path[0]; from kvbench.__main__ import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("start", "path"),
    [
        # The current folder is there twice: of itself, and as the empty entry that
        # `PYTHONPATH=$PYTHONPATH:/more` leaves.
        (("-m", "kvbench", "env"), f"{os.pathsep}/more"),
        (("-c", CONSOLE_SCRIPT, "env"), os.curdir),
    ],
)
def test_no_module_of_the_current_folder_runs(
    hostile: Path, start: tuple[str, ...], path: str | None
) -> None:
    assert "Python" in python(*start, path=path)
    assert ran(hostile) == []


def test_sitecustomize_of_the_current_folder_does_not_run_in_the_worker(tmp_path: Path) -> None:
    # In the program itself, Python runs it before kvbench starts, if the user put the folder into
    # PYTHONPATH.
    code = f"import os; os.chdir({str(tmp_path)!r}); from kvbench.api import environment; "
    place(tmp_path, "sitecustomize")
    assert python("-c", code + "print(environment().python)", path=str(tmp_path))
    assert [line for line in ran(tmp_path) if "kvbench-worker" in line] == []


def test_a_notebook_may_find_kvbench_anywhere_on_its_path(hostile: Path) -> None:
    # Under a name that no installed package has: only the caller's path leads there.
    elsewhere = hostile.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kvbench").symlink_to(Path(program_folder()) / "kvbench")
    code = (
        f"import sys; sys.path.insert(1, {str(elsewhere)!r}); import kvbench; del sys.path[0]; "
        "from kvbench.api import environment; print(kvbench.__file__, environment().python)"
    )
    assert python("-c", code).startswith(str(elsewhere))
    assert ran(hostile) == []


def test_kvbench_may_lie_in_the_current_folder(hostile: Path) -> None:
    # An uninstalled checkout, next to files with the same names as what it needs.
    (hostile / "kvbench").mkdir()
    for entry in (Path(program_folder()) / "kvbench").iterdir():
        (hostile / "kvbench" / entry.name).symlink_to(entry)
    assert "Python" in python("-m", "kvbench", "env")
    assert ran(hostile) == []


def test_what_means_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    here = str(tmp_path)
    kept = ["/elsewhere", str(tmp_path / "lib"), LIBRARY]
    entries = ["", ".", here, f"{here}/", str(tmp_path / "link"), *kept, "", "."]
    assert without_current_folder(entries) == kept


def test_an_editable_install_is_found_but_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    # As site leaves them: `.pth` files are read in the order of their names.
    entries = [here, LIBRARY, "/venv/site-packages", here, "/base/site-packages"]
    assert without_current_folder(entries) == [
        LIBRARY,
        "/venv/site-packages",
        "/base/site-packages",
        here,
    ]


def test_a_current_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert without_current_folder(["", LIBRARY, str(gone)]) == [LIBRARY, str(gone)]
