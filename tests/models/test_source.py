"""Where a model comes from: built-in, package, folder, GGUF file, hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kvbench.catalogue import CATALOGUE
from kvbench.errors import UserError
from kvbench.models.source import check_weights, locate


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty working folder, so that no folder of the project is mistaken for a model."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        locate(name, "pretrained")
    return str(caught.value)


def packaged(monkeypatch: pytest.MonkeyPatch, package: str, file: str) -> None:
    """Make the entry of SmolLM2 name this package."""
    entry = dataclasses.replace(CATALOGUE["smollm2-135m"], package=(package, file))
    monkeypatch.setitem(CATALOGUE, "smollm2-135m", entry)


def test_a_builtin_with_random_weights_has_no_place() -> None:
    source = locate("smollm2-135m", "random")
    assert source.place is None
    assert source.gguf_file is None
    assert source.builtin is CATALOGUE["smollm2-135m"]


def test_a_builtin_without_a_package_comes_from_the_hub() -> None:
    source = locate("gpt2", "pretrained")
    assert source.place == "openai-community/gpt2"
    assert source.gguf_file is None
    assert source.builtin is CATALOGUE["gpt2"]


def test_packaged_weights_are_found_without_importing_the_package(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = elsewhere / "kvbench_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('this package must not be imported')")
    (folder / "tiny.gguf").touch()
    monkeypatch.syspath_prepend(elsewhere)
    packaged(monkeypatch, "kvbench_test_weights", "tiny.gguf")
    source = locate("smollm2-135m", "pretrained")
    assert (source.place, source.gguf_file) == (str(folder), "tiny.gguf")
    assert source.builtin is CATALOGUE["smollm2-135m"]


def test_a_package_without_the_file_falls_back_to_the_hub(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "kvbench_test_empty").mkdir()
    (elsewhere / "kvbench_test_empty" / "__init__.py").touch()
    monkeypatch.syspath_prepend(elsewhere)
    packaged(monkeypatch, "kvbench_test_empty", "tiny.gguf")
    source = locate("smollm2-135m", "pretrained")
    assert (source.place, source.gguf_file) == (CATALOGUE["smollm2-135m"].hub_id, None)


def test_a_package_that_is_not_installed_falls_back_to_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packaged(monkeypatch, "kvbench_test_no_such_package", "tiny.gguf")
    assert locate("smollm2-135m", "pretrained").place == CATALOGUE["smollm2-135m"].hub_id


@pytest.mark.weights
def test_the_installed_smollm2_package_holds_its_weights() -> None:
    source = locate("smollm2-135m", "pretrained")
    assert source.place is not None
    assert source.gguf_file is not None
    assert (Path(source.place) / source.gguf_file).is_file()


def test_a_builtin_name_wins_over_a_folder_of_that_name(elsewhere: Path) -> None:
    (elsewhere / "gpt2").mkdir()
    (elsewhere / "gpt2" / "config.json").touch()
    assert locate("gpt2", "random").builtin is CATALOGUE["gpt2"]
    assert locate("./gpt2", "random").place == "gpt2"


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_folder_with_a_config_is_its_own_place(tmp_path: Path, weights: str) -> None:
    (tmp_path / "config.json").touch()
    source = locate(str(tmp_path), weights)
    assert (source.place, source.gguf_file, source.builtin) == (str(tmp_path), None, None)


def test_a_config_beside_a_gguf_file_wins(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.gguf").touch()
    assert locate(str(tmp_path), "pretrained").gguf_file is None


def test_a_folder_with_one_gguf_file_loads_that(tmp_path: Path) -> None:
    (tmp_path / "model.Q4_1.gguf").touch()
    source = locate(str(tmp_path), "pretrained")
    assert (source.place, source.gguf_file) == (str(tmp_path), "model.Q4_1.gguf")


def test_of_several_gguf_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    text = refusal(str(tmp_path))
    assert "2 GGUF files" in text
    assert str(tmp_path / "a.gguf") in text
    source = locate(str(tmp_path / "b.gguf"), "pretrained")
    assert (source.place, source.gguf_file) == (str(tmp_path), "b.gguf")


def test_a_folder_without_a_model_is_refused(tmp_path: Path, snapshot: object) -> None:
    (tmp_path / "notes.txt").touch()
    assert refusal(str(tmp_path)) == snapshot


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, snapshot: object) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    assert refusal(str(file)) == snapshot


def test_the_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").touch()
    assert locate("~/mine", "random").place == str(tmp_path / "mine")


@pytest.mark.parametrize("name", ["/no/such/folder", "~/nothing", "a/b/c", "nothing/"])
def test_a_missing_folder_is_named(elsewhere: Path, name: str, snapshot: object) -> None:
    assert refusal(name) == snapshot


@pytest.mark.parametrize("name", ["./nothing", "../nothing"])
def test_a_missing_folder_with_dots_is_no_hub_id(
    elsewhere: Path, name: str, snapshot: object
) -> None:
    assert refusal(name) == snapshot


def test_a_typo_of_a_builtin_name_gets_a_hint(elsewhere: Path, snapshot: object) -> None:
    text = refusal("gtp2")
    assert text == snapshot
    assert refusal("smolm2-135m") == snapshot


@pytest.mark.parametrize("name", ["someone/some-model", "distilgpt3000"])
def test_what_can_be_a_hub_id_is_taken_as_one(elsewhere: Path, name: str) -> None:
    source = locate(name, "pretrained")
    assert (source.name, source.place, source.builtin) == (name, name, None)


def test_a_hub_id_may_name_a_revision(elsewhere: Path) -> None:
    source = locate("someone/some-model@refs/pr/3", "pretrained")
    assert (source.place, source.revision) == ("someone/some-model", "refs/pr/3")
    assert source.hub_name == source.name == "someone/some-model@refs/pr/3"
    assert locate("someone/some-model", "pretrained").revision is None


def test_a_builtin_name_with_a_revision_is_its_hub_id(elsewhere: Path) -> None:
    source = locate("gpt2@v1", "pretrained")
    assert (source.place, source.revision) == (CATALOGUE["gpt2"].hub_id, "v1")
    assert source.builtin is None


@pytest.mark.parametrize("revision", ["", "a b", "-x", "../x", "v1@v2"])
def test_what_can_be_no_revision_is_refused(
    elsewhere: Path, revision: str, snapshot: object
) -> None:
    text = refusal(f"someone/some-model@{revision}")
    assert text == snapshot


def test_a_folder_may_have_an_at_sign_in_its_name(elsewhere: Path) -> None:
    (elsewhere / "mine@home").mkdir()
    (elsewhere / "mine@home" / "config.json").touch()
    source = locate("mine@home", "random")
    assert (source.place, source.revision) == ("mine@home", None)


def test_an_adapter_is_not_a_model(tmp_path: Path, snapshot: object) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    assert refusal(str(tmp_path)) == snapshot


@pytest.mark.parametrize("text", ["{not json", "[]", "{}", '{"base_model_name_or_path": 5}'])
def test_an_adapter_that_names_no_base_is_one_too(
    tmp_path: Path, text: str, snapshot: object
) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    assert refusal(str(tmp_path)) == snapshot


def test_an_adapter_beside_a_config_has_no_weights_of_a_model(
    tmp_path: Path, snapshot: object
) -> None:
    for name in ("config.json", "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    source = locate(str(tmp_path), "pretrained")
    with pytest.raises(UserError) as caught:
        check_weights(source)
    assert str(caught.value) == snapshot
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    check_weights(source)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize("file", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_pointer_of_git_lfs_is_no_weights(tmp_path: Path, file: str, snapshot: object) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / file).write_text(POINTER)
    with pytest.raises(UserError) as caught:
        check_weights(locate(str(tmp_path), "pretrained"))
    assert str(caught.value) == snapshot


def test_a_pointer_in_place_of_a_gguf_file_is_seen(tmp_path: Path, snapshot: object) -> None:
    (tmp_path / "m.gguf").write_text(POINTER)
    with pytest.raises(UserError) as caught:
        check_weights(locate(str(tmp_path), "pretrained"))
    assert str(caught.value) == snapshot


def test_a_pointer_beside_the_file_that_is_loaded_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "other.gguf").write_text(POINTER)
    check_weights(locate(str(tmp_path / "m.gguf"), "pretrained"))
