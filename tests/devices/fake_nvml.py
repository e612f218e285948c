"""A fake pynvml: the functions that kvbench calls, with configurable answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """Any error of the library."""


class NotSupported(NVMLError):
    """What a board or a container does not provide."""


def process(pid: int, used: int | None = 1000) -> SimpleNamespace:
    """An entry of the process list."""
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


class FakeNvml:
    """A fake with answers by the names of pynvml's functions; an exception as an answer is raised.

    `calls` notes the names that were called. A function without an answer does not exist, as in
    an older library.
    """

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 2

    def __init__(self, uuid: str = "GPU-abc", **answers: Any) -> None:
        self.uuid = uuid
        self.calls: list[str] = []
        self.arguments: dict[str, tuple[Any, ...]] = {}
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlSystemGetNVMLVersion": "13.580.1",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80000, free=70000, used=10000),
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetTemperature": 45,
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
        } | answers

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        """The handle of the one device there is."""
        if uuid != self.uuid:
            raise NotSupported("Not Found")
        return f"handle of {uuid}"

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            self.arguments[name] = arguments
            answer = self.answers[name]
            if isinstance(answer, dict):
                # One answer for each version of a call.
                answer = answer[arguments[1] if len(arguments) > 1 else 1]
            if isinstance(answer, list) and name.endswith("TotalEnergyConsumption"):
                answer = answer.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call
