"""Read a configuration: all spellings of a field, the family's defaults, and no guesses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from kvbench.errors import UserError
from kvbench.text import clip

__all__ = ["SPELLINGS", "Defaults", "Fields"]

Defaults = Mapping[str, Any]
"""The defaults of missing fields, by the first of their spellings."""

SPELLINGS: dict[str, tuple[str, ...]] = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "d_kv"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"),
    "max_position_embeddings": (
        "max_position_embeddings",
        "n_positions",
        "max_decoder_position_embeddings",
        "max_target_positions",
        "max_seq_len",
    ),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
}
"""Alternative names that models use for one field; any other field has one name."""


class Fields:
    """The fields of one configuration.

    A missing field has the family's default, which is Transformers' own: the model loaded from this
    configuration has it too. `null` is not missing.

    Attributes:
        model_type: Transformers' name of the family, for messages.
    """

    def __init__(self, model_type: str, config: Mapping[str, Any], defaults: Defaults) -> None:
        self.model_type = model_type
        self._config = config
        self._defaults = defaults

    def get(self, name: str) -> Any:
        """Return the value under any spelling, else the default, else None.

        Raises:
            UserError: two spellings have different values.
        """
        spelled = [key for key in SPELLINGS.get(name, (name,)) if key in self._config]
        if not spelled:
            return self._defaults.get(name)
        first, value = spelled[0], self._config[spelled[0]]
        for other in spelled[1:]:
            if self._config[other] != value:
                self.refuse(other, f"{clip(self._config[other])}, but {first} is {clip(value)}")
        return value

    def integer(self, name: str, least: int = 1) -> int:
        """Return a whole number of at least `least`.

        Raises:
            UserError: it is missing, not a whole number or too small.
        """
        value = self.get(name)
        if value is None:
            names = ", ".join(SPELLINGS.get(name, (name,)))
            raise UserError(
                f"{self.model_type}: the configuration has none of {names}.",
                kind="bad_configuration",
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(name, f"{clip(value)}, which is not a whole number of at least {least}")
        return value

    def optional(self, name: str, least: int = 1) -> int | None:
        """Return the same, or None if the field is null or, without a default, missing."""
        return None if self.get(name) is None else self.integer(name, least)

    def flag(self, name: str) -> bool:
        """Return true or false; false if missing or null.

        Raises:
            UserError: it is something else.
        """
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, f"{clip(value)}, which is neither true nor false")
        return bool(value)

    def names(self, name: str, count: int) -> list[str] | None:
        """Return a list of `count` words, or None if it is null or missing.

        Raises:
            UserError: it is something else.
        """
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            self.refuse(name, f"{clip(value)}, which is not a list of names")
        if len(value) != count:
            self.refuse(name, f"a list of {len(value)} for {count} layers")
        return list(value)

    def integers(self, name: str) -> list[int] | None:
        """Return a list of whole numbers, or None if it is null or missing.

        Raises:
            UserError: it is something else.
        """
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(type(one) is int for one in value):
            self.refuse(name, f"{clip(value)}, which is not a list of whole numbers")
        return list(value)

    def share(self, name: str, by: str) -> int:
        """Return one field divided by another.

        Raises:
            UserError: there is a remainder.
        """
        whole, parts = self.integer(name), self.integer(by)
        if whole % parts:
            self.refuse(by, f"{parts}, which does not divide {name} ({whole})")
        return whole // parts

    def must_be_unset(self, *names: str) -> None:
        """Refuse fields that change the model in ways that theory does not know.

        Raises:
            UserError: one of them is set.
        """
        for name in names:
            if self.get(name):
                self.refuse(name, f"{clip(self.get(name))}, which the cost model does not support")

    def refuse(self, name: str, what: str) -> NoReturn:
        """Raise the error that names the family and the field."""
        raise UserError(
            f"{self.model_type}: {name} is {what}.", kind="bad_configuration", name=name
        )
