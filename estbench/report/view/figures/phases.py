"""Where the time of a generator step goes, phase by phase."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import quantity
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.bars import Bars, draw_bars, shades
from estbench.report.view.figures.base import Drawn, biased_text, fewest, n_text

__all__ = ["draw"]


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw milliseconds by phase, a column a task."""
    rows = comparisons.results.phases
    if rows.empty:
        return None
    phases = list(dict.fromkeys(rows["phase"]))
    names = comparisons.results.estimators(rows)
    table = interval_frame(
        rows.assign(milliseconds=1e3 * rows["seconds"]),
        ["task", "estimator", "phase"],
        "milliseconds",
    )
    data = table.rename(columns={"estimate": "milliseconds"})
    wide = data.pivot_table(
        index=["task", "estimator"], columns="phase", values="milliseconds", sort=False
    ).reindex(columns=phases)
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    values = {task: pd.DataFrame(wide.xs(task, level="task")) for task in tasks}
    bars = Bars(values, phases, shades(phases), "milliseconds per step", totals=True)
    counts = fewest(data)
    title = "Where the time of a step goes"
    caption = (
        "Milliseconds of one generator step by phase, from the serial timing pass (steps of their "
        "own beside those that are timed as a whole). Sampling: sequences and rollouts; reward: "
        "hard evaluations; forward: log-probabilities with their graph; control variate: relaxed "
        "rewards, learned control variates and their derivatives, and the rest of making the "
        "draws; backward: gradients and norms of all draws; adaptation: training of what is "
        "learned; update: the optimiser. Bars are means over rounds, "
        f"{n_text(counts, 'rounds')}; the number is their sum. The 95 % t intervals are in the "
        f"data.{biased_text(names)}"
    )
    said = "; ".join(
        f"{name} on {task} {quantity(float(own.sum()))} ms, most in {own.idxmax()}"
        for task in tasks
        for name, own in values[task].fillna(0.0).iterrows()
    )
    flat = wide.rename(columns={phase: f"{phase} (ms)" for phase in phases}).reset_index()
    places = {"task": tasks, "estimator": names, "phase": phases}
    data = data.sort_values(list(places), key=lambda own: own.map(places[str(own.name)].index))
    figure = draw_bars(bars, names)
    return Drawn("phases", title, caption, f"{title}: {said}.", data, figure, flat)
