"""Tiny models saved to folders, and helpers that most measuring tests use."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from kvbench.caches import strategy
from kvbench.measure.clock import TokenClock
from kvbench.measure.generate import Generation, generate
from kvbench.models.config import load_config
from kvbench.models.load import LoadedModel, load_model
from kvbench.models.prompts import Inputs
from kvbench.models.source import locate
from kvbench.plan.case import Case, Group, ModelKey, Phase, Prompt, Task

# Two processes with a thread per core on a small machine wait for each other at every operation:
# models of this size then take a hundred times as long.
torch.set_num_threads(1)
# Each sample begins by collecting garbage: freezing the 400 000 objects of the libraries cuts that
# to a tenth of the time.
gc.freeze()

Config = dict[str, Any]
Weights = Literal["pretrained", "random"]

VOCABULARY = 503

GPT2: Config = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 64,
    "n_head": 4,
    "n_positions": 64,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA: Config = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MISTRAL: Config = LLAMA | {"model_type": "mistral", "sliding_window": 8}
T5: Config = {
    "model_type": "t5",
    "num_layers": 2,
    "num_decoder_layers": 2,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
OPT: Config = {
    "model_type": "opt",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 128,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
BART: Config = {
    "model_type": "bart",
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, Config] = {"gpt2": GPT2, "llama": LLAMA, "mistral": MISTRAL, "t5": T5}


def config_folder(path: Path, config: Config, **changes: Any) -> str:
    """Return a folder with only a config.json: enough for random weights."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config | changes))
    return str(path)


def checkpoint(path: Path, config: Config, seed: int = 0, **changes: Any) -> str:
    """Return a folder with safetensors whose greedy tokens vary, including T5."""
    keys = {"initializer_range": 0.277} | config | changes
    model = _make(keys, seed)
    model.save_pretrained(path)
    # Written by hand: the folder states no more than `config` does.
    (path / "generation_config.json").unlink(missing_ok=True)
    return config_folder(path, config, **changes)


def word_tokenizer(path: Path) -> None:
    """Add a tokenizer to a folder that turns `w5 w17` into the ids 5 and 17."""
    words = {f"w{number}": number for number in range(VOCABULARY)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w3"}
    layout = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    (path / "tokenizer.json").write_text(json.dumps(layout))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w3"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def key(model: str, weights: str = "random", **changes: str) -> ModelKey:
    """Return a model key on the CPU in float32."""
    fields = {"device": "cpu", "dtype": "float32", "attention": "auto"} | changes
    return ModelKey(model, weights, **fields)


def case(model: str, **changes: Any) -> Case:
    """Return a case on the CPU: the cache on, batch 1, five fixed ids, eight new tokens."""
    fields: dict[str, Any] = {
        "weights": "random",
        "device": "cpu",
        "dtype": "float32",
        "attention": "auto",
        "cache": "dynamic",
        "batch_size": 1,
        "prompt": Prompt.of_tokens(5),
        "max_new_tokens": 8,
    }
    return Case(model, **(fields | changes))


def task(one: Case, phase: Phase = "measure", new_tokens: int | None = None) -> Task:
    """Return the first task of a case."""
    return Task(one, phase, 0, 0, one.max_new_tokens if new_tokens is None else new_tokens)


def group(*cases: Case) -> Group:
    """Return the cases of one model as a group."""
    return Group(cases[0].model_key, cases)


def load(model: str, weights: str = "random", seed: int = 0, **changes: str) -> LoadedModel:
    """Return a model loaded on the CPU in float32."""
    return load_model(key(model, weights, **changes), seed=seed)


def unloaded(model: str, weights: str = "random") -> LoadedModel:
    """Return what an encoder needs from a loaded model, without the model."""
    source = locate(model, weights)
    nothing: Any = None
    config = load_config(source)
    return LoadedModel(key(model, weights), source, nothing, config, 0.0, 0, 0, "sdpa")


def inputs_of(loaded: LoadedModel, rows: list[list[int]]) -> Inputs:
    """Return rows of one length as inputs without padding."""
    ids = torch.tensor(rows, device=loaded.device)
    return Inputs(ids, torch.ones_like(ids))


def run(
    loaded: LoadedModel, inputs: Inputs, cache: str, tokens: int, clock: TokenClock | None = None
) -> Generation:
    """Run one generation on the CPU, where there is nothing to wait for."""
    return generate(loaded, inputs, strategy(cache), tokens, clock=clock, synchronise=lambda: None)


def _make(keys: Config, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**keys)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config)
    if config.model_type == "t5":
        _vary(model)
    return model


@torch.no_grad()
def _vary(model: PreTrainedModel) -> None:
    # With its default weights T5 repeats one token: its own embedding outweighs everything it
    # computes, and its attention hardly distinguishes positions.
    for name, weight in model.named_parameters():
        if "relative_attention_bias" in name:
            weight.normal_(0, 6)
        elif weight.ndim == 1 or "shared" in name:
            weight.normal_(0, 1)
        else:
            weight.normal_(0, 1.5 * weight.shape[1] ** -0.5)


def hub_cache(root: Path, repository: str, commits: dict[str, Path], **refs: str) -> None:
    """Lay out a folder as the hub's client stores what it has fetched.

    Args:
        root: the cache.
        repository: `owner/name`.
        commits: a folder with the files of each commit.
        refs: the commits of branches and tags.
    """
    here = root / f"models--{repository.replace('/', '--')}"
    (here / "refs").mkdir(parents=True)
    for commit, files in commits.items():
        shutil.copytree(files, here / "snapshots" / commit)
    for name, commit in refs.items():
        (here / "refs" / name).write_text(commit)
