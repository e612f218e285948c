"""What each key of a plan means, said once: for YAML, the command line's help and the docs."""

from __future__ import annotations

from kvbench.caches import STRATEGIES
from kvbench.dtypes import DTYPES

__all__ = ["DESCRIPTIONS"]

DESCRIPTIONS: dict[str, str] = {
    "model": "Built-in architecture (see `kvbench models`), hub id (org/name, or org/name@REVISION "
    "for a branch, tag or commit), local folder, or .gguf file.",
    "weights": "pretrained or random; by default random for a built-in architecture, else "
    "pretrained.",
    "device": "cpu, cuda, cuda:1, ..., or auto: every kind that is present.",
    "dtype": f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}.",
    "attention": "Attention implementation: sdpa, eager, ..., or auto: what Transformers takes.",
    "cache": f"Cache strategies: {', '.join(STRATEGIES)}; or all: every one that this machine and "
    "model can run; or your own: module:factory or ./file.py:factory (see docs/caches.md).",
    "use_cache": "Another spelling of cache: true is dynamic, false is off.",
    "batch_size": "Sequences generated at once. Lists and ranges: 1,2,4 or 1-32*2.",
    "prompt": "Prompt text; repeat the option for several.",
    "prompt_file": "File with one prompt a line; a batch takes its lines in turn.",
    "prompt_tokens": "Prompts of this many fixed token ids, in place of a text.",
    "max_new_tokens": "New tokens to generate. Lists and ranges: 10,110,210 or 10-910+100.",
    "repeats": "Timed samples of each case, or auto: as many as the stopping rule wants.",
    "min_repeats": "Stopping rule: at least this many samples.",
    "max_repeats": "Stopping rule: at most this many samples.",
    "min_seconds": "Stopping rule: at least this many seconds of samples.",
    "max_spread": "Stopping rule: stop once the interquartile range over the median is below this.",
    "max_case_seconds": "Stopping rule: no further sample of a case after this many seconds.",
    "warmup": "New tokens of the warm-up: a number, full (as many as the longest case of the same "
    "model, strategy, batch size and prompt), or auto: full on a GPU in half precision and for "
    "strategies that depend on the length, else 16.",
    "seed": "Seed of the random weights, the prompt ids and the order of the cases.",
    "case_timeout": "End a case once its samples have taken this many seconds; by default never. "
    "Each load of a model and each verification may take as long; they count for no case.",
    "keep_going_after_oom": "Also measure cases that need no less memory than one that ran out "
    "of it; by default they are skipped.",
    "verify": "Check that cached generation matches the baseline without a cache; on by default.",
    "trust_remote_code": "Let Transformers run code that comes with a model, and kvbench that of a "
    "cache that a plan or a run names; off by default.",
}
