"""kvbench called in the process of the tests, as from a shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kvbench.cli import main


@dataclass(frozen=True)
class Called:
    """The result of a command: its exit code and output."""

    code: object
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Return the user error that is the only line on standard error."""
        assert self.code == 2, self
        (line,) = self.err.splitlines()
        assert line.startswith("kvbench: ") and line.endswith((".", "?"))
        return line


Call = Callable[..., Called]


def caller(capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the program with arguments."""

    def run(*arguments: str) -> Called:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Called(ended.value.code or 0, *capsys.readouterr())

    return run
