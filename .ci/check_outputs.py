"""Checks the outputs of a run: everything that was asked for is there, whole and well.

Usage: python .ci/check_outputs.py results/smoke
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

COLUMNS = {
    "runs": "task estimator seed status error steps wall_s cpu_s peak_mb",
    "curves": "task estimator seed step reward_evals seconds metric value",
    "variance": (
        "task estimator seed snapshot draws sequences_per_draw total_variance variance_low "
        "variance_high kurtosis relative_bias bias_low bias_high snr cosine mse "
        "hard_evals_per_draw relaxed_evals_per_draw adapt_evals policy_steps_per_draw "
        "seconds_per_draw reward_std reward_scale adam_variance adam_gradient_norm "
        "tail_index between_variance evaluations_at_one evaluations_at_batch evaluations_in_limit"
    ),
    "timing": "task estimator round seconds_per_step ratio low high",
}
SNAPSHOTS = 8  # of smoke: nine, the first two of which fall on the same of its batches
# What a browser would fetch; a link that a reader may follow (<a href>) is no such thing.
LOADS = re.compile(
    r"""<(?:img|script|iframe|source|link|image|use)\b[^>]*\b(?:src|href)\s*=\s*["']?(?:https?:)?//
    | url\(\s*["']?(?:https?:)?// | @import | \bfetch\( | XMLHttpRequest""",
    re.IGNORECASE | re.VERBOSE,
)


def problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a result set, a line each."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("schema", "experiment", "environment", "command"):
        if not manifest.get(key):
            yield f"manifest.json has no {key}"
    yield from _tables(folder, manifest["experiment"])
    yield from _figures(folder)
    page = (folder / "report.html").read_text()
    for load in LOADS.findall(page):
        yield f"report.html loads from elsewhere: {load}"
    if len(page) < 10_000:
        yield f"report.html holds only {len(page)} characters"
    if left := list(folder.rglob("*.tmp")):
        yield f"temporary files were left: {left}"


def _tables(folder: Path, experiment: dict[str, list[str]]) -> Iterator[str]:
    tasks, trained = experiment["tasks"], experiment["estimators"]
    measured = {*trained, *experiment["also_measured"]}
    grid = len(tasks) * len(experiment["seeds"])
    rows = {
        "runs": grid * len(trained),
        "variance": grid * len(measured) * SNAPSHOTS,
        "timing": len(tasks) * len(measured) * len(list((folder / "timing").glob("*.json"))),
    }
    tables = {}
    for name, columns in COLUMNS.items():
        tables[name] = table = pd.read_csv(folder / "tables" / f"{name}.csv")
        if missing := set(columns.split()) - set(table.columns):
            yield f"tables/{name}.csv lacks {sorted(missing)}"
        if len(table) == 0 or len(table) != rows.get(name, len(table)):
            yield f"tables/{name}.csv has {len(table)} rows, not {rows.get(name, 'some')}"
        parquet = pd.read_parquet(folder / "tables" / f"{name}.parquet")
        if len(parquet) != len(table):
            yield f"tables/{name}.parquet has {len(parquet)} rows, the CSV file {len(table)}"
    if not (tables["runs"]["status"] == "ok").all():
        yield f"not all runs are ok: {tables['runs'][['task', 'estimator', 'seed', 'error']]}"
    if not (tables["variance"]["total_variance"] > 0).all():
        yield "tables/variance.csv has variances that are not positive"
    if len(pd.read_csv(folder / "tables" / "summary.csv")) == 0:
        yield "tables/summary.csv is empty"


def _figures(folder: Path) -> Iterator[str]:
    figures = list((folder / "figures").glob("*.svg"))
    if len(figures) < 3:
        yield f"only {len(figures)} figures"
    for figure in figures:
        for suffix in (".svg", ".png", ".csv"):
            path = figure.with_suffix(suffix)
            if not path.exists() or path.stat().st_size == 0:
                yield f"{path} is missing or empty"


def main() -> int:
    """Print the problems; return the exit code."""
    folder = Path(sys.argv[1])
    found = list(problems(folder))
    for problem in found:
        print(f"{folder}: {problem}", file=sys.stderr)
    if not found:
        print(f"{folder}: everything is there")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
