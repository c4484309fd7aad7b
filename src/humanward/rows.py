"""The rows of a data file, one at a time, each with the place it came from.

Read are JSON lines (``.jsonl``, ``.ndjson``), ``.json`` (a list, or JSON lines under that name), ``.csv``, ``.tsv`` and
``.txt`` (one text a line), each also with ``.gz`` behind it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from humanward.errors import InputError

KINDS = {
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}


@dataclass(frozen=True)
class Row:
    """One row: ``value`` is the JSON value, the CSV row as a dictionary, or the line's text; or else ``error`` is set.

    ``number`` counts lines from 1 (rows, in a ``.json`` list); ``where`` names file and line for messages.
    """

    where: str
    number: int
    value: Any = None
    error: str = ""

    def checked(self) -> Any:
        """The value; a row that could not be parsed raises InputError."""
        if self.error:
            raise InputError(self.error)
        return self.value


def stem(path: Path) -> str:
    """The file's name without its kind: ``prompts`` for ``prompts.jsonl.gz``."""
    return Path(path.name.removesuffix(".gz")).stem


def read_rows(path: Path) -> Iterator[Row]:
    """Every non-empty row. A malformed row comes with its ``error`` set, so that a caller may skip it.

    Raises InputError for a file that is missing, unreadable, of an unknown kind, not UTF-8 or not gzip.
    """
    kind = KINDS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file; name a file")
    if kind is None:
        raise InputError(f"{path}: unknown kind of file; use one of {', '.join(KINDS)}, each may end in .gz")
    last = 0
    try:
        with _open(path) as file:
            for row in _READERS[kind](file, str(path)):
                last = row.number
                yield row
    except UnicodeDecodeError as error:
        raise InputError(f"{path} after line {last}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} after line {last}: not a whole gzip file ({error}); compress it again") from None
    except OSError as error:
        _explain(path, error)


def _open(path: Path) -> IO[str]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _explain(path: Path, error: OSError) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{path}: no such file; check the path") from None
    if isinstance(error, PermissionError):
        raise InputError(f"{path}: not readable by this user; change its permissions") from None
    raise InputError(f"{path}: not readable ({error.strerror or error}); check the file") from None


def _json_lines(file: IO[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield _json_row(line.rstrip("\r\n"), f"{name} line {number}", number)


def _json_row(line: str, where: str, number: int) -> Row:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        reason = f"not JSON ({error.msg} at column {error.colno}); write one object a line"
        return Row(where, number, error=f"{where}: {reason}")
    except InputError as error:
        return Row(where, number, error=f"{where}: {error}")
    except RecursionError:
        return Row(where, number, error=f"{where}: nested too deeply to read; write one flat object a line")
    if "\\u" in line and _has_lone_surrogate(value):
        reason = "holds half of a surrogate pair, which is no text in UTF-8; write the character itself"
        return Row(where, number, error=f"{where}: {reason}")
    return Row(where, number, value)


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"{name} is not a JSON number; leave the field out or write null")


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _json(file: IO[str], name: str) -> Iterator[Row]:
    text = file.read()
    if not text.lstrip().startswith("["):
        yield from _json_lines(io.StringIO(text), name)
        return
    whole = _json_row(text, name, 1)
    if whole.error:
        yield whole
        return
    for number, value in enumerate(whole.value, 1):
        yield Row(f"{name} row {number}", number, value)


def _csv(file: IO[str], name: str, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        where = f"{name} line {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(where, number, error=f"{where}: not CSV ({error}); quote cells that hold quotes or line breaks")
            continue
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header):
                repeated = next(column for column in header if header.count(column) > 1)
                raise InputError(f"{where}: column {repeated!r} appears twice; give every column its own name")
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells, but the header has {len(header)}; quote cells that hold a comma"
            yield Row(where, number, error=f"{where}: {reason}")
        else:
            yield Row(where, number, dict(zip(header, cells, strict=True)))


def _tsv(file: IO[str], name: str) -> Iterator[Row]:
    yield from _csv(file, name, delimiter="\t")


def _text(file: IO[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield Row(f"{name} line {number}", number, line.rstrip("\r\n"))


_READERS = {"json lines": _json_lines, "json": _json, "csv": _csv, "tsv": _tsv, "text": _text}
