"""report.html and figures.html: files that open offline and read without JavaScript.

The first screen of report.html holds an abstract, a figure and a table. Questions follow, each with
its answer and one figure; everything else is folded, or in figures.html. One script, allowed by its
hash, adds what needs one: hiding estimators, sorting tables, exploring.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from estbench.report.data.citations import citations
from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.explorer import explorer_data
from estbench.report.data.formatting import clean, seconds
from estbench.report.data.labels import EstimatorFacts, estimator_facts
from estbench.report.data.provenance import command_text, digests, flat_texts, settings_key
from estbench.report.data.statistics import ENOUGH_SEEDS
from estbench.report.data.unfinished import progress
from estbench.report.out.drawing import Sheet
from estbench.report.out.embedding import Embedded, fitted
from estbench.report.out.svg import swatch
from estbench.report.out.templating import templates
from estbench.report.records import Results
from estbench.report.view.answers import Said, abstract, answers
from estbench.report.view.cells import Table, table_of
from estbench.report.view.figures import Declared, Drawn
from estbench.report.view.figures.teaser import shown_estimators
from estbench.report.view.notes import every_note, seed_count
from estbench.report.view.overview import overview
from estbench.report.view.style import dark_variables, light_variables, look
from estbench.report.view.verdicts import verdicts
from estbench.report.view.words import count
from estbench.tasks.fit import REFUSED

__all__ = ["render"]

Figures = Sequence[tuple[Declared, Drawn, Sheet]]


@dataclass(frozen=True)
class GridRow:
    """What there is of one estimator on one task."""

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


@dataclass
class Notes:
    """The numbered notes of a page, in the order in which sentences and cells refer to them."""

    texts: list[str] = field(default_factory=list)

    def of(self, said: Said) -> list[int]:
        """Return the numbers of a sentence's notes."""
        for note in said.notes:
            if note not in self.texts:
                self.texts.append(note)
        return [self.texts.index(note) + 1 for note in said.notes]


SHOWN_SAMPLES = 8
TEXTS = ("text",)  # numbers of tokens say nothing to a reader
SUMMARY_ROWS = 300
LONG = 60  # rows; a longer table of a figure's data stays in its file
_SAID = ("name", "description", "tasks", "estimators", "seeds")


def render(
    comparisons: Comparisons, figures: Figures, summary: pd.DataFrame, tables: Sequence[Path]
) -> tuple[str, str]:
    """Return report.html and figures.html.

    Args:
      comparisons: Of the result set.
      figures: Each figure as it was written.
      summary: tables/summary.csv.
      tables: The files of tables/, to be linked.
    """
    shared = _shared(comparisons)
    alone = {answer.key for answer in answers(comparisons) if not answer.compared}
    first = [e for e in figures if e[0].question and e[0].question not in alone]
    shown = {declared.name for declared, _, _ in first}
    others = [entry for entry in figures if entry[0].name not in shown]
    return (
        _page("report.html.j2", first, shared | _answers(comparisons, summary, tables, others)),
        _page("figures.html.j2", others, shared),
    )


def _page(template: str, figures: Figures, values: Mapping[str, Any]) -> str:
    """Return one page, with as many drawings in it as it may hold."""
    from markupsafe import Markup

    # Drawings, samples of lines and the script are the only markup that is not escaped: matplotlib
    # and this package made them, and what comes from data is in them as outlines of letters or in
    # attributes, escaped there.
    script = resources.files("estbench.report.out").joinpath("templates/report.js")
    text = script.read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    write = partial(
        templates(autoescape=True).get_template(template).render,
        values,
        script=Markup(text),
        script_hash=digest,
    )
    question = {declared.name: declared.question for declared, _, _ in figures}

    def page(held: Sequence[Embedded], rules: str) -> str:
        shown = [
            {
                "drawn": figure.drawn,
                "question": question[figure.drawn.name],
                "svg": Markup(figure.markup),
                "beside": figure.beside,
                "table": _numbers(figure.drawn),
            }
            for figure in held
        ]
        beside = any(figure.beside for figure in held)
        return str(write(figures=shown, drawings=Markup(rules), beside=beside))

    return fitted([(drawn, sheet) for _, drawn, sheet in figures], page)


def _shared(comparisons: Comparisons) -> dict[str, Any]:
    """Return what both pages need."""
    from markupsafe import Markup

    results = comparisons.results
    experiment: Mapping[str, Any] = results.manifest.get("experiment") or {}
    names = _names(results)
    against = _references(comparisons, names)
    light = {name: colour for colour, name in light_variables().items()}
    dark = {light_variables()[colour]: value for colour, value in dark_variables().items()}
    return {
        "title": clean(experiment.get("name") or results.directory.resolve().name, 80),
        "progress": progress.get(),
        "command": command_text(results.manifest),
        "estimators": [
            Shown(name, estimator_facts(name), Markup(swatch(look(name))), name in against)
            for name in names
        ],
        "light": light,
        "dark": dark,
    }


def _answers(
    comparisons: Comparisons, summary: pd.DataFrame, tables: Sequence[Path], others: Figures
) -> dict[str, Any]:
    """Return what report.html shows besides its figures."""
    results = comparisons.results
    manifest = results.manifest
    experiment: Mapping[str, Any] = manifest.get("experiment") or {}
    names = _names(results)
    notes = Notes()
    lead = clean(experiment.get("description") or "")
    counted = f"{count(len(names), 'estimator')}, {count(seed_count(comparisons), 'seed')}"
    table = overview(comparisons)
    found = {
        "lead": f"{lead and lead + '; '}{counted}.",
        "abstract": [(said.text, notes.of(said)) for said in abstract(comparisons)],
        "overview": table,
        "overview_rows": [[(cell.text, notes.of(cell)) for cell in row] for row in table.rows],
        "answers": [
            (answer, [(said.text, notes.of(said)) for said in answer.sentences])
            for answer in answers(comparisons)
        ],
    }
    notes.of(Said("", tuple(every_note(comparisons))))
    explorer = explorer_data(comparisons)
    return found | {
        "notes": notes.texts,
        "others": [(drawn.name, drawn.title) for _, drawn, _ in others],
        "more": results.measured["estimator"].nunique() - len(shown_estimators(comparisons)),
        "explorer": json.dumps(explorer, separators=(",", ":")) if explorer else "",
        "verdicts": verdicts(comparisons),
        "marks": {name: estimator_facts(name).mark for name in names},
        "baselined": BASELINED,
        "plain": PLAIN,
        "enough": ENOUGH_SEEDS,
        "grid": list(_grid(results)),
        "failures": results.failures,
        "samples": [
            (task, estimator, list(own["text"])[:SHOWN_SAMPLES])
            for (task, estimator), own in results.samples.groupby(["task", "estimator"], sort=False)
            if task in TEXTS
        ],
        "summary": table_of(summary, SUMMARY_ROWS),
        "tables": [f"tables/{path.name}" for path in tables],
        "environment": flat_texts(manifest.get("environment") or {}),
        "settings": flat_texts({k: v for k, v in experiment.items() if k not in _SAID}),
        "settings_key": settings_key(experiment) if experiment else "",
        "digests": digests(results.directory, tables),
        "citations": citations(names, manifest.get("environment") or {}),
    }


def _names(results: Results) -> list[str]:
    frames = (results.runs, results.variance, results.timing)
    return results.estimators(pd.concat([frame[["estimator"]] for frame in frames]))


def _references(comparisons: Comparisons, names: Iterable[str]) -> set[str]:
    """Return the estimators that others are compared with."""
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


def _grid(results: Results) -> Iterator[GridRow]:
    """Yield what exists, failed and is missing, a row a task and estimator."""
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
            yield GridRow(task, estimator, *words)
