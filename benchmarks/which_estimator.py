"""Draws the figure of docs/which-estimator.md and prints its numbers, from the catalogue's set.

``python benchmarks/which_estimator.py [results/reference/catalogue]`` writes
docs/figures/which-estimator.png: for every estimator and task the noise of the trajectory per
reward evaluation, as a ratio to the partner with the same baseline and to ``reinforce-ema``, and
per second as a ratio to ``reinforce-ema``.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from estbench import estimators

TASKS = {
    "expressions-3": "expressions-3\nV = 5, T = 3",
    "expressions-15": "expressions-15\nV = 5, T = 15",
    "oracle-small": "oracle-small\nV = 50, T = 8",
    "rough": "rough\nrandom table, V = 5, T = 3",
    "digits-categorical": "digits-categorical\nautoencoder, V = 10, T = 20",
}
# (role, cost) of tables/ratios -> label, marker, colour.
SERIES = {
    ("partner", "evaluation"): ("per evaluation, to the partner", "D", "#c55a11"),
    ("ema", "evaluation"): ("per evaluation, to reinforce-ema", "o", "#1f4e79"),
    ("ema", "second"): ("per second, to reinforce-ema", "s", "#3a3a3a"),
}
AGAINST = "reinforce-ema"
LOW, HIGH = 1e-3, 1e3
OUT = Path("docs/figures/which-estimator.png")


def load(directory: Path) -> pd.DataFrame:
    """Return the ratios, one row for a trajectory or one of its informative snapshots.

    Where `reinforce-ema` is the partner, the ratio is in both series.
    """
    table = pd.read_parquet(directory / "tables" / "ratios.parquet")
    table = table[table["informative"]].assign(bound=table["bound"].fillna(""))
    both = table[(table["role"] == "partner") & (table["against"] == AGAINST)]
    return pd.concat([table, both.assign(role="ema")], ignore_index=True)


def order(ratios: pd.DataFrame) -> list[str]:
    """Return the estimators, unbiased ones first, each group from the least noise up."""
    own = ratios[
        (ratios["role"] == "ema")
        & (ratios["cost"] == "evaluation")
        & (ratios["scope"] == "trajectory")
    ]
    middle = own.pivot(index="estimator", columns="task", values="estimate").median(axis=1)
    middle[AGAINST] = 1.0
    return sorted(middle.index, key=lambda n: (not estimators.info(n).unbiased, middle[n]))


def draw(ratios: pd.DataFrame, path: Path) -> None:
    """Draw a column of points for each task."""
    names = order(ratios)
    rows = {name: i for i, name in enumerate(names)}
    first_biased = sum(estimators.info(name).unbiased for name in names)
    figure, axes = plt.subplots(1, len(TASKS), figsize=(15, 0.235 * len(names) + 1.8), sharey=True)
    for ax, (task, title) in zip(axes, TASKS.items(), strict=True):
        ax.axvline(1.0, color="#888888", lw=0.8, zorder=1)
        for i in range(0, len(names), 2):
            ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0, lw=0)
        ax.axhline(first_biased - 0.5, color="#444444", lw=0.8)
        for shift, ((role, cost), (_, marker, colour)) in enumerate(SERIES.items()):
            own = ratios[
                (ratios["task"] == task) & (ratios["role"] == role) & (ratios["cost"] == cost)
            ]
            place = {name: row + (shift - 1) * 0.26 for name, row in rows.items()}
            draw_series(ax, own, place, marker, colour)
        ax.set(xscale="log", xlim=(LOW / 1.3, HIGH * 1.3))
        ax.set_title(title, fontsize=10)
        ax.tick_params(labelsize=8)
        ax.set_xlabel("noise of the trajectory, ratio", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    labels = [name if estimators.info(name).unbiased else f"{name} †" for name in names]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(handles=legend(), loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.035, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_series(
    ax: Axes, own: pd.DataFrame, place: dict[str, float], marker: str, colour: str
) -> None:
    """Draw one series of a task: the trajectory's ratio, and pale ticks for the snapshots."""
    parts = own[own["scope"] != "trajectory"]
    y = parts["estimator"].map(place)
    ax.scatter(
        parts["estimate"].clip(LOW, HIGH), y, s=14, marker="|", color=colour, alpha=0.45, lw=0.8
    )
    for row in own[own["scope"] == "trajectory"].to_dict("records"):
        y_at = place[row["estimator"]]
        if row["bound"] == "none":
            continue
        if row["bound"]:
            lower = row["bound"] == "lower"
            ax.scatter(
                min(max(row["low" if lower else "high"], LOW), HIGH),
                y_at,
                s=26,
                marker=">" if lower else "<",
                facecolor="white",
                edgecolor=colour,
                lw=0.9,
                zorder=3,
            )
            continue
        low, value, high = (min(max(row[c], LOW), HIGH) for c in ("low", "estimate", "high"))
        ax.hlines(y_at, low, high, colour, lw=1.1, zorder=2)
        # Full only if the verdict is the same without any one snapshot.
        firm = str(row["survives"]) == "True"
        ax.scatter(
            value,
            y_at,
            s=16,
            marker=marker,
            facecolor=colour if firm else "white",
            edgecolor=colour,
            lw=0.9,
            zorder=3,
        )


def legend() -> list[Line2D]:
    """Return the legend's handles."""

    def point(marker: str, colour: str, label: str, full: bool = True) -> Line2D:
        face = colour if full else "white"
        return Line2D(
            [], [], ls="", marker=marker, color=colour, markerfacecolor=face, ms=5, label=label
        )

    return [
        *(point(marker, colour, label) for label, marker, colour in SERIES.values()),
        point("o", "#777777", "hollow: another verdict without one snapshot", full=False),
        point(">", "#777777", "triangle: heavy tails, at least (>) or at most (<)", full=False),
        point("|", "#777777", "ticks: single snapshots"),
    ]


def cell(row: Mapping[Hashable, Any]) -> str:
    """Return a ratio or its bound; "?" where the verdict is another without one snapshot."""
    bound = row["bound"]
    if bound == "none":
        return "no statement"
    if bound:
        return f"≥ {row['low']:.2g}" if bound == "lower" else f"≤ {row['high']:.2g}"
    doubt = "" if str(row["survives"]) == "True" else " ?"
    return f"{row['estimate']:.2g} [{row['low']:.2g}, {row['high']:.2g}]{doubt}"


def table(ratios: pd.DataFrame, names: Sequence[str], role: str, cost: str) -> str:
    """Return a Markdown table of one series: estimators down, tasks across."""
    lines = [
        "| | " + " | ".join(f"`{task}`" for task in TASKS) + " |",
        "|---" * (1 + len(TASKS)) + "|",
    ]
    own = ratios[
        (ratios["role"] == role) & (ratios["cost"] == cost) & (ratios["scope"] == "trajectory")
    ]
    found = {(row["task"], row["estimator"]): cell(row) for row in own.to_dict("records")}
    for name in names:
        cells = [found.get((task, name), "–") for task in TASKS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw the figure and print the tables."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "results/reference/catalogue")
    ratios = load(directory)
    draw(ratios, OUT)
    for (role, cost), (label, *_) in SERIES.items():
        print(f"\n{label}\n\n{table(ratios, order(ratios), role, cost)}")


if __name__ == "__main__":
    main()
