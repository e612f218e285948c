"""The entry of a workload: what a job generates, which rows it yields, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kvbench.caches.entry import Need, Settings, Situation
from kvbench.caches.parameters import Parameter, read_settings

__all__ = ["Workload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is generated in one job.

    Attributes:
        name: as written on the command line and in the column `workload`.
        description: one line for help and docs.
        body: the function that carries out a job on an open model, as `module:function`; see
            kvbench/measure/workloads/. A string, which the worker resolves, because the entry must
            not import torch.
        rows: what is a row of samples.csv, in words for the docs.
        has_turns: whether a job has several rows, one for each turn of a conversation.
        methods: the methods that it works with; none if with all. Others fall back to `each`.
        needs: its requirements. An unmet requirement makes a row `unsupported`.
        parameters: its configurable parameters.
        settings: the parameter values, as read by `with_settings`.
    """

    name: str
    description: str
    body: str
    rows: str
    has_turns: bool = False
    methods: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    settings: Settings = field(default_factory=dict)

    def with_settings(self, texts: Mapping[str, str]) -> Workload:
        """Return this workload with values for its parameters, under its canonical name.

        Raises:
            UserError: a parameter is unknown or missing, or a value is invalid.
        """
        name, settings = read_settings("workload", self.name, self.parameters, texts)
        return replace(self, name=name, settings=settings)

    def unmet(self, situation: Situation) -> str | None:
        """Return why this workload cannot run in a situation, as a sentence; None if it can."""
        for need in self.needs:
            if need.applies(self.settings) and not need.met(situation, self.settings):
                return f"{self.name}: {need.sentence}"
        return None
