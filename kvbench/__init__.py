"""kvbench: measure what the KV cache buys and what it costs, on your machine, with your model.

The command line is a thin layer over this library:

    from kvbench import Plan, sweep, summarize
    run = sweep(Plan(max_new_tokens=(50, 100), repeats=5))
    summarize(run)

Importing the package imports none of torch, transformers, pandas and matplotlib.
"""

from kvbench.version import __version__

# Not imported from typing: `python -m kvbench` runs this before the current folder is removed from
# the import path, so a `typing.py` there would run.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvbench.analysis.expected import summarize
    from kvbench.api import inspect, probe, resume, sweep, verify
    from kvbench.errors import UserError
    from kvbench.plan.case import Case
    from kvbench.plan.plan import Plan
    from kvbench.records.run import Run, load_run
    from kvbench.records.sample import Sample

_HOMES = {
    "Case": "kvbench.plan.case",
    "Plan": "kvbench.plan.plan",
    "Run": "kvbench.records.run",
    "Sample": "kvbench.records.sample",
    "UserError": "kvbench.errors",
    "inspect": "kvbench.api",
    "load_run": "kvbench.records.run",
    "probe": "kvbench.api",
    "resume": "kvbench.api",
    "summarize": "kvbench.analysis.expected",
    "sweep": "kvbench.api",
    "verify": "kvbench.api",
}

__all__ = [
    "Case",
    "Plan",
    "Run",
    "Sample",
    "UserError",
    "__version__",
    "inspect",
    "load_run",
    "probe",
    "resume",
    "summarize",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> "Any":
    """Import a public name on first use, to keep `kvbench --help` fast."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'kvbench' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
