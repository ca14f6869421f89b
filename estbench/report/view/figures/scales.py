"""What an axis shows, and logarithmic axes with numbers read without thinking: 0.5, 1, 2, 5."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "log_view",
    "plain_log_ticks",
    "round_numbers",
    "tick_text",
    "view",
]

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def view(
    values: ArrayLike, low: ArrayLike, high: ArrayLike, least: float = 0.0
) -> tuple[float, float]:
    """Return what an axis has to show: all values, and their intervals as far as is sensible.

    With two seeds an interval can be a hundred times as long as all there is to see. It is followed
    for no more than the range of the values (or `least`, if that is more) beyond them, and cut
    there. Values that are not finite do not count; without any the answer is (nan, nan).
    """
    marks, lows, highs = _finite(values), _finite(low), _finite(high)
    if not marks.size:
        return math.nan, math.nan
    first, last = float(marks.min()), float(marks.max())
    reach = max(last - first, least)
    bottom = max(float(lows.min()), first - reach) if lows.size else first
    top = min(float(highs.max()), last + reach) if highs.size else last
    return min(first, bottom), max(last, top)


def log_view(
    values: ArrayLike, low: ArrayLike, high: ArrayLike, margin: float = 0.06
) -> tuple[float, float]:
    """Return the limits of a log axis: `view` of the logs, and a margin at both ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [np.log(np.asarray(part, dtype=np.float64)) for part in (values, low, high)]
    bottom, top = view(logs[0], logs[1], logs[2], least=math.log(3.0))
    room = margin * max(top - bottom, 0.35)
    return math.exp(bottom - room), math.exp(top + room)


def plain_log_ticks(axis: Axis, *, ratio: bool = False, most: int = 6) -> None:
    """Put ticks at round numbers of a log axis: as dense as fits `most`, without minor ones."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(round_numbers(float(low), float(high), most)))
    axis.set_minor_locator(NullLocator())
    unit = "×" if ratio else ""
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value) + unit))


def tick_text(value: float) -> str:
    """Return a round number without superfluous zeros; powers of ten where it would be long."""
    if 0.00099 <= value < 9_999:
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return power if float(mantissa) == 1.0 else f"{float(mantissa):g}·{power}"


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Return at least two round numbers inside [low, high] if there are any."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]
    finer, finest = [i / 5 for i in range(5, 50)], [i / 10 for i in range(10, 100)]
    for factors in ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], fine, finer, finest):
        ticks = [float(f"{f}e{d}") for d in range(first, last + 1) for f in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= max(2, most // 2):
            return inside[:: -(-len(inside) // most)]
    return [float(f"{math.sqrt(low * high):.2g}")]


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]
