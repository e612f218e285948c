"""Walk through a generation: what each strategy does in each step, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kvbench.records.inspection import Arm, Inspection, Step

__all__ = ["Act", "Cell", "Kind", "acts_of", "labels_of", "token_label"]

Kind = Literal["new", "again", "read", "gone", "empty"]
"""What a step does with a position: compute its key for the first time, compute it again, read it
from the cache, or do without it. An empty slot holds no position."""


@dataclass(frozen=True)
class Cell:
    """A position, or an empty slot, in one step.

    Attributes:
        position: from 0; null for an empty slot.
        kind: what the step does with it.
        numbers: the first numbers of its key, as attention sees it; empty if not observed.
    """

    position: int | None
    kind: Kind
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Act:
    """One step of one strategy.

    Attributes:
        step: the record of the step.
        length: positions of the sequence, those of this step included.
        cells: the positions in order, then the empty slots; empty if it cannot be told which
            positions the step reads.
        again: positions that had been computed before.
        read: how many positions it reads from the cache; null if not observed.
        state: whether it keeps a state of constant size instead of keys.
    """

    step: Step
    length: int
    cells: tuple[Cell, ...]
    again: int
    read: int | None
    state: bool

    def count(self, kind: Kind) -> int:
        """Return how many cells are of a kind."""
        return sum(cell.kind == kind for cell in self.cells)

    @property
    def sentence(self) -> str:
        """Say what the step computes, reads and does without."""
        return " ".join((self._computes(), *self._rest()))

    def _computes(self) -> str:
        made = self.step.positions
        if self.again:
            return f"Computes all {made} positions, {self.again} of them again."
        return f"Computes {'1 position' if made == 1 else f'{made} positions'}."

    def _rest(self) -> Sequence[str]:
        found = []
        if self.state:
            found.append("Reads and updates a state of constant size.")
        elif self.read:
            found.append(f"Reads {self.read} from the cache.")
        elif self.read is None and self.step.cache_bytes and self.length > self.step.positions:
            found.append("Reads the others from the cache, where kvbench cannot see them.")
        if gone := self.count("gone"):
            found.append(f"{gone} {'is' if gone == 1 else 'are'} no longer kept.")
        if empty := self.count("empty"):
            found.append(f"{empty} reserved slot{'s are' if empty > 1 else ' is'} still empty.")
        return found


def acts_of(arm: Arm, first: int) -> tuple[Act, ...]:
    """Return the steps of a strategy; `first` is the number of positions of the first one."""
    return tuple(_act(step, first + number, number) for number, step in enumerate(arm.steps))


def _act(step: Step, length: int, number: int) -> Act:
    state = bool(step.cache) and all(one.keys is None and one.states for one in step.cache)
    cells = _cells(step, length, number)
    read = None if step.keys is None else max(step.keys[-2] - step.positions, 0)
    if cells:
        read = sum(cell.kind == "read" for cell in cells)
    fresh = length if number == 0 else 1
    return Act(step, length, cells, step.positions - fresh, read, state)


def _cells(step: Step, length: int, number: int) -> tuple[Cell, ...]:
    if step.key_positions is None:
        return ()
    numbers = dict(zip(step.key_positions, step.key_numbers, strict=False))
    computed = range(length - step.positions, length)
    # Before the newest position, everything has passed through the model.
    known = 0 if number == 0 else length - 1
    cells = []
    for position in range(length):
        kind: Kind = "gone"
        if position in computed:
            kind = "again" if position < known else "new"
        elif position in numbers:
            kind = "read"
        cells.append(Cell(position, kind, numbers.get(position, ())))
    empty = sum(position is None for position in step.key_positions)
    return (*cells, *(Cell(None, "empty") for _ in range(empty)))


def labels_of(inspection: Inspection) -> list[str]:
    """Return the tokens of the first sequence, prompt first: texts, or ids without a tokenizer.

    A decoder that has an encoder begins with a start token, and its prompt is elsewhere.
    """
    new = map(token_label, inspection.off.steps)
    ids = inspection.prompt_ids[0]
    if inspection.first_positions != len(ids):
        return ["start", *new]
    return [*map(_visible, inspection.prompt_texts or map(str, ids)), *new]


def token_label(step: Step) -> str:
    """Return the new token of the first sequence: its text, or its id without a tokenizer."""
    return _visible(step.texts[0]) if step.texts else str(step.token_ids[0])


def _visible(text: str) -> str:
    """Return the text of a token with its spaces and line breaks shown."""
    return text.replace(" ", "\N{MIDDLE DOT}").replace("\n", "\N{RETURN SYMBOL}") or "(empty)"
