"""Load a model onto a device, with real weights, or with random ones from its configuration."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)

from kvbench.errors import UserError
from kvbench.models.config import (
    commit_of,
    load_config,
    loading,
    quantization_of,
    source_options,
)
from kvbench.models.source import ModelSource, check_weights, locate
from kvbench.models.weight_files import check_weight_files, no_pickles
from kvbench.plan.case import AUTO, ModelKey

_START_TOKENS = ("decoder_start_token_id", "bos_token_id")

_WIDE_RANGE = 0.08
_WIDE_FACTOR = 2.0
_EMBEDDING_SCALE = 0.02
"""Found by trial: 60 greedy tokens then contain 10 or more different ones for each kind of built-in
model and for T5; with the models' own settings, 1 to 8.
"""


__all__ = ["LoadedModel", "auto_class", "load_model", "parameter_count"]


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, ready to generate, and facts about loading it.

    `commit` is the hub commit of the model; `notices` are lines to show.
    """

    key: ModelKey
    source: ModelSource
    model: PreTrainedModel
    config: PretrainedConfig
    seconds: float
    parameters: int
    weights_bytes: int
    attention: str
    commit: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return torch.device(self.key.device)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt, as in T5."""
        return bool(self.config.is_encoder_decoder)


def load_model(key: ModelKey, *, seed: int = 0, trust_remote_code: bool = False) -> LoadedModel:
    """Load the model of a key onto its device, in evaluation mode.

    Random weights are made on the device from the seed, wide enough that greedy tokens vary
    (docs/measuring.md says why); time and memory of a dense model do not depend on the values.

    Raises:
        UserError: the model is unavailable, or cannot be loaded this way.
    """
    start = time.perf_counter()
    source = locate(key.model, key.weights)
    check_weight_files(source, key.weights)
    commit = commit_of(source)
    if commit is not None:
        # A branch may move between loading the configuration, the weights and the tokenizer.
        source = replace(source, revision=commit)
    config = load_config(source, trust_remote_code)
    quantization = quantization_of(config)
    options: dict[str, Any] = {
        "dtype": getattr(torch, key.dtype),
        # None leaves the choice to Transformers: not every model has sdpa in every release.
        "attn_implementation": None if key.attention == AUTO else key.attention,
        "trust_remote_code": trust_remote_code,
    }
    with loading(source), _no_gguf_bar(), no_pickles():
        if key.weights == "random":
            model = _random(config, torch.device(key.device), seed, options)
        else:
            model = _pretrained(source, config, options)
    # Call torch's own methods: Transformers wraps them in an untyped way.
    torch.nn.Module.train(torch.nn.Module.to(model, torch.device(key.device)), mode=False)
    # A checkpoint's own generation settings (penalties, sampling, forced tokens) would add work or
    # change the tokens; every run supplies its own. The decoder's start token is kept: some
    # checkpoints state it only there.
    settings = getattr(model, "generation_config", None)
    kept = {name: getattr(settings, name, None) for name in _START_TOKENS}
    model.generation_config = GenerationConfig(**kept)  # type: ignore[no-untyped-call]
    return LoadedModel(
        key=key,
        source=source,
        model=model,
        config=model.config,
        seconds=time.perf_counter() - start,
        parameters=model.num_parameters(),
        weights_bytes=_bytes(model),
        attention=model.config._attn_implementation,
        commit=commit,
        notices=_about(model, key, quantization) if quantization else (),
    )


def parameter_count(config: PretrainedConfig, trust_remote_code: bool = False) -> int:
    """Return the number of parameters, tied embeddings once, built on `meta` without allocation."""
    with torch.device("meta"):
        # Use any dtype that can be created: a configuration may name one without storage in torch.
        model = auto_class(config).from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
        # Some releases do not tie weights on meta.
        model.tie_weights()
    return int(model.num_parameters())


@contextlib.contextmanager
def _no_gguf_bar() -> Iterator[None]:
    """Silence the dequantization progress bar, which ignores Transformers' switches."""
    module: Any = modeling_gguf_pytorch_utils
    bar = module.tqdm
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar


def auto_class(config: PretrainedConfig) -> Any:
    """Return the Transformers class that builds the model of a configuration."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _pretrained(
    source: ModelSource, config: PretrainedConfig, options: dict[str, Any]
) -> PreTrainedModel:
    check_weights(source)
    quantized = quantization_of(config) is not None
    model, report = auto_class(config).from_pretrained(
        source.place,
        use_safetensors=True,
        output_loading_info=True,
        # Collected and refused below, where the tensor and both shapes can be named.
        ignore_mismatched_sizes=True,
        **source_options(source),
        **options,
    )
    _refuse_other_shapes(source, report["mismatched_keys"])
    # Transformers invents missing tensors and only logs it.
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"model: the weights of {source.name} lack {len(missing)} tensors: {missing[0]}, ...",
            kind="weights_missing",
            missing=tuple(missing),
        )
    if quantized and not _is_quantized(model):
        # If a device has no kernels, Transformers dequantizes to a dtype of its own.
        torch.nn.Module.to(model, options["dtype"])
    return _checked(model)


def _refuse_other_shapes(source: ModelSource, mismatched: Any) -> None:
    # (name, shape in the file, shape in the model); a set in Transformers 5, a list before.
    found = sorted((str(name), tuple(file), tuple(model)) for name, file, model in mismatched)
    if not found:
        return
    name, file, model = found[0]
    more = f", and {len(found) - 1} more differ" if len(found) > 1 else ""
    raise UserError(
        f"model: {source.name}: {name} is {list(file)} in the weights and {list(model)} by the "
        f"configuration{more}; they are not from the same model.",
        kind="weights_mismatch",
        tensor=name,
    )


def _is_quantized(model: Any) -> bool:
    return getattr(model, "hf_quantizer", None) is not None


def _about(model: PreTrainedModel, key: ModelKey, quantization: str) -> tuple[str, ...]:
    """Return a line to show about what became of a quantized checkpoint."""
    if key.weights == "random":
        said = f"config.json describes weights quantized with {quantization}; the random weights "
        said += f"are not quantized, but {key.dtype}"
    elif _is_quantized(model):
        said = f"the weights are quantized with {quantization}; everything else is {key.dtype}"
    else:
        said = f"the weights are stored quantized with {quantization} and were loaded "
        said += f"dequantized, as {key.dtype}"
    return (f"{key.model}: {said}.",)


def _random(
    config: PretrainedConfig, device: torch.device, seed: int, options: dict[str, Any]
) -> PreTrainedModel:
    _widen(config)
    torch.manual_seed(seed)
    with device:
        model = auto_class(config).from_config(config, **options)
    # The embedding of the last token would dominate what the layers add, and when tied to the
    # output it would select the same token again.
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(_EMBEDDING_SCALE)
    return _checked(model)


def _widen(config: PretrainedConfig) -> None:
    """Set a wider initialization than the model's own.

    With the default 0.02, GPT-2 repeats a handful of tokens, and equal tokens would prove nothing.
    Scaling 0.08 at width 768 to other widths keeps the gain of a layer.
    """
    # The text part of a multimodal model is a separate object; the decoder part of an
    # encoder-decoder is a copy.
    for part in (config, config.get_text_config(decoder=True)):
        if hasattr(part, "initializer_range") and hasattr(part, "hidden_size"):
            part.initializer_range = _WIDE_RANGE * math.sqrt(768 / part.hidden_size)
        if hasattr(part, "initializer_factor"):
            part.initializer_factor = _WIDE_FACTOR


def _checked(model: Any) -> PreTrainedModel:
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"model: {type(model).__name__} is not a Transformers model.", kind="not_generative"
        )
    return model


def _bytes(model: PreTrainedModel) -> int:
    # Count by storage, so tied weights count once.
    tensors = [*model.parameters(), *model.buffers()]
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
