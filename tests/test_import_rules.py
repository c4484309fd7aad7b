"""Who may import whom (ARCHITECTURE.md), read from the source; and what must start without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "humanward"

PLAIN = {
    "errors",
    "records",
    "rows",
    "section",
    "algorithm_config",
    "reward_config",
    "monitor_config",
    "round_config",
    "config",
    "prompts",
    "preferences",
    "labels",
}
PURE_MATHS = {"rl.ops", "rl.kl", "rl.advantages", "rl.losses", "rl.rewards", "rl.lagrangian", "rl.alarms"}

# The longest matching name decides. A part may always import itself.
MAY_SEE: dict[str, set[str]] = {
    "": set(),  # humanward/__init__.py
    **dict.fromkeys(PLAIN, PLAIN),
    "run_dir": PLAIN,
    "progress": set(),
    "distributed": set(),
    "schedules": set(),
    "alarm": set(),
    "demo": PLAIN,
    "feedback": PLAIN | {"run_dir"},
    "models": {"config", "algorithm_config", "demo", "records", "errors", "distributed"},
    "reward": {
        "models",
        "preferences",
        "config",
        "algorithm_config",
        "reward_config",
        "records",
        "errors",
        "distributed",
    },
    **{name: PURE_MATHS | {"distributed", "alarm"} for name in PURE_MATHS},
    "rl": {
        "models",
        "reward",
        "config",
        "algorithm_config",
        "monitor_config",
        "records",
        "errors",
        "distributed",
        "run_dir",
        "schedules",
        "alarm",
    },
    "offline": {"models", "preferences", "config", "algorithm_config", "records", "errors", "schedules", "alarm"},
    "evaluation": PLAIN | {"models", "reward", "run_dir"},
    "serving": PLAIN | {"models", "reward", "run_dir"},
    "stages": PLAIN
    | {
        "run_dir",
        "progress",
        "distributed",
        "alarm",
        "demo",
        "feedback",
        "models",
        "reward",
        "rl",
        "offline",
        "evaluation",
        "serving",
    },
}
TOP = {"cli"}  # sees all; nobody sees it
ONLY_SEEN_BY = {
    "stages": {"cli"},
    "demo.cli": {"cli"},
    "demo.recipe": {"demo.cli"},
    "feedback.commands": {"cli"},
    "feedback.collect": {"cli"},
    "feedback.connectors.commands": {"feedback.commands"},
}
OPTIONAL = {"boto3", "ray", "bitsandbytes"}
STARTS_WITHOUT_TORCH = [*sorted(PLAIN), "run_dir", "progress", "schedules", "demo", "feedback.commands", "cli"]


def files() -> dict[str, Path]:
    """Every module of the package by its dotted name below humanward."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = files()


def imports(source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, names taken from it) for every import anywhere in the source, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write absolute imports"
            yield str(node.module), tuple(alias.name for alias in node.names)


def ours(source: str, modules: set[str]) -> set[str]:
    """The modules of humanward that a source imports, as dotted names below humanward."""
    found: set[str] = set()
    for module, names in imports(source):
        if module.split(".")[0] != "humanward":
            continue
        name = module.removeprefix("humanward").removeprefix(".")
        inside = {f"{name}.{n}".removeprefix(".") for n in names} & modules
        found |= inside or {name}
    return found


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def part_of(module: str) -> str:
    """The longest key of MAY_SEE that the module lies in."""
    return max((part for part in MAY_SEE if within(module, part)), key=len, default="?")


def faults(module: str, seen: set[str]) -> list[str]:
    """What ``module`` imports and may not."""
    found = [f"{module} imports {name}: nothing may import cli" for name in seen if within(name, "cli")]
    if module in TOP:
        return found
    part = part_of(module)
    if part == "?":
        return [*found, f"{module}: is in no part that the rules know; add it to MAY_SEE and to ARCHITECTURE.md"]
    for name in seen - {""}:
        allowed = within(name, part) or any(within(name, other) for other in MAY_SEE[part])
        if not allowed and not within(name, "cli"):
            found.append(f"{module} imports {name}: {part} may see {sorted(MAY_SEE[part])}")
        for hidden, friends in ONLY_SEEN_BY.items():
            if within(name, hidden) and not any(within(module, friend) for friend in {hidden, *friends}):
                found.append(f"{module} imports {name}: only {', '.join(friends)} may")
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_rules(module: str) -> None:
    seen = ours(MODULES[module].read_text(encoding="utf-8"), set(MODULES))
    assert faults(module, seen) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "import humanward.config\nfrom humanward.models import base"),
        ("feedback.store", "def late():\n    from humanward.models.base import SharedBase"),
        ("rl.losses", "from humanward.models.tokens import Tokens"),
        ("evaluation.report", "from humanward.rl.kl import k1"),
        ("models.base", "from humanward.reward import model"),
        ("reward.model", "from humanward import cli"),
        ("cli", "import humanward.cli"),
        ("rl.trainer", "from humanward.stages.context import Run"),
        ("stages.loop", "from humanward.demo.recipe import build"),
        ("elsewhere.new", "from humanward.errors import InputError"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert faults(module, ours(source, set(MODULES))) != []


def test_plain_modules_import_no_torch() -> None:
    for name in PLAIN | {"run_dir", "progress", "schedules"}:
        roots = {module.split(".")[0] for module, _ in imports(MODULES[name].read_text(encoding="utf-8"))}
        assert not roots & {"torch", "transformers", "peft"}, name


def test_optional_libraries_live_in_one_file_each() -> None:
    homes: dict[str, list[str]] = {name: [] for name in OPTIONAL}
    for module, path in MODULES.items():
        roots = {name.split(".")[0] for name, _ in imports(path.read_text(encoding="utf-8"))}
        for name in roots & OPTIONAL:
            homes[name].append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_the_map_names_every_module() -> None:
    text = (ROOT.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = text.split("## The files")[1].split("## Who may")[0]
    unnamed = [
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if path.name != "__init__.py" and "recipe" not in path.parts and path.name not in listed
    ]
    assert unnamed == []


def test_the_map_names_nothing_that_is_gone() -> None:
    text = (ROOT.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = text.split("## The files")[1].split("    examples/")[0]
    present = {path.name for path in MODULES.values()}
    assert sorted(set(re.findall(r"\b\w+\.py\b", listed)) - present) == []
    for name in set(re.findall(r"`((?:src/|tests/|docs/)?[\w/]+\.(?:py|md))`", text)) - {"stages/NAME.py"}:
        assert any((base / name).exists() for base in (ROOT, ROOT.parents[1])), name


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_modules_and_the_command_line_start_without_torch() -> None:
    names = [f"humanward.{name}" for name in STARTS_WITHOUT_TORCH]
    heavy = run_python(
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'matplotlib') if name in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_help_is_shown_without_torch() -> None:
    shown = run_python(
        "import sys\nfrom humanward.cli import main\nsys.argv = ['humanward', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('TORCH' if 'torch' in sys.modules else 'light')"
    )
    assert "quickstart" in shown
    assert shown.strip().endswith("light")
