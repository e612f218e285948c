"""Build the documentation site: stage the pages in build/docs, then run `mkdocs build --strict`.

The pages link to each other and to files of the repository, as they have to on a code host. Staging
moves README.md and its like into the site, runs the notebooks, and rewrites the links. A link to
any other file of the repository leads to `--repository URL`, and is plain text without one. A link
to a file that does not exist is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, STAGED = ROOT / "docs", ROOT / "build" / "docs"
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/README.md": "results.md",
}
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
ITEM = re.compile(r"(?:[-*]|\d+\.) +")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repository", help="Address of the files of the repository.")
    parser.add_argument("--stage-only", action="store_true", help="Do not run mkdocs.")
    chosen = parser.parse_args(arguments)
    missing = stage(ROOT, STAGED, chosen.repository)
    for notebook in [] if missing else NOTEBOOKS:
        run_notebook(notebook, ROOT, STAGED, chosen.repository)
    if missing:
        print("Links to files that do not exist:", *missing, sep="\n  ", file=sys.stderr)
        return 1
    if chosen.stage_only:
        return 0
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def stage(root: Path, staged: Path, repository: str | None = None) -> list[str]:
    """Copy the pages of `root` into `staged` with their links rewritten; return broken links."""
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(root / "docs", staged, ignore=shutil.ignore_patterns("*.md", "*.ipynb"))
    pages = pages_of(root)
    missing = []
    for source, target in pages.items():
        text, broken = rewrite_links(page_text(source), source, root, pages, repository)
        missing += [f"{source.relative_to(root)}: {link}" for link in broken]
        path = staged / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(indent_lists(text), encoding="utf-8")
    return missing


def pages_of(root: Path) -> dict[Path, Path]:
    """Return where each page of the repository is in the site; a notebook becomes a page."""
    found = [path for kind in ("*.md", "*.ipynb") for path in (root / "docs").rglob(kind)]
    pages = {path: path.relative_to(root / "docs").with_suffix(".md") for path in found}
    return pages | {root / source: Path(target) for source, target in OUTSIDE.items()}


def page_text(source: Path) -> str:
    """Return a page as Markdown; of a notebook, its text without code and results."""
    text = source.read_text("utf-8")
    if source.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def run_notebook(notebook: Path, root: Path, staged: Path, repository: str | None) -> None:
    """Run a notebook, and put its text, code, and results into the site as a page.

    A cell that fails ends the build.
    """
    pages = pages_of(root)
    target = staged / pages[notebook]
    options = ["--to", "markdown", "--execute", "--ExecutePreprocessor.kernel_name=python3"]
    command = [sys.executable, "-m", "nbconvert", *options, "--output-dir", str(target.parent)]
    subprocess.run([*command, str(notebook)], cwd=root, check=True)
    text = target.read_text("utf-8")
    # Its pictures are in the site only.
    text, _ = rewrite_links(text, notebook, root, pages, repository, made=f"{notebook.stem}_files/")
    target.write_text(text, encoding="utf-8")


def rewrite_links(
    text: str,
    source: Path,
    root: Path,
    pages: Mapping[Path, Path],
    repository: str | None,
    made: str = "//",
) -> tuple[str, list[str]]:
    """Return the text of a page with the links of the site, and its links that lead nowhere.

    Args:
        text: the page.
        source: where it is in the repository.
        root: the repository.
        pages: where each page of the repository is in the site.
        repository: address that links to other files of the repository lead to.
        made: the start of links to files that the build itself made, which stay as they are.
    """
    broken = []

    def rewrite(found: re.Match[str]) -> str:
        file, hash_, anchor = found["target"].partition("#")
        if not file or "://" in file or file.startswith(made):
            return found[0]
        linked = Path(os.path.normpath(source.parent / file))
        inside = pages.get(linked)
        if inside is None and linked.is_file() and linked.is_relative_to(root / "docs"):
            inside = linked.relative_to(root / "docs")  # an image
        if inside is not None:
            path = Path(os.path.relpath(inside, pages[source].parent)).as_posix()
            return f"{found['text']}({path}{hash_}{anchor})"
        if not linked.exists():
            broken.append(found["target"])
        if repository is None:
            return found["text"][1:-1]
        return f"{found['text']}({repository.rstrip('/')}/{linked.relative_to(root).as_posix()})"

    # Every second block is fenced code.
    blocks = re.split(r"(^ *```.*?^ *```$)", text, flags=re.M | re.S)
    text = "".join(block if i % 2 else LINK.sub(rewrite, block) for i, block in enumerate(blocks))
    return text, broken


def indent_lists(text: str) -> str:
    """Indent what belongs to a list item by four columns, which Python-Markdown wants."""
    lines, width = [], 0
    for line in text.split("\n"):
        item = ITEM.match(line)
        if item:
            width = len(item[0])
        elif line and not line.startswith(" "):
            width = 0
        if width and not item and line.startswith(" " * width):
            line = "    " + line[width:]
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
