"""A plan: a YAML file and options, validated, and the ordered tuple of cases it describes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from kvbench.caches import GROUPS, expand, needs_trust, strategy
from kvbench.catalogue import CATALOGUE, DEFAULT_PROMPT
from kvbench.device_kinds import KINDS, first_name, kind_of
from kvbench.errors import UserError, did_you_mean
from kvbench.plan.axes import AXES, Axis, Key
from kvbench.plan.case import Case, Prompt
from kvbench.plan.file import as_list, read_plan_file, read_prompts
from kvbench.plan.grid import points_of
from kvbench.plan.options import DESCRIPTIONS
from kvbench.plan.ranges import MAX_LENGTH, MAX_SIZE, parse_sizes
from kvbench.plan.shipped import find_plan
from kvbench.text import clip
from kvbench.workloads import workload

__all__ = [
    "CONDUCT",
    "MANY_CASES",
    "QUICKSTART",
    "Plan",
    "check_trust",
    "choose_devices",
    "with_legacy",
]


MANY_CASES = 10_000
"""A grid with more cases than this is probably a mistake: it needs `allow_many`."""

QUICKSTART: dict[str, Any] = {"max_new_tokens": [10, 25, 50], "repeats": 6}
"""The embedded default: the plan of `kvbench sweep` without a file."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?", re.ASCII)


def _listed(value: Any) -> Any:
    """Treat a scalar as a list of one, and a string as a comma-separated list."""
    listed: list[Any] = []
    for entry in as_list(value):
        parts = [part.strip() for part in entry.split(",")] if isinstance(entry, str) else [entry]
        listed.extend(parts)
    return listed


def _models(value: Any) -> Any:
    """Split as `_listed` does, but keep a comma that is part of an existing name."""
    listed: list[Any] = []
    for entry in as_list(value):
        listed.extend(_split_models(entry) if isinstance(entry, str) else [entry])
    return listed


_MOST_COMMAS = 8
"""The most commas considered in one name; each costs a disk access."""


def _split_models(entry: str) -> list[str]:
    parts, names = entry.split(","), []
    while parts:
        # Try the longest name first: of `a,b` and `a`, the folder `a,b` is meant if it exists.
        count = next(
            (n for n in range(min(len(parts), _MOST_COMMAS + 1), 1, -1) if _exists(parts[:n])), 1
        )
        names.append(",".join(parts[:count]).strip())
        parts = parts[count:]
    return names


def _exists(parts: Sequence[str]) -> bool:
    try:
        return Path(",".join(parts).strip()).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        # Too long, a null byte, or no home folder: not the name of anything.
        return False


def _caches(value: Any) -> Any:
    """Restore `off` and `on`, which YAML reads as false and true."""
    words = {False: "off", True: "dynamic"}
    return [words[v] if isinstance(v, bool) else _canonical(v) for v in _listed(value)]


def _canonical(name: Any) -> Any:
    """Return a strategy's canonical name: two spellings are one case."""
    # A value that is not text is refused by its type.
    return strategy(name).name if isinstance(name, str) and name not in ("", *GROUPS) else name


def _workloads(value: Any) -> Any:
    """Return the canonical names of workloads."""
    return [workload(v).name if isinstance(v, str) and v else v for v in _listed(value)]


def _number(value: Any) -> Any:
    """Refuse true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    return value


def _sizes(value: Any, info: ValidationInfo) -> Any:
    """Expand sizes and ranges: numbers, strings, or lists of both."""
    sizes: list[Any] = []
    for entry in as_list(value):
        if isinstance(entry, str):
            sizes.extend(parse_sizes(entry, str(info.field_name)))
        elif isinstance(entry, bool) or not isinstance(entry, int):
            raise ValueError(f"{clip(entry)} is not a size; write 10, '10-910+100' or '16-1024*2'")
        else:
            sizes.append(entry)
        if len(sizes) > MAX_LENGTH:
            raise ValueError(f"more than {MAX_LENGTH:,} entries")
    return sizes


def _warmup(value: Any) -> str:
    """Return `auto`, `full` or a number of tokens as text."""
    text = str(value).strip()
    if text in ("auto", "full"):
        return text
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()):
        raise ValueError(f"'{clip(value)}' is not auto, full or a number of tokens")
    if not 1 <= int(text[:20]) <= MAX_SIZE:
        raise ValueError(f"{clip(text)} is not between 1 and {MAX_SIZE:,} tokens")
    return str(int(text))


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


_PLANNED = tuple(axis for axis in AXES.values() if axis.keys)
"""The axes that a plan has a key for."""

_Text = Annotated[str, Field(min_length=1)]
_READ = {
    "models": _models,
    "caches": _caches,
    "workloads": _workloads,
    "texts": as_list,
    "words": _listed,
    "sizes": _sizes,
}
"""How the values of a key are split, by the name in its declaration."""

_Number = BeforeValidator(_number)
_Count = Annotated[int, _Number, Field(ge=1, le=100_000)]
_Seconds = Annotated[float, _Number, Field(ge=0, allow_inf_nan=False)]


def _key(default: Any, name: str, *, legacy: Any = None) -> Any:
    """Return a key of the plan. `legacy` is what it meant in runs that predate the key."""
    extra = None if legacy is None else {"legacy": legacy}
    return Field(default=default, description=DESCRIPTIONS[name], json_schema_extra=extra)


def _axis_key(axis: Axis, key: Key) -> tuple[Any, Any]:
    """Return the type and the field of a key that sets an axis: a list, or an optional value."""
    if axis.single:
        return Literal[axis.choices] | None, _key(None, key.name)
    assert key.reading is not None
    number = Annotated[int, Field(ge=axis.least, le=MAX_SIZE)]
    value: Any = number if key.reading == "sizes" else _Text
    listed = Annotated[tuple[value, ...], BeforeValidator(_READ[key.reading])]
    legacy = [axis.legacy] if axis.is_added else None
    if axis.of_turns:
        # Runs that predate it have no turns: any values mean the same.
        legacy = list(key.default)
    return listed, _key(key.default, key.name, legacy=legacy)


if TYPE_CHECKING:

    class _Axes(BaseModel):
        """The keys that set axes; mypy does not know them, see `Plan.values`."""
else:
    _Axes = create_model(
        "_Axes",
        **{
            key.name: _axis_key(axis, key)
            for axis in AXES.values()
            for key in axis.keys
            if not key.only_spelling
        },
    )

CONDUCT = frozenset({"case_timeout", "keep_going_after_oom", "verify", "quality"})
"""Keys that control execution, not what is measured: a resume may change them."""


class Plan(_Axes):
    """What to measure. Every axis is a list; the grid is their product.

    Build one from keyword arguments, or from YAML and options with `Plan.load`. By default: GPT-2's
    architecture with random weights, cache off and on, as many samples as the stopping rule
    requires. The keys that set axes are declared in plan/axes.py.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    repeats: _Count | None = _key(None, "repeats")
    min_repeats: _Count = _key(6, "min_repeats")
    max_repeats: _Count = _key(30, "max_repeats")
    min_seconds: _Seconds = _key(3.0, "min_seconds")
    max_spread: _Seconds = _key(0.05, "max_spread")
    max_case_seconds: Annotated[_Seconds, Field(gt=0)] = _key(600.0, "max_case_seconds")
    warmup: Annotated[str, BeforeValidator(_warmup)] = _key("auto", "warmup", legacy="16")
    seed: Annotated[int, _Number, Field(ge=0, le=2**63 - 1)] = _key(0, "seed")
    trust_remote_code: bool = _key(False, "trust_remote_code")
    case_timeout: Annotated[_Seconds, Field(gt=0)] | None = _key(None, "case_timeout")
    keep_going_after_oom: bool = _key(False, "keep_going_after_oom")
    verify: bool = _key(True, "verify")
    quality: bool = _key(True, "quality", legacy=False)

    if TYPE_CHECKING:

        def __init__(self, **keys: Any) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _read_use_cache(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "use_cache" not in data:
            return data
        if "cache" in data:
            raise ValueError("use_cache and cache are alternatives: give only one of them")
        flags = [_flag(entry) for entry in _listed(data["use_cache"])]
        rest = {key: value for key, value in data.items() if key != "use_cache"}
        return rest | {"cache": ["dynamic" if flag else "off" for flag in flags]}

    @field_validator("repeats", mode="before")
    @classmethod
    def _read_auto(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @model_validator(mode="after")
    def _check_axes(self) -> Plan:
        for axis in _PLANNED:
            key = axis.keys[0]
            if key.default and not axis.single and not self.values(key.name):
                raise ValueError(f"{key.name}: the list is empty; nothing to measure")
        for axis in _PLANNED:
            _check_words(axis, () if axis.single else self.values(axis.name))
        for text in (*self.values("prompt"), *self.values("prompt_file")):
            if not _is_unicode(text):
                raise ValueError(f"{clip(repr(text))} is not valid UTF-8 text")
        if self.max_repeats < self.min_repeats:
            raise ValueError(
                f"max_repeats ({self.max_repeats}) is below min_repeats ({self.min_repeats})"
            )
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, options: Mapping[str, Any] | None = None) -> Plan:
        """Build a plan from a YAML file, or the embedded default, with options overriding its keys.

        The name of a plan that comes with kvbench also works as the path.

        A relative `prompt_file` in the file is resolved from the file's folder.

        Raises:
            UserError: the file cannot be read, a key or a value is wrong, or it names a
                user-supplied cache and `trust_remote_code` is not among the options.
        """
        options = options or {}
        keys = QUICKSTART if path is None else read_plan_file(find_plan(Path(path)))
        if "cache" not in options and "use_cache" not in options:
            check_trust(str(path), _listed(keys.get("cache", ())), options)
        return cls.merge(keys, options)

    @classmethod
    def merge(cls, keys: Mapping[str, Any], options: Mapping[str, Any]) -> Plan:
        """Build a plan from keys as written in YAML or run.json, with options overriding them.

        Raises:
            UserError: a key or a value is wrong.
        """
        # If an axis has several spellings, the option replaces whichever was used.
        for axis in AXES.values():
            spellings = {key.name for key in axis.keys}
            if spellings & options.keys():
                keys = {key: value for key, value in keys.items() if key not in spellings}
        return cls.parse({**keys, **options})

    @classmethod
    def parse(cls, keys: Mapping[str, Any]) -> Plan:
        """Build a plan from keys as written in YAML.

        Raises:
            UserError: a key or a value is wrong; the message names it and says what is valid.
        """
        try:
            return cls(**keys)
        except ValidationError as error:
            raise _mistake(error) from error

    def values(self, key: str) -> Any:
        """Return the values of a key that sets an axis."""
        return getattr(self, key)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts of the grid, after reading files.

        Raises:
            UserError: a prompt file is missing, unreadable or empty.
        """
        prompts = (
            *(Prompt.of_text(text) for text in self.values("prompt")),
            *(
                Prompt.of_file(path, read_prompts(Path(path)))
                for path in self.values("prompt_file")
            ),
            *(Prompt.of_tokens(tokens) for tokens in self.values("prompt_tokens")),
        )
        return _unique(prompts) or (Prompt.of_text(DEFAULT_PROMPT),)

    def needs_devices(self) -> bool:
        """Whether the plan depends on the present devices: not if it names only the CPU."""
        return not all(kind_of(name).is_host for name in self.values("device"))

    def cases(
        self, present: Sequence[str] = ("cpu",), *, allow_many: bool = False
    ) -> tuple[Case, ...]:
        """Return the cases of the grid in order: models and devices outermost, the cache innermost.

        Args:
            present: the devices of this machine, such as `("cpu", "cuda", "cuda:1")`.
            allow_many: accept a grid of more than `MANY_CASES` cases.

        Raises:
            UserError: a device is not present, or the grid is too large.
        """
        # Keep the members of a comparison group next to each other.
        order = sorted(
            (axis for axis in _PLANNED if not axis.single), key=lambda axis: not axis.in_group
        )
        axes = {axis.name: self._grid(axis, present) for axis in order}
        points = points_of(axes, None if allow_many else MANY_CASES)
        return tuple(Case(**point, weights=self._weights(point["model"])) for point in points)

    def _grid(self, axis: Axis, present: Sequence[str]) -> tuple[Any, ...]:
        """Return the values of an axis, each once."""
        if axis.name == "prompt":
            return self.prompts
        values = self.values(axis.name)
        if axis.name == "device":
            return choose_devices(values, present)
        return _unique(expand(values) if axis.name == "cache" else values)

    def _weights(self, model: str) -> Any:
        named = self.values("weights")
        return named or ("random" if model in CATALOGUE else "pretrained")


def check_trust(where: str, caches: Iterable[Any], options: Mapping[str, Any]) -> None:
    """Refuse user-supplied caches that a file names, unless the options trust them.

    Names typed on the command line are the user's own choice; a file may come from somebody else.

    Raises:
        UserError: the file names one; the message gives its name and the option.
    """
    foreign = needs_trust(cache for cache in caches if isinstance(cache, str))
    if foreign and not options.get("trust_remote_code"):
        raise UserError(
            f"{where} names the cache '{clip(foreign[0])}', which would run its code: pass "
            "--trust-remote-code if you trust it.",
            kind="remote_code_not_allowed",
        )


def with_legacy(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan of a run with values for the keys that it predates.

    They get their legacy meaning, which may differ from today's default.
    """
    extras = {name: field.json_schema_extra for name, field in Plan.model_fields.items()}
    legacy = {name: extra["legacy"] for name, extra in extras.items() if isinstance(extra, dict)}
    return {**legacy, **keys}


def _check_words(axis: Axis, names: Iterable[Any]) -> None:
    """Refuse the first value of an axis that cannot be valid."""
    for name in names:
        if axis.choices and name not in axis.choices:
            raise ValueError(
                f"{axis.name}: '{clip(name)}' is not one of {', '.join(axis.choices)}"
                f"{did_you_mean(name, axis.choices)}"
            )
        if axis.name == "device" and not _DEVICE.fullmatch(name):
            raise ValueError(f"device: '{clip(name)}' is not cpu, cuda, cuda:N or auto")
        # Prompts are validated later.
        if axis.name != "prompt" and isinstance(name, str) and not name.isprintable():
            raise ValueError(f"{clip(name)!r} contains control characters")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _flag(value: Any) -> bool:
    words = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(f"use_cache: {clip(value)!r} is not true or false")
    return words[str(value).lower()]


def choose_devices(wanted: Sequence[str], present: Sequence[str]) -> tuple[str, ...]:
    """Return the chosen devices, each once; `auto` is every kind that is present.

    Raises:
        UserError: a device is not present.
    """
    names: list[str] = []
    for name in wanted:
        # cuda:0 and cuda are one device and must be one case.
        name = first_name(name)
        if name == "auto":
            names.extend(kind for kind in KINDS if kind in present)
        elif name in present:
            names.append(name)
        else:
            raise UserError(
                f"device: '{clip(name)}' is not present on this machine; "
                f"present: {', '.join(present)}.",
                kind="device_absent",
                device=name,
                present=tuple(present),
            )
    return _unique(tuple(names))


def _mistake(error: ValidationError) -> UserError:
    """Return the first error of a validation."""
    first = error.errors(include_url=False)[0]
    # Name a list by its key: the position in it is meaningless after ranges are expanded.
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(name, DESCRIPTIONS)
        return UserError(f"'{clip(name)}' is not a plan key{hint}", kind="unknown_key", key=name)
    if first["type"] == "value_error":
        # An error raised by our own checks is already a whole sentence.
        said = str(first["ctx"]["error"])
        sentence = f"{name}: {said}" if name else said
    else:
        value = first.get("input")
        shown = f"'{clip(value)}'" if isinstance(value, str) else clip(value)
        said = first["msg"]
        sentence = f"{name}: {shown} is not valid: {said[:1].lower()}{said[1:]}"
    return UserError(sentence, kind="bad_value", key=name)
