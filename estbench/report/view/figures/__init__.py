"""The report's figures, one file a figure, in the order of the page.

A figure is declared once, here: its name, the question that it answers, and the function from
`Comparisons` to `Drawn` (or None where the result set lacks what it shows), which gives title,
caption and alternative text. The page shows one figure a question; the others are in figures.html.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from estbench.report.data.comparisons import Comparisons
from estbench.report.view.figures import (
    across,
    bias,
    diversity,
    improvement,
    log_variance,
    phases,
    published,
    quality,
    snapshot_variance,
    sources,
    step_gain,
    teaser,
    temperature,
    tokens,
    useful_share,
    variance_cost,
    wall_clock,
)
from estbench.report.view.figures.base import Drawn

__all__ = ["FIGURES", "Declared", "Drawn"]


@dataclass(frozen=True)
class Declared:
    """A figure of the report.

    Attributes:
      name: Of its files.
      draw: Makes it.
      question: The key in `answers.QUESTIONS` that it answers on the page, "summary" for the first
        figure, "" for those of figures.html.
    """

    name: str
    draw: Callable[[Comparisons], Drawn | None]
    question: str = ""


FIGURES: tuple[Declared, ...] = (
    Declared("teaser", teaser.draw, "summary"),
    Declared("useful_share", useful_share.draw, "limit"),
    Declared("variance_cost", variance_cost.draw, "noise"),
    Declared("quality", quality.draw, "learning"),
    Declared("bias", bias.draw, "bias"),
    Declared("sources", sources.draw, "sources"),
    Declared("published", published.draw, "paper"),
    Declared("snapshot_variance", snapshot_variance.draw),
    Declared("across", across.draw),
    Declared("profile", across.draw_profile),
    Declared("progress", step_gain.draw),
    Declared("quality_seconds", quality.draw_seconds),
    Declared("tokens", tokens.draw),
    Declared("improvement", improvement.draw),
    Declared("diversity", diversity.draw),
    Declared("temperature", temperature.draw),
    Declared("log_variance", log_variance.draw_log_variance),
    Declared("log_variance_paper_quantity", log_variance.draw_paper_quantity),
    Declared("wall_clock", wall_clock.draw),
    Declared("phases", phases.draw),
    Declared("source_steps", sources.draw_steps),
)
