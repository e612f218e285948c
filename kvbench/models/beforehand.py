"""Check the models of a plan without torch, for a dry run."""

from __future__ import annotations

from collections.abc import Iterable

from kvbench.errors import UserError, did_you_mean
from kvbench.models.config_file import find_config
from kvbench.models.source import check_weights, locate
from kvbench.plan.case import AUTO, Case

__all__ = ["check_beforehand"]

_ATTENTIONS = (
    AUTO,
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
)
"""Transformers' own names; releases add to them, and kernels from the hub have a slash in the name.
"""


def check_beforehand(cases: Iterable[Case]) -> None:
    """Refuse names that cannot be right. Whether the hub has a model, or it loads, is not checked.

    Raises:
        UserError: there is no such folder, it holds no model, its files were not fetched, or an
            attention implementation looks like a misspelling of an existing one.
    """
    cases = tuple(cases)
    for model, weights in dict.fromkeys((case.model, case.weights) for case in cases):
        source = locate(model, weights)
        if weights == "pretrained":
            check_weights(source)
        if source.folder is not None and source.gguf_file is None:
            find_config(model)
    for attention in dict.fromkeys(case.attention for case in cases):
        hint = "" if attention in _ATTENTIONS else did_you_mean(attention, _ATTENTIONS)
        # An unknown number is a release newer than this list.
        if hint and not attention.startswith("flash_attention_"):
            raise UserError(
                f"attention: '{attention}' is not a known implementation{hint}",
                kind="unknown_choice",
                option="attention",
                value=attention,
            )
