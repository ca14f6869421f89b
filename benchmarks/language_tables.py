"""Print the tables of docs/language-models.md, each number with the mark that tests hold it to.

    python benchmarks/language_tables.py results/reference/language

A ratio that heavy tails leave only a bound of is written as one; one that does not survive leaving
a snapshot out has a "?".
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from estbench.report.out.spreadsheet import csv_text

Row = Mapping[str, str]
COSTS = ("sequence", "step", "token")
ENDS = ("success", "success_heldout", "entropy", "mean_length", "kl_reference")
STATED = ("equal_groups", "effective_sample_share", "tokens", "relative_bias")
BOUNDS = {"lower": ("at least {low}", "low"), "upper": ("at most {high}", "high")}


def main(folder: Path) -> None:
    """Print two tables a task: noise by cost, and what training ends with."""
    tables = (folder / "tables" / f"{name}.parquet" for name in ("ratios", "summary"))
    ratios, summary = (list(_read(path)) for path in tables)
    for task in dict.fromkeys(row["task"] for row in summary):
        names = list(dict.fromkeys(row["estimator"] for row in summary if row["task"] == task))
        print(f"\n`{task}`: noise of the trajectory, as a ratio to `reinforce-ema`\n")
        print(
            "| | within prompts | prompts included | within prompts, per token |\n|---|---|---|---|"
        )
        for name in names:
            own = {"task": task, "estimator": name}
            found = (
                _ratio(folder.name, ratios, own | {"against": "reinforce-ema", "cost": cost})
                for cost in COSTS
            )
            print(f"| `{name}` | {' | '.join(found)} |")
        for columns in (ENDS, STATED):
            print(f"\n| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
            for name in names:
                own = {"task": task, "estimator": name}
                cells = (_end(folder.name, summary, own | {"metric": each}) for each in columns)
                print(f"| `{name}` | {' | '.join(cells)} |")


def _read(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, as its CSV has them."""
    yield from csv.DictReader(io.StringIO(csv_text(pd.read_parquet(path))))


def _one(rows: list[Row], wanted: Mapping[str, str]) -> Row | None:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found[0] if len(found) == 1 and found[0]["estimate"] else None


def _ratio(name: str, rows: list[Row], wanted: Mapping[str, str]) -> str:
    wanted = {**wanted, "scope": "trajectory"}
    row = _one(rows, wanted)
    if row is None or row["bound"] == "none":
        return ""
    survives = "survives" if row["survives"] == "True" else "fragile"
    said, columns = BOUNDS.get(row["bound"], ("{estimate} [{low}, {high}]", "estimate low high"))
    text = said.format(**{key: _two(row[key]) for key in ("estimate", "low", "high")})
    mark = "" if survives == "survives" else " ?"
    return f"{text}{mark} {_mark(name, 'ratios', wanted, f'{columns} {survives}')}"


def _end(name: str, rows: list[Row], wanted: Mapping[str, str]) -> str:
    row = _one(rows, wanted)
    if row is None or not row["low"]:
        return ""
    text = f"{_two(row['estimate'])} [{_two(row['low'])}, {_two(row['high'])}]"
    return f"{text} {_mark(name, 'summary', wanted, 'estimate low high')}"


def _mark(name: str, table: str, wanted: Mapping[str, str], columns: str) -> str:
    conditions = " ".join(f"{key}={value}" for key, value in wanted.items())
    return f"<!-- cell: {name} {table} {conditions}: {columns} -->"


def _two(value: str) -> str:
    """Return a number with two digits behind the point, or with two that count."""
    number = float(value)
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
