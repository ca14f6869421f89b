"""tables/*.tex: the main tables of a result set, ready for ``\\input`` in a paper.

They need the package booktabs and nothing else. Of variance, bold is a ratio that the test finds
below 1 after Holm's correction, with every single snapshot left out too. Of quality and time, bold
is the best of a column, and with it all for which no difference from it was found. What is not
ranked († and ‡) is never bold. Nor is anything that was tested on fewer than eight seeds or rounds:
such a test can find hardly any difference.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from estbench.report.data.comparisons import (
    ALPHA,
    BASELINED,
    PLAIN,
    SNAPSHOTS,
    TRAINING,
    Comparisons,
)
from estbench.report.data.formatting import number, quantity
from estbench.report.data.labels import estimator_facts, peer, unproven_text
from estbench.report.data.ratios import LOWER
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate
from estbench.report.out.templating import templates
from estbench.report.view.figures.captions import lost_note
from estbench.store.atomic import write_bytes

__all__ = ["NAMES", "escape", "leading", "write_latex"]

NAMES = ("variance_ratios.tex", "final_quality.tex", "time_per_step.tex")

# More rows than this do not fit on a page beside caption and notes: then each task is a table.
PAGE_ROWS = 40

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "−": r"$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\dots{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}


@dataclass(frozen=True)
class Cell:
    """A number in LaTeX and what is beside it, such as its interval.

    Attributes:
      n: Replicates behind it; 0 where it is unknown.
      tested: Whether a test of at least ENOUGH_SEEDS replicates says something of it.
      bold: Whether it is printed in bold.
    """

    text: str = "--"
    beside: str = ""
    n: int = 0
    tested: bool = False
    bold: bool = False


Column = dict[str, Cell]
"""Estimator -> its cell."""


@dataclass(frozen=True)
class Layout:
    """A table.

    Attributes:
      caption: In LaTeX.
      heads: Of the columns, in LaTeX; the n of the first one's cells is printed.
      columns: Task -> its columns.
      headings: Task -> what is above its rows, in LaTeX.
      counted: What n counts.
      emboldened: What bold means, in LaTeX.
      notes: In LaTeX, a sentence or more each.
    """

    caption: str
    heads: Sequence[str]
    columns: dict[str, list[Column]]
    headings: dict[str, str]
    counted: str
    emboldened: str
    notes: Sequence[str]

    def estimators(self, tasks: Sequence[str]) -> list[str]:
        """Return the estimators of some tasks, each once."""
        return list(dict.fromkeys(name for task in tasks for name in self.columns[task][0]))


def write_latex(comparisons: Comparisons, folder: Path) -> list[Path]:
    """Write the tables that the result set has numbers for into `folder`; return their paths.

    Raises:
      StorageError: The disk refused one.
    """
    written = []
    for name, make in zip(NAMES, (_variance, _quality, _time), strict=True):
        layout = make(comparisons)
        path = folder / name
        if layout.columns:
            write_bytes(path, _document(name, layout).encode())
            written.append(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier report, that had them
    return written


def leading(
    comparisons: Comparisons, task: str, quantity: str, values: dict[str, float], better: str
) -> set[str]:
    """Return the best estimator and those for which no difference from it was found.

    Args:
      quantity: Whose pairs are tested, one of `comparisons.QUANTITIES`.
      values: Estimator -> its estimate.
      better: "lower" or "higher"; with anything else nothing leads.

    Returns:
      Ranked estimators only, and of them only those tested on at least ENOUGH_SEEDS seeds or
      rounds. None if the best has no such test.
    """
    ranked = {
        name: value
        for name, value in values.items()
        if math.isfinite(value) and estimator_facts(name).ranked
    }
    if better not in ("lower", "higher") or len(ranked) < 2:
        return set()
    best = (min if better == "lower" else max)(ranked, key=lambda name: ranked[name])
    tests = {
        name: comparisons.p_holm(task, quantity, best, name)
        for name in ranked
        if name != best and comparisons.compare(task, quantity, best, name).df >= ENOUGH_SEEDS - 1
    }
    tested = {name: p_value for name, p_value in tests.items() if math.isfinite(p_value)}
    return {best, *(n for n, p_value in tested.items() if p_value >= ALPHA)} if tested else set()


def escape(text: str) -> str:
    """Return text as LaTeX prints it, in ASCII; a letter that has no such form is a "?"."""
    parts = []
    for letter in text:
        if letter in _SPECIAL:
            parts.append(_SPECIAL[letter])
        elif letter.isascii():
            parts.append(letter if letter.isprintable() else " ")
        else:
            plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
            parts.append("".join(_SPECIAL.get(part, part) for part in plain) or "?")
    return "".join(parts)


def _variance(comparisons: Comparisons) -> Layout:
    columns = {}
    for task in comparisons.results.tasks:
        names = comparisons.measured(task)
        if len(names) > 1 and BASELINED in names:
            columns[task] = [
                {n: _ratio(comparisons, task, "evaluation", n, BASELINED) for n in names},
                {n: _ratio(comparisons, task, "evaluation", n, peer(n)) for n in names},
                {n: _span(comparisons, task, n) for n in names},
                {n: _ratio(comparisons, task, "second", n, BASELINED) for n in names},
            ]
    base = escape(BASELINED)
    caption = (
        "Noise of the reference trajectory at equal parameters: gradient variance times reward "
        f"evaluations, integrated over its batches, as a ratio to {base} and to the "
        "partner with the same baseline; by snapshot, the range of the ratio to the partner, or to "
        f"{base} where there is none; and per second of a generator step, to "
        f"{base}. Geometric means over seeds with 95\\,\\% $t$ intervals of the "
        "logarithms, paired by seed; lower is better."
    )
    notes = [
        f"{escape(PLAIN)} has no baseline: most of any ratio to it is what a constant baseline "
        "gives. $\\geq$ and $\\leq$: heavy tails leave only a bound. Per second: the interval adds "
        "that of the time (Welch and Satterthwaite).",
        *_lost(comparisons, SNAPSHOTS, columns),
    ]
    bold = (
        "Bold: less noisy by a paired test (5\\,\\% level, Holm over all comparisons of a task "
        f"with a partner or {base}), and so without any one snapshot."
    )
    heads = [f"to {base}", "to the partner", "by snapshot", "per second"]
    return Layout(caption, heads, columns, _plain(columns), "seeds", bold, notes)


def _ratio(comparisons: Comparisons, task: str, cost: str, name: str, against: str) -> Cell:
    """Return a ratio of noise, or what heavy tails leave of it."""
    if name == against:
        timed = cost != "second" or name in comparisons.timed(task)
        n = comparisons.noise(task, name).n
        return _cell(Estimate(1.0 if timed and n else math.nan, n=n), _quantity)
    ratio = comparisons.ratio(task, cost, name, against)
    if ratio is None:
        return Cell()
    own = ratio.estimate
    tested = bool(ratio.verdict) and own.n >= ENOUGH_SEEDS
    bold = tested and ratio.verdict == LOWER and ratio.survives
    if not ratio.bound:
        return _cell(own, _quantity, tested, bold)
    if ratio.bound == "none":
        return Cell("--", "(no statement)", own.n, tested)
    sign, end = (r"$\geq$", own.low) if ratio.bound == "lower" else (r"$\leq$", own.high)
    text = f"{sign} {_quantity(end)}" if math.isfinite(end) else "--"
    return Cell(text, "", own.n, tested, bold)


def _span(comparisons: Comparisons, task: str, name: str) -> Cell:
    """Return the range of a ratio over the snapshots."""
    ratio = comparisons.ratio(task, "evaluation", name, peer(name))
    ratio = ratio or comparisons.ratio(task, "evaluation", name, BASELINED)
    if ratio is None:
        return Cell()
    low, high = (_quantity(end) for end in ratio.span)
    return Cell(low, f"to {high}")


BEST = (
    "Bold: the best, and all for which a paired test finds no difference from it (5\\,\\% level, "
    "Holm over all pairs of ranked estimators of a task)."
)


def _quality(comparisons: Comparisons) -> Layout:
    columns, headings = {}, {}
    for task in comparisons.results.tasks:
        metric = comparisons.primary(task)
        if metric is None:
            continue
        finals = {n: comparisons.final(task, n, metric.name) for n in comparisons.trained(task)}
        finals = {name: final for name, final in finals.items() if final.known}
        if finals:
            columns[task] = [_column(comparisons, task, "quality", finals, _number, metric.better)]
            better = "" if metric.better == "neither" else f", {metric.better} is better"
            headings[task] = escape(f"{task}: {metric.axis}{better}")
    caption = (
        "Quality of the generated sequences after the last batch: means over seeds with 95\\,\\% "
        "$t$ intervals."
    )
    lost = _lost(comparisons, TRAINING, columns)
    notes = ["Goodness and NLL under the oracle ignore diversity.", *lost]
    return Layout(caption, ["after training"], columns, headings, "seeds", BEST, notes)


def _time(comparisons: Comparisons) -> Layout:
    columns = {}
    for task in comparisons.results.tasks:
        names, kind = comparisons.timed(task), "seconds_per_step"
        if names:
            steps = {n: comparisons.seconds(task, n).scaled(1e3) for n in names}
            ratios = {n: comparisons.compare(task, kind, n, PLAIN) for n in names}
            ratios |= {PLAIN: Estimate(1.0)} if PLAIN in names else {}
            columns[task] = [
                _column(comparisons, task, kind, steps, _quantity, "lower"),
                {name: _cell(ratio, _quantity) for name, ratio in ratios.items()},
            ]
    caption = (
        "Time of one generator step in a serial timing pass, one thread, estimators interleaved: "
        "geometric means over rounds with 95\\,\\% $t$ intervals of the logarithms."
    )
    notes = ["Rounds on one machine: the interval covers its noise, not other machines."]
    heads = ["milliseconds", f"ratio to {escape(PLAIN)}"]
    return Layout(caption, heads, columns, _plain(columns), "rounds", BEST, notes)


def _column(
    comparisons: Comparisons,
    task: str,
    quantity: str,
    estimates: dict[str, Estimate],
    write: Callable[[float], str],
    better: str,
) -> Column:
    """Return a column whose best is bold, by the paired tests of one of `QUANTITIES`."""
    values = {name: estimate.value for name, estimate in estimates.items()}
    best = leading(comparisons, task, quantity, values, better)
    return {n: _cell(own, write, n in best, n in best) for n, own in estimates.items()}


def _cell(
    estimate: Estimate, write: Callable[[float], str], tested: bool = False, bold: bool = False
) -> Cell:
    """Return an estimate and its interval."""
    if not estimate.known:
        return Cell()
    ends = f"[{write(estimate.low)}, {write(estimate.high)}]" if estimate.has_interval else ""
    return Cell(write(estimate.value), ends, estimate.n, tested, bold)


def _plain(columns: dict[str, list[Column]]) -> dict[str, str]:
    return {task: escape(task) for task in columns}


def _lost(comparisons: Comparisons, kind: str, columns: dict[str, list[Column]]) -> list[str]:
    """Return a note on what failed or is missing; none where nothing is."""
    names = [name for own in columns.values() for name in own[0]]
    note = lost_note(comparisons, kind, columns, names)
    return [escape(note)] if note else []


def _document(name: str, layout: Layout) -> str:
    """Return the file: one table, or one a task where one would not fit on a page."""
    signs = {"block_start_string": "<%", "block_end_string": "%>"}
    signs |= {"variable_start_string": "<<", "variable_end_string": ">>"}
    write = templates(keep_trailing_newline=True, **signs).get_template("table.tex.j2").render
    total = sum(len(own[0]) + 1 for own in layout.columns.values())
    every = list(layout.columns)
    label = Path(name).stem.replace("_", "-")
    head = (
        "% Written by estbench report DIR --latex, and again with every report of that folder.\n"
        f"% Needs \\usepackage{{booktabs}}; include it with \\input{{{name}}}.\n"
    )
    if total <= PAGE_ROWS or len(every) == 1:
        return head + str(write(_values(layout, every), caption=layout.caption, label=label))
    parts: list[str] = []
    for task in every:
        own = {
            "caption": f"{layout.caption} Task: {escape(task)}.",
            "label": f"{label}-{_slug(task)}",
        }
        parts.append(write(_values(layout, [task]), **own))
    return head + "\n".join(parts)


def _values(layout: Layout, tasks: Sequence[str]) -> dict[str, object]:
    """Return what the template fills in for a table of some tasks."""
    groups = []
    for task in tasks:
        own = layout.columns[task]
        rows = [
            (escape(name + estimator_facts(name).mark), [column[name] for column in own])
            for name in own[0]
        ]
        # A table of one task has its name in the caption.
        named = layout.headings[task] if len(layout.columns) == len(tasks) else ""
        extra = layout.headings[task] if layout.headings[task] != escape(task) else ""
        groups.append({"heading": named or extra, "rows": rows})
    cells = [cell for task in tasks for column in layout.columns[task] for cell in column.values()]
    notes = list(_notes(layout, layout.estimators(tasks), cells))
    same = {"heads": layout.heads, "counted": layout.counted}
    return same | {"groups": groups, "notes": notes}


def _notes(layout: Layout, names: Sequence[str], cells: Sequence[Cell]) -> Iterator[str]:
    """Yield what is printed under the table, a line each."""
    tested = any(cell.tested for cell in cells)
    if tested:
        yield layout.emboldened
    yield from layout.notes
    fewest = min((cell.n for cell in cells if cell.n), default=ENOUGH_SEEDS)
    if not tested and fewest < ENOUGH_SEEDS:
        yield (
            f"Nothing is bold: a test of fewer than {ENOUGH_SEEDS} {layout.counted} can find "
            "hardly any difference."
        )
    if fewest < ENOUGH_SEEDS and layout.counted == "seeds":
        yield (
            f"Fewer than {ENOUGH_SEEDS} seeds: the intervals assume normality."
            if fewest > 1
            else "With one seed there is neither interval nor test."
        )
    for name in names:
        facts = estimator_facts(name)
        if facts.mark == "†":
            why = facts.why_biased or "declared so"
            yield escape(f"† {name}: biased by design, so not ranked ({why}).")
        elif facts.mark == "‡":
            yield escape(f"‡ {name}: not ranked, {unproven_text(facts)}.")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def _quantity(value: float) -> str:
    """Return a positive number as LaTeX: "0.63", "12.4", a power of ten where it is long."""
    text = quantity(value)
    mantissa, _, exponent = text.partition("e")
    if exponent:
        power = exponent.replace("−", "-")
        return rf"${mantissa.replace('−', '-')}\times10^{{{power}}}$"
    return escape(text)


def _number(value: float) -> str:
    return escape(number(value, 3))
