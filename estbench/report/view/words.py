"""The words that the page, the terminal and `compare` share: names, ratios, verdicts, counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from estbench.report.data.formatting import NO_STATEMENT, bound_end, clean, number, quantity
from estbench.report.data.labels import estimator_facts
from estbench.report.data.ratios import OPEN, Ratio
from estbench.report.data.statistics import Estimate

__all__ = [
    "BASELINED_WORDS",
    "about",
    "at_most",
    "batches_text",
    "count",
    "interval_words",
    "listed",
    "marked",
    "partner_words",
    "percent_words",
    "rests_text",
    "span_text",
    "times",
]

_WITH = {
    "reinforce": "without a baseline",
    "reinforce-constant": "with the same constant baseline",
    "reinforce-ema": "with the same moving-average baseline",
    "reinforce-critic": "with the same critic",
    "rloo": "with the same leave-one-out baseline",
}
BASELINED_WORDS = "REINFORCE with a moving-average baseline"


def marked(estimator: str) -> str:
    """Return an estimator's name, with its mark if it is not ranked."""
    return clean(estimator, 60) + estimator_facts(estimator).mark


def partner_words(partner: str) -> str:
    """Return the partner of an estimator in words that need no table of names."""
    family, _, size = partner.rpartition("-")
    known = _WITH.get(partner) or (_WITH.get(family) if size.isdecimal() else None)
    return f"REINFORCE {known}" if known else clean(partner, 60)


def listed(names: Sequence[str], most: int = 0) -> str:
    """Return "a, b and c"; of more than `most` names (if given) only the first and a count."""
    if most and len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def count(n: int, thing: str) -> str:
    """Return "1 seed", "10 seeds"."""
    return f"{n} {thing}{'s' * (n != 1)}"


def about(value: float, digits: int = 2) -> str:
    """Return a positive number with two significant digits: "0.40", "1.6", "28", "6,400"."""
    if not math.isfinite(value):
        return "–"
    if value == 0.0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -4 <= size < 7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return number(round(value, digits - 1 - size), max(0, digits - 1 - size))


def times(estimate: Estimate, bound: str = "") -> str:
    """Return "1.6 times (1.5 to 1.7)", or what heavy tails leave of it: "at least 1.8 times"."""
    if not estimate.known:
        return "unknown"
    if bound == "none":
        return NO_STATEMENT
    if bound:
        words = "at least" if bound == "lower" else "at most"
        return f"{words} {about(bound_end(estimate, bound))} times"
    return interval_words(estimate, " times")


def interval_words(estimate: Estimate, unit: str = "", scale: float = 1.0) -> str:
    """Return "0.40 (0.39 to 0.42)"; the unit follows the number."""
    ends = [scale * end for end in (estimate.value, estimate.low, estimate.high)]
    if not estimate.has_interval:
        return about(ends[0]) + unit
    texts = next(
        texts
        for digits in (2, 3)
        if len(set(texts := [about(end, digits) for end in ends])) == 3 or digits == 3
    )
    return f"{texts[0]}{unit} ({texts[1]} to {texts[2]})"


def percent_words(share: float) -> str:
    """Return a share as "66 %"; what rounds to nothing or everything says so."""
    percent = 100.0 * share
    if 0.0 < percent < 1.0:
        return f"{about(percent)} %"
    if 99.5 <= percent < 100.0:
        return "over 99 %"
    return f"{percent:.0f} %"


def at_most(share: float, word: str) -> str:
    """Return a share as "up to 66 %", with that word; of nearly everything, "over 99 %" alone."""
    text = percent_words(share)
    return text if text.startswith("over") else f"{word} {text}"


def span_text(ratio: Ratio) -> str:
    """Return the range of a ratio over the informative snapshots."""
    low, high = (quantity(end) for end in ratio.span)
    return low if low == high else f"{low} to {high}"


def rests_text(ratio: Ratio) -> str:
    """Return which snapshots a verdict rests on, and the ratio without the worst of them."""
    if not ratio.omissions:
        return "rests on the only informative snapshot"
    turned = ratio.turned_by
    # The omission that leads farthest from what was found.
    pick = min if ratio.verdict == OPEN else max
    step, worst = pick(turned.items(), key=lambda omission: omission[1].p_holm)
    said = {OPEN: "and no difference is found", "": "and is not tested"}
    return (
        f"rests on the snapshot{'s' * (len(turned) > 1)} at {batches_text(turned)}: without the "
        f"one at batch {step:g} it is {times(worst.estimate)}, "
        f"{said.get(worst.verdict, worst.verdict)}"
    )


def batches_text(steps: Collection[float]) -> str:
    """Return "batch 29", or "batches 29 and 58"."""
    return f"batch{'es' * (len(steps) > 1)} {listed([f'{step:g}' for step in steps])}"
