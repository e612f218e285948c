"""A case: one frozen point of the grid, its key, and the plain data that travels with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Literal

__all__ = [
    "AUTO",
    "Case",
    "Group",
    "ModelKey",
    "Phase",
    "Prompt",
    "Task",
    "group_cases",
]

AUTO = "auto"
"""The attention implementation that Transformers takes for a model by itself."""

Phase = Literal["warmup", "measure", "memory"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is fed to the model before it generates.

    Either `texts` (encoded with the model's tokenizer, cycled over the batch) or `tokens`, a number
    of fixed pseudo-random token ids. `label` identifies the prompt in keys and columns.
    """

    label: str
    texts: tuple[str, ...] = ()
    tokens: int | None = None

    @classmethod
    def of_text(cls, text: str) -> Prompt:
        """One text, repeated over the batch."""
        return cls(label=f"text:{text}", texts=(text,))

    @classmethod
    def of_tokens(cls, tokens: int) -> Prompt:
        """`tokens` fixed token ids, the same in each row of the batch."""
        return cls(label=f"tokens:{tokens}", tokens=tokens)

    @classmethod
    def of_file(cls, path: str, texts: Iterable[str]) -> Prompt:
        """The texts of a file; the label has a hash, so that an edited file is another prompt."""
        texts = tuple(texts)
        digest = _digest("\n".join(texts), 8)
        return cls(label=f"file:{PurePath(path).name}#{digest}", texts=texts)


@dataclass(frozen=True, slots=True)
class ModelKey:
    """What a loaded model is known by: loaded once for all cases that share it."""

    model: str
    weights: str
    device: str
    dtype: str
    attention: str

    @property
    def label(self) -> str:
        """For people: `gpt2 (random, float32, sdpa) on cpu`."""
        return f"{self.model} ({self.weights}, {self.dtype}, {self.attention}) on {self.device}"


@dataclass(frozen=True, slots=True)
class Case:
    """One point of the grid.

    Sizes are in sequences (`batch_size`) and in new tokens per sequence (`max_new_tokens`).
    `cache` is the name of a cache strategy.

    A field that is added later has as its default what cases of before it meant (its legacy
    value). At that value it is left out of the key, so that old ids stay and nothing new is pooled
    with something old.
    """

    model: str
    weights: str
    device: str
    dtype: str
    attention: str
    cache: str
    batch_size: int
    prompt: Prompt
    max_new_tokens: int

    @property
    def model_key(self) -> ModelKey:
        """The loaded model that this case needs."""
        return ModelKey(self.model, self.weights, self.device, self.dtype, self.attention)

    @property
    def key(self) -> str:
        """The canonical text of this case: equal keys mean the same work, on any machine."""
        return self._text({f.name for f in fields(self)})

    @property
    def pair_key(self) -> str:
        """The key without the cache strategy: the arms of one comparison share it."""
        return self._text({f.name for f in fields(self)} - {"cache"})

    @property
    def id(self) -> str:
        """Ten hexadecimal digits of the key's SHA-256."""
        return _digest(self.key, 10)

    @property
    def label(self) -> str:
        """For people, without the model: `dynamic, float32, batch 1, 100 new tokens`."""
        prompt = f", prompt of {self.prompt.tokens}" if self.prompt.tokens else ""
        sizes = f"batch {self.batch_size}{prompt}, {self.max_new_tokens} new tokens"
        return f"{self.cache}, {self.dtype}, {sizes}"

    def needs_at_least(self, other: Case) -> bool:
        """Whether this case surely takes no less memory than another one.

        The same model and strategy; batch, prompt and new tokens all at least as large. Of two
        texts it is not known which is longer, unless they are the same.
        """
        longer_prompt = self.prompt == other.prompt or (
            self.prompt.tokens is not None
            and other.prompt.tokens is not None
            and self.prompt.tokens >= other.prompt.tokens
        )
        return (
            (self.model_key, self.cache) == (other.model_key, other.cache)
            and longer_prompt
            and self.batch_size >= other.batch_size
            and self.max_new_tokens >= other.max_new_tokens
        )

    def _text(self, names: set[str]) -> str:
        values = (
            (f.name, getattr(self, f.name))
            for f in fields(self)
            if f.name in names and getattr(self, f.name) != f.default
        )
        # repr, so that a prompt with spaces or '=' in it cannot look like another field.
        return " ".join(f"{name}={getattr(value, 'label', value)!r}" for name, value in values)


@dataclass(frozen=True, slots=True)
class Group:
    """The cases of one loaded model on one device: what a worker takes."""

    model: ModelKey
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One generation to be done: which case, why, and how long.

    `round` numbers the passes over the group; `repeat` the samples of this case and phase;
    `attempt` how often this very sample was recorded before: a failure that is tried again, a
    warm-up of a new process.
    """

    case: Case
    phase: Phase
    round: int
    repeat: int
    new_tokens: int
    attempt: int = 0

    @property
    def sample_id(self) -> str:
        """Unique in a run and the same in a repetition of it: case id, phase letter, repeat.

        A second attempt has `-2` behind it.
        """
        letter = {"warmup": "w", "measure": "s", "memory": "m"}[self.phase]
        again = f"-{self.attempt + 1}" if self.attempt else ""
        return f"{self.case.id}-{letter}{self.repeat:03d}{again}"


def group_cases(cases: Iterable[Case]) -> tuple[Group, ...]:
    """Split cases into groups, in the order in which their models first appear."""
    by_model: dict[ModelKey, list[Case]] = {}
    for case in cases:
        by_model.setdefault(case.model_key, []).append(case)
    return tuple(Group(model, tuple(members)) for model, members in by_model.items())


def _digest(text: str, digits: int) -> str:
    # surrogatepass: a prompt read from a terminal may hold undecodable bytes.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
