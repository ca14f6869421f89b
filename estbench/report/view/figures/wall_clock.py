"""Seconds per generator step, from the serial timing pass."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import PLAIN, Comparisons
from estbench.report.view.figures.base import Drawn
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.rows import left_out
from estbench.report.view.words import interval_words

__all__ = ["draw"]


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw milliseconds per step, a column a task."""
    panels: dict[str, list[Row]] = {}
    rows, printed = [], []
    for task in comparisons.results.tasks:
        for name in comparisons.timed(task):
            own = comparisons.seconds(task, name)
            against = comparisons.compare(task, "seconds_per_step", name, PLAIN)
            step = own.scaled(1e3)
            panels.setdefault(task, []).append(Row(name, (Mark(step, size=4.2),)))
            rows.append((task, name, *own.numbers, *against.numbers[:3]))
            ratio = "1" if name == PLAIN else interval_words(against)
            printed.append((task, name, interval_words(step), ratio, own.n))
    if not panels:
        return None
    columns = ["task", "estimator", "seconds_per_step", "low", "high", "n"]
    data = pd.DataFrame(rows, columns=[*columns, "ratio", "ratio_low", "ratio_high"])
    heads = ["task", "estimator", "milliseconds per step", f"ratio to {PLAIN}", "rounds"]
    names = comparisons.results.estimators(data)
    figure = draw_columns(Forest(panels, "milliseconds per step (log axis)", ratio=False), names)
    return described(
        comparisons,
        "wall_clock",
        "Time of one generator step",
        "Milliseconds of one generator step (a batch from sampling to update, without the "
        "discriminator), from a serial timing pass on one thread with interleaved estimators: "
        "geometric mean over rounds with 95 % t interval, {n}. Left is faster. The interval covers "
        "the noise of one machine, not other machines. A whisker at the edge goes on beyond it.",
        (f"{name} on {task} {step} ms" for task, name, step, *_ in printed),
        data,
        figure,
        pd.DataFrame(printed, columns=heads),
        unit="rounds",
        left_out=left_out(figure, names),
    )
