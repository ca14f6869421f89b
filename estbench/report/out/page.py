"""report.html: one file that opens offline, from findings, figures, tables and the manifest.

It reads without JavaScript. One script, allowed by its hash, adds what needs one: hiding
estimators, sorting tables.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from estbench.fit import REFUSED
from estbench.report.data.citations import citations
from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.formatting import clean, seconds
from estbench.report.data.labels import EstimatorFacts, estimator_facts
from estbench.report.data.provenance import command_text, digests, flat_texts, settings_key
from estbench.report.data.statistics import ENOUGH_SEEDS
from estbench.report.data.unfinished import current
from estbench.report.out.embedding import Embedded, fitted
from estbench.report.out.svg import swatch
from estbench.report.records import Results
from estbench.report.view.cells import Table, table_of
from estbench.report.view.figures import Drawn
from estbench.report.view.figures.base import Sheet
from estbench.report.view.findings import task_findings
from estbench.report.view.style import dark_variables, light_variables, look
from estbench.report.view.verdicts import caveats, verdicts

__all__ = ["render"]


@dataclass(frozen=True)
class GridRow:
    """One estimator on one task: what there is of it."""

    task: str
    estimator: str
    dots: str
    said: str
    finished: int
    measured: int
    time: str
    seconds: float | None


@dataclass(frozen=True)
class Shown:
    """An estimator of the page: what is known of it, a sample of its line, and its part."""

    name: str
    facts: EstimatorFacts
    swatch: str
    is_reference: bool


SHOWN_SAMPLES = 8
TEXTS = ("text",)  # numbers of tokens say nothing to a reader
SUMMARY_ROWS = 500
LONG = 60  # rows; a longer table of a figure's data stays in its file
_SAID = ("name", "description", "tasks", "estimators", "seeds")


def render(
    comparisons: Comparisons,
    figures: Sequence[tuple[Drawn, Sheet]],
    summary: pd.DataFrame,
    tables: Sequence[Path],
) -> str:
    """Return the page.

    Args:
      comparisons: Of the result set.
      figures: Each figure as it was written.
      summary: tables/summary.csv.
      tables: The files of tables/, to be linked.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("estbench.report.out"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    results = comparisons.results
    manifest = results.manifest
    experiment: Mapping[str, Any] = manifest.get("experiment") or {}
    names = results.estimators(pd.concat([results.runs[["estimator"]], _measured(results)]))
    # Drawings, samples of lines and the script are the only markup that is not escaped: matplotlib
    # and this package made them, and what comes from data is in them as outlines of letters or in
    # attributes, escaped there.
    script = (
        resources.files("estbench.report.out").joinpath("templates/report.js").read_text("utf-8")
    )
    light = {name: colour for colour, name in light_variables().items()}
    dark = {light_variables()[colour]: value for colour, value in dark_variables().items()}
    against = _references(comparisons, names)
    template = partial(
        environment.get_template("report.html.j2").render,
        title=clean(experiment.get("name") or results.directory.resolve().name, 80),
        description=clean(experiment.get("description") or ""),
        progress=current(),
        tasks=results.tasks,
        estimators=[
            Shown(
                name,
                estimator_facts(name),
                Markup(swatch(look(name))),
                name in against,
            )
            for name in names
        ],
        seeds=int(max(results.runs["seed"].nunique(), results.measured["seed"].nunique())),
        caveats=caveats(comparisons),
        verdicts={table.task: table for table in verdicts(comparisons)},
        marks={name: estimator_facts(name).mark for name in results.estimators(results.measured)},
        findings=task_findings(comparisons),
        baselined=BASELINED,
        plain=PLAIN,
        enough=ENOUGH_SEEDS,
        grid=_grid(results),
        failures=results.failures,
        samples=[
            (task, estimator, texts[:SHOWN_SAMPLES])
            for (task, estimator), texts in results.samples.items()
            if task in TEXTS
        ],
        summary=table_of(summary, SUMMARY_ROWS),
        tables=[f"tables/{path.name}" for path in tables],
        command=command_text(manifest),
        environment=flat_texts(manifest.get("environment") or {}),
        settings=flat_texts({k: v for k, v in experiment.items() if k not in _SAID}),
        settings_key=settings_key(experiment) if experiment else "",
        digests=digests(results.directory, tables),
        citations=citations(names, manifest.get("environment") or {}),
        light=light,
        dark=dark,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )

    def page(held: Sequence[Embedded], rules: str) -> str:
        shown = [
            {
                "drawn": figure.drawn,
                "svg": Markup(figure.markup),
                "beside": figure.beside,
                "table": _numbers(figure.drawn),
            }
            for figure in held
        ]
        beside = any(figure.beside for figure in held)
        return template(figures=shown, drawings=Markup(rules), beside=beside)

    return fitted(figures, page)


def _measured(results: Results) -> pd.DataFrame:
    return pd.concat([results.variance[["estimator"]], results.timing[["estimator"]]])


def _references(comparisons: Comparisons, names: Iterable[str]) -> set[str]:
    """Return the estimators that others are held against."""
    held = {PLAIN, BASELINED}
    for task in comparisons.results.tasks:
        for name in names:
            held.update(comparisons.references(task, name))
    return held


def _numbers(drawn: Drawn) -> Table | None:
    """Return the numbers to print beneath a figure."""
    if drawn.table is not None and not drawn.table.empty:
        return table_of(drawn.table)
    return table_of(drawn.data) if 0 < len(drawn.data) <= LONG else None


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
            unfit = chosen.loc[chosen["status"] == REFUSED, "error"]
            if len(unfit):
                said = [f"{REFUSED}: {unfit.iloc[0]}"]
            at = measured[(measured["task"] == task) & (measured["estimator"] == estimator)]
            time = chosen.loc[chosen["status"] == "ok", "wall_s"].median()
            finished, measured_seeds = int(counts.get("ok", 0)), int(at["seed"].nunique())
            known = None if math.isnan(time) else float(time)
            words = (dots, "; ".join(said), finished, measured_seeds, seconds(float(time)), known)
            rows.append(GridRow(task, estimator, *words))
    return rows
