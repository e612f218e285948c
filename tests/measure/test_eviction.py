"""Hand-written eviction: the mask and the positions are right, with padding too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from kvbench.models.load import LoadedModel
from kvbench.models.prompts import Inputs
from tests.tiny import GPT2, LLAMA, Config, checkpoint, load, run

BUDGET = 6


def padded(lengths: list[int], seed: int = 0) -> Inputs:
    width = max(lengths)
    mask = torch.tensor([[0] * (width - count) + [1] * count for count in lengths])
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 500, mask.shape, generator=generator)
    return Inputs(ids * mask, mask)


def step_logits(
    loaded: LoadedModel, inputs: Inputs, cache: str, new: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of each step of a generation, `[batch, new, vocabulary]`, and its tokens."""
    seen: list[torch.Tensor] = []
    handle = loaded.model.register_forward_hook(
        lambda _module, _args, output: seen.append(output.logits[:, -1].detach())
    )
    ids = run(loaded, inputs, cache, new).new_ids
    handle.remove()
    return torch.stack(seen, dim=1), ids


def kept_by_norm(keys: torch.Tensor, padding: int, prompt: int) -> list[list[set[int]]]:
    """Return the positions that each head sees at each step, one by one: `[step][head]`."""
    # keys: [heads, all, head_dim]
    norms = keys.norm(dim=2)
    seen: list[list[set[int]]] = []
    kept: list[set[int]] = [set() for _ in norms]
    for arriving in [range(prompt), *([place] for place in range(prompt, keys.shape[1]))]:
        now = [one | set(arriving) for one in kept]
        seen.append(now)
        kept = []
        for head, places in enumerate(now):
            order = sorted(p for p in places if p < padding)
            order += sorted(
                (p for p in places if p >= padding), key=lambda p: -float(norms[head, p])
            )
            kept.append(set(order[max(len(order) - BUDGET, 0) :]))
    return seen


def test_eviction_is_what_an_eager_computation_with_a_mask_gives(tmp_path: Path) -> None:
    # One layer: its keys do not depend on attention, so one pass shows all of them.
    folder = checkpoint(tmp_path, LLAMA, num_hidden_layers=1)
    loaded = load(folder, weights="pretrained", attention="eager")
    inputs = padded([9, 4, 7])
    new = 8
    logits, ids = step_logits(loaded, inputs, f"knorm:budget={BUDGET}", new)

    tokens = torch.cat([inputs.input_ids, ids[:, :-1]], dim=1)
    mask = torch.cat([inputs.attention_mask, torch.ones(3, new - 1, dtype=torch.long)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache()
    with torch.no_grad():
        loaded.model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache
        )
    prompt, total = 9, 9 + new - 1
    allowed = torch.zeros(3, 4, total, total, dtype=torch.bool)
    for row in range(3):
        padding = int((inputs.attention_mask[row] == 0).sum())
        kept = kept_by_norm(cache.layers[0].keys[row], padding, prompt)
        for step, heads in enumerate(kept):
            for query in range(prompt) if step == 0 else [prompt + step - 1]:
                for head, places in enumerate(heads):
                    real = [p for p in places if padding <= p <= query]
                    # Two heads of queries share one of keys.
                    allowed[row, 2 * head : 2 * head + 2, query, real] = True
    # A padding row attends to nothing, which must not make it NaN.
    bias = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        full = loaded.model(
            input_ids=tokens,
            attention_mask=bias,
            position_ids=positions,
            past_key_values=None,
            use_cache=False,
        )
    expected = full.logits[:, prompt - 1 :]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    # It matters: with everything kept, the later steps differ.
    whole, _ = step_logits(loaded, inputs, "dynamic", new)
    assert (whole[:, -1] - expected[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_takes_nothing_from_a_rows_budget(
    tmp_path: Path, config: Config, attention: str
) -> None:
    loaded = load(checkpoint(tmp_path, config), weights="pretrained", attention=attention)
    inputs = padded([12, 5, 8])
    together, ids = step_logits(loaded, inputs, f"knorm:budget={BUDGET}", 12)
    for row, length in enumerate([12, 5, 8]):
        alone = Inputs(
            inputs.input_ids[row : row + 1, -length:], torch.ones(1, length, dtype=torch.long)
        )
        found, tokens = step_logits(loaded, alone, f"knorm:budget={BUDGET}", 12)
        assert torch.equal(tokens[0], ids[row])
        torch.testing.assert_close(found[0], together[row], rtol=1e-4, atol=1e-4)


def test_a_budget_that_holds_all_changes_nothing(tmp_path: Path) -> None:
    loaded = load(checkpoint(tmp_path, LLAMA), weights="pretrained")
    inputs = padded([9, 4])
    for name in ("knorm:budget=16", "random:budget=16"):
        assert torch.equal(
            run(loaded, inputs, name, 8).new_ids, run(loaded, inputs, "dynamic", 8).new_ids
        )
