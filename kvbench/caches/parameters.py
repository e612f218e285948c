"""Parameters of an entry of a registry: declared once, read from `name:key=value`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kvbench.errors import UserError, check_choice, did_you_mean
from kvbench.text import clip

__all__ = ["Parameter", "Settings", "read_settings", "split_parameters"]

Settings = Mapping[str, int | str]
"""The values of an entry's parameters."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A configurable parameter of an entry, as in `quantized:backend=fp8`.

    Attributes:
        name: as written before the equals sign.
        description: one line for help and docs.
        default: null if it must be given.
        choices: the allowed words; if empty, a whole number of at least 1. If the default is a
            number, the choices are numbers.
        only_with: another parameter, and the values of it for which this one applies; null if it
            always applies.
        is_text: whether any text is valid.
    """

    name: str
    description: str
    default: int | str | None = None
    choices: tuple[str, ...] = ()
    only_with: tuple[str, tuple[str, ...]] | None = None
    is_text: bool = False

    def applies(self, settings: Settings) -> bool:
        """Return whether this parameter applies, given the values of the others."""
        return self.only_with is None or settings.get(self.only_with[0]) in self.only_with[1]

    def read(self, text: str, kind: str = "cache") -> int | str:
        """Return the value of a text.

        Raises:
            UserError: the text is not a valid value; the message names valid ones.
        """
        if self.is_text:
            if not text:
                raise UserError(
                    f"{kind}: {self.name}= is empty.", kind="bad_parameter", name=self.name
                )
            return text
        if self.choices:
            if text not in self.choices:
                raise UserError(
                    f"{kind}: {self.name}={text} is not one of {', '.join(self.choices)}.",
                    kind="bad_parameter",
                    name=self.name,
                )
            return int(text) if isinstance(self.default, int) else text
        if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:11]) < 2**31:
            raise UserError(
                f"{kind}: {self.name}={text} is not a whole number of at least 1.",
                kind="bad_parameter",
                name=self.name,
            )
        return int(text)


def split_parameters(kind: str, name: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the entry and the parameters of a name such as `quantized:backend=fp8`.

    Args:
        kind: what the entries are, and the option that names one.
        name: as written.
        known: the names of all entries.

    Raises:
        UserError: there is no such entry, or a parameter is not written as `key=value`.
    """
    head, *parts = name.split(":")
    check_choice(kind, _NOUNS.get(kind, kind), head, known)
    texts: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key in texts:
            raise UserError(
                f"{kind}: '{clip(name)}': write parameters once each, as name=value.",
                kind="bad_parameter",
                name=key,
            )
        texts[key] = value
    return head, texts


_NOUNS = {"cache": "strategy"}


def read_settings(
    kind: str, name: str, parameters: Sequence[Parameter], texts: Mapping[str, str]
) -> tuple[str, dict[str, int | str]]:
    """Return the canonical name of an entry with these parameters, and their values.

    The name lists the parameters in order and omits defaults.

    Raises:
        UserError: a parameter is unknown or missing, or a value is invalid.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for one in texts:
        if one not in known:
            hint = did_you_mean(one, known)
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(
                f"{kind}: {name} has no parameter '{one}'; {have}{hint}",
                kind="unknown_parameter",
                name=one,
            )
    settings: dict[str, int | str] = {}
    shown = []
    # Check these after the parameters that they depend on.
    for parameter in sorted(parameters, key=lambda one: one.only_with is not None):
        if not parameter.applies(settings):
            _refuse_with(kind, name, parameter, texts)
            continue
        value = parameter.default
        if parameter.name in texts:
            value = parameter.read(texts[parameter.name], kind)
        if value is None:
            choices = "|".join(parameter.choices) or "N"
            raise UserError(
                f"{kind}: write {name}:{parameter.name}={choices}.",
                kind="parameter_missing",
                name=parameter.name,
            )
        settings[parameter.name] = value
        if value != parameter.default:
            shown.append(f"{parameter.name}={value}")
    return ":".join([name, *sorted(shown)]), settings


def _refuse_with(kind: str, name: str, parameter: Parameter, texts: Mapping[str, str]) -> None:
    """Reject a parameter that was given but does not apply."""
    if parameter.name not in texts or parameter.only_with is None:
        return
    other, values = parameter.only_with
    how = (
        f"only valid with {other}={'|'.join(values)}" if any(values) else f"not valid with {other}"
    )
    raise UserError(f"{kind}: {name}: {parameter.name} is {how}.", kind="parameter_does_not_apply")
