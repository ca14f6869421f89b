"""The look of every figure: colours, markers and dashes fixed by estimator name.

Families share a hue (score function: grey and blues; REBAR: oranges; RELAX: greens), colours stay
apart for the colour-blind (hues after Okabe and Ito 2008), and marker and dash tell the lines apart
where there is no colour at all. A name that is not in the table gets a look derived from the name
alone, so it never changes with what else is in the figure.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "RC",
    "REFERENCE_LINE",
    "Look",
    "dark_variables",
    "estimator_order",
    "light_variables",
    "look",
    "task_order",
]

# Roles. Each is one exact colour, so that the page can exchange it where the reader's is dark.
INK = "#1d232b"
MUTED = "#5b6571"
GRID = "#dfe3e8"
REFERENCE_LINE = "#98a1ab"
PAPER = "#ffffff"
_DARK_ROLES = {
    INK: "#e7eaee",
    MUTED: "#a9b2bd",
    GRID: "#333b45",
    REFERENCE_LINE: "#77818d",
    PAPER: "#15191e",
}

Dash = tuple[float, tuple[float, ...]] | str


@dataclass(frozen=True)
class Look:
    """How one estimator is drawn.

    Attributes:
      colour: On a light ground; at least 3:1 against white.
      dark: The same on a dark ground.
      marker: A matplotlib marker.
      dash: A matplotlib line style.
    """

    colour: str
    dark: str
    marker: str
    dash: Dash


SOLID: Dash = "-"
DOTTED: Dash = (0.0, (1.0, 1.4))
DASHED: Dash = (0.0, (5.0, 1.6))
SHORT: Dash = (0.0, (2.8, 1.3))
DASHDOT: Dash = (0.0, (5.0, 1.4, 1.2, 1.4))
DASHDOTDOT: Dash = (0.0, (5.0, 1.3, 1.2, 1.3, 1.2, 1.3))
LONG: Dash = (0.0, (9.0, 2.0))

_KNOWN: dict[str, Look] = {
    "reinforce": Look("#7d8590", "#a3adb9", "X", DOTTED),
    "reinforce-constant": Look("#4f6d8f", "#8fb0d6", "v", LONG),
    "reinforce-ema": Look("#0072b2", "#45a5e6", "s", SHORT),
    "reinforce-critic": Look("#2f8fb8", "#63c8ee", "P", DASHDOTDOT),
    "rloo": Look("#25347d", "#9aa8ff", "o", SOLID),
    "seqgan-rollouts": Look("#a04a8c", "#e08bcb", "*", DASHDOTDOT),
    "rebar": Look("#d55e00", "#ff9142", "D", DASHED),
    "relax": Look("#00795a", "#2fc79b", "^", DASHDOT),
}
# Shades for members of a family that are not named above, such as rebar-trajectory.
_SHADES: dict[str, tuple[tuple[str, str], ...]] = {
    "reinforce": (("#5c7fa3", "#9dbfe3"), ("#3d5a80", "#86a9d6"), ("#1f77a8", "#58b3e8")),
    "rloo": (("#4a54a6", "#b3bcff"), ("#3b3f78", "#a7abf0")),
    "rebar": (("#a84600", "#ffb07a"), ("#b9770e", "#f3bd55"), ("#e0703a", "#ffa57a")),
    "relax": (("#3f8f4f", "#7fd692"), ("#0b6e75", "#4cc7cf"), ("#55871f", "#a6d866")),
}
_OTHERS: tuple[tuple[str, str], ...] = (
    ("#8a5a44", "#d3a18a"),
    ("#7a5aa6", "#b99be6"),
    ("#a33b53", "#ee8ea3"),
    ("#6b6f1a", "#c4c95c"),
    ("#3f7f7f", "#83cdcd"),
    ("#b0578f", "#eb9bcd"),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
_DASHES: tuple[Dash, ...] = (SOLID, DASHED, DASHDOT, SHORT, LONG, DASHDOTDOT)

# Why these: DejaVu comes with matplotlib, so every machine draws the same letters; text as paths in
# SVG keeps labels where they were placed on machines without it; no mathtext, as names are data.
RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.unicode_minus": True,
    "figure.facecolor": PAPER,
    "figure.dpi": 100.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "xtick.minor.size": 0.0,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.0,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
    "ytick.minor.size": 0.0,
}


def look(estimator: str) -> Look:
    """Return how `estimator` is drawn; depends on its name and nothing else."""
    if estimator in _KNOWN:
        return _KNOWN[estimator]
    digest = hashlib.sha256(estimator.encode()).digest()
    shades = _SHADES.get(_family(estimator), _OTHERS)
    colour, dark = shades[digest[0] % len(shades)]
    marker = _MARKERS[digest[1] % len(_MARKERS)]
    return Look(colour, dark, marker, _DASHES[digest[2] % len(_DASHES)])


def estimator_order(estimator: str) -> tuple[int, str]:
    """Return the sort key of an estimator: known ones first, in the table's order."""
    names = list(_KNOWN)
    family = _family(estimator)
    if estimator in names:
        return names.index(estimator), ""
    return (names.index(family) if family in names else len(names)), estimator


def task_order(task: str) -> tuple[tuple[int, int | str], ...]:
    """Return the sort key of a task: natural order, so that expressions-3 precedes -15."""
    parts = re.findall(r"\d+|\D+", task)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def light_variables() -> dict[str, str]:
    """Return colour -> CSS variable name, for every colour that a known look or role uses."""
    names = {INK: "ink", MUTED: "muted", GRID: "grid", REFERENCE_LINE: "rule", PAPER: "paper"}
    variables = {colour: f"--fig-{name}" for colour, name in names.items()}
    return variables | {colour: f"--fig-{colour[1:]}" for colour in _data_colours()}


def dark_variables() -> dict[str, str]:
    """Return the same colours -> what they become on a dark ground."""
    return _DARK_ROLES | _data_colours()


def _data_colours() -> dict[str, str]:
    """Return light colour -> dark colour for every estimator, known or not."""
    pairs = {known.colour: known.dark for known in _KNOWN.values()}
    for shades in (*_SHADES.values(), _OTHERS):
        pairs |= dict(shades)
    return pairs


def _family(estimator: str) -> str:
    """Return the known estimator that a name begins with ("rebar-trajectory" -> "rebar")."""
    head = estimator.split("-")[0]
    return head if head in _SHADES else ""
