"""Everything that touches rich: what a sweep shows while it runs, and what is printed once."""

from __future__ import annotations

from kvbench.console.inspection import inspection_printer, print_inspection
from kvbench.console.printing import (
    make_console,
    print_caches,
    print_cases,
    print_checks,
    print_comparison,
    print_environment,
    print_estimate,
    print_json,
    print_json_text,
    print_models,
    print_rates,
    print_run,
    print_runs,
    print_saved,
    print_sentences,
    print_stopped,
    print_table,
    print_unmatched,
    print_written,
)
from kvbench.console.views import View, make_view

__all__ = [
    "View",
    "inspection_printer",
    "make_console",
    "make_view",
    "print_caches",
    "print_cases",
    "print_checks",
    "print_comparison",
    "print_environment",
    "print_estimate",
    "print_inspection",
    "print_json",
    "print_json_text",
    "print_models",
    "print_rates",
    "print_run",
    "print_runs",
    "print_saved",
    "print_sentences",
    "print_stopped",
    "print_table",
    "print_unmatched",
    "print_written",
]
