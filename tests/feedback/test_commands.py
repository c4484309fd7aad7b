"""commands: the four commands on a run directory, as a person or a script calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from humanward.errors import InputError
from humanward.feedback.commands import app
from humanward.records import Preference, Prompt, Ranking, read_jsonl

ROWS = [{"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]


def run(*arguments: object, typed: str | None = None) -> str:
    """Standard output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_import_writes_the_four_files(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = json.loads(run("import", "--format", "trl", pairs, "--run", folder, "--json"))
    assert found["rows"] == found["good"] == found["rankings"] == found["new_rankings"] == found["pairs"] == 40
    assert (found["bad"], found["completions"], found["ties"], found["identical"]) == (0, 80, 0, 0)
    assert sum(found["splits"].values()) == 40
    assert sorted(os.listdir(folder)) == ["completions.jsonl", "preferences.jsonl", "prompts.jsonl", "rankings.jsonl"]
    splits = {p.id: p.split for p in read_jsonl(folder / "prompts.jsonl", Prompt)}
    assert all(p.split == splits[p.prompt_id] for p in read_jsonl(folder / "preferences.jsonl", Preference))


def test_importing_again_adds_nothing_and_more_moves_nothing(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("import", pairs, "--run", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert json.loads(run("import", pairs, "--run", folder, "--json"))["new_rankings"] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"prompt": "Another?", "chosen": "a", "rejected": "b"}) + "\n")
    found = json.loads(run("import", more, "--run", folder, "--split", "train=1", "--json"))
    assert (found["new_rankings"], found["rankings"]) == (1, 41)
    assert (folder / "prompts.jsonl").read_bytes().startswith(before["prompts.jsonl"])


def test_import_keeps_the_good_rows_on_request(pairs: Path, tmp_path: Path) -> None:
    with pairs.open("a") as file:
        file.write('{"prompt": "x", "chosen": 3, "rejected": "y"}\nnot json\n')
    with pytest.raises(InputError, match=r"pairs\.jsonl line 41, field 'chosen': '3' is not text; write a text$"):
        run("import", "--format", "trl", pairs, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(app, ["import", str(pairs), "--run", str(tmp_path / "run"), "--skip-bad", "--json"])
    found = json.loads(result.stdout)
    assert (found["rows"], found["good"], found["bad"]) == (42, 40, 2)
    assert "line 41, field 'chosen': '3' is not text" in result.stderr
    assert "line 42: not JSON (Expecting value at column 1); write one object a line" in result.stderr


def test_export_and_import_again(pairs: Path, tmp_path: Path) -> None:
    run("import", pairs, "--run", tmp_path / "run")
    for name, rows in (("humanward", 160), ("csv", 80), ("trl", 40), ("hh-rlhf", 40), ("trl-plain", 40)):
        path = tmp_path / f"out.{'csv' if name == 'csv' else 'jsonl'}"
        told = json.loads(run("export", "--run", tmp_path / "run", "--format", name, "--output", path, "--json"))
        assert told == {"output": str(path), "rows": rows, "ties_left_out": 0, "unordered_left_out": 0}
        found = json.loads(run("import", path, "--run", tmp_path / f"again-{name}", "--json"))
        assert (found["prompts"], found["completions"], found["pairs"]) == (40, 80, 40)
    for name in ("prompts", "completions", "rankings", "preferences"):
        again = (tmp_path / "again-humanward" / f"{name}.jsonl").read_bytes()
        assert again == (tmp_path / "run" / f"{name}.jsonl").read_bytes()


def test_stats(tmp_path: Path) -> None:
    path = tmp_path / "ranks.csv"
    people = [("ada", "1,2"), ("bea", "1,2"), ("cid [x]", "2,1")]
    rows = [
        f"Q{i},{answer},{rank},{name}"
        for i in range(5)
        for name, ranks in people
        for answer, rank in zip("ab", ranks.split(","), strict=True)
    ]
    path.write_text("prompt,completion,rank,annotator\n" + "\n".join(rows) + "\n")
    run("import", path, "--run", tmp_path / "run")
    found = json.loads(run("stats", "--run", tmp_path / "run", "--json", "--resamples", "100"))
    # Of the three pairs of annotators one agrees on every prompt.
    assert found["agreement"] == {"value": pytest.approx(1 / 3), "ci95": [pytest.approx(1 / 3)] * 2, "n": 5}
    assert [a["agreement"] for a in found["annotators"]] == [0.5, 0.5, 0.0]
    assert found["seconds"] is None
    shown = run("stats", "--run", tmp_path / "run", "--resamples", "100")
    for part in ("Krippendorff's alpha (ordinal)", "Kendall's W", "0.333", "cid [x]", "15"):
        assert part in shown


def test_rank_and_resume(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("import", pairs, "--run", folder)
    rank = ("rank", "--run", folder, "--annotator", "ada", "--json")
    found = json.loads(run(*rank, "--limit", "2", typed="a b\nb=a\n"))
    assert found == {"run": str(folder), "ranked": 2, "remaining": 38, "pairs": 41, "ties": 1}
    assert len(read_jsonl(folder / "rankings.jsonl", Ranking)) == 42
    assert json.loads(run(*rank, typed="q\n"))["ranked"] == 2


def test_bad_input_is_one_line(pairs: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("stats", "--run", tmp_path / "none"), r"none/rankings\.jsonl: no such file; check the path$"),
        (("export", "--run", tmp_path / "none", "--output", "x"), r"none: no such run directory; check --run$"),
        (("rank", "--run", tmp_path / "none"), r"none: no such run directory; check --run$"),
        (("import", pairs, "--run", tmp_path / "r", "--format", "x"), r"^format 'x': unknown; use one of humanward, "),
        (("import", pairs, "--run", tmp_path / "r", "--split", "a"), r"^split 'a': 'a' is not NAME=SHARE"),
        (("import", tmp_path / "gone.csv", "--run", tmp_path / "r"), r"gone\.csv: no such file; check the path$"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            run(*arguments)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_every_command_has_help_with_an_example() -> None:
    for name in ("import", "export", "stats", "rank"):
        shown = " ".join(run(name, "--help").split())
        assert f"Example: humanward feedback {name} " in shown
