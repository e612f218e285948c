"""What a model's own cache keeps, read from a built model, for families unknown to theory.

This is plain data. The code that builds the model is in a higher package and needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvbench.theory.layers import Kept

__all__ = ["Shapes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """A model whose cache was read by running the model without data.

    Attributes:
        model_type: Transformers' name of the family.
        layers: what each layer of its cache keeps.
        parameters: number of weights, tied ones once.
        encoder_decoder: whether an encoder reads the prompt.
        max_positions: the positions that the model was made for, if known.
        float32_weights: how many Transformers keeps in float32 when it loads a float16 checkpoint.
        weights_unknown: why the weights cannot be counted, or null.
    """

    model_type: str
    layers: tuple[Kept, ...]
    parameters: int
    encoder_decoder: bool = False
    max_positions: int | None = None
    float32_weights: int = 0
    weights_unknown: str | None = None
