"""How probable it is that the estimator of a row ends better than that of a column."""

from __future__ import annotations

import math
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
    biased_text,
    entries,
    few_text,
    label,
    n_text,
    name_room,
    stacked,
)
from estbench.report.view.figures.notes import lost_note
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
    data = pd.concat(
        [_data(comparisons, task, duels, names[task]) for task, duels in panels.items()],
        ignore_index=True,
    )
    left = name_room(name for own in names.values() for name in own)
    sizes = {task: min(CELL_INCHES, ROOM / len(own)) for task, own in names.items()}
    heights = [sizes[task] * len(names[task]) for task in panels]
    slants = 0.12 + 0.045 * max(len(label(n)) for own in names.values() for n in own)
    beyond = 0.15 + _overhang(names, sizes)
    wide = left + ROOM + beyond
    figure, axes = stacked(
        len(panels),
        width=wide,
        height=heights,
        left=left,
        right=beyond,
        top=0.3 + slants,
        bottom=0.12,
        gap=0.5 + slants,
    )
    for ax, task in zip(axes, panels, strict=True):
        size, own = sizes[task], names[task]
        box = ax.get_position()
        ax.set_position((box.x0, box.y0, size * len(own) / wide, box.height))
        _panel(ax, data[data["task"] == task], own, size)
        metric = comparisons.primary(task)
        head = f"{clean(task, 40)}: {metric.label}" if metric else clean(task, 40)
        ax.annotate(
            head,
            (0.0, 1.0),
            (-72.0 * left + 6.0, 72.0 * slants + 4.0),
            "axes fraction",
            "offset points",
            color=INK,
            weight="bold",
            size=9.5,
        )
    return _drawn(comparisons, panels, names, data, figure)


def _overhang(names: dict[str, list[str]], sizes: dict[str, float]) -> float:
    """Return the inches by which slanting heads reach beyond the last column."""
    reach = [
        0.045 * len(label(name)) - sizes[task] * (len(own) - 0.5 - place)
        for task, own in names.items()
        for place, name in enumerate(own)
        if sizes[task] < CELL_INCHES  # else the panel does not fill its width
    ]
    return max([0.0, *reach])


def _drawn(
    comparisons: Comparisons,
    panels: dict[str, Duels],
    names: dict[str, list[str]],
    data: pd.DataFrame,
    figure: Figure,
) -> Drawn:
    """Return the figure with what is said of it."""
    every = [name for own in names.values() for name in own]
    counts = data.groupby(["task", "estimator"], sort=False)["n"].max().reset_index()
    left_out = {t: duels.scores.shape[1] - len(names[t]) for t, duels in panels.items()}
    kinds = {
        task: metric.label for task in panels if (metric := comparisons.primary(task)) is not None
    }
    caption = (
        "Per cent of seeds in which the estimator of the row ends better than that of the column, "
        f"a tie counting half ({_metrics(kinds)}; {n_text(counts)}, paired by seed). Darker: the "
        "row wins more often. Rows are in the order of their mean, the best on top. Thick frame: "
        "the exact sign test tells the two apart after Holm's correction over all pairs of the "
        "task. Dot: the paired t test of the mean difference does. Exact 95 % limits (Clopper and "
        "Pearson) of every cell are in the figure's data; from ten seeds they are wide: 10 of 10 "
        f"is [69, 100]. {_reach_text(panels)}{_restricted(left_out)}"
        f"{few_text(counts['n'])}{lost_note(comparisons, TRAINING, panels, every)}"
        f"{biased_text(every)}"
    )
    title = "Which estimator ends better, seed by seed"
    table = _table(data)
    sure = [
        f"{row['estimator']} over {row['against']} on {row['task']} in {row['wins']} of {row['n']}"
        for row in entries(data)
        if row["p_holm"] < ALPHA and row["estimate"] > 0.5
    ]
    alt = f"{title}. Told apart by the sign test: {'; '.join(sure) or 'none'}."
    return Drawn("improvement", title, caption, alt, data, figure, table)


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
    for first in names:
        for second in names:
            if first == second:
                continue
            duel = duels.duel(first, second)
            found = duel.estimate
            if found.known:
                numbers = (found.value, found.low, found.high, duel.wins, duel.ties, duel.n)
                p_values = (
                    duels.p_holm(first, second),
                    comparisons.p_holm(task, "quality", first, second),
                )
                rows.append((task, first, second, *numbers, *p_values))
    columns = ["task", "estimator", "against", "estimate", "low", "high", "wins", "ties", "n"]
    return pd.DataFrame(rows, columns=[*columns, "p_holm", "p_holm_mean_difference"])


def _panel(axes: Axes, data: pd.DataFrame, names: list[str], size: float) -> None:
    """Draw the cells of one task."""
    at = {name: place for place, name in enumerate(names)}
    axes.set_xlim(0, len(names))
    axes.set_ylim(len(names), 0)
    axes.grid(visible=False)
    for place in range(len(names)):
        axes.add_patch(
            Rectangle(
                (place, place), 1, 1, facecolor="none", edgecolor=MUTED, linewidth=0.4, zorder=2
            )
        )
    for estimator, own in data.groupby("estimator", sort=False):
        with belonging(axes, str(estimator)):  # once a row, for it looks through the whole panel
            for row in entries(own):
                _cell(axes, row, at[row["against"]], at[row["estimator"]], size)
    small = max(5.0, min(8.0, 30.0 * size))
    ticks = [place + 0.5 for place in range(len(names))]
    axes.set_yticks(ticks, [label(name) for name in names], fontsize=small)
    axes.set_xticks(
        ticks,
        [label(name) for name in names],
        fontsize=small,
        rotation=45,
        ha="left",
        rotation_mode="anchor",
    )
    axes.xaxis.tick_top()
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(look(name).colour)
        belongs(tick, name)
    for tick, name in zip(axes.get_xticklabels(), names, strict=True):
        belongs(tick, name)
    axes.tick_params(length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


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
        inset = 0.045
        frame = Rectangle(
            (x + inset, y + inset),
            1 - 2 * inset,
            1 - 2 * inset,
            zorder=2,
            facecolor="none",
            edgecolor=FRAME,
            linewidth=min(1.8, 4.5 * size),
        )
        axes.add_patch(frame)


def _metrics(kinds: dict[str, str]) -> str:
    labels = dict.fromkeys(kinds.values())
    if len(labels) == 1:
        return f"by {next(iter(labels))} after the last batch"
    listed = ", ".join(f"{name} on {clean(task, 40)}" for task, name in kinds.items())
    return f"after the last batch, by {listed}"


def _reach_text(panels: dict[str, Duels]) -> str:
    """Say where no pair at all could be significant, as there are too few seeds for its pairs."""
    out = []
    for task, duels in panels.items():
        seeds = int(duels.scores.notna().sum().max())
        pairs = len(duels.pairs)
        if (least := least_p_holm(seeds, pairs)) >= ALPHA:
            out.append(f"{clean(task, 40)} ({pairs} pairs, {seeds} seeds: {p_text(least)} at best)")
    if not out:
        return ""
    return (
        "The sign test is strict: a pair has to win in every seed and the seeds have to suffice "
        f"for the pairs, which they cannot on {'; '.join(out)}; no frame there says nothing. "
    )


def _restricted(left_out: dict[str, int]) -> str:
    dropped = {task: count for task, count in left_out.items() if count}
    if not dropped:
        return ""
    listed = ", ".join(f"{count} on {clean(task, 40)}" for task, count in dropped.items())
    return (
        f"Too many estimators for one matrix: shown are {PLAIN}, {BASELINED} and the best of the "
        f"ranked; left out are {listed}. All pairs are in tables/improvement.csv. "
    )


def _table(data: pd.DataFrame) -> pd.DataFrame:
    """Return each pair once, the winner first, for reading."""
    rows = []
    for row in entries(data):
        if row["estimate"] > 0.5 or (row["estimate"] == 0.5 and row["estimator"] < row["against"]):
            limits = f"[{number(100 * row['low'], 0)}, {number(100 * row['high'], 0)}]"
            ties = f" ({row['ties']} tied)" if row["ties"] else ""
            rows.append(
                {
                    "task": row["task"],
                    "estimator": row["estimator"],
                    "better than": row["against"],
                    "in": f"{row['wins']} of {row['n']} seeds{ties}",
                    "probability, %": f"{number(100 * row['estimate'], 0)} {limits}",
                    "sign test, Holm": p_text(row["p_holm"]),
                    "difference, Holm": p_text(row["p_holm_mean_difference"]),
                }
            )
    return pd.DataFrame(rows)
