"""Draws the figure of docs/which-estimator.md and prints its numbers, from the catalogue's set.

``python benchmarks/which_estimator.py [results/reference/catalogue]`` writes
docs/figures/which-estimator.png: for every estimator and task the variance at shared snapshots as a
ratio to ``reinforce-ema``, per sequence, per reward evaluation and per second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from estbench import estimators

TASKS = {
    "expressions-3": "expressions-3\nV = 5, T = 3",
    "expressions-15": "expressions-15\nV = 5, T = 15",
    "oracle-small": "oracle-small\nV = 50, T = 8",
    "digits-categorical": "digits-categorical\nautoencoder, V = 10, T = 20",
}
COSTS = {
    "variance_per_sequence_ratio": ("per sequence", "o", "#1f4e79", 26),
    "variance_per_evaluation_ratio": ("per reward evaluation", "D", "#c55a11", 16),
    "variance_per_second_ratio": ("per second", "|", "#3a3a3a", 60),
}
AGAINST = "reinforce-ema"
LOW, HIGH = 2e-4, 2e3
OUT = Path("docs/figures/which-estimator.png")


def load(directory: Path) -> pd.DataFrame:
    """Return the ratios to ``reinforce-ema``."""
    summary = pd.read_csv(directory / "tables" / "summary.csv")
    return summary[summary["metric"].isin(COSTS) & (summary["against"] == AGAINST)]


def order(ratios: pd.DataFrame) -> list[str]:
    """Return the estimators, unbiased ones first, each group from the least variance up."""
    own = ratios[ratios["metric"] == "variance_per_sequence_ratio"]
    mean = own.pivot(index="estimator", columns="task", values="estimate").median(axis=1)
    names = [AGAINST, *(name for name in mean.index if name != AGAINST)]
    mean[AGAINST] = 1.0
    return sorted(names, key=lambda n: (not estimators.info(n).unbiased, mean[n]))


def draw(ratios: pd.DataFrame, path: Path) -> None:
    """Draw a column of points for each task."""
    names = order(ratios)
    rows = {name: i for i, name in enumerate(names)}
    first_biased = sum(estimators.info(name).unbiased for name in names)
    figure, axes = plt.subplots(1, len(TASKS), figsize=(13, 0.205 * len(names) + 1.6), sharey=True)
    for ax, (task, title) in zip(axes, TASKS.items(), strict=True):
        ax.axvline(1.0, color="#888888", lw=0.8, zorder=1)
        for i in range(0, len(names), 2):
            ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0, lw=0)
        ax.axhline(first_biased - 0.5, color="#444444", lw=0.8)
        for shift, (metric, (label, marker, colour, size)) in enumerate(COSTS.items()):
            own = ratios[(ratios["metric"] == metric) & (ratios["task"] == task)]
            own = own[own["estimate"] > 0]
            y = own["estimator"].map(rows) + (shift - 1) * 0.22
            shown = own["estimate"].clip(LOW, HIGH)
            ax.hlines(y, own["low"].clip(LOW, HIGH), own["high"].clip(LOW, HIGH), colour, lw=1)
            ax.scatter(shown, y, s=size, marker=marker, color=colour, label=label, zorder=3)
        ax.set(xscale="log", xlim=(LOW / 1.5, HIGH * 1.5), title=title)
        ax.title.set_fontsize(10)
        ax.tick_params(labelsize=8)
        ax.set_xlabel("variance, ratio to reinforce-ema", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    labels = [name if estimators.info(name).unbiased else f"{name} †" for name in names]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.025, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def table(ratios: pd.DataFrame, names: list[str], metric: str) -> str:
    """Return a Markdown table of one cost: estimators down, tasks across."""
    lines = ["| | " + " | ".join(f"`{task}`" for task in TASKS) + " |", "|---" * 5 + "|"]
    own = ratios[ratios["metric"] == metric].set_index(["task", "estimator"])
    for name in names:
        cells = []
        for task in TASKS:
            if (task, name) not in own.index:
                cells.append("1" if name == AGAINST else "–")
                continue
            row = own.loc[(task, name)]
            cells.append(f"{row['estimate']:.2g} [{row['low']:.2g}, {row['high']:.2g}]")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw the figure and print the tables."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "results/reference/catalogue")
    ratios = load(directory)
    draw(ratios, OUT)
    for metric, (label, *_) in COSTS.items():
        print(f"\n{label}\n\n{table(ratios, order(ratios), metric)}")


if __name__ == "__main__":
    main()
