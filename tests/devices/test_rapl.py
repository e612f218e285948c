"""RAPL: a fake powercap tree with packages, their parts, wrapping counters, and locked files."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvbench.devices import cpu, rapl
from kvbench.devices.cpu import CpuBackend, CpuMeter
from kvbench.devices.rapl import Rapl

RANGE_UJ = 262_143_328_850
AMD_RANGE_UJ = 65_532_610_987


class Tree:
    """A powercap folder; `zone` adds a zone or sets the counter of one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, folder: str, name: str, energy: int, most: int = RANGE_UJ) -> Path:
        path = self.root / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{most}\n")
        (path / "energy_uj").write_text(f"{energy}\n")
        return path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Return the tree of one Intel package: a control type, a zone, its parts, its copy, the
    platform.
    """
    monkeypatch.setattr(rapl, "_POWERCAP", tmp_path)
    tree = Tree(tmp_path)
    (tmp_path / "intel-rapl").mkdir()
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    tree.zone("intel-rapl:0:0", "core", 77)
    tree.zone("intel-rapl:0:1", "dram", 88)
    tree.zone("intel-rapl:1", "psys", 99)
    tree.zone("intel-rapl-mmio:0", "package-0", 1_000_000)
    return tree


def joules(
    before: tuple[int, ...], after: tuple[int, ...], seconds: float = 1.0
) -> tuple[float | None, str]:
    return Rapl().joules(before, after, seconds)


def timed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Make a run of the meter take this many seconds."""
    ticks = iter([50.0, 50.0 + seconds])
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(cpu, "time", clock)


def test_the_package_is_read_and_neither_its_parts_nor_its_copy(tree: Tree) -> None:
    assert Rapl().read() == (1_000_000,)
    assert Rapl().problem is None


def test_all_packages_and_dies_are_added(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 1)
    tree.zone("intel-rapl:2", "package-0-die-1", 2)
    tree.zone("intel-rapl:10", "package-1", 3)
    before = Rapl().read()
    assert before is not None and sorted(before) == [1, 2, 3]
    after = tuple(counter + 500_000 for counter in before)
    assert joules(before, after) == (1.5, "rapl-package")


def test_a_counter_that_wraps_around_goes_on_from_zero(tree: Tree) -> None:
    assert joules((RANGE_UJ - 2_000_000,), (3_000_000,)) == (5.0, "rapl-package")


def test_each_counter_wraps_around_for_itself(tree: Tree) -> None:
    tree.zone("intel-rapl:2", "package-1", 0, AMD_RANGE_UJ)
    assert joules((10_000_000, AMD_RANGE_UJ - 1), (11_000_000, 999_999))[0] == 2.0


def test_a_counter_that_stood_still_is_zero_joules(tree: Tree) -> None:
    assert joules((5,), (5,)) == (0.0, "rapl-package")


@pytest.mark.parametrize(("seconds", "read"), [(93.0, True), (94.0, False)])
def test_a_window_in_which_the_counter_may_go_round_more_than_once_has_none(
    tree: Tree, seconds: float, read: bool, snapshot: object
) -> None:
    tree.zone("intel-rapl:0", "package-0", 0, AMD_RANGE_UJ)
    assert (joules((0,), (1,), seconds)[0] is not None) is read
    if not read:
        assert joules((0,), (1,), seconds)[1] == snapshot


def test_a_short_window_has_none(tree: Tree, snapshot: object) -> None:
    assert joules((0,), (1,), 0.09) == snapshot
    assert joules((0,), (1,), 0.1)[0] is not None


def test_a_machine_without_powercap_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, snapshot: object
) -> None:
    monkeypatch.setattr(rapl, "_POWERCAP", tmp_path / "no")
    assert Rapl().read() is None
    assert joules((), ()) == snapshot


def test_zones_that_a_container_hides_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, snapshot: object
) -> None:
    monkeypatch.setattr(rapl, "_POWERCAP", tmp_path)
    (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "gone")
    assert Rapl().problem == snapshot


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_only_root_may_read_is_a_reason(tree: Tree, snapshot: object) -> None:
    (tree.root / "intel-rapl:0" / "energy_uj").chmod(0)
    assert joules((0,), (1,)) == snapshot


def test_a_counter_that_may_not_be_read_is_a_reason(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, snapshot: object
) -> None:
    original = Path.read_text

    def locked(self: Path, *arguments: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(self)

    monkeypatch.setattr(Path, "read_text", locked)
    assert joules((0,), (1,)) == snapshot
    assert Rapl().read() is None


@pytest.mark.parametrize("file", ["energy_uj", "max_energy_range_uj"])
@pytest.mark.parametrize("text", ["", "many"])
def test_nonsense_is_a_reason(tree: Tree, file: str, text: str, snapshot: object) -> None:
    (tree.root / "intel-rapl:0" / file).write_text(text)
    assert joules((0,), (1,)) == snapshot


def test_a_counter_that_goes_away_during_a_run_is_a_reason(tree: Tree, snapshot: object) -> None:
    meter = Rapl()
    before = meter.read()
    (tree.root / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules(before, meter.read(), 1.0) == snapshot


def test_a_run_on_a_cpu_has_the_energy_of_its_own_time(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = CpuMeter()
    tree.zone("intel-rapl:0", "package-0", 9_000_000)
    timed(monkeypatch, 2.0)
    meter.start("measure")
    tree.zone("intel-rapl:0", "package-0", 12_500_000)
    readings = meter.finish()
    assert (readings.energy_j, readings.energy_method) == (3.5, "rapl-package")


def test_a_machine_without_a_counter_says_so_once(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not [line for line in CpuBackend().survey().missing if line.startswith("CPU energy")]
    monkeypatch.setattr(rapl, "_POWERCAP", tmp_path / "no")
    assert "CPU energy: no RAPL counter." in CpuBackend().survey().missing
