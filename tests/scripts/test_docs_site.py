"""The documentation site: its links, and what Python-Markdown wants of a page."""

from pathlib import Path

import pytest

from scripts.docs_site import OUTSIDE, ROOT, indent_lists, stage


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name in ("docs/index.md", "docs/howto/one.md", *OUTSIDE, "kvbench/api.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("# Page\n")
    return root


def test_no_page_of_the_repository_has_a_broken_link(tmp_path: Path) -> None:
    assert stage(ROOT, tmp_path / "staged") == []


def test_links_lead_to_the_pages_of_the_site(repository: Path, tmp_path: Path) -> None:
    (repository / "docs/howto/one.md").write_text(
        "[a](../../README.md#x) [b](../index.md) [c](../../kvbench/api.py) [d](https://e.org)\n"
        "```\n[a](../../README.md)\n```\n"
    )
    (repository / "README.md").write_text("[how](docs/howto/one.md)")
    staged = tmp_path / "staged"
    assert stage(repository, staged, "https://host.org/files/") == []
    assert (staged / "howto/one.md").read_text() == (
        "[a](../readme.md#x) [b](../index.md) "
        "[c](https://host.org/files/kvbench/api.py) [d](https://e.org)\n"
        "```\n[a](../../README.md)\n```\n"
    )
    assert (staged / "readme.md").read_text() == "[how](howto/one.md)"
    stage(repository, staged)
    assert "(../index.md) c [d]" in (staged / "howto/one.md").read_text()


def test_a_link_to_no_file_is_reported_with_its_page(repository: Path, tmp_path: Path) -> None:
    (repository / "docs/index.md").write_text("[a](missing.md) [b](../kvbench/gone.py)")
    assert stage(repository, tmp_path / "staged") == [
        "docs/index.md: missing.md",
        "docs/index.md: ../kvbench/gone.py",
    ]


def test_list_items_keep_their_code_and_lists() -> None:
    page = "1. One\n\n   ```py\n     x\n   ```\n   - inner\n\nText\n  not a list"
    assert indent_lists(page) == (
        "1. One\n\n    ```py\n      x\n    ```\n    - inner\n\nText\n  not a list"
    )
