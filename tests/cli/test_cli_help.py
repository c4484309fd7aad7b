"""Every command has help with an example that exists, and the commands of the README exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cli.running import humanward

from humanward.cli import app

ROOT = Path(__file__).parents[2]
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, command) of every command that does something, depth first."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        if inner := getattr(command, "commands", None):
            waiting += [((*path, name), child) for name, child in inner.items()]
        else:
            yield path, command


COMMANDS = dict(sorted(commands()))


def options(command: Any) -> dict[str, Any]:
    """The command's options by each of their names."""
    named = {name: p for p in command.params if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)}
    return {**named, "--help": None, "-h": None}


def check_line(line: str) -> None:
    """Raise AssertionError unless ``humanward ...`` names a command, its options, and as many arguments as it takes."""
    words = shlex.split(line)
    assert Path(words.pop(0)).name == "humanward", line
    if words in (["--help"], ["--version"]):
        return
    path: tuple[str, ...] = ()
    while words and path not in COMMANDS:
        path = (*path, words.pop(0))
    assert path in COMMANDS, f"{line!r}: no command {' '.join(path)}"
    command = COMMANDS[path]
    known, given, arguments = options(command), set(), 0
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            arguments += 1
            continue
        name, _, value = word.partition("=")
        assert name in known, f"{line!r}: {' '.join(path)} has no option {name}"
        given.add(name)
        if known[name] is not None and not known[name].is_flag and not value:
            assert words, f"{line!r}: {name} needs a value"
            words.pop(0)
    if given & {"--help", "-h"}:
        return
    wanted = [p for p in command.params if p.param_type_name == "argument"]
    assert arguments >= sum(p.required for p in wanted), f"{line!r}: an argument is missing"
    assert arguments <= len(wanted) or any(p.nargs == -1 for p in wanted), f"{line!r}: too many arguments"
    missing = [p.opts[0] for p in command.params if p.param_type_name == "option" and p.required]
    assert set(missing) <= given, f"{line!r}: {missing} needed"


def console_lines(text: str) -> list[str]:
    """What follows a prompt sign in the ```console blocks; a line that ends in a backslash goes on below."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        joined = re.sub(r"\\\n\s*", " ", block)
        found += [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]
    return found


def documents() -> list[Path]:
    return [ROOT / "README.md", *ROOT.glob("CONTRIBUTING.md"), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_what_it_does_and_an_example(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = humanward(*path, "--help")
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert f"Usage: humanward {' '.join(path)}" in text
    example = re.search(r"Example: (humanward .*?)(?: Options:| Arguments:|$)", text)
    assert example, text
    check_line(example[1])
    assert example[1].startswith(f"humanward {' '.join(path)}")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    unexplained = [p.name for p in COMMANDS[path].params if p.param_type_name == "option" and not p.help]
    assert unexplained == []


@pytest.mark.parametrize("path", [p for p in COMMANDS if p[0] != "chat"], ids=" ".join)
def test_every_command_speaks_json(path: tuple[str, ...]) -> None:
    assert "--json" in options(COMMANDS[path])


def test_the_contract_s_commands_exist() -> None:
    names = {" ".join(path) for path in COMMANDS}
    wanted = {"quickstart", "run", "sample", "align", "chat", "evaluate", "report"}
    wanted |= {
        "feedback import",
        "feedback export",
        "feedback stats",
        "reward train",
        "reward evaluate",
        "reward export",
        "reward score",
    }
    assert wanted <= names


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.name)
def test_documented_commands_exist(path: Path) -> None:
    for line in console_lines(path.read_text(encoding="utf-8")):
        for part in re.split(r" && |; | \| ", line):
            words = shlex.split(part)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if Path(words[0]).name == "humanward":
                check_line(shlex.join(words))
            elif words[0] == "make":
                targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
                assert set(targets) <= MAKE_TARGETS, f"{path.name}: {line}"
            for word in words:
                if word.startswith("examples/"):
                    assert (ROOT / word).exists(), f"{path.name}: {line}"


def test_the_readme_has_the_two_commands() -> None:
    lines = console_lines((ROOT / "README.md").read_text(encoding="utf-8"))
    assert "make quickstart" in lines
    assert "make test" in lines


@pytest.mark.parametrize(
    "line",
    [
        "humanward fly --run x",
        "humanward align --runs x",
        "humanward align",
        "humanward run",
        "humanward run a.toml b.toml",
        "humanward report --run",
    ],
)
def test_a_line_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check_line(line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument"),
        (["align"], "Missing option '--run'"),
        (["align", "--runs", "x"], "No such option: --runs"),
        (["quickstart", "--seed", "-1"], "--seed"),
        (["feedback", "stats", "--run", "x", "--resamples", "many"], "--resamples"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], words: str) -> None:
    line = humanward(*arguments).refusal()
    assert words in line
    assert line.endswith(" --help")


def test_version() -> None:
    outcome = humanward("--version")
    assert (outcome.code, outcome.out.split()[0]) == (0, "humanward")


@pytest.mark.parametrize("arguments", [[], ["reward"], ["feedback"]])
def test_a_group_alone_shows_its_help(arguments: list[str]) -> None:
    outcome = humanward(*arguments)
    assert outcome.code == 2
    assert "Usage: humanward" in outcome.out + outcome.err
