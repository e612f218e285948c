"""What a dry run can check about models without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvbench.errors import UserError
from kvbench.models.beforehand import check_beforehand
from tests.tiny import GPT2, case, config_folder


def refusal(model: str, **changes: str) -> str:
    with pytest.raises(UserError) as caught:
        check_beforehand([case("gpt2"), case(model, **changes)])
    return str(caught.value)


def test_a_plan_that_may_be_right_passes(tmp_path: Path) -> None:
    folder = config_folder(tmp_path, GPT2)
    check_beforehand([case("gpt2"), case(folder), case("someone/model", weights="pretrained")])


def test_a_model_that_is_not_there_is_seen(snapshot: object) -> None:
    assert refusal("./nothing") == snapshot
    assert refusal("gtp2") == snapshot


def test_a_configuration_that_cannot_be_read_is_seen(tmp_path: Path, snapshot: object) -> None:
    (tmp_path / "config.json").write_text("{not json")
    assert refusal(str(tmp_path)) == snapshot


def test_weights_that_were_not_fetched_are_seen(tmp_path: Path, snapshot: object) -> None:
    name = config_folder(tmp_path, GPT2)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert refusal(name, weights="pretrained") == snapshot
    check_beforehand([case(name)])


def test_a_misspelled_attention_is_seen(snapshot: object) -> None:
    text = refusal("gpt2", attention="spda")
    assert text == snapshot


@pytest.mark.parametrize(
    "attention", ["auto", "eager", "sdpa", "flash_attention_9", "kernels-community/flash-attn"]
)
def test_an_attention_that_may_exist_passes(attention: str) -> None:
    check_beforehand([case("gpt2", attention=attention)])


def test_torch_is_not_imported_for_it() -> None:
    code = "import sys, kvbench.models.beforehand; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
