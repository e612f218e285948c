"""Reject what cannot be measured at all: models, dtypes, sizes, and prompts that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch

from kvbench.devices.registry import backend_of
from kvbench.errors import UserError
from kvbench.models.config import load_config, loading, quantization_of
from kvbench.models.load import parameter_count
from kvbench.models.positions import PositionLimit, position_limit
from kvbench.models.prompts import check_prompt
from kvbench.models.source import ModelSource, check_weights, locate
from kvbench.plan.case import Case, Group, ModelKey, Prompt
from kvbench.workloads import workload

__all__ = ["check_groups"]

_log = logging.getLogger(__name__)


class _Known(NamedTuple):
    """A model that generates: parameters if they can be counted, positions, quantized or not."""

    parameters: int | None
    limit: PositionLimit
    quantized: bool


def check_groups(groups: Iterable[Group], trust_remote_code: bool) -> None:
    """Reject what cannot be measured at all, before anything is measured.

    Raises:
        UserError: a model is unavailable or does not generate, its weights do not fit, the
            device lacks the dtype, or a prompt cannot be encoded or is too long.
    """
    # Groups may differ only in device and dtype: look up and count each model once.
    known: dict[ModelSource, _Known] = {}
    for group in groups:
        _check_dtype(group.model)
        source = locate(group.model.model, group.model.weights)
        if group.model.weights == "pretrained":
            check_weights(source)
        if source not in known:
            known[source] = _look_at(source, trust_remote_code)
        parameters, limit, quantized = known[source]
        # The size of quantized weights depends on the method; random ones are not quantized.
        if parameters is not None and not (quantized and group.model.weights == "pretrained"):
            _check_fits(group.model, parameters)
        for prompt, has_turns in dict.fromkeys(map(_prompt, group.cases)):
            # How long a conversation becomes is not the length of its text.
            cut = replace(limit, prompt=None) if has_turns and prompt.texts else limit
            check_prompt(source, prompt, cut, trust_remote_code)


def _prompt(case: Case) -> tuple[Prompt, bool]:
    return case.prompt, workload(case.workload).has_turns


def _look_at(source: ModelSource, trust_remote_code: bool) -> _Known:
    config = load_config(source, trust_remote_code)
    # Before a model is built from it, which may fill in missing values.
    limit = position_limit(config)
    if source.gguf_file is not None:
        return _Known(None, limit, quantized=True)
    parameters = None
    try:
        with loading(source):
            parameters = parameter_count(config, trust_remote_code)
    except UserError:
        raise
    except Exception:
        # A fault in the model's own code: loading hits the same one, and its rows report it.
        _log.debug("%s cannot be counted", source.name, exc_info=True)
    return _Known(parameters, limit, quantization_of(config) is not None)


def _check_dtype(key: ModelKey) -> None:
    reason = backend_of(key.device).lacks(key.dtype, torch.device(key.device))
    if reason is not None:
        raise UserError(reason, kind="dtype_unmet", dtype=key.dtype)


def _check_fits(key: ModelKey, parameters: int) -> None:
    needed = parameters * torch.finfo(getattr(torch, key.dtype)).bits // 8
    available = backend_of(key.device).free_bytes(torch.device(key.device))
    if needed > available:
        raise UserError(
            f"model: the weights of {key.model} need {needed / 2**30:.1f} GiB in {key.dtype} "
            f"and {key.device} has {available / 2**30:.1f} GiB free: use a smaller model, a "
            "smaller dtype or another device.",
            kind="no_memory",
        )
