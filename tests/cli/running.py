"""Runs the command line inside the test's process, so that torch is loaded once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from humanward.cli import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as one JSON value."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refusal(self, *, after_work: bool = False) -> str:
        """The one line of a refused command: exit code 2, nothing on standard output.

        ``after_work``: what stages said before it may stand above.
        """
        lines = self.err.strip().splitlines()
        assert self.code == 2, (self.code, self.err)
        assert self.out == ""
        assert len([line for line in lines if line.startswith("humanward: ")]) == 1, lines
        assert after_work or len(lines) == 1, lines
        assert lines[-1].startswith("humanward: "), lines
        assert "Traceback" not in self.err
        return lines[-1]


def humanward(*arguments: object, typed: str = "") -> Outcome:
    """``humanward ARGUMENTS`` with ``typed`` on standard input."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["humanward", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO(typed)),
        mock.patch.dict(os.environ),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return Outcome(code, out.getvalue(), err.getvalue())


def leftovers(folder: Path) -> list[str]:
    """Temporary files and JSON-lines files cut short, anywhere below ``folder``."""
    found = [str(path) for path in folder.rglob("*") if ".tmp" in path.name]
    for path in folder.rglob("*.jsonl"):
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            found.append(str(path))
        for line in text.splitlines():
            json.loads(line)
    return found
