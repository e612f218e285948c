"""Read a model's architecture from its configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvbench.errors import UserError
from kvbench.text import clip
from kvbench.theory.families import latent, older, recurrent
from kvbench.theory.families.llama import LLAMAS, llama
from kvbench.theory.families.t5 import T5, t5
from kvbench.theory.fields import Defaults, Fields
from kvbench.theory.layers import Body, Kept, Layer
from kvbench.theory.shapes import Shapes

__all__ = ["FAMILIES", "TEXT_PARTS", "Architecture", "family_of"]

Family = tuple[Defaults, Callable[[Fields], Body]]
"""The defaults of missing fields, and the reader."""

FAMILIES: dict[str, Family] = {
    "deepseek_v3": (latent.DEEPSEEK_V3, latent.deepseek_v3),
    "falcon": (older.FALCON, older.falcon),
    "gpt2": (older.GPT2, older.gpt2),
    "gpt_neox": (older.GPT_NEOX, older.gpt_neox),
    "mamba": (recurrent.MAMBA, recurrent.mamba),
    "mamba2": (recurrent.MAMBA2, recurrent.mamba2),
    "opt": (older.OPT, older.opt),
    "qwen3_next": (recurrent.QWEN3_NEXT, recurrent.qwen3_next),
    "t5": (T5, t5),
    **{name: (family.defaults, llama(family)) for name, family in LLAMAS.items()},
}
"""The families that theory can read, by Transformers' `model_type`."""

TEXT_PARTS = {"gemma3": "gemma3_text", "gemma3n": "gemma3n_text", "llama4": "llama4_text"}
"""The family of the text part of multimodal models, if it does not name one."""


class Architecture(Body):
    """The basis of bytes and FLOPs: the layers of a model and what surrounds them."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a configuration as in config.json: `model_type` and the family's fields.

        For a multimodal model, only the text part is read, from `text_config`. Missing fields get
        Transformers' own defaults, except for the number and width of layers, which are required.

        Raises:
            UserError: the family is unknown, or a field is missing, is wrong, or has a value that
                theory cannot read.
        """
        outer, inner = _model_type(config), family_of(config)
        text = config.get("text_config")
        part = config if text is None else text
        if inner not in FAMILIES:
            # No suggestion: a similarly spelled name is another architecture.
            raise UserError(
                f"model_type: no cost model for '{clip(inner)}'; supported: {', '.join(FAMILIES)}.",
                kind="unknown_family",
            )
        defaults, read = FAMILIES[inner]
        fields = Fields(inner, part, defaults)
        # Layers that differ individually: each field below would have to be read per layer.
        fields.must_be_unset("per_layer_config")
        known = vars(read(fields))
        if text is not None:
            known["weights_unknown"] = f"{outer} has parts other than text"
        elif config.get("quantization_config"):
            known["weights_unknown"] = "they are quantized"
        return cls(**known)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Architecture:
        """Return the architecture of a model whose cache was read from the model itself.

        Its bytes are exact. Its FLOPs are unknown, since its matrices are not known one by one.
        """
        layers = tuple(Layer(mixer=kept, mlp=None, norms=0) for kept in shapes.layers)
        return cls(
            model_type=shapes.model_type,
            hidden_size=0,
            vocabulary=0,
            layers=layers,
            tied=True,
            embedding_size=0,
            encoder=(Layer(Kept(), None, 0),) if shapes.encoder_decoder else (),
            other_parameters=shapes.parameters,
            float32_weights=shapes.float32_weights,
            weights_unknown=shapes.weights_unknown,
            max_positions=shapes.max_positions,
            flops_unknown="theory has no formulas for this family",
        )


def family_of(config: Mapping[str, Any]) -> str:
    """Return Transformers' name of the family, or of the text part of a multimodal model.

    Raises:
        UserError: the configuration names none.
    """
    outer = _model_type(config)
    text = config.get("text_config")
    if text is None:
        return outer
    if not isinstance(text, Mapping):
        raise UserError(
            f"{outer}: text_config is {clip(text)}, which is not a configuration.",
            kind="bad_configuration",
        )
    return _model_type({"model_type": TEXT_PARTS.get(outer), **text})


def _model_type(config: Mapping[str, Any]) -> str:
    name = config.get("model_type")
    if not isinstance(name, str):
        raise UserError(
            f"model_type: {clip(name)} is not a model family.",
            kind="unknown_family",
        )
    return name
