"""A comparison's processes: their seconds and memory are their own, and however they end it is told."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from humanward.stages import compare_processes as processes
from humanward.stages.compare_child import Task


@dataclass(frozen=True)
class Script(Task):
    """A child that runs a script in place of stages."""

    script: str = ""

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script, self.facts]


def script(folder: Path, text: str) -> processes.Child:
    return processes.start(Script(str(folder), str(folder / "facts.json"), script=text), folder / "log", {"MARK": "7"})


def test_one_that_finished(tmp_path: Path) -> None:
    text = (
        "import json, os, sys\nprint(os.environ['MARK'], file=sys.stderr)\n"
        "open(sys.argv[1], 'w').write(json.dumps({'threads': 3, 'peak_gigabytes': 1.5}))"
    )
    ended = processes.wait(script(tmp_path, text))
    assert (ended.code, ended.error, ended.facts, ended.peak_gigabytes) == (0, None, {"threads": 3}, 1.5)
    assert 0 < ended.seconds < 60
    assert (tmp_path / "log").read_text() == "7\n"


def test_its_memory_is_its_own(tmp_path: Path) -> None:
    """Neither what the parent holds while it starts the child, nor nothing."""
    block = b"x" * 700_000_000
    text = (
        "import json, sys\nfrom humanward.stages.compare_child import peak_gigabytes\nblock = b'x' * 200_000_000\n"
        "open(sys.argv[1], 'w').write(json.dumps({'peak_gigabytes': peak_gigabytes()}))"
    )
    ended = processes.wait(script(tmp_path, text))
    assert ended.peak_gigabytes is not None
    assert 0.2 < ended.peak_gigabytes < 0.5
    assert len(block) == 700_000_000


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("import os; os.kill(os.getpid(), 9)", -9, "ended by signal 9 (SIGKILL), as happens when memory runs out"),
        ("import sys; sys.exit(5)", 5, "its process was ended by code 5"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, "signal 15 (SIGTERM)"),
        (
            'import sys; open(sys.argv[1], \'w\').write(\'{"error": "OSError: x", "input": false}\'); sys.exit(1)',
            1,
            "OSError: x",
        ),
    ],
)
def test_one_that_failed(text: str, code: int, error: str, tmp_path: Path) -> None:
    ended = processes.wait(script(tmp_path, text))
    assert ended.code == code
    assert ended.error is not None
    assert error in ended.error
    assert not ended.wrong_input


def test_wrong_input_is_told_apart(tmp_path: Path) -> None:
    facts = json.dumps({"error": "x: unknown; use y", "input": True})
    ended = processes.wait(script(tmp_path, f"import sys; open(sys.argv[1], 'w').write({facts!r}); sys.exit(1)"))
    assert (ended.error, ended.wrong_input) == ("x: unknown; use y", True)


def test_an_interruption_that_met_no_handler_is_a_stop(tmp_path: Path) -> None:
    ended = processes.wait(script(tmp_path, "raise KeyboardInterrupt"))
    assert (ended.code, ended.error) == (130, None)


def test_children_stop_when_their_input_ends(tmp_path: Path) -> None:
    child = script(tmp_path, "import sys; sys.stdin.read(); sys.exit(130)")
    processes.stop([child])
    ended = processes.look(child)
    assert ended is not None
    assert (ended.code, ended.error) == (130, None)


def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    child = script(tmp_path, "import time; time.sleep(300)")
    began = time.monotonic()
    processes.stop([child])
    assert time.monotonic() - began < 30
    ended = processes.look(child)
    assert ended is not None
    assert ended.code == -9
