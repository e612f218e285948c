"""Tests of kvbench/models/conversations.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.models.conversations import message_ids
from kvbench.models.prompts import Encoder
from tests.tiny import LLAMA, config_folder, unloaded, word_tokenizer

MARKED = (
    "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}"
    "{% if add_generation_prompt %}w3{% endif %}"
)
LAST = "w1 {{ messages[-1]['content'] }}"
REFUSES = "{{ raise_exception('no') }}"
TALK = json.dumps(
    [
        {"role": "system", "content": "w5"},
        {"role": "user", "content": "w6 w7"},
        {"role": "assistant", "content": "w400"},
        {"role": "user", "content": "w8"},
    ]
)


def encoder(folder: Path, template: str | None) -> Encoder:
    model = config_folder(folder, LLAMA)
    word_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if template is not None:
        settings["chat_template"] = template
    path.write_text(json.dumps(settings), encoding="utf-8")
    return Encoder(unloaded(model, "pretrained"), 0)


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (None, ([5, 6, 7], [8])),
        # After the reply comes what ends it, and the new message.
        (MARKED, ([1, 5, 2, 1, 6, 7, 2, 3], [2, 1, 8, 2, 3])),
    ],
    ids=["plain", "template"],
)
def test_a_turn_adds_what_comes_after_the_reply(
    tmp_path: Path, template: str | None, turns: tuple[list[int], ...]
) -> None:
    assert message_ids(encoder(tmp_path, template), TALK) == turns


@pytest.mark.parametrize("template", [LAST, REFUSES], ids=["drops-history", "refuses"])
def test_a_template_that_cannot_be_continued_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(UserError) as caught:
        message_ids(encoder(tmp_path, template), TALK)
    assert caught.value.kind == "bad_template"
