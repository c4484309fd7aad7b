"""rows: each kind of file, with the place of every row, and what is wrong with a bad one."""

# ruff: noqa: E501  (whole messages stand beside their causes)

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from humanward.errors import InputError
from humanward.rows import Row, read_rows, stem


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '\ufeff{"x": 1}\n\n{"x": 2}', [(1, {"x": 1}), (3, {"x": 2})]),
        ("a.json", '[{"x": 1},\n {"x": 2}]', [(1, {"x": 1}), (2, {"x": 2})]),
        ("a.json", '{"x": "\u2028"}\n{"x": 2}\n', [(1, {"x": "\u2028"}), (2, {"x": 2})]),
        (
            "a.csv",
            'p,q\r\n"two\nlines",b\r\nc,"d, ""e"""\r\n',
            [(2, {"p": "two\nlines", "q": "b"}), (4, {"p": "c", "q": 'd, "e"'})],
        ),
        ("a.tsv", "p\tq\nb,c\td\n", [(2, {"p": "b,c", "q": "d"})]),
        ("a.txt", "one \r\n\r\n two\n", [(1, "one "), (3, " two")]),
    ],
)
def test_rows_with_their_lines(name: str, text: str, expected: list, tmp_path: Path) -> None:
    plain = write(tmp_path / name, text)
    packed = write(tmp_path / f"{name}.gz", gzip.compress(text.encode()))
    for path in (plain, packed):
        rows = list(read_rows(path))
        assert [(row.number, row.checked()) for row in rows] == expected
        assert rows[0].where.startswith(str(path))
        assert rows[0].where.endswith(f" {expected[0][0]}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": \n', "a.jsonl line 2: not JSON (Expecting value at column 7); write one object a line"),
        ("a.jsonl", '{}\n{"x": NaN}\n', "a.jsonl line 2: NaN is not a JSON number; leave the field out or write null"),
        ("a.jsonl", '{}\n"\\ud800"\n', "a.jsonl line 2: holds half of a surrogate pair, which is no text in UTF-8; write the character itself"),
        ("a.jsonl", "{}\n" + "[" * 100_000 + "\n", "a.jsonl line 2: nested too deeply to read; write one flat object a line"),
        ("a.csv", "p,q\na,b,c\n", "a.csv line 2: 3 cells, but the header has 2; quote cells that hold a comma"),
        ("a.csv", 'p\n"a"b\n', "a.csv line 2: not CSV (',' expected after '\"'); quote cells that hold quotes or line breaks"),
    ],
)  # fmt: skip
def test_a_bad_row_says_why_and_the_rest_is_read(name: str, text: str, message: str, tmp_path: Path) -> None:
    tail = "a,b\n" if name == "a.csv" and "q" in text else "last\n" if name == "a.csv" else "{}\n"
    rows = list(read_rows(write(tmp_path / name, text + tail)))
    bad = next(row for row in rows if row.error)
    with pytest.raises(InputError) as caught:
        bad.checked()
    assert str(caught.value) == f"{tmp_path}/{message}"
    assert rows[-1].error == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.parquet",
            "x",
            "unknown kind of file; use one of .jsonl, .ndjson, .json, .csv, .tsv, .txt, each may end in .gz",
        ),
        ("a.jsonl", b'{"x": 1}\n{"x": "\xff"}\n', "not UTF-8 (invalid start byte); save the file as UTF-8"),
        ("a.jsonl.gz", b"plain", "not a whole gzip file (Not a gzipped file (b'pl')); compress it again"),
        ("a.jsonl.gz", gzip.compress(b'{"x": 1}\n' * 9999)[:-20], "not a whole gzip file"),
        ("a.csv", "p,p\na,b\n", "line 1: column 'p' appears twice; give every column its own name"),
    ],
)
def test_a_bad_file_says_why(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl: no such file; check the path$"):
        list(read_rows(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match=r": is a folder, not a file; name a file$"):
        list(read_rows(tmp_path))


def test_stem() -> None:
    assert [stem(Path(name)) for name in ("a/b.jsonl.gz", "b.csv", "b")] == ["b", "b", "b"]


def test_an_empty_row_value_is_returned_as_it_is() -> None:
    assert Row("x line 1", 1).checked() is None
