"""The text for measuring quality: one that ships with every Python, or the user's own."""

from __future__ import annotations

import hashlib
import pydoc_data.topics
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kvbench.input_file import read_text

__all__ = ["Text", "default_text", "text_file"]

_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Text:
    """A text and its display name."""

    name: str
    content: str

    @property
    def sha256(self) -> str:
        """The first sixteen digits of the hash of its UTF-8; another text gives other results."""
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@cache
def default_text() -> Text:
    """Return Python's language reference, some 465,000 characters, which is part of Python.

    Its wording, and so its hash, changes between versions of Python.
    """
    topics = pydoc_data.topics.topics
    return Text("pydoc_data.topics", "\n".join(topics[name] for name in sorted(topics)))


def text_file(path: Path) -> Text:
    """Return the text of a file from the user.

    Raises:
        UserError: it does not exist, is not UTF-8, or is larger than 64 MiB.
    """
    return Text(path.name, read_text(path, _MAX_BYTES, "text"))
