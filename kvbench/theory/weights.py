"""Count a model's weights, and their bytes."""

from __future__ import annotations

from kvbench.dtypes import dtype_bytes
from kvbench.errors import UserError
from kvbench.theory.architecture import Architecture

__all__ = ["parameters", "weights_bytes"]


def parameters(architecture: Architecture) -> int:
    """Return the number of weights, tied embeddings once, without buffers.

    Raises:
        UserError: the architecture has parts that theory does not know.
    """
    if architecture.weights_unknown:
        raise UserError(
            f"{architecture.model_type}: weights cannot be counted: "
            f"{architecture.weights_unknown}.",
            kind="not_countable",
        )
    embedding = architecture.vocabulary * architecture.embedding_size
    head = 0 if architecture.tied else architecture.head.parameters
    adapters = sum(linear.parameters for linear in architecture.adapters)
    layers = sum(layer.parameters for layer in (*architecture.layers, *architecture.encoder))
    other = architecture.other_parameters + architecture.position_parameters
    return embedding + head + adapters + layers + other


def weights_bytes(architecture: Architecture, dtype: str, *, random: bool = False) -> int:
    """Return the bytes of all weights in one dtype, without buffers.

    A few families keep some weights in float32 in a float16 model, unless the weights are `random`:
    Transformers does so when it loads a checkpoint, but not when it creates the weights. Source:
    `_keep_in_fp32_modules` in Transformers' modeling files.

    Raises:
        UserError: the architecture has parts that theory does not know, or the dtype is unknown.
    """
    wider = architecture.float32_weights if dtype == "float16" and not random else 0
    width = dtype_bytes(dtype)
    return parameters(architecture) * width + wider * (dtype_bytes("float32") - width)
