"""Turn prompts into token ids, padded to one width, with the attention mask."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer

from kvbench.catalogue import DEFAULT_PROMPT
from kvbench.errors import UserError
from kvbench.models.config import loading, source_options
from kvbench.models.load import LoadedModel
from kvbench.models.positions import PositionLimit
from kvbench.models.source import ModelSource, refuse_pointers
from kvbench.plan.case import Prompt
from kvbench.text import clip

__all__ = ["Encoder", "Inputs", "check_prompt"]

_TOKENIZER_FILES = (
    "*tokenizer*",
    "*vocab*",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "bpe.codes",
    "dict.txt",
    "merges.txt",
    "tokenization*",
)
"""Files of the tokenizers that Transformers knows: a folder without any of them has none."""


@dataclass(frozen=True)
class Inputs:
    """The input of `generate`: ids and mask, both `[batch, prompt tokens]`, int64."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @property
    def tokens(self) -> int:
        """The length of the prompt, padding included."""
        return self.input_ids.shape[1]


def check_prompt(
    source: ModelSource, prompt: Prompt, limit: PositionLimit, trust_remote_code: bool = False
) -> None:
    """Refuse a prompt that cannot be fed to a model, before anything is measured.

    Raises:
        UserError: the prompt is a text and the model has no tokenizer, or it yields no tokens, or
            more tokens than the model has positions.
    """
    lengths = [prompt.tokens or 0]
    for text in prompt.texts:
        if source.place is not None:
            lengths.append(len(_tokenize(source, text, trust_remote_code)))
        elif source.builtin and text not in (DEFAULT_PROMPT, *source.builtin.prompt_ids):
            raise UserError(
                f"prompt: {source.name} with random weights has no tokenizer: use --prompt-tokens "
                "N, or --weights pretrained.",
                kind="no_tokenizer",
            )
    if limit.prompt is not None and max(lengths) > limit.prompt:
        raise UserError(
            f"prompt: '{clip(prompt.label)}' has {max(lengths)} tokens but {source.name} takes at "
            f"most {limit.prompt}.",
            kind="too_many_positions",
        )


class Encoder:
    """Encode prompts for one loaded model."""

    def __init__(self, loaded: LoadedModel, seed: int, trust_remote_code: bool = False) -> None:
        self._loaded = loaded
        self._seed = seed
        self._trust_remote_code = trust_remote_code

    def encode(self, prompt: Prompt, batch_size: int) -> Inputs:
        """Return the prompt's texts cycled over the batch, or its fixed ids in each row.

        Raises:
            UserError: a text has no tokens, or its tokenizer cannot be loaded.
        """
        if prompt.tokens is not None:
            rows = [self._fixed_ids(prompt.tokens)]
        else:
            rows = [self._encode_text(text) for text in prompt.texts]
        return self._pad([rows[index % len(rows)] for index in range(batch_size)])

    def tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before a text, and those of the text.

        Raises:
            UserError: the model has no tokenizer, or it cannot be loaded.
        """
        tokenizer = self._tokenizer
        own: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        # Some tokenizers also add a token at the end.
        marked: list[int] = tokenizer("a")["input_ids"]
        plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        front = next((n for n in range(len(marked)) if marked[n : n + len(plain)] == plain), 0)
        return marked[:front], own

    @property
    def has_template(self) -> bool:
        """Whether the model comes with a chat template."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def apply_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return messages as a text that ends where the next reply begins.

        Raises:
            UserError: the template refuses the messages.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            # A template is a program of the model's authors: it raises whatever they like.
            raise UserError(
                f"workload: the chat template of {self._loaded.source.name} rejects this "
                f"conversation: {error}.",
                kind="bad_template",
            ) from error
        return text

    @property
    def _tokenizer(self) -> Any:
        source = self._loaded.source
        if source.place is None:
            raise UserError(
                f"text: {source.name} has no tokenizer to read a text with.", kind="no_tokenizer"
            )
        return _tokenizer(source, self._trust_remote_code)

    def decode(self, ids: Sequence[int]) -> tuple[str, ...] | None:
        """Return the text of each id; None if the model comes without a vocabulary."""
        source = self._loaded.source
        if source.place is None:
            return None
        try:
            tokenizer = _tokenizer(source, self._trust_remote_code)
        except UserError:
            return None
        texts = tuple(tokenizer.decode([one]) for one in ids)
        # From a configuration alone Transformers makes a tokenizer without any words.
        return texts if any(texts) else None

    def _encode_text(self, text: str) -> list[int]:
        source = self._loaded.source
        if source.place is None:
            # check_prompt accepted it: either the ids are known, or it is the default prompt, and
            # then any ids of the length that GPT-2 gives it will do.
            known = source.builtin.prompt_ids if source.builtin else {}
            return list(known.get(text) or self._fixed_ids(6))
        return _tokenize(source, text, self._trust_remote_code)

    def _fixed_ids(self, tokens: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed)
        vocabulary = self._loaded.config.get_text_config(decoder=True).vocab_size
        return torch.randint(vocabulary, (tokens,), generator=generator).tolist()

    def _pad(self, rows: list[list[int]]) -> Inputs:
        width = max(len(row) for row in rows)
        # The mask hides the padding, so any id works; padding must not require a pad token.
        gaps = [[0] * (width - len(row)) for row in rows]
        if self._loaded.is_encoder_decoder:
            ids = [row + gap for row, gap in zip(rows, gaps, strict=True)]
            mask = [[1] * len(row) + gap for row, gap in zip(rows, gaps, strict=True)]
        else:
            # A decoder continues from the last position, so pad on the left.
            ids = [gap + row for row, gap in zip(rows, gaps, strict=True)]
            mask = [gap + [1] * len(row) for row, gap in zip(rows, gaps, strict=True)]
        device = self._loaded.device
        return Inputs(torch.tensor(ids, device=device), torch.tensor(mask, device=device))


def _tokenize(source: ModelSource, text: str, trust_remote_code: bool) -> list[int]:
    ids: list[int] = _tokenizer(source, trust_remote_code)(text)["input_ids"]
    if not ids:
        raise UserError(
            f"prompt: the tokenizer of {source.name} turns {clip(text)!r} into no tokens; its "
            "vocabulary may be missing: use --prompt-tokens N.",
            kind="prompt_empty",
        )
    return ids


@functools.lru_cache(maxsize=8)
def _tokenizer(source: ModelSource, trust_remote_code: bool) -> Any:
    """Return the tokenizer, loaded once for checking and measuring: a GGUF file takes seconds."""
    refuse_pointers(source, *_TOKENIZER_FILES)
    _refuse_without_tokenizer(source)
    with loading(source, tokenizer=True):
        return AutoTokenizer.from_pretrained(
            source.place, trust_remote_code=trust_remote_code, **source_options(source)
        )


def _refuse_without_tokenizer(source: ModelSource) -> None:
    """Refuse a folder without a tokenizer, where Transformers would invent an empty one."""
    folder = source.folder
    if folder is None or source.gguf_file is not None:
        return
    if not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        raise UserError(
            f"prompt: {source.name} has no tokenizer: use --prompt-tokens N, or add the tokenizer "
            "files to the folder.",
            kind="no_tokenizer",
        )
