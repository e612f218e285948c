"""Print the output of `kvbench inspect`: both strategies side by side, step by step, and totals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kvbench.caches import strategy
from kvbench.console.printing import print_sentences
from kvbench.records.inspection import (
    Arm,
    CacheLayers,
    Inspection,
    Shape,
    Step,
)
from kvbench.report.markdown import markdown_table
from kvbench.report.table import Table
from kvbench.report.units import flops_text, significant
from kvbench.text import clip, printable

__all__ = ["inspection_markdown", "print_inspection"]

_ALIKE = 1e-3
"""A difference above this is more than float32 rounding."""


def print_inspection(console: Console, inspection: Inspection) -> None:
    """Print the header, the rows of each step, the totals, and what they mean."""
    bold = "bold" if console.is_terminal else ""
    print_sentences(console, _head(inspection))
    drawn = RichTable(box=None, pad_edge=False, header_style=bold)
    for head in ("", *_arms(inspection)):
        # Wrap on a narrow terminal, never truncate: a truncated shape is a wrong shape.
        drawn.add_column(head, overflow="fold")
    for block in _blocks(inspection):
        drawn.add_row("")
        drawn.add_row(Text(block.title, style=bold))
        for label, off, cached in block.rows:
            # Highlight what the cache changes.
            style = "green" if cached != off and console.is_terminal else ""
            drawn.add_row(Text(f"  {label}"), Text(off), Text(cached, style=style))
    console.print(drawn)
    console.print()
    print_sentences(console, _ending(inspection))


def inspection_markdown(inspection: Inspection) -> str:
    """Return the header, the table of all steps and what they mean."""
    rows = tuple(
        (block.title if first else "", *row)
        for block in _blocks(inspection)
        for first, row in zip((True, *(False for _ in block.rows)), block.rows, strict=False)
    )
    table = Table(("step", "what", *_arms(inspection)), rows, (False,) * 4, "")
    # Fenced, to keep names from being read as markup.
    head, ending = ("\n".join(lines) for lines in (_head(inspection), _ending(inspection)))
    return f"```text\n{head}\n```\n\n{markdown_table(table)}\n\n```text\n{ending}\n```"


@dataclass(frozen=True)
class _Block:
    """A title, and below it rows with a label and the cells of both strategies."""

    title: str
    rows: tuple[tuple[str, str, str], ...]


def _head(inspection: Inspection) -> Iterator[str]:
    i = inspection
    rows, tokens = len(i.prompt_ids), len(i.prompt_ids[0])
    name = f"{i.model} ({i.weights} weights, {i.dtype}, {i.attention} attention) on {i.device}"
    batch = f" in {rows} sequences" if rows > 1 else ""
    prompt = f"prompt of {_count(tokens, 'token')}{batch} ({clip(i.prompt)})"
    yield printable(f"{name}, {prompt}. Layer {i.layer} of 0 to {i.layers - 1}.")
    yield (
        "Shapes of real tensors. input ids: [batch, positions]. Q: [batch, heads, positions, "
        "head_dim]; K and V: the same with kv_heads. cache: [layers, 2 (K and V), batch, kv_heads, "
        "positions, head_dim]."
    )


def _arms(inspection: Inspection) -> tuple[str, str]:
    return "without a cache", f"with the cache ({inspection.cached.cache})"


def _blocks(inspection: Inspection) -> Iterator[_Block]:
    pairs = list(zip(inspection.off.steps, inspection.cached.steps, strict=True))
    for number, (off, cached) in enumerate(pairs, 1):
        phase = "prefill" if number == 1 else "decode"
        rows = [(label, read(off), read(cached)) for label, read in _readers(inspection)]
        rows.append(_token_row(off, cached))
        yield _Block(f"Step {number}, {phase}", tuple(rows))
    yield _Block("Together", tuple(_total_rows(inspection)))


def _readers(inspection: Inspection) -> Iterator[tuple[str, Callable[[Step], str]]]:
    """Return the rows of a step, with keys and values in one row where they always match."""
    steps = (*inspection.off.steps, *inspection.cached.steps)
    yield "input ids", lambda step: _shape(step.input_ids)
    yield "Q", lambda step: _shape(step.query)
    if all(s.made_keys == s.made_values and s.keys == s.values for s in steps):
        yield "K, V made now", lambda step: _shape(step.made_keys)
        yield "K, V attended to", lambda step: _shape(step.keys)
    else:
        yield "K made now", lambda step: _shape(step.made_keys)
        yield "V made now", lambda step: _shape(step.made_values)
        yield "K attended to", lambda step: _shape(step.keys)
        yield "V attended to", lambda step: _shape(step.values)
    yield "cache", lambda step: "\n".join(_layers(step)) or "-"
    if any(step.kept and not step.cache for step in inspection.cached.steps):
        # Neither keys nor values in their usual form: show what there is.
        yield f"kept in layer {inspection.layer}", lambda step: "\n".join(_kept(step)) or "-"
    yield "cache bytes", lambda step: f"{step.cache_bytes:,}"
    yield "FLOPs", lambda step: flops_text(step.flops)


def _shape(shape: Shape | None) -> str:
    return "-" if shape is None else str(list(shape))


def _layers(step: Step) -> Iterator[str]:
    """Return the cache after a step: one shape for all layers, or one line per kind of layer."""
    if step.cache_shape is not None:
        yield _shape(step.cache_shape)
        return
    for one in step.cache:
        what = "cross: " if one.cross else ""
        if _is_pair(one):
            what += _shape((2, *(one.keys or ())))
        elif one.keys or one.values:
            what += f"K {_shape(one.keys)} V {_shape(one.values)}"
        states = ", ".join(map(_shape, one.states))
        yield f"{one.count} x {what}{f'states {states}' if states else ''}"


def _kept(step: Step) -> Iterator[str]:
    for one in step.kept:
        yield f"{one.count} x {_shape(one.shape)} {one.dtype}"


def _is_pair(one: CacheLayers) -> bool:
    return one.keys is not None and one.keys == one.values


def _token_row(off: Step, cached: Step) -> tuple[str, str, str]:
    rows = len(off.token_ids)
    differ = sum(a != b for a, b in zip(off.token_ids, cached.token_ids, strict=True))
    said = "same" if not differ else "NOT THE SAME" if rows == 1 else f"{differ} rows differ"
    label = "token out" if rows == 1 else "token out, row 0"
    return label, _token(off), f"{_token(cached)}, {said}"


def _token(step: Step) -> str:
    text = f" '{printable(step.texts[0])}'" if step.texts else ""
    return f"{step.token_ids[0]}{text}"


def _total_rows(inspection: Inspection) -> Iterator[tuple[str, str, str]]:
    off, cached = map(inspection.totals, (inspection.off, inspection.cached))
    yield "positions fed", _sum(inspection.off), _sum(inspection.cached)
    yield "fed again", f"{off.made_again:,}", f"{cached.made_again:,}"
    ratio = (
        f" ({significant(off.flops / cached.flops)} times less)"
        if off.flops and cached.flops and off.flops != cached.flops
        else ""
    )
    yield "FLOPs", flops_text(off.flops), f"{flops_text(cached.flops)}{ratio}"
    yield "cache bytes", f"{off.cache_bytes:,}", f"{cached.cache_bytes:,}"


def _sum(arm: Arm) -> str:
    fed = [str(step.positions) for step in arm.steps]
    total = f"{sum(step.positions for step in arm.steps):,}"
    if len(fed) == 1:
        return total
    shown = fed if len(fed) <= 6 else [*fed[:3], "...", fed[-1]]
    return f"{' + '.join(shown)} = {total}"


def _ending(inspection: Inspection) -> Iterator[str]:
    yield from _formula(inspection)
    yield _tokens_sentence(inspection)
    if inspection.largest_difference is not None:
        yield _difference_sentence(inspection, inspection.largest_difference)
    yield _lesson(inspection)
    yield from _flops_sentence(inspection)
    yield from map(printable, inspection.notes)


def _lesson(inspection: Inspection) -> str:
    """Return the conclusion of the table."""
    off = inspection.totals(inspection.off)
    if not off.made_again:
        return (
            "A single step is the prefill alone, which is the same with and without the cache: "
            "use --steps 2 or more."
        )
    kept = any(one.keys for one in inspection.cached.steps[-1].cache)
    unchanged = ", and their keys and values came out the same" if kept else ""
    return (
        f"Without a cache each step processes the whole sequence: {off.made_again:,} of "
        f"{off.positions:,} positions had already been through the model{unchanged}. With a cache "
        "each later step processes only the newest token and reuses the keys and values of the "
        "others."
    )


def _formula(inspection: Inspection) -> Iterator[str]:
    """Return the formula of the cache's bytes with numbers, if it gives the measured value."""
    last = inspection.cached.steps[-1]
    if not last.cache or not all(_is_pair(one) and not one.states for one in last.cache):
        return
    terms, total = [], 0
    for one in last.cache:
        batch, heads, positions, size = one.keys or (0, 0, 0, 0)
        terms.append(
            f"2 x {_count(one.count, 'layer')} x {_count(batch, 'sequence')} x {heads} kv_heads x "
            f"{positions} positions x {size} head_dim x {inspection.dtype_bytes} bytes"
        )
        total += 2 * one.count * prod(one.keys or ()) * inspection.dtype_bytes
    if total == last.cache_bytes:
        yield f"Cache: {' + '.join(terms)} = {total:,} bytes."


def _tokens_sentence(inspection: Inspection) -> str:
    steps = len(inspection.off.steps)
    if inspection.same_tokens:
        return f"Both produced the same {_count(steps, 'token')}."
    pairs = zip(inspection.off.steps, inspection.cached.steps, strict=True)
    at = next(i for i, (a, b) in enumerate(pairs, 1) if a.token_ids != b.token_ids)
    tells = "verify` tells whether that is rounding or a bug"
    if strategy(inspection.cached.cache).lossy:
        tells = "quality` tells how much that costs, since this cache is lossy"
    return (
        f"The outputs diverge at token {at}: from there on the two do different work. `kvbench "
        f"{tells}."
    )


def _difference_sentence(inspection: Inspection, difference: float) -> str:
    what = "The keys and values of the last step, recomputed without the cache and kept with it,"
    if not difference:
        return f"{what} are bit-identical."
    said = "equal up to rounding" if difference <= _ALIKE else "not the same"
    if difference > _ALIKE and strategy(inspection.cached.cache).lossy:
        said = "close, as in a lossy cache"
    elif difference > _ALIKE and inspection.dtype != "float32":
        said = f"equal within {inspection.dtype} rounding"
    return (
        f"{what} are {said}: the largest difference is {difference:.0e} of their root mean square."
    )


def _flops_sentence(inspection: Inspection) -> Iterator[str]:
    steps: Sequence[Step] = (*inspection.off.steps, *inspection.cached.steps)
    known = all(step.flops is not None for step in steps)
    counted = all(step.flops_counted is not None for step in steps)
    if known:
        how = "counted by torch" if counted else "from the configuration (torch cannot count them)"
        yield f"FLOPs: of matrix products, {how}; a multiply-add counts as 2."


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
