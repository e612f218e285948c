"""Turn the messages of a conversation into the token ids that each turn adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvbench.errors import UserError
from kvbench.models.prompts import Encoder

__all__ = ["message_ids"]

_REPLY = "kvbench-reply-7f3a91"
"""Stands for a reply while a template is applied; no template and no message contains it."""


def message_ids(encoder: Encoder, conversation: str) -> tuple[list[int], ...]:
    """Return the ids that each turn adds before its reply.

    They contain what the model's chat template puts around messages, if it has one; otherwise the
    texts are separated by line ends. Replies are the model's own: those of the file are left out.
    A template that rewrites earlier messages is applied as if it did not: a history only grows.

    Args:
        encoder: of the model.
        conversation: its messages, as JSON.

    Raises:
        UserError: the model has no tokenizer, or its template refuses the messages.
    """
    texts = _texts(encoder, json.loads(conversation))
    ids = []
    for number, text in enumerate(texts):
        front, own = encoder.tokens(text)
        # A template writes the first token itself.
        ids.append(own if number or own[: len(front)] == front else [*front, *own])
    return tuple(ids)


def _texts(encoder: Encoder, messages: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the text that each turn adds."""
    turns: list[list[Mapping[str, str]]] = [[]]
    for message in messages:
        if message["role"] == "assistant":
            continue
        turns[-1].append(message)
        if message["role"] == "user":
            turns.append([])
    asked = [turn for turn in turns if any(message["role"] == "user" for message in turn)]
    if not encoder.has_template:
        plain = ["\n".join(message["content"] for message in turn) + "\n" for turn in asked]
        return [text if number == 0 else f"\n{text}" for number, text in enumerate(plain)]
    so_far: list[Mapping[str, Any]] = []
    found = []
    for turn in asked:
        so_far += turn
        text = encoder.apply_template(so_far)
        _, marker, after = text.rpartition(_REPLY)
        if so_far != turn and not marker:
            raise UserError(
                "workload: the chat template of this model drops earlier replies, so the cache of "
                "a conversation cannot be kept.",
                kind="bad_template",
            )
        found.append(after if marker else text)
        so_far.append({"role": "assistant", "content": _REPLY})
    return found
