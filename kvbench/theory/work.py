"""What is generated, as theory counts it."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Work"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is generated: `batch` sequences of `prompt_tokens` and `new_tokens`, in a dtype."""

    batch: int = 1
    prompt_tokens: int = 6
    new_tokens: int = 1000
    dtype: str = "float32"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The batch, the prompt tokens and the new tokens."""
        return self.batch, self.prompt_tokens, self.new_tokens

    def with_batch(self, batch: int) -> Work:
        """Return the same work with another batch."""
        return replace(self, batch=batch)

    def with_context(self, positions: int, *, encoder: bool = False) -> Work:
        """Return the same work with this many positions in the cache at its end.

        The prompt changes, and the new tokens only where there are too few positions for them. A
        decoder with an encoder does not keep its prompt: there the new tokens change.
        """
        if encoder:
            return replace(self, new_tokens=positions)
        prompt = max(positions - self.new_tokens + 1, 1)
        return replace(self, prompt_tokens=prompt, new_tokens=positions - prompt + 1)
