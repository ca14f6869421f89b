"""Seconds per generator step, from the serial timing pass."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import PLAIN, Comparisons
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import Drawn, biased_text, few_text, n_text
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.rows import cut_text
from estbench.report.view.figures.scales import CUT
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
            step = Estimate(1e3 * own.value, 1e3 * own.low, 1e3 * own.high, own.n)
            panels.setdefault(task, []).append(Row(name, (Mark(step, size=4.2),)))
            numbers = (own.value, own.low, own.high, own.n)
            rows.append((task, name, *numbers, against.value, against.low, against.high))
            printed.append(
                {
                    "task": task,
                    "estimator": name,
                    "milliseconds per step": interval_words(step),
                    f"ratio to {PLAIN}": "1" if name == PLAIN else interval_words(against),
                    "rounds": own.n,
                }
            )
    if not panels:
        return None
    columns = ["task", "estimator", "seconds_per_step", "low", "high", "n"]
    data = pd.DataFrame(rows, columns=[*columns, "ratio", "ratio_low", "ratio_high"])
    names = comparisons.results.estimators(data)
    figure = draw_columns(Forest(panels, "milliseconds per step (log axis)", ratio=False), names)
    shown = len({t.get_text() for ax in figure.axes for t in ax.get_yticklabels()})
    title = "Time of one generator step"
    caption = (
        "Milliseconds per generator step (sampling, reward, backward pass, total variance, "
        "adaptation and update, for one batch; without the discriminator), from a separate timing "
        "pass: serial, one thread, estimators interleaved, after warm-up. Geometric mean over "
        f"rounds and its 95 % t interval, {n_text(data[['task', 'estimator', 'n']], 'rounds')}. "
        "Left is faster. Rounds on one machine: the interval covers its noise, not other machines. "
        f"{CUT}{cut_text(shown, len(names))}{few_text(data['n'], 'rounds')}"
        f"{biased_text(data['estimator'])}"
    )
    said = "; ".join(
        f"{r['estimator']} on {r['task']} {r['milliseconds per step']} ms" for r in printed
    )
    table = pd.DataFrame(printed)
    return Drawn("wall_clock", title, caption, f"{title}: {said}.", data, figure, table)
