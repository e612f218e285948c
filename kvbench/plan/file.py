"""Read the files of a plan: YAML without its traps, and prompts, one per line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kvbench.errors import UserError
from kvbench.input_file import read_text
from kvbench.text import clip

__all__ = ["as_list", "read_conversations", "read_plan_file", "read_prompts"]

_MAX_YAML_BYTES = 1 << 20
_MAX_PROMPT_FILE_BYTES = 16 << 20


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors and aliases: with nested aliases a short file can fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not supported; write the values out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key '{clip(key.value)}'",
                    problem_mark=node.start_mark,
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# What PyYAML lets through from odd scalars and tags, besides its own errors.
_YAML_ERRORS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def as_list(value: Any) -> Sequence[Any]:
    """Return a list unchanged, and anything else, including a text, as a list of one."""
    return value if isinstance(value, (list, tuple)) else [value]


def read_plan_file(path: Path) -> dict[str, Any]:
    """Return the keys of a plan in YAML; a relative `prompt_file` starts at the plan's folder.

    Raises:
        UserError: the file cannot be read, or is not a mapping.
    """
    text = read_text(path, _MAX_YAML_BYTES, "plan")
    try:
        keys: Any = yaml.load(text, Loader=_PlainLoader)
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or clip(error) or type(error).__name__
        raise UserError(
            f"{path}{where}: not valid YAML for a plan: {problem}.", kind="not_a_plan"
        ) from error
    if keys is None:
        return {}
    if not isinstance(keys, Mapping) or not all(isinstance(key, str) for key in keys):
        raise UserError(
            f"{path}: a plan must map keys to values, such as 'model: gpt2'.",
            kind="not_a_plan",
        )
    if "prompt_file" not in keys:
        return dict(keys)
    files = as_list(keys["prompt_file"])
    beside = [str(path.parent / file) if isinstance(file, str) else file for file in files]
    return {**keys, "prompt_file": beside}


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file, one per line, without blank lines.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    # Only line ends end a prompt: splitlines would also split at form feeds and the like.
    lines = read_text(path, _MAX_PROMPT_FILE_BYTES, "prompt file").split("\n")
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise UserError(f"prompt_file: {path} contains no text.", kind="prompt_empty")
    return texts


_ROLES = ("system", "user", "assistant")
_MESSAGES = 'use [{"role": "user", "content": "..."}, ...]'


def read_conversations(path: Path) -> tuple[tuple[Mapping[str, str], ...], ...]:
    """Return the conversations of a JSON Lines file, each as messages with a role and a content.

    A line is a list of messages, or an object that has it in `messages`.

    Raises:
        UserError: the file cannot be read, a line is not a conversation, or there is none.
    """
    lines = read_text(path, _MAX_PROMPT_FILE_BYTES, "file of conversations").split("\n")
    found = tuple(
        _conversation(line, f"{path} line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not found:
        raise UserError(f"workload: {path} contains no conversation.", kind="prompt_empty")
    return found


def _conversation(line: str, where: str) -> tuple[Mapping[str, str], ...]:
    try:
        read: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON.", kind="bad_conversation") from error
    messages = read.get("messages") if isinstance(read, dict) else read
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise UserError(
            f"{where}: not a conversation; {_MESSAGES}, with the roles {', '.join(_ROLES)}.",
            kind="bad_conversation",
        )
    if not any(message["role"] == "user" for message in messages):
        raise UserError(f"{where}: no message with the role user.", kind="bad_conversation")
    return tuple({name: message[name] for name in ("role", "content")} for message in messages)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in _ROLES
        and isinstance(message.get("content"), str)
    )
