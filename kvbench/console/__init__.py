"""Everything that touches rich: the progress of a sweep, and the output of commands."""

from __future__ import annotations

from kvbench.console.formats import (
    check_format,
    show_caches,
    show_cases,
    show_checks,
    show_comparison,
    show_configs,
    show_environment,
    show_estimate,
    show_fits,
    show_inspections,
    show_models,
    show_qualities,
    show_rates,
    show_run,
    show_runs,
    show_saved,
)
from kvbench.console.printing import (
    make_console,
    print_json_text,
    print_sentences,
    print_stopped,
    print_table,
    print_written,
)
from kvbench.console.views import View, make_view, progress

__all__ = [
    "View",
    "check_format",
    "make_console",
    "make_view",
    "print_json_text",
    "print_sentences",
    "print_stopped",
    "print_table",
    "print_written",
    "progress",
    "show_caches",
    "show_cases",
    "show_checks",
    "show_comparison",
    "show_configs",
    "show_environment",
    "show_estimate",
    "show_fits",
    "show_inspections",
    "show_models",
    "show_qualities",
    "show_rates",
    "show_run",
    "show_runs",
    "show_saved",
]
