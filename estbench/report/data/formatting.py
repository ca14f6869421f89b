"""Numbers as people read them: few digits, the same everywhere in the report."""

from __future__ import annotations

import math

from estbench.core.errors import printable
from estbench.report.data.statistics import Estimate

__all__ = [
    "NO_STATEMENT",
    "bound_end",
    "bounded",
    "clean",
    "interval",
    "number",
    "p_text",
    "quantity",
    "ratio",
    "seconds",
    "with_interval",
]

UNKNOWN = "–"
NO_STATEMENT = "no statement"


def number(value: float, digits: int = 2) -> str:
    """Return a plain number with a fixed count of decimals ("−0.38"), or a dash if unknown."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def quantity(value: float) -> str:
    """Return a positive quantity of any size with two to three significant digits."""
    if not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    if size == 0.0:
        return "0"
    if size >= 99_950 or size < 9.995e-5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    if size >= 99.95:
        return f"{float(f'{value:.3g}'):,.0f}".replace("-", "−")
    if size >= 9.995:
        return number(value, 1)
    if size >= 0.0995:
        return number(value, 2)
    return f"{value:.2g}".replace("-", "−")


def ratio(value: float) -> str:
    """Return a ratio ("0.63×")."""
    return quantity(value) + "×" if math.isfinite(value) else UNKNOWN


def seconds(value: float) -> str:
    """Return a duration with its unit, from microseconds to hours."""
    if not math.isfinite(value):
        return UNKNOWN
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if value < limit:
            return f"{quantity(value * scale)} {unit}"
    minutes = value / 60.0
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def interval(estimate: Estimate, style: str = "ratio", digits: int = 2) -> str:
    """Return "[0.55, 0.72]", or nothing where there is no interval."""
    if not estimate.has_interval:
        return ""
    write = quantity if style in ("ratio", "quantity") else lambda x: number(x, digits)
    return f"[{write(estimate.low)}, {write(estimate.high)}]"


def with_interval(estimate: Estimate, style: str = "ratio", digits: int = 2) -> str:
    """Return "0.63× [0.55, 0.72]" (style "ratio"), or the same of a plain number or quantity."""
    if style == "ratio":
        head = ratio(estimate.value)
    elif style == "quantity":
        head = quantity(estimate.value)
    else:
        head = number(estimate.value, digits)
    return f"{head} {interval(estimate, style, digits)}".rstrip()


def bounded(estimate: Estimate, bound: str) -> str:
    """Return a ratio with its interval, or what heavy tails leave of it.

    Args:
      bound: Of `Ratio`: "lower" gives "at least 0.4×", by the lower end of
        the interval; "upper" likewise; "none" gives "no statement".
    """
    if not bound or not estimate.known:
        return with_interval(estimate)
    if bound == "none":
        return NO_STATEMENT
    return f"{'at least' if bound == 'lower' else 'at most'} {ratio(bound_end(estimate, bound))}"


def bound_end(estimate: Estimate, bound: str) -> float:
    """Return what a "lower" or "upper" bound is: that end of the interval, or else the value."""
    end = estimate.low if bound == "lower" else estimate.high
    return end if math.isfinite(end) else estimate.value


def p_text(p_value: float) -> str:
    """Return "p = 0.03" or "p < 0.001"."""
    if not math.isfinite(p_value):
        return "not tested"
    if p_value < 0.001:
        return "p < 0.001"
    digits = 3 if p_value < 0.01 else 2
    return f"p = {p_value:.{digits}f}"


def clean(text: object, limit: int = 400) -> str:
    """Return `text` on one line, control characters written out, cut at `limit` characters."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"
