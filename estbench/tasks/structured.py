"""Records in JSON, CSV or TSV that were given for plain text: found, and refused with a remedy.

A line of such a file is not a sequence: keys, quotes and numbers would be learnt as words.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from itertools import islice
from typing import Any

from estbench.core.errors import UserError

__all__ = ["check_plain"]

EXTENSIONS = {".json": "", ".jsonl": "", ".ndjson": "", ".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Extension -> what separates the fields of a row; "" for JSON."""

HEAD = 20  # lines that are looked at


def check_plain(data: str, text: str) -> None:
    """Raise if a file holds records, by its content or by its extension.

    Args:
      data: Its path, as it was typed.
      text: All of it, with lines that end in LF; one of them is not blank.

    Raises:
      UserError: It is JSON, CSV or TSV. The message has the command that writes the text out.
    """
    extension = os.path.splitext(data)[1].lower()
    separator = EXTENSIONS.get(extension)
    lines = (found[0] for found in re.finditer(r"[^\n]+", text))
    head = list(islice((line for line in lines if not line.isspace()), HEAD))
    records = _json(head[0], text)
    if records is not None:
        raise _refusal(data, "JSON", _jq(data, *records))
    tables = {mark: _rows(head, mark) for mark in (separator or ",", "\t", ";")}
    for mark, rows in tables.items():
        if _is_table(rows, mark):
            raise _refusal(data, "TSV" if mark == "\t" else "CSV", _cut(data, mark, rows))
    if separator is not None:  # the extension alone says it
        remedy = _cut(data, separator, tables[separator]) if separator else _jq(data, None, ".")
        kind = f"{extension[1:].upper()} by its name"
        raise _refusal(data, kind, f"{remedy}; if it is plain text, name it .txt")


def _refusal(data: str, kind: str, remedy: str) -> UserError:
    return UserError(f"{data} is {kind}, not a sequence a line: write its text out first: {remedy}")


def _json(first: str, text: str) -> tuple[Any, str] | None:
    """Return the first record of JSON and jq's path to all of them; None if it is not JSON."""
    try:
        record = json.loads(first)
        if isinstance(record, dict) or (isinstance(record, list) and first.strip() != text.strip()):
            return record, "."
    except (ValueError, RecursionError):
        pass  # no record a line, but perhaps a document over several lines
    try:
        array = re.match(r'\s*\[\s*(?=["\[{])', text)
        if array and text.rstrip().endswith("]"):
            # The first record will do: the rest may be large.
            record, end = json.JSONDecoder().raw_decode(text, array.end())
            return (record, ".[]") if re.compile(r"\s*[,\]]").match(text, end) else None
        if re.match(r'\s*\{\s*"', text) and text.rstrip().endswith("}"):
            return json.loads(text), "."
    except (ValueError, RecursionError):
        pass
    return None


def _jq(data: str, record: Any, path: str) -> str:
    """Return the command that writes out the text of records of JSON."""
    where = "." + _text_path(record, path.removeprefix("."))
    return f"jq -r {shlex.quote(where)} {_source(data)} > {_target(data)}"


def _text_path(record: Any, path: str) -> str:
    """Return jq's path, without the dot before it, to the text of a record that is at a path."""
    if isinstance(record, list):
        return f"{path}[0]"
    if not isinstance(record, dict | None):
        return path
    record = record or {"text": ""}
    texts = {key: value for key, value in record.items() if isinstance(value, str)}
    lists = [key for key, value in record.items() if isinstance(value, list) and value]
    key = _longest(texts) if texts else (*lists, "text")[0]
    step = key if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII) else f"[{json.dumps(key)}]"
    path = f"{path}.{step}" if path else step
    return path if texts or not lists else _text_path(record[key][0], f"{path}[]")


def _rows(head: list[str], separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(head, delimiter=separator))
    except csv.Error:  # a field of more than 100 kB
        return [[line] for line in head]


def _is_table(rows: list[list[str]], separator: str) -> bool:
    """Whether rows have equally many fields, and commas or semicolons are not those of prose.

    In prose a space follows them, and the first line is not one of names.
    """
    width = len(rows[0])
    if len(rows) < 2 or width < 2 or any(len(row) != width for row in rows):
        return False
    return separator == "\t" or (
        len(set(rows[0])) == width
        and all(re.fullmatch(r"[^\W\d][\w .-]*", name) for name in rows[0])
        and not any(field.startswith(" ") for row in rows for field in row)
    )


def _cut(data: str, separator: str, rows: list[list[str]]) -> str:
    """Return the command that writes out the column of text of a table."""
    columns = {
        name: "".join(row[i] for row in rows[1:] if i < len(row)) for i, name in enumerate(rows[0])
    }
    name = _longest(columns)
    place = rows[0].index(name)
    headed = len(name.split()) < 3  # more words are a text already
    if separator == "\t":
        cut = f"cut -f{place + 1}"
        command = f"tail -n +2 {_source(data)} | {cut}" if headed else f"{cut} {_source(data)}"
        return f"{command} > {_target(data)}"
    options = [json.dumps(os.path.expanduser(data), ensure_ascii=False)]
    options += [] if separator == "," else [f"sep={json.dumps(separator)}"]
    options += [] if headed else ["header=None"]
    column = json.dumps(name, ensure_ascii=False) if headed else place
    code = f'import pandas; print(*pandas.read_csv({", ".join(options)})[{column}], sep="\\n")'
    return f"python -c {shlex.quote(code)} > {_target(data)}"


def _longest(fields: dict[str, str]) -> str:
    """Return the name of the field that holds text: "text" if there is one, else the longest."""
    return "text" if "text" in fields else max(fields, key=lambda name: len(fields[name]))


def _source(data: str) -> str:
    return shlex.quote(os.path.expanduser(data))


def _target(data: str) -> str:
    stem, extension = os.path.splitext(os.path.expanduser(data))
    return shlex.quote(f"{stem}-lines.txt" if extension == ".txt" else f"{stem}.txt")
