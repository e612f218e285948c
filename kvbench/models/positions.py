"""How many positions a model has: limited by a table, or computed without a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

__all__ = ["PositionLimit", "position_limit"]

_SPELLINGS = (
    # Transformers maps most spellings to the first one: n_positions of GPT-2, max_seq_len of DBRX.
    "max_position_embeddings",
    "max_decoder_position_embeddings",  # LED
    "max_target_positions",  # Whisper
    "n_positions",
    "max_seq_len",  # MPT
)

_ENDLESS = frozenset(
    {
        # Sinusoids computed for each length, or a table that grows when it is too short.
        "fsmt",
        "m2m_100",
        "musicgen_decoder",
        "musicgen_melody_decoder",
        "nllb-moe",
        "pegasus_x",
        "seamless_m4t",
        "seamless_m4t_v2",
        "xglm",
        # No positions at all: a state, a convolution or the causal mask carries the order.
        "jamba",
        "kimi_linear",
        "nemotron_h",
        "rwkv",
        "zamba",
        # A bias by distance, which is clipped instead of looked up past its end.
        "inkling2_text",
        "inkling_text",
    }
)
"""Families without rotary positions whose `max_position_embeddings` (RWKV: `context_length`) does
not limit the code. tests/models/test_positions.py generates past it with each.
"""

_ROTARY_FIELDS = ("rope_parameters", "rope_theta", "rotary_emb_base")
"""Any of these means rotary positions; the later ones come from code outside Transformers."""


@dataclass(frozen=True)
class PositionLimit:
    """The limit of a model's positions.

    `absolute`: a table of `positions` rows; going past it is an index error (on CUDA, a dead
    context). `rotary`: computed; the model runs past `positions` with poorer text. `none`: no
    limit.

    Attributes:
        kind: one of the three.
        positions: the decoder's positions.
        prompt: the largest prompt in tokens, limited by a table of the decoder or of an encoder;
            None without such a table.
    """

    kind: Literal["absolute", "rotary", "none"]
    positions: int | None = None
    prompt: int | None = None


def position_limit(config: PretrainedConfig) -> PositionLimit:
    """Return the position limit of this model, from its configuration."""
    kind, positions = _reach(config.get_text_config(decoder=True))
    if getattr(config, "is_encoder_decoder", False):
        return PositionLimit(kind, positions, _encoder_positions(config))
    return PositionLimit(kind, positions, positions if kind == "absolute" else None)


def _reach(config: PretrainedConfig) -> tuple[Literal["absolute", "rotary", "none"], int | None]:
    if hasattr(config, "relative_attention_num_buckets") or getattr(config, "alibi", False):
        return "none", None
    positions = _first_size(config, _SPELLINGS)
    if positions is None or config.model_type in _ENDLESS:
        return "none", None
    if any(getattr(config, name, None) for name in _ROTARY_FIELDS):
        return "rotary", positions
    return "absolute", positions - _reserved(config)


def _reserved(config: PretrainedConfig) -> int:
    """Return how many positions of a table are not available to the tokens of a generation."""
    if config.model_type == "xlm":
        # Each step feeds a mask token after the others.
        return 1
    if config.model_type == "prophetnet":
        # Counted from behind the padding's, and the last n-gram looks one further.
        return int(config.pad_token_id or 0) + 2
    return 0


def _encoder_positions(config: PretrainedConfig) -> int | None:
    """Return the most tokens that the encoder accepts; None if there is no hard limit."""
    if config.model_type == "prophetnet":
        # Positions past the end of the table use its last row.
        return None
    if config.model_type == "led":
        # It pads its input to a multiple of its window before it looks up positions.
        window: Any = config.attention_window
        step = window if isinstance(window, int) else max(window)
        return int(config.max_encoder_position_embeddings) // step * step
    kind, positions = _reach(getattr(config, "encoder", None) or config)
    return positions if kind == "absolute" else None


def _first_size(config: PretrainedConfig, names: tuple[str, ...]) -> int | None:
    sizes = (getattr(config, name, None) for name in names)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)
