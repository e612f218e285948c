"""Draw the charts of docs/caches.md: `python scripts/cache_charts.py MODEL [FOLDER]`.

Bytes and operations are counted on one layer in the model's shape and multiplied by its layers;
they are the same on every machine. Quality is measured on the model itself, forced along a text. No
time is measured here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Cache, DynamicCache

from kvbench.caches import strategy
from kvbench.measure.cache import allocated_bytes, cache_bytes, disk_bytes
from kvbench.measure.caches import Call, make_cache
from kvbench.models.load import LoadedModel, load_model
from kvbench.models.prompts import Encoder, Inputs
from kvbench.plan.case import ModelKey, Prompt
from kvbench.report.figures.style import COLOURS, RC

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("docs/measuring.md", "docs/surviving.md", "docs/statistics.md", "docs/security.md")
POSITIONS, PROMPT = 512, 16
TEXT_TOKENS = 128
COPIES = {"cat", "stack", "clone", "copy_", "_to_copy", "gather"}
MIB = 2**20


class Counted(TorchDispatchMode):
    """Count the operations that copy, and the bytes that they write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in COPIES:
            self.operations += 1
            self.bytes += result.numel() * result.element_size()
        return result


def new_cache(loaded: LoadedModel, name: str, inputs: Inputs, new: int) -> Cache:
    options = make_cache(strategy(name), Call(loaded, inputs, new))
    assert isinstance(options, dict)
    cache: Cache = options.get("past_key_values", DynamicCache())
    return cache


def steps(loaded: LoadedModel, name: str) -> dict[str, list[float]]:
    """Return what each step of one layer copies, does and holds, times the layers of the model."""
    config = loaded.model.config.get_text_config(decoder=True)
    layers = config.num_hidden_layers
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    ids = torch.zeros(1, PROMPT, dtype=torch.long)
    cache = new_cache(loaded, name, Inputs(ids, torch.ones_like(ids)), POSITIONS - PROMPT + 1)
    found: dict[str, list[float]] = {
        key: [] for key in ("positions", "copied", "operations", "used", "allocated", "disk")
    }
    for count in [PROMPT] + [1] * (POSITIONS - PROMPT):
        keys, values = torch.randn(2, 1, heads, count, size)
        with Counted() as counted:
            cache.update(keys, values, 0)
        found["positions"].append(cache.get_seq_length())
        found["copied"].append(layers * counted.bytes / MIB)
        found["operations"].append(layers * counted.operations)
        found["used"].append(layers * cache_bytes(cache) / MIB)
        found["allocated"].append(layers * allocated_bytes(cache) / MIB)
        found["disk"].append(layers * (disk_bytes(cache) or 0) / MIB)
    return found


@torch.no_grad()
def led(loaded: LoadedModel, ids: torch.Tensor, name: str) -> torch.Tensor:
    """Return log-probabilities `[batch, steps, vocabulary]` of a strategy forced along texts."""
    new = ids.shape[1] - PROMPT
    inputs = Inputs(ids[:, :PROMPT], torch.ones_like(ids[:, :PROMPT]))
    cache = new_cache(loaded, name, inputs, new)
    pieces = [inputs.input_ids, *ids[:, PROMPT:].split(1, dim=1)]
    rows = [loaded.model(input_ids=one, past_key_values=cache).logits[:, -1] for one in pieces]
    # The first comes from the prompt's own pass, and says nothing about a cache.
    return torch.stack(rows[1:], dim=1).log_softmax(dim=-1)


def quality(loaded: LoadedModel, names: Iterable[str], store: Path) -> dict[str, list[float]]:
    """Return the mean Kullback-Leibler divergence from the exact cache at each step, in nats."""
    found: dict[str, list[float]] = json.loads(store.read_text()) if store.exists() else {}
    missing = [name for name in names if name not in found]
    if not missing:
        return found
    encoder = Encoder(loaded, 0, False)
    texts = [" ".join((ROOT / name).read_text().split())[:4000] for name in TEXTS]
    rows = [encoder.encode(Prompt.of_text(text), 1).input_ids for text in texts]
    ids = torch.cat([row[:, :TEXT_TOKENS] for row in rows])  # [texts, TEXT_TOKENS]
    exact = led(loaded, ids, "dynamic")
    for name in missing:
        other = led(loaded, ids, name)
        divergence = (exact.exp() * (exact - other)).sum(dim=-1)  # [texts, steps]
        found[name] = divergence.mean(dim=0).tolist()
        store.write_text(json.dumps(found))
        print(name, sum(found[name]) / len(found[name]), flush=True)
    return found


def draw(path: Path, title: str, x: str, y: str, lines: Callable[[Any], None]) -> None:
    with plt.rc_context(RC):
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        lines(axes)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=110)
        plt.close(figure)
    print(path)


def curves(found: dict[str, dict[str, list[float]]], *wanted: tuple[str, str, str]) -> Any:
    def lines(axes: Any) -> None:
        for colour, (name, key, label) in zip(COLOURS, wanted, strict=False):
            axes.plot(found[name]["positions"], found[name][key], label=label, color=colour)
        axes.set_ylim(bottom=0)

    return lines


def counted_charts(loaded: LoadedModel, folder: Path) -> None:
    names = ("concat", "prealloc", "per-head", "blocks", "half", "tiered", "disk", "dynamic")
    found = {name: steps(loaded, name) for name in names}
    x = "positions in the cache"
    copied = "MiB copied by the step"
    held = "MiB"
    draw(
        folder / "concat.png",
        "concat copies everything at every step",
        x,
        copied,
        curves(
            found,
            ("concat", "copied", "concat"),
            ("prealloc", "copied", "prealloc"),
        ),
    )
    draw(
        folder / "prealloc.png",
        "prealloc: what doubling takes",
        x,
        held,
        curves(
            found,
            ("prealloc", "allocated", "allocated"),
            ("prealloc", "used", "used"),
            ("prealloc", "copied", "copied by the step"),
        ),
    )
    draw(
        folder / "per-head.png",
        "per-head: many small operations",
        x,
        "copying operations of the step",
        curves(
            found,
            ("per-head", "operations", "per-head"),
            ("prealloc", "operations", "prealloc"),
            ("concat", "operations", "concat"),
        ),
    )
    draw(
        folder / "blocks.png",
        "blocks: less than one block is wasted",
        x,
        "MiB allocated but not used",
        lambda axes: [
            axes.plot(
                found[name]["positions"],
                [
                    all_ - used
                    for all_, used in zip(
                        found[name]["allocated"], found[name]["used"], strict=True
                    )
                ],
                label=name,
                color=colour,
            )
            for name, colour in (("prealloc", COLOURS[0]), ("blocks", COLOURS[1]))
        ],
    )
    draw(
        folder / "tiered.png",
        "tiered and half: bytes of the same positions",
        x,
        held,
        curves(
            found,
            ("dynamic", "allocated", "dynamic (float32)"),
            ("half", "allocated", "half"),
            ("tiered", "allocated", "tiered"),
        ),
    )
    draw(
        folder / "disk.png",
        "disk: memory stays, the file was sized at the start",
        x,
        held,
        curves(
            found,
            ("disk", "used", "all keys and values"),
            ("disk", "disk", "file"),
            ("disk", "allocated", "memory"),
        ),
    )


LOSSY = ("half", "half:dtype=bfloat16", "tiered:recent=16")
BUDGETS = (16, 32, 64)


def quality_charts(loaded: LoadedModel, folder: Path) -> None:
    names = [f"{name}:budget={budget}" for budget in BUDGETS for name in ("knorm", "random")]
    found = quality(loaded, [*LOSSY, *names], folder / "caches-quality.json")

    def by_step(axes: Any) -> None:
        for name, colour in zip(LOSSY, COLOURS, strict=False):
            places = range(PROMPT + 1, PROMPT + 1 + len(found[name]))
            axes.plot(places, found[name], label=name, color=colour)
        axes.set_yscale("log")
        # Below this, float32's own rounding dominates, including the sign of the result.
        axes.set_ylim(1e-7, 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")

    def by_budget(axes: Any) -> None:
        for name, colour in (("knorm", COLOURS[0]), ("random", COLOURS[1])):
            rows = [found[f"{name}:budget={budget}"] for budget in BUDGETS]
            # The second half, where every budget has forgotten something.
            means = [sum(row[len(row) // 2 :]) / len(row[len(row) // 2 :]) for row in rows]
            axes.plot(BUDGETS, means, label=name, color=colour, marker="o")
        axes.set_xticks(BUDGETS)
        axes.set_ylim(bottom=0)

    divergence = "KL divergence from the exact cache, nats"
    draw(folder / "half.png", "What rounding does", "position", divergence, by_step)
    draw(
        folder / "eviction.png",
        "What an eviction forgets, of up to 128 positions",
        "budget, positions per layer",
        divergence,
        by_budget,
    )


def main() -> None:
    model = sys.argv[1]
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "images" / "caches"
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_model(ModelKey(model, "pretrained", "cpu", "float32", "auto"), seed=0)
    counted_charts(loaded, folder)
    quality_charts(loaded, folder)


if __name__ == "__main__":
    main()
