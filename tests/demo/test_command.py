"""``humanward demo build``: its help, and what it does with a folder that lacks a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from humanward.demo.cli import app
from humanward.errors import InputError


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(app, ["build", "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert "humanward demo build --data data --out build/demo" in result.output


def test_a_missing_data_set_reaches_the_command_line_as_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["build", "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--part", "policy"]
    )
    assert isinstance(result.exception, InputError)
    assert "\n" not in str(result.exception)
    assert "comments.csv.gz: the recipe needs this file" in str(result.exception)


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part='x' is no part"):
        CliRunner().invoke(
            app, ["build", "--data", str(tmp_path), "--out", str(tmp_path), "--part", "x"], catch_exceptions=False
        )
