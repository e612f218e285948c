"""No code outside devices/ compares device names: it asks the entry of the kind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kvbench
from kvbench.device_kinds import KINDS

PACKAGE = Path(kvbench.__file__).parent
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "devices" not in path.relative_to(PACKAGE).parts and path.name != "device_kinds.py"
]
STRING_METHODS = {"startswith", "endswith", "removeprefix", "partition", "find", "index"}


def names_a_kind(node: ast.AST) -> bool:
    """Return whether a string in an expression is the name of a device."""
    return any(
        isinstance(child, ast.Constant)
        and isinstance(child.value, str)
        and child.value.partition(":")[0] in KINDS
        for child in ast.walk(node)
    )


def asks(tree: ast.AST) -> list[int]:
    """Return the lines that compare with a device name, or ask torch for one kind."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            wrong = names_a_kind(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            wrong = node.func.attr in STRING_METHODS and any(map(names_a_kind, node.args))
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            # torch.version.cuda is a version.
            wrong = (
                node.attr in ("is_cuda", "is_cpu")
                or (node.attr == "type" and owner.endswith("device"))
                or (owner == "torch" and node.attr in KINDS)
            )
        else:
            wrong = False
        if wrong:
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_code_asks_for_a_device_by_its_name(path: Path) -> None:
    assert asks(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "device.type",
        "model.device.type == kind",
        "if name == 'cuda': pass",
        "name != 'cpu'",
        "name in ('cpu', 'cuda')",
        "set(names) != {'cpu'}",
        "name.startswith('cuda')",
        "name == 'cuda:0'",
        "tensor.is_cuda",
        "torch.cuda.empty_cache()",
        "match name:\n    case 'cpu':\n        pass",
    ],
)
def test_the_search_finds_each_way_to_ask(code: str) -> None:
    assert asks(ast.parse(code)) != []


@pytest.mark.parametrize(
    "code", ["kind_of(name).is_host", "torch.version.cuda", "cases(('cpu',))", "name == 'hpu'"]
)
def test_the_search_leaves_other_code_alone(code: str) -> None:
    assert asks(ast.parse(code)) == []
