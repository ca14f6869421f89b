"""How probable it is that the estimator of a row ends better than that of a column."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from estbench.report.data.comparisons import ALPHA, BASELINED, PLAIN, TRAINING, Comparisons
from estbench.report.data.duels import Duels, least_p_holm, quality_duels
from estbench.report.data.formatting import clean, number, p_text
from estbench.report.data.labels import estimator_facts
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    belongs,
    entries,
    label,
    name_room,
    stacked,
)
from estbench.report.view.figures.captions import described
from estbench.report.view.style import INK, MUTED, look

__all__ = ["draw"]

# One hue from pale to dark, so that grey tells as much; letters take the ground's opposite. None is
# a colour that the page exchanges where it is dark.
PALE, DARK = (0.965, 0.973, 0.984), (0.075, 0.231, 0.435)
ON_PALE, ON_DARK = "#10151b", "#fdfdfe"
FRAME = "#c2410c"
CELLS = 2000  # of the whole figure; more make no figure but a wallpaper
LEAST, MOST = 4, 20  # estimators of a panel
ROOM = 3.65  # inches for the cells
CELL_INCHES = 0.38


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a matrix a task, the best estimator first."""
    found = {task: quality_duels(comparisons, task) for task in comparisons.results.tasks}
    panels = {task: duels for task, duels in found.items() if duels and duels.scores.shape[1] > 1}
    if not panels:
        return None
    most = max(LEAST, min(MOST, math.isqrt(CELLS // len(panels))))
    names = {task: _chosen(comparisons, task, duels, most) for task, duels in panels.items()}
    parts = [_data(comparisons, task, duels, names[task]) for task, duels in panels.items()]
    data = pd.concat(parts, ignore_index=True)
    kinds = {task: metric.label for task in panels if (metric := comparisons.primary(task))}
    sure = [
        f"{row['estimator']} over {row['against']} on {row['task']} in {row['wins']} of {row['n']}"
        for row in entries(data)
        if row["p_holm"] < ALPHA and row["estimate"] > 0.5
    ]
    return described(
        comparisons,
        "improvement",
        "Which estimator ends better, seed by seed",
        "Per cent of seeds in which the estimator of the row ends better than that of the column, "
        f"a tie counting half ({_metrics(kinds)}; {{n}}, paired by seed). Darker: it wins more "
        "often; the best mean is on top. Thick frame: significant by the sign test, with Holm's "
        "correction over all pairs of the task; dot: by the paired t test of the difference. Exact "
        "95 % limits are in the data; with ten seeds they are wide: 10 of 10 is [69, 100]."
        + _reach_text(panels)
        + _restricted({t: duels.scores.shape[1] - len(names[t]) for t, duels in panels.items()}),
        sure,
        data,
        _figure(comparisons, data, names),
        _table(data),
        lead="Significant by the sign test: ",
        kind=TRAINING,
        counts=data.groupby(["task", "estimator"], sort=False)["n"].max().reset_index(),
    )


def _figure(comparisons: Comparisons, data: pd.DataFrame, names: dict[str, list[str]]) -> Figure:
    """Draw the matrices, one below the other."""
    left = name_room(name for own in names.values() for name in own)
    sizes = {task: min(CELL_INCHES, ROOM / len(own)) for task, own in names.items()}
    slants = 0.12 + 0.045 * max(len(label(n)) for own in names.values() for n in own)
    beyond = 0.15 + _overhang(names, sizes)
    wide = left + ROOM + beyond
    figure, axes = stacked(
        len(names),
        width=wide,
        height=[sizes[task] * len(own) for task, own in names.items()],
        left=left,
        right=beyond,
        top=0.3 + slants,
        bottom=0.12,
        gap=0.5 + slants,
    )
    for ax, (task, own) in zip(axes, names.items(), strict=True):
        box = ax.get_position()
        ax.set_position((box.x0, box.y0, sizes[task] * len(own) / wide, box.height))
        _panel(ax, data[data["task"] == task], own, sizes[task])
        metric = comparisons.primary(task)
        head = f"{clean(task, 40)}: {metric.label}" if metric else clean(task, 40)
        shift = (-72.0 * left + 6.0, 72.0 * slants + 4.0)
        place = ((0.0, 1.0), shift, "axes fraction", "offset points")
        ax.annotate(head, *place, color=INK, weight="bold", size=9.5)
    return figure


def _overhang(names: dict[str, list[str]], sizes: dict[str, float]) -> float:
    """Return the inches by which slanting heads reach beyond the last column."""
    reach = [
        0.045 * len(label(name)) - sizes[task] * (len(own) - 0.5 - place)
        for task, own in names.items()
        for place, name in enumerate(own)
        if sizes[task] < CELL_INCHES  # else the panel does not fill its width
    ]
    return max([0.0, *reach])


def _chosen(comparisons: Comparisons, task: str, duels: Duels, most: int) -> list[str]:
    """Return the estimators of a panel, best mean first: all, or the best and the references."""
    sign = -1.0 if duels.better == "higher" else 1.0
    means = (sign * duels.scores.mean()).sort_values(kind="stable")
    order = [str(name) for name in means.index]
    if len(order) <= most:
        return order
    kept = {name for name in (PLAIN, BASELINED) if name in order}
    ranked = [n for n in order if estimator_facts(n).ranked and n not in kept]
    kept |= set(ranked[: most - len(kept)])
    return [name for name in order if name in kept]


def _data(comparisons: Comparisons, task: str, duels: Duels, names: list[str]) -> pd.DataFrame:
    """Return a row an ordered pair."""
    rows = []
    for pair in permutations(names, 2):
        duel = duels.duel(*pair)
        own = duel.estimate
        if own.known:
            numbers = (own.value, own.low, own.high, duel.wins, duel.ties, duel.n)
            p_values = (duels.p_holm(*pair), comparisons.p_holm(task, "quality", *pair))
            rows.append((task, *pair, *numbers, *p_values))
    columns = ["task", "estimator", "against", "estimate", "low", "high", "wins", "ties", "n"]
    return pd.DataFrame(rows, columns=[*columns, "p_holm", "p_holm_mean_difference"])


def _panel(axes: Axes, data: pd.DataFrame, names: list[str], size: float) -> None:
    """Draw the cells of one task."""
    at = {name: place for place, name in enumerate(names)}
    axes.set_xlim(0, len(names))
    axes.set_ylim(len(names), 0)
    axes.grid(visible=False)
    for place in range(len(names)):
        axes.add_patch(Rectangle((place, place), 1, 1, fc="none", ec=MUTED, lw=0.4, zorder=2))
    for estimator, own in data.groupby("estimator", sort=False):
        with belonging(axes, str(estimator)):  # once a row, for it looks through the whole panel
            for row in entries(own):
                _cell(axes, row, at[row["against"]], at[row["estimator"]], size)
    ticks, texts = [place + 0.5 for place in range(len(names))], [label(name) for name in names]
    axes.set_yticks(ticks, texts)
    axes.set_xticks(ticks, texts, rotation=45, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=3, labelsize=max(5.0, min(8.0, 30.0 * size)))
    for up, across, name in zip(axes.get_yticklabels(), axes.get_xticklabels(), names, strict=True):
        up.set_color(look(name).colour)
        belongs((up, across), name)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, row: dict[str, Any], x: int, y: int, size: float) -> None:
    """Draw one ordered pair."""
    value, letters = row["estimate"], max(4.2, min(8.0, 22.0 * size))
    shade = tuple(p + (d - p) * value for p, d in zip(PALE, DARK, strict=True))
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=shade, edgecolor="none", zorder=1))
    ink = ON_DARK if value > 0.6 else ON_PALE
    text = f"{100.0 * value:.0f}"
    axes.text(x + 0.5, y + 0.5, text, color=ink, size=letters, ha="center", va="center", zorder=3)
    if row["p_holm_mean_difference"] < ALPHA:
        axes.plot([x + 0.86], [y + 0.16], ".", color=ink, markersize=0.32 * letters, zorder=3)
    if row["p_holm"] < ALPHA:
        wide = min(1.8, 4.5 * size)
        corner = (x + 0.045, y + 0.045)
        axes.add_patch(Rectangle(corner, 0.91, 0.91, fc="none", ec=FRAME, lw=wide, zorder=2))


def _metrics(kinds: dict[str, str]) -> str:
    labels = dict.fromkeys(kinds.values())
    if len(labels) == 1:
        return f"by {next(iter(labels))} after the last batch"
    listed = ", ".join(f"{name} on {clean(task, 40)}" for task, name in kinds.items())
    return f"after the last batch, by {listed}"


def _reach_text(panels: dict[str, Duels]) -> str:
    """Say where no pair could be significant, because the seeds are too few for the pairs."""
    out = []
    for task, duels in panels.items():
        seeds = int(duels.scores.notna().sum().max())
        pairs = len(duels.pairs)
        if (least := least_p_holm(seeds, pairs)) >= ALPHA:
            out.append(f"{clean(task, 40)} ({pairs} pairs, {seeds} seeds: {p_text(least)} at best)")
    if not out:
        return ""
    return (
        " A pair has to win in every seed, and the seeds have to suffice for the pairs, which "
        f"they cannot on {'; '.join(out)}: there a missing frame means nothing."
    )


def _restricted(left_out: dict[str, int]) -> str:
    listed = [f"{count} on {clean(task, 40)}" for task, count in left_out.items() if count]
    if not listed:
        return ""
    return (
        f" Shown are {PLAIN}, {BASELINED} and the best of the ranked; left out are "
        f"{', '.join(listed)}. All pairs are in tables/improvement.csv."
    )


def _table(data: pd.DataFrame) -> pd.DataFrame:
    """Return each pair once, the winner first, for reading."""
    heads = ["task", "estimator", "better than", "in", "probability, %", "sign test, Holm"]
    rows = []
    for row in entries(data):
        pair = (row["estimator"], row["against"])
        if row["estimate"] > 0.5 or (row["estimate"] == 0.5 and pair == tuple(sorted(pair))):
            ties = f" ({row['ties']} tied)" if row["ties"] else ""
            value, low, high = (number(100 * row[end], 0) for end in ("estimate", "low", "high"))
            said = (f"{row['wins']} of {row['n']} seeds{ties}", f"{value} [{low}, {high}]")
            tests = (p_text(row["p_holm"]), p_text(row["p_holm_mean_difference"]))
            rows.append((row["task"], *pair, *said, *tests))
    return pd.DataFrame(rows, columns=[*heads, "difference, Holm"])
