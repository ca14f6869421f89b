"""The look of every figure: colours, markers and dashes fixed by estimator name.

Estimators of a family share a hue, which their classes declare (score function: grey and blues;
REBAR: oranges; RELAX: greens). The hues differ for the colour-blind too (after Okabe and Ito 2008),
and marker and dash tell the lines apart in black and white: no two names of the catalogue have the
same pair. A name that is not in the catalogue gets a look derived from the name alone, so that it
never changes with what else is in the figure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from estbench.core.registry import catalogue
from estbench.report.data.order import estimator_hue

__all__ = [
    "CONTEXT",
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "RC",
    "REFERENCE_LINE",
    "Look",
    "dark_variables",
    "light_variables",
    "look",
]

# Roles. Each is one exact colour, so that the page can exchange it where the reader's is dark.
INK = "#1d232b"
MUTED = "#5b6571"
GRID = "#dfe3e8"
REFERENCE_LINE = "#98a1ab"
CONTEXT = "#88919c"  # lines that stand behind the others in a full figure
PAPER = "#ffffff"
_DARK_ROLES = {
    INK: "#e7eaee",
    MUTED: "#a9b2bd",
    GRID: "#333b45",
    REFERENCE_LINE: "#77818d",
    CONTEXT: "#7f8995",
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

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a matplotlib line."""
        return {"color": self.colour, "linestyle": self.dash}

    @property
    def mark(self) -> dict[str, Any]:
        """Arguments of single matplotlib markers."""
        return {"color": self.colour, "marker": self.marker}


SOLID: Dash = "-"
DOTTED: Dash = (0.0, (1.0, 1.4))
DASHED: Dash = (0.0, (5.0, 1.6))
SHORT: Dash = (0.0, (2.8, 1.3))
DASHDOT: Dash = (0.0, (5.0, 1.4, 1.2, 1.4))
DASHDOTDOT: Dash = (0.0, (5.0, 1.3, 1.2, 1.3, 1.2, 1.3))
LONG: Dash = (0.0, (9.0, 2.0))
LONGDOT: Dash = (0.0, (9.0, 1.6, 1.2, 1.6))

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


# The shades of each hue of `order.HUES`, given to members in turn: (light ground, dark ground).
_SHADES: dict[str, tuple[tuple[str, str], ...]] = {
    "reinforce": (("#5c7fa3", "#9dbfe3"), ("#3d5a80", "#86a9d6"), ("#1f77a8", "#58b3e8")),
    "rloo": (("#4a54a6", "#b3bcff"), ("#3b3f78", "#a7abf0")),
    "seqgan": (("#8e5aa8", "#cf9fe8"), ("#7a3d7d", "#d58fd8"), ("#b0578f", "#eb9bcd")),
    "rebar": (("#a84600", "#ffb07a"), ("#b9770e", "#f3bd55"), ("#e0703a", "#ffa57a")),
    "relax": (("#3f8f4f", "#7fd692"), ("#0b6e75", "#4cc7cf"), ("#55871f", "#a6d866")),
    "arm": (("#a33b53", "#ee8ea3"), ("#c2185b", "#ff7fb0"), ("#8c2f39", "#e5808a")),
    "gumbel": (("#6b6f1a", "#c4c95c"), ("#8a7a00", "#d9c83f"), ("#5d6b3a", "#b3c48a")),
    "evolution": (("#3f7f7f", "#83cdcd"), ("#2b6777", "#78bccf")),
    "biased": (("#8a5a44", "#d3a18a"), ("#6f5f55", "#bfaea3")),
}
_OTHERS: tuple[tuple[str, str], ...] = (
    ("#7a5aa6", "#b99be6"),
    ("#9c5221", "#dca27c"),
    ("#a33b53", "#ee8ea3"),
    ("#6b6f1a", "#c4c95c"),
    ("#3f7f7f", "#83cdcd"),
    ("#b0578f", "#eb9bcd"),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "*", "<", ">", "h", "d")
_LATER = ("H", "8")  # after all others, for a name that moves changes its look
_DASHES: tuple[Dash, ...] = (
    SOLID,
    DASHED,
    DASHDOT,
    SHORT,
    LONG,
    DASHDOTDOT,
    LONGDOT,
    DOTTED,
)

# Pairs kept for the catalogue; the rest is for names that it does not know.
ROOM = 96

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


@cache
def look(estimator: str) -> Look:
    """Return how an estimator is drawn, which depends only on its name."""
    if estimator in _KNOWN:
        return _KNOWN[estimator]
    hue = estimator_hue(estimator)
    shades = _SHADES.get(hue, _OTHERS)
    places = _places()
    if estimator in places:
        kin = [name for name in places if estimator_hue(name) == hue]
        colour, dark = shades[kin.index(estimator) % len(shades)]
        return Look(colour, dark, *_pairs()[places[estimator]])
    digest = hashlib.sha256(estimator.encode()).digest()
    colour, dark = shades[digest[0] % len(shades)]
    free = _pairs()[ROOM:]
    return Look(colour, dark, *free[int.from_bytes(digest[1:5]) % len(free)])


@cache
def _places() -> dict[str, int]:
    """Return the place of each estimator of the catalogue without a fixed look, in order."""
    return {n: look["place"] for n, look in catalogue()["looks"].items() if "place" in look}


@cache
def _pairs() -> tuple[tuple[str, Dash], ...]:
    """Return every (marker, dash) that the table leaves, neighbours differing in both."""
    taken = {(known.marker, known.dash) for known in _KNOWN.values()}
    lines, rounds = len(_DASHES), range(len(_MARKERS) * len(_DASHES))
    # 13 and 8 have no common factor, so going round both at once meets each pair once.
    pairs = [(_MARKERS[i % len(_MARKERS)], _DASHES[i % lines]) for i in rounds]
    pairs += [(_LATER[(i + i // lines) % 2], _DASHES[i % lines]) for i in range(2 * lines)]
    return tuple(pair for pair in pairs if pair not in taken)


def light_variables() -> dict[str, str]:
    """Return colour -> CSS variable name, for every colour that a known look or role uses."""
    names = {INK: "ink", MUTED: "muted", GRID: "grid", REFERENCE_LINE: "rule", PAPER: "paper"}
    names[CONTEXT] = "context"
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
