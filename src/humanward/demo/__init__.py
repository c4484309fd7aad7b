"""The embedded default: a small chat model, two toxicity detectors and prompts, named ``demo/...`` everywhere.

docs/demo.md says how they were made and how good they are; NOTICE names the texts that they learned from.
"""

from __future__ import annotations

from pathlib import Path

from humanward.errors import InputError

NAMES = ("demo/policy", "demo/detector", "demo/judge", "demo/prompts")


def path(name: str) -> Path:
    """The folder of one of ``NAMES``; InputError for any other name."""
    if name not in NAMES:
        raise InputError(f"{name!r} is no part of the embedded default; choose one of {', '.join(NAMES)}")
    return Path(__file__).parent / name.removeprefix("demo/")
