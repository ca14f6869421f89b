"""Where the time of a generator step goes, phase by phase."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import quantity
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.bars import Bars, draw_bars, shades
from estbench.report.view.figures.base import Drawn
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.rows import left_out

__all__ = ["draw"]

PHASES = (
    "Sampling: sequences and rollouts; reward: hard evaluations; forward: log-probabilities and "
    "their graph; control variate: relaxed rewards, learned control variates and all else that the "
    "draws need; backward: gradients and norms of all draws; adaptation: training of what is "
    "learned; update: the optimiser."
)


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw milliseconds by phase, a column a task."""
    rows = comparisons.results.phases
    if rows.empty:
        return None
    phases = list(dict.fromkeys(rows["phase"]))
    names = comparisons.results.estimators(rows)
    rows = rows.assign(milliseconds=1e3 * rows["seconds"])
    data = interval_frame(rows, ["task", "estimator", "phase"], "milliseconds")
    data = data.rename(columns={"estimate": "milliseconds"})
    wide = data.pivot_table(
        index=["task", "estimator"], columns="phase", values="milliseconds", sort=False
    ).reindex(columns=phases)
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    values = {task: pd.DataFrame(wide.xs(task, level="task")) for task in tasks}
    places = {"task": tasks, "estimator": names, "phase": phases}
    data = data.sort_values(list(places), key=lambda own: own.map(places[str(own.name)].index))
    bars = Bars(values, phases, shades(phases), "milliseconds per step", totals=True)
    figure = draw_bars(bars, names)
    return described(
        comparisons,
        "phases",
        "Where the time of a step goes",
        "Milliseconds of one generator step by phase, in steps of the serial timing pass beside "
        f"those that are timed as a whole: means over rounds, {{n}}, and their sum. {PHASES} The "
        "95 % t intervals are in the data.",
        (
            f"{name} on {task} {quantity(float(own.sum()))} ms, most in {own.idxmax()}"
            for task in tasks
            for name, own in values[task].fillna(0.0).iterrows()
        ),
        data,
        figure,
        wide.rename(columns={phase: f"{phase} (ms)" for phase in phases}).reset_index(),
        unit="rounds",
        left_out=left_out(figure, names),
    )
