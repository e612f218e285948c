"""Group the cases of runs into lines that differ in one size, each with a label and a look."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kvbench.analysis.generated import is_sampled
from kvbench.analysis.summary import CaseSummary
from kvbench.caches import STRATEGIES
from kvbench.plan.axes import AXES, TABLE_ORDER
from kvbench.records.run import RunInfo
from kvbench.report.figures.labels import distinct, named
from kvbench.report.words import compared

__all__ = [
    "FIELDS",
    "KINDS",
    "SERIES",
    "SIZES",
    "Along",
    "Entry",
    "Line",
    "Look",
    "Texts",
    "along_of",
    "divided",
    "entries_of",
    "grids_of",
    "has_pair",
    "label_of",
    "lines_of",
    "texts_of",
    "timed",
]

KINDS = 7
"""The number of colors, markers and dashes, each."""

Along = Literal["max_new_tokens", "batch_size", "prompt_tokens"]
"""The size that lines run along."""


class Size(NamedTuple):
    """A size that distinguishes cases, as a field and its name."""

    field: str
    label: str


SIZES: dict[Along, Size] = {
    "max_new_tokens": Size("max_new_tokens", "New tokens per sequence"),
    "batch_size": Size("batch_size", "Batch size (sequences)"),
    "prompt_tokens": Size("prompt", "Length of the prompt (tokens)"),
}
"""What lines may run along."""

Texts = dict[str, dict[object, str]]
"""The text of each value, by field and value: different values have different texts."""

FIELDS = ("run", *(axis.name for axis in TABLE_ORDER))
"""What distinguishes entries."""

SERIES = tuple(name for name in FIELDS if name not in ("batch_size", "max_new_tokens"))
"""What distinguishes grids over batch sizes and lengths."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One case of one run. An entry is equal only to itself."""

    run: str
    info: RunInfo
    case: CaseSummary

    @property
    def hardware(self) -> str:
        """The hardware behind the case's device."""
        return self.info.environment.hardware(self.case.device)

    def value(self, field: str) -> object:
        """Return a field of the case, or the run's name."""
        return self.run if field == "run" else getattr(self.case, field)


@dataclass(frozen=True, order=True)
class Look:
    """The numbers of a color, a marker and a dash, each below `KINDS`."""

    colour: int
    marker: int
    dash: int


@dataclass(frozen=True)
class Line:
    """Entries that differ only in one size, in its order.

    Attributes:
        along: that size.
        label: the strategy, plus whatever else differs between the lines of the chart. No two lines
            of a panel share a label.
        look: distinct from the look of all other labels in the chart, up to 343.
    """

    entries: tuple[Entry, ...]
    along: Along
    label: str
    look: Look

    @property
    def cache(self) -> str:
        """The cache strategy."""
        return self.entries[0].case.cache

    @property
    def device(self) -> str:
        """The device."""
        return self.entries[0].case.device

    @property
    def is_sampled(self) -> bool:
        """Whether its times are estimates."""
        return is_sampled(self.entries[0].case)

    @property
    def sizes(self) -> list[int]:
        """The sizes that it runs along."""
        return [int(getattr(entry.case, self.along)) for entry in self.entries]

    def values(self, field: str, factor: float = 1.0) -> list[float]:
        """Return a value of each case, times a factor; NaN if unknown."""
        found = (getattr(entry.case, field) for entry in self.entries)
        return [math.nan if value is None else value * factor for value in found]


def timed(run: str, info: RunInfo, cases: Iterable[CaseSummary]) -> list[Entry]:
    """Return the cases of a run that were timed."""
    return [Entry(run, info, case) for case in cases if case.total_s_median is not None]


def texts_of(entries: Sequence[Entry], shown: Callable[[str], str]) -> Texts:
    """Return the text of each value in these entries, after conversion by `shown`."""
    return {
        field: named(field, (*_planned(entries, field), *(e.value(field) for e in entries)), shown)
        for field in FIELDS
    }


def along_of(entries: Sequence[Entry]) -> Along:
    """Return new tokens; or another size if new tokens would give lines of a single point.

    The other size is the batch size, or the length of the prompt if prompts are only lengths.
    """
    alongs: list[Along] = ["max_new_tokens", "batch_size"]
    if all(entry.case.prompt.startswith("tokens:") for entry in entries):
        alongs.append("prompt_tokens")
    longest = {
        along: max((len(members) for members in _grouped(entries, _across(along))), default=0)
        for along in alongs
    }
    return next((along for along in alongs if longest[along] > 1), "max_new_tokens")


def lines_of(
    entries: Sequence[Entry], along: Along, texts: Texts, *, across_devices: bool = False
) -> list[Line]:
    """Return entries as lines along a size; see `Material.lines`."""
    fields = _across(along)
    varied = _varied(entries, fields)
    # Panels are by device, unless one panel has all; the strategy is always named.
    device = ("device",) if across_devices and "device" in varied else ()
    rest = [field for field in varied if field not in ("device", "cache")]
    told = (*device, "cache", *rest)
    keys = list(dict.fromkeys(tuple(e.value(field) for field in told) for e in entries))
    firsts = {tuple(e.value(field) for field in told): e for e in reversed(entries)}
    labels = distinct([label_of(firsts[key], told, texts) for key in keys], "line", length=1000)
    looks = _looks(
        [
            (firsts[key].case.cache, _without_cache(key, told), is_sampled(firsts[key].case))
            for key in keys
        ]
    )
    by_key = dict(zip(keys, zip(labels, looks, strict=True), strict=True))
    lines = []
    for members in _grouped(entries, fields):
        label, look = by_key[tuple(members[0].value(field) for field in told)]
        ordered = sorted(members, key=lambda entry: int(getattr(entry.case, along)))
        lines.append(Line(tuple(ordered), along, label, look))
    return lines


def grids_of(entries: Sequence[Entry], texts: Texts) -> list[tuple[str, tuple[Entry, ...]]]:
    """Return entries over both sizes, with the name of each grid."""
    told = [field for field in _varied(entries, SERIES) if field not in ("device", "cache")]
    grids = _grouped(entries, SERIES)
    labels = [label_of(members[0], ("cache", *told), texts) for members in grids]
    heads = [f"{members[0].case.device}: {t}" for t, members in zip(labels, grids, strict=True)]
    return list(zip(distinct(heads, "map", length=1000), map(tuple, grids), strict=True))


def label_of(entry: Entry, told: Iterable[str], texts: Texts) -> str:
    """Return the label of these fields of an entry."""
    return ", ".join(texts[field][entry.value(field)] for field in told)


def entries_of(lines: Iterable[Line]) -> list[Entry]:
    """Return the entries of several lines."""
    return [entry for line in lines for entry in line.entries]


def divided(lines: Iterable[Line]) -> str:
    """Return what the ratios of these lines divide by what: `off / cached`."""
    return compared([entry.case for entry in entries_of(lines)])


def has_pair(entry: Entry) -> bool:
    """Return whether a case has a speedup: it is no baseline, and its baseline was timed."""
    return not entry.case.is_baseline and entry.case.speedup is not None


def _across(along: Along) -> tuple[str, ...]:
    """Return the fields in which the entries of a line are all equal."""
    return tuple(field for field in FIELDS if field != SIZES[along].field)


def _grouped(entries: Iterable[Entry], fields: Sequence[str]) -> list[list[Entry]]:
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        found.setdefault(tuple(entry.value(field) for field in fields), []).append(entry)
    return list(found.values())


def _varied(entries: Sequence[Entry], fields: Iterable[str]) -> list[str]:
    """Return the fields that are named for these entries: those that differ, and `Axis.told`."""

    def is_told(field: str) -> bool:
        values = {entry.value(field) for entry in entries}
        return AXES[field].is_told(values) if field in AXES else len(values) > 1

    return [field for field in fields if is_told(field)]


def _planned(entries: Iterable[Entry], field: str) -> Iterator[object]:
    """Return the measured values of a field, in the order of the plans."""
    measured = {entry.value(field) for entry in entries}
    for info in {entry.run: entry.info for entry in entries}.values():
        for case in info.cases:
            value = case.get(field)
            label = value.get("label") if isinstance(value, dict) else value
            if isinstance(label, str | int) and label in measured:
                yield label


def _without_cache(key: tuple[object, ...], told: Sequence[str]) -> tuple[object, ...]:
    return tuple(v for v, field in zip(key, told, strict=True) if field != "cache")


def _looks(lines: Sequence[tuple[str, tuple[object, ...], bool]]) -> list[Look]:
    """Return a distinct look for each line, from its strategy and other fields; up to 343 lines.

    Color and marker encode the strategy, the dash encodes the rest, and so do other markers when
    all dashes are taken. With only one strategy, the color encodes the rest too. The third value
    says whether a line is sampled: it is then never solid.
    """
    # `off` and `dynamic` have the same colors in all charts, whatever else is drawn; there are more
    # strategies than colors.
    caches = list(dict.fromkeys([*list(STRATEGIES)[:2], *(cache for cache, *_ in lines)]))
    drawn = len({cache for cache, *_ in lines})
    measured = dict.fromkeys(rest for _, rest, estimated in lines if not estimated)
    rests: list[object] = [*measured, *dict.fromkeys(r for _, r, e in lines if e)]
    if not measured and drawn > 1:
        # The first dash is a solid line, which is left to what was measured.
        rests.insert(0, None)
    all_looks = [Look(*numbers) for numbers in itertools.product(range(KINDS), repeat=3)]
    free = dict.fromkeys(all_looks)
    found = []
    for cache, rest, estimated in lines:
        number, other = caches.index(cache), rests.index(rest)
        if drawn == 1:
            numbers = number + other, number + other + other // KINDS**2, other // KINDS
        else:
            numbers = number, number + number // KINDS + drawn * (other // KINDS), other
        wanted = Look(*(n % KINDS for n in numbers))
        if estimated and wanted.dash == 0:
            wanted = Look(wanted.colour, wanted.marker, 1)
        if wanted not in free:
            # Take the nearest free color; when all are taken, reuse the same one.
            wanted = min(free, key=lambda look: abs(look.colour - wanted.colour), default=wanted)
        free.pop(wanted, None)
        found.append(wanted)
    return found
