"""A backend of a kind of device that does not exist: a CPU under another name."""

from __future__ import annotations

from kvbench.devices.cpu import CpuBackend


class DummyBackend(CpuBackend):
    """Two devices, one of them described."""

    def present(self) -> tuple[str, ...]:
        """Return both."""
        return ("dummy", "dummy:1")

    def is_fault(self, error: RuntimeError) -> bool:
        """Return whether the dummy said so."""
        return "DUMMY_BROKEN" in str(error)
