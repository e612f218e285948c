"""A case: one frozen point of the grid, its key, and the plain data that goes with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, TypeVar

from kvbench.plan.axes import AUTO, AXES, MODEL_AXES, CaseAxes, ModelAxes, again, values_of

__all__ = [
    "AUTO",
    "Case",
    "Group",
    "ModelKey",
    "Phase",
    "Prompt",
    "Task",
    "group_cases",
    "split",
]

T = TypeVar("T")

Phase = Literal["warmup", "measure", "memory"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input of the model before it generates.

    Either `texts` (encoded with the model's tokenizer, cycled over the batch) or `tokens`, a number
    of fixed pseudo-random token ids. `label` identifies the prompt in keys and columns.

    In a conversation, `tokens` is the length of the history at that turn, the new message included;
    or the only text is the conversation, as JSON.
    """

    label: str
    texts: tuple[str, ...] = ()
    tokens: int | None = None

    @classmethod
    def of_text(cls, text: str) -> Prompt:
        """Return a prompt of one text, repeated over the batch."""
        return cls(label=f"text:{text}", texts=(text,))

    @classmethod
    def of_tokens(cls, tokens: int) -> Prompt:
        """Return a prompt of `tokens` fixed token ids, the same in each row of the batch."""
        return cls(label=f"tokens:{tokens}", tokens=tokens)

    @classmethod
    def of_file(cls, path: str, texts: Iterable[str]) -> Prompt:
        """Return a prompt of a file's texts; its label has a hash, so an edited file is new."""
        texts = tuple(texts)
        digest = _digest("\n".join(texts), 8)
        return cls(label=f"file:{PurePath(path).name}#{digest}", texts=texts)

    @classmethod
    def of_conversations(
        cls, path: str, conversations: Sequence[Sequence[Mapping[str, str]]]
    ) -> tuple[tuple[Prompt, int], ...]:
        """Return a prompt for each conversation of a file, and its number of turns.

        The label has a hash of the conversation, so an edited one is new.
        """
        texts = [json.dumps(one, ensure_ascii=False, sort_keys=True) for one in conversations]
        turns = [sum(message["role"] == "user" for message in one) for one in conversations]
        name = PurePath(path).name
        prompts = (cls(label=f"file:{name}#{_digest(text, 8)}", texts=(text,)) for text in texts)
        return tuple(zip(prompts, turns, strict=True))


@dataclass(frozen=True, slots=True)
class ModelKey(ModelAxes):
    """The key of a loaded model: cases that share it share one load."""

    @property
    def label(self) -> str:
        """The display name: `gpt2 (random, float32, sdpa) on cpu`."""
        return f"{self.model} ({self.weights}, {self.dtype}, {self.attention}) on {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(CaseAxes):
    """One point of the grid; plan/axes.py declares its fields.

    A field that is added later defaults to its legacy value: what earlier cases meant. At that
    value it is left out of the key, which keeps old ids and never pools something new with
    something old.
    """

    prompt: Prompt = again(CaseAxes, "prompt")

    @property
    def model_key(self) -> ModelKey:
        """The key of the loaded model that this case needs."""
        return ModelKey(*values_of(self, MODEL_AXES))

    @property
    def key(self) -> str:
        """The canonical text of this case: equal keys mean the same work, on any machine."""
        return self._text(AXES)

    @property
    def pair_key(self) -> str:
        """The key without the axes that may differ in a comparison group, such as the cache."""
        return self._text(name for name, axis in AXES.items() if axis.in_group)

    @property
    def id(self) -> str:
        """Ten hexadecimal digits of the key's SHA-256."""
        return _digest(self.key, 10)

    @property
    def label(self) -> str:
        """The display name without the model: `dynamic, float32, batch 1, 100 new tokens`."""
        prompt = f", prompt of {self.prompt.tokens}" if self.prompt.tokens else ""
        sizes = f"batch {self.batch_size}{prompt}, {self.max_new_tokens} new tokens"
        added = (
            axis.phrase(getattr(self, name))
            for name, axis in AXES.items()
            if axis.is_added and getattr(self, name) != axis.legacy
        )
        return ", ".join([self.cache, self.dtype, sizes, *added])

    def columns(self) -> dict[str, Any]:
        """Return the fields as in rows: with the label of the prompt, not its texts."""
        values = {name: getattr(self, name) for name in AXES}
        return {name: getattr(value, "label", value) for name, value in values.items()}

    def needs_at_least(self, other: Case) -> bool:
        """Return whether this case certainly needs at least as much memory as another one.

        That holds if all sizes are at least as large and everything else is the same. Which of two
        different texts is longer is not known.
        """
        return all(
            _is_at_least(getattr(self, name), getattr(other, name), axis.is_size)
            for name, axis in AXES.items()
        )

    def _text(self, names: Iterable[str]) -> str:
        values = (
            (name, getattr(self, name))
            for name in names
            if not AXES[name].is_added or getattr(self, name) != AXES[name].legacy
        )
        # repr, so a prompt with spaces or '=' in it cannot be mistaken for another field.
        return " ".join(f"{name}={getattr(value, 'label', value)!r}" for name, value in values)


@dataclass(frozen=True, slots=True)
class Group:
    """The cases of one loaded model on one device: the unit of work of a worker."""

    model: ModelKey
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One generation to run: which case, why, and how long.

    `round` numbers the passes over the group; `repeat` the samples of this case and phase;
    `attempt` counts earlier records of this same sample: a failure that is retried, a warm-up in a
    new process.
    """

    case: Case
    phase: Phase
    round: int
    repeat: int
    new_tokens: int
    attempt: int = 0

    @property
    def sample_id(self) -> str:
        """The id, unique in a run and stable across repetitions: case id, phase letter, repeat.

        A second attempt ends in `-2`.
        """
        letter = {"warmup": "w", "measure": "s", "memory": "m"}[self.phase]
        again = f"-{self.attempt + 1}" if self.attempt else ""
        return f"{self.case.id}-{letter}{self.repeat:03d}{again}"


def group_cases(cases: Iterable[Case]) -> tuple[Group, ...]:
    """Split cases into groups, in the order in which their models first appear."""
    return tuple(
        Group(members[0].model_key, members) for members in split(cases, lambda c: c.model_key)
    )


def split(items: Iterable[T], key: Callable[[T], Hashable]) -> tuple[tuple[T, ...], ...]:
    """Split items into those with equal keys, in the order in which the keys first appear."""
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return tuple(map(tuple, found.values()))


def _is_at_least(value: Any, other: Any, is_size: bool) -> bool:
    if value == other or not is_size:
        return bool(value == other)
    if isinstance(value, Prompt):
        value, other = value.tokens, other.tokens
    return value is not None and other is not None and bool(value >= other)


def _digest(text: str, digits: int) -> str:
    # surrogatepass: a prompt from a terminal may hold undecodable bytes.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
