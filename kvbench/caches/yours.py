"""Parse the names of user-supplied caches on the command line. Nothing is imported here.

- `package.module:factory` is a function or class of an installed package.
- `./file.py:factory` is one in a file; its path begins with `./`, `../` or `/`.
- `name` alone is an entry point of an installed package, in the group `kvbench.caches`.

Parameters follow as `:name=value`, as for any strategy. The forms are unambiguous: kvbench's own
strategies take precedence; a path contains a slash, a module does not; and the part after the first
colon contains an equals sign if and only if it is a parameter.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

from kvbench.caches.entry import CacheStrategy
from kvbench.caches.kept import KeptLayer, Settings
from kvbench.caches.needs import CACHE_OBJECTS
from kvbench.errors import UserError
from kvbench.text import clip

__all__ = ["FACTORY", "SOURCE", "digest_of", "installed_names", "needs_trust", "yours"]

GROUP = "kvbench.caches"
SOURCE, FACTORY = ":source", ":factory"
"""Settings with the module or file and the factory; no parameter name contains a colon."""

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_MODULE = re.compile(rf"(?P<source>{_DOTTED}):(?P<factory>{_DOTTED})(?P<rest>(:[^:=]+=[^:]*)*)")
_FILE = re.compile(
    r"(?P<source>(\.{0,2}/)[^:#]*\.py)(#(?P<digest>[0-9a-f]{8}))?"
    rf":(?P<factory>{_DOTTED})(?P<rest>(:[^:=]+=[^:]*)*)"
)
_PLAIN = re.compile(r"(?P<name>[^:=/]+)(?P<rest>(:[^:=]+=[^:]*)*)")
_MOST_BYTES = 1 << 20


def yours(name: str) -> CacheStrategy | None:
    """Return the strategy for a user-supplied name; None if it has none of these forms.

    A file's name includes a digest of its contents, so an edited file is a different strategy.

    Raises:
        UserError: the file cannot be read, or a parameter is wrong.
    """
    if _is_path(name):
        return _of_file(name)
    if found := _MODULE.fullmatch(name):
        source, factory = found["source"], found["factory"]
        return _entry(f"{source}:{factory}", source, factory, found["rest"])
    found = _PLAIN.fullmatch(name)
    point = _points().get(found["name"]) if found else None
    if found is None or point is None:
        return None
    lossy = "lossy" in point.extras
    return _entry(point.name, point.module, point.attr, found["rest"], lossy=lossy)


def needs_trust(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that run code from a file or module chosen by a plan or a run.

    Entry points are not included: installing the package registered them.
    """
    return tuple(name for name in names if _is_path(name) or _MODULE.fullmatch(name))


def installed_names() -> tuple[str, ...]:
    """Return the names that installed packages register."""
    return tuple(sorted(_points()))


def digest_of(code: bytes) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(code).hexdigest()[:8]


def _is_path(name: str) -> bool:
    return name.startswith(("./", "../", "/"))


def _of_file(name: str) -> CacheStrategy:
    found = _FILE.fullmatch(name)
    if found is None:
        raise UserError(
            f"cache: '{clip(name)}' names a file; write ./file.py:factory, followed by parameters "
            "as :name=value. The path cannot contain a colon, a comma or a #.",
            kind="not_a_cache_file",
        )
    source, factory = found["source"], found["factory"]
    digest = found["digest"] or digest_of(read_file(source))
    source = f"{source}#{digest}"
    return _entry(f"{source}:{factory}", source, factory, found["rest"])


def read_file(path: str) -> bytes:
    """Return the contents of a Python file.

    Raises:
        UserError: it is not a regular file, is too large, or cannot be read.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise UserError(f"cache: {clip(path)} is not a file.", kind="no_file")
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(
                f"cache: {clip(path)} is larger than {_MOST_BYTES:,} bytes.", kind="too_large"
            )
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cache: {clip(path)}: {error.strerror}.", kind="unreadable") from error


def _entry(
    name: str, source: str, factory: str, rest: str, *, lossy: bool = False
) -> CacheStrategy:
    settings: dict[str, int | str] = {}
    for part in rest.split(":")[1:]:
        key, _, value = part.partition("=")
        if key in settings or not key.isidentifier():
            raise UserError(
                f"cache: '{clip(name)}': write parameters once each, as name=value.",
                kind="bad_parameters",
            )
        settings[key] = value
    shown = [f"{key}={value}" for key, value in sorted(settings.items())]
    said = settings.pop("lossy", None)
    if said not in (None, "yes", "no"):
        raise UserError(f"cache: lossy={clip(said)} is not yes or no.", kind="not_a_choice")
    return CacheStrategy(
        name=":".join([name, *shown]),
        description=f"{factory} of {source}.",
        body="kvbench.measure.caches.yours:make",
        lossy=lossy if said is None else said == "yes",
        attends="elsewhere",
        needs=(CACHE_OBJECTS,),
        kept=_unknown,
        settings={**settings, SOURCE: source, FACTORY: factory},
    )


def _unknown(_layer: KeptLayer, _positions: int, _: Settings) -> int:
    raise UserError(
        "cache: no cost model for custom caches, so their size is unknown.",
        kind="no_cost_model",
    )


def _points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
