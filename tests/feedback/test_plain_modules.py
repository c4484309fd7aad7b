"""The plain modules start fast and install anywhere: none of them loads torch or transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import humanward.feedback

MODULES = sorted(
    f"humanward.feedback.{path.stem}" for path in Path(humanward.feedback.__file__).parent.glob("[a-z]*.py")
)


def test_no_feedback_module_loads_torch() -> None:
    names = ["humanward.records", "humanward.prompts", "humanward.preferences", "humanward.rows", *MODULES]
    assert "humanward.feedback.commands" in names
    code = (
        f"import sys\nfor name in {names!r}:\n    __import__(name)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'transformers', 'peft'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
