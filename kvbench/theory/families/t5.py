"""T5: an encoder, and a decoder that also attends to its output."""

from __future__ import annotations

from kvbench.theory.fields import Defaults, Fields
from kvbench.theory.layers import Attention, Body, Layer, Linear, Mlp

__all__ = ["T5", "t5"]

T5: Defaults = {
    "vocab_size": 32128,
    "num_attention_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2048,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "feed_forward_proj": "relu",
}


def t5(fields: Fields) -> Body:
    """Read T5 and FLAN-T5: no biases, and one embedding for both sides and for the output.

    `tie_word_embeddings` is ignored: Transformers 5 ties the embeddings in any case.
    """
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    inner = heads * fields.integer("head_dim")
    gate, _, _ = str(fields.get("feed_forward_proj")).rpartition("-")
    if gate not in ("", "gated"):
        fields.refuse(
            "feed_forward_proj",
            f"'{fields.get('feed_forward_proj')}', which is neither plain nor gated",
        )
    mlp = Mlp(hidden, fields.integer("intermediate_size"), gated=bool(gate))
    one = Attention(
        heads,
        heads,
        inner // heads,
        inner // heads,
        query=(Linear(hidden, inner),),
        key_value=(Linear(hidden, inner),) * 2,
        output=Linear(inner, hidden),
    )
    count = fields.integer("num_hidden_layers")
    decoder = fields.optional("num_decoder_layers") or count
    # A final norm on both sides, and the biases of relative positions in the first layer.
    biases = fields.integer("relative_attention_num_buckets") * heads
    return Body(
        fields.model_type,
        hidden,
        fields.integer("vocab_size"),
        (Layer(one, mlp, 3 * hidden, cross=one),) * decoder,
        tied=True,
        embedding_size=hidden,
        encoder=(Layer(one, mlp, 2 * hidden),) * count,
        other_parameters=2 * (hidden + biases),
        float32_weights=(count + decoder) * mlp.linears[-1].parameters,
    )
