"""report.html: one file that opens offline, from findings, figures, tables and the manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from estbench.report.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.figures import Drawn
from estbench.report.findings import task_findings
from estbench.report.formatting import clean, quantity, seconds
from estbench.report.labels import estimator_facts
from estbench.report.records import Results
from estbench.report.statistics import ENOUGH_SEEDS
from estbench.report.style import dark_variables, light_variables
from estbench.report.svg import inline
from estbench.report.verdicts import caveats, verdicts

__all__ = ["render"]


@dataclass(frozen=True)
class Table:
    """A table as text."""

    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class GridRow:
    """One estimator on one task: what there is of it."""

    task: str
    estimator: str
    dots: str
    said: str
    measured: str
    time: str


def render(
    comparisons: Comparisons,
    figures: Iterable[tuple[Drawn, str]],
    summary: pd.DataFrame,
    tables: Iterable[Path],
) -> str:
    """Return the page.

    Args:
      comparisons: Of the result set.
      figures: Each figure with its SVG text.
      summary: tables/summary.csv.
      tables: The files of tables/, to be linked.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("estbench.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    results = comparisons.results
    manifest = results.manifest
    experiment: Mapping[str, Any] = manifest.get("experiment") or {}
    names = results.estimators(pd.concat([results.runs[["estimator"]], _measured(results)]))
    from markupsafe import Markup

    shown = [
        # The drawing is the only markup that is not escaped: matplotlib made it, and what comes
        # from data is in it as outlines of letters; its alternative text is escaped there.
        {
            "drawn": drawn,
            "svg": Markup(inline(svg, drawn.name, drawn.alt)),
            "table": _numbers(drawn),
        }
        for drawn, svg in figures
    ]
    light = {name: colour for colour, name in light_variables().items()}
    dark = {light_variables()[colour]: value for colour, value in dark_variables().items()}
    return environment.get_template("report.html.j2").render(
        title=clean(experiment.get("name") or results.directory.resolve().name, 80),
        description=clean(experiment.get("description") or ""),
        tasks=results.tasks,
        estimators=[(name, estimator_facts(name)) for name in names],
        seeds=int(max(results.runs["seed"].nunique(), results.measured["seed"].nunique())),
        caveats=caveats(comparisons),
        verdicts=verdicts(comparisons),
        marks={name: estimator_facts(name).mark for name in results.estimators(results.measured)},
        findings=task_findings(comparisons),
        baselined=BASELINED,
        plain=PLAIN,
        enough=ENOUGH_SEEDS,
        grid=_grid(results),
        failures=results.failures,
        figures=shown,
        samples=[
            (task, estimator, texts[:SHOWN_SAMPLES])
            for (task, estimator), texts in results.samples.items()
            if task in TEXTS
        ],
        summary=_text_table(summary),
        tables=[f"tables/{path.name}" for path in tables],
        command=_command(manifest),
        environment=list(_flat(manifest.get("environment") or {})),
        settings=list(_flat({k: v for k, v in experiment.items() if k not in _SAID})),
        light=light,
        dark=dark,
    )


SHOWN_SAMPLES = 8
TEXTS = ("text",)  # numbers of tokens say nothing to a reader
_SAID = ("name", "description", "tasks", "estimators", "seeds")


def _measured(results: Results) -> pd.DataFrame:
    return pd.concat([results.variance[["estimator"]], results.timing[["estimator"]]])


def _numbers(drawn: Drawn) -> Table | None:
    """Return the numbers to print beneath a figure."""
    return None if drawn.table is None or drawn.table.empty else _text_table(drawn.table)


def _text_table(frame: pd.DataFrame) -> Table:
    """Return a frame as text: few digits, dashes for what is unknown."""
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return Table([str(name).replace("_", " ") for name in frame.columns], rows)


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return quantity(value) if isinstance(value, float) else str(value)


def _grid(results: Results) -> list[GridRow]:
    """Return what exists, failed and is missing, a row a task and estimator."""
    rows = []
    runs, measured = results.runs, results.measured
    for task in results.tasks:
        own = pd.concat([f.loc[f["task"] == task, ["estimator"]] for f in (runs, results.variance)])
        for estimator in results.estimators(own):
            chosen = runs[(runs["task"] == task) & (runs["estimator"] == estimator)]
            marks = {"ok": "●", "failed": "✕"}
            dots = "".join(marks.get(status, "·") for status in chosen["status"])
            counts = chosen["status"].value_counts()
            said = [f"{counts.get('ok', 0)} finished"] if len(chosen) else ["not trained"]
            for status in ("failed", "missing"):
                which = chosen.loc[chosen["status"] == status, "seed"]
                if len(which):
                    listed = ", ".join(str(seed) for seed in which)
                    said.append(f"{status}: seed{'s' * (len(which) > 1)} {listed}")
            at = measured[(measured["task"] == task) & (measured["estimator"] == estimator)]
            time = chosen.loc[chosen["status"] == "ok", "wall_s"].median()
            measured_text = f"{at['seed'].nunique()} seeds" if len(at) else "–"
            rows.append(
                GridRow(task, estimator, dots, "; ".join(said), measured_text, seconds(float(time)))
            )
    return rows


def _command(manifest: Mapping[str, Any]) -> str:
    """Return the command as it was typed, whichever way the manifest keeps it."""
    command = manifest.get("command") or ""
    if isinstance(command, list):
        import shlex

        return shlex.join(str(part) for part in command)
    return str(command)


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield nested settings as (dotted name, text)."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        yield path, ", ".join(str(item) for item in value)
    elif isinstance(value, str):
        yield path, value
    else:
        yield path, json.dumps(value, default=str)
