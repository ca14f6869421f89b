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
from collections.abc import Callable, Iterable, Sequence
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
from estbench.report.data.labels import Metric, estimator_facts, peer, unproven_text
from estbench.report.data.ratios import LOWER, Ratio
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate
from estbench.report.view.figures.notes import lost_note
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
class Column:
    """A column of estimates.

    Attributes:
      head: In LaTeX.
      cells: (task, estimator) -> the number and what stands beside it, in LaTeX.
      estimate: (task, estimator) -> what they are of.
      bold: (task, its estimators) -> those in bold, and whether anything was tested.
    """

    head: str
    cells: Callable[[str, str], tuple[str, str]]
    estimate: Callable[[str, str], Estimate]
    bold: Callable[[str, Sequence[str]], tuple[set[str], bool]]


@dataclass(frozen=True)
class Layout:
    """A table: what it is called, its rows and columns.

    Attributes:
      name: File name.
      caption: In LaTeX.
      columns: Of estimates; the first one's n is printed.
      rows: Task -> its estimators.
      headings: Task -> what stands above its rows, in LaTeX.
      counted: What n counts.
      emboldened: What bold means, in LaTeX.
      notes: In LaTeX, a sentence or more each.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: dict[str, list[str]]
    headings: dict[str, str]
    counted: str
    emboldened: str
    notes: Sequence[str]


def write_latex(comparisons: Comparisons, folder: Path) -> list[Path]:
    """Write the tables that the result set has numbers for into `folder`; return their paths.

    Raises:
      StorageError: The disk refused one.
    """
    written = []
    for name, make in zip(NAMES, (_variance, _quality, _time), strict=True):
        layout = make(comparisons)
        path = folder / name
        if layout.rows:
            write_bytes(path, _document(comparisons, layout).encode())
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
    rows = {
        task: names
        for task in comparisons.results.tasks
        if len(names := comparisons.measured(task)) > 1 and BASELINED in names
    }

    def column(head: str, cost: str, against: Callable[[str], str]) -> Column:
        def found(task: str, name: str) -> Ratio | None:
            return comparisons.ratio(task, cost, name, against(name))

        def estimate(task: str, name: str) -> Estimate:
            if name == against(name):
                timed = cost != "second" or name in comparisons.timed(task)
                n = comparisons.noise(task, name).n
                return Estimate(1.0 if timed and n else math.nan, n=n)
            ratio = found(task, name)
            return Estimate(math.nan) if ratio is None else ratio.estimate

        def cells(task: str, name: str) -> tuple[str, str]:
            ratio = found(task, name)
            if ratio is None or not ratio.bound:
                return _cells(estimate(task, name), _quantity)
            if ratio.bound == "none":
                return "--", "(no statement)"
            sign, end = (
                (r"$\geq$", ratio.estimate.low)
                if ratio.bound == "lower"
                else (r"$\leq$", ratio.estimate.high)
            )
            return (f"{sign} {_quantity(end)}", "") if math.isfinite(end) else ("--", "")

        def bold(task: str, names: Sequence[str]) -> tuple[set[str], bool]:
            ratios = [ratio for name in names if (ratio := found(task, name)) is not None]
            ratios = [ratio for ratio in ratios if ratio.estimate.n >= ENOUGH_SEEDS]
            best = {r.estimator for r in ratios if r.verdict == LOWER and r.survives}
            return best, any(ratio.verdict for ratio in ratios)

        return Column(head, cells, estimate, bold)

    def spans(task: str, name: str) -> tuple[str, str]:
        ratio = comparisons.ratio(task, "evaluation", name, peer(name))
        ratio = ratio or comparisons.ratio(task, "evaluation", name, BASELINED)
        if ratio is None:
            return "--", ""
        low, high = (_quantity(end) for end in ratio.span)
        return low, f"to {high}"

    def unknown(task: str, name: str) -> Estimate:
        return Estimate(math.nan)

    columns = [
        column(f"to {escape(BASELINED)}", "evaluation", lambda name: BASELINED),
        column("to the partner", "evaluation", peer),
        Column("by snapshot", spans, unknown, lambda task, names: (set(), False)),
        column("per second", "second", lambda name: BASELINED),
    ]
    caption = (
        "Noise of the reference trajectory at equal parameters: gradient variance times reward "
        f"evaluations, integrated over its batches, as a ratio to {escape(BASELINED)} and to the "
        "partner with the same baseline; by snapshot, the range of the ratio to the partner, or to "
        f"{escape(BASELINED)} where there is none; and per second of a generator step, to "
        f"{escape(BASELINED)}. Geometric means over seeds with 95\\,\\% $t$ intervals of the "
        "logarithms, paired by seed; lower is better."
    )
    notes = [
        f"{escape(PLAIN)} has no baseline: most of any ratio to it is what a constant baseline "
        "gives. $\\geq$ and $\\leq$: heavy tails leave only a bound. Per second: the interval adds "
        "that of the time (Welch and Satterthwaite).",
        *_lost(comparisons, SNAPSHOTS, rows),
    ]
    bold = (
        "Bold: less noisy by a paired test (5\\,\\% level, Holm over all comparisons of a task "
        f"with a partner or {escape(BASELINED)}), and so without any one snapshot."
    )
    heads = {t: escape(t) for t in rows}
    return Layout(NAMES[0], caption, columns, rows, heads, "seeds", bold, notes)


def _tested_column(
    comparisons: Comparisons,
    head: str,
    quantity: str,
    estimate: Callable[[str, str], Estimate],
    write: Callable[[float], str],
    better: Callable[[str], str],
) -> Column:
    """Return a column whose best is bold, by the paired tests of one of `QUANTITIES`."""

    def bold(task: str, names: Sequence[str]) -> tuple[set[str], bool]:
        values = {name: estimate(task, name).value for name in names}
        best = leading(comparisons, task, quantity, values, better(task))
        return best, bool(best)

    return Column(head, lambda t, name: _cells(estimate(t, name), write), estimate, bold)


BEST = (
    "Bold: the best, and all for which a paired test finds no difference from it (5\\,\\% level, "
    "Holm over all pairs of ranked estimators of a task)."
)


def _quality(comparisons: Comparisons) -> Layout:
    metrics: dict[str, Metric] = {}
    rows = {}
    for task in comparisons.results.tasks:
        metric = comparisons.primary(task)
        if metric is None:
            continue
        names = [
            name
            for name in comparisons.trained(task)
            if comparisons.final(task, name, metric.name).known
        ]
        if names:
            rows[task], metrics[task] = names, metric
    headings = {}
    for task, metric in metrics.items():
        better = "" if metric.better == "neither" else f", {metric.better} is better"
        headings[task] = escape(f"{task}: {metric.axis}{better}")
    column = _tested_column(
        comparisons,
        "after training",
        "quality",
        lambda task, name: comparisons.final(task, name, metrics[task].name),
        _number,
        lambda task: metrics[task].better,
    )
    caption = (
        "Quality of the generated sequences after the last batch: means over seeds with 95\\,\\% "
        "$t$ intervals."
    )
    notes = [
        "Goodness and NLL under the oracle ignore diversity.",
        *_lost(comparisons, TRAINING, rows),
    ]
    return Layout(NAMES[1], caption, [column], rows, headings, "seeds", BEST, notes)


def _lost(comparisons: Comparisons, kind: str, rows: dict[str, list[str]]) -> list[str]:
    """Return a note on what failed or is missing; none where nothing is."""
    names = [name for own in rows.values() for name in own]
    note = lost_note(comparisons, kind, rows, names).strip()
    return [escape(note)] if note else []


def _time(comparisons: Comparisons) -> Layout:
    rows = {t: names for t in comparisons.results.tasks if (names := comparisons.timed(t))}

    def milliseconds(task: str, name: str) -> Estimate:
        own = comparisons.seconds(task, name)
        return Estimate(1e3 * own.value, 1e3 * own.low, 1e3 * own.high, own.n)

    def ratio(task: str, name: str) -> Estimate:
        if name == PLAIN:
            return Estimate(1.0)
        return comparisons.compare(task, "seconds_per_step", name, PLAIN)

    def lower(task: str) -> str:
        return "lower"

    columns = [
        _tested_column(
            comparisons, "milliseconds", "seconds_per_step", milliseconds, _quantity, lower
        ),
        _tested_column(
            comparisons, f"ratio to {escape(PLAIN)}", "", ratio, _quantity, lambda task: ""
        ),
    ]
    caption = (
        "Time of one generator step in a serial timing pass, one thread, estimators interleaved: "
        "geometric means over rounds with 95\\,\\% $t$ intervals of the logarithms."
    )
    notes = ["Rounds on one machine: the interval covers its noise, not other machines."]
    heads = {t: escape(t) for t in rows}
    return Layout(NAMES[2], caption, columns, rows, heads, "rounds", BEST, notes)


def _document(comparisons: Comparisons, layout: Layout) -> str:
    """Return the file: one table, or one a task where one would not fit on a page."""
    total = sum(len(names) + 1 for names in layout.rows.values())
    groups = [list(layout.rows)] if total <= PAGE_ROWS else [[task] for task in layout.rows]
    head = (
        "% Written by estbench report DIR --latex, and again with every report of that folder.\n"
        f"% Needs \\usepackage{{booktabs}}; include it with \\input{{{layout.name}}}.\n"
    )
    parts = [_table(comparisons, layout, tasks, len(groups) > 1) for tasks in groups]
    return head + "\n".join(parts)


def _table(comparisons: Comparisons, layout: Layout, tasks: list[str], parted: bool) -> str:
    lines = []
    tested = False
    shown: list[Estimate] = []
    for task in tasks:
        names = layout.rows[task]
        bold = []
        for column in layout.columns:
            best, known = column.bold(task, names)
            bold.append(best)
            tested = tested or known
        if not parted or layout.headings[task] != escape(task):
            span = 2 + 2 * len(layout.columns)
            lines.append(
                rf"\multicolumn{{{span}}}{{@{{}}l}}{{\emph{{{layout.headings[task]}}}}} \\"
            )
        for name in names:
            estimates = [column.estimate(task, name) for column in layout.columns]
            shown += estimates
            cells = [escape(name + estimator_facts(name).mark)]
            for column, best in zip(layout.columns, bold, strict=True):
                text, beside = column.cells(task, name)
                cells += [rf"\textbf{{{text}}}" if name in best else text, beside]
            lines.append(" & ".join([*cells, str(estimates[0].n or "--")]) + r" \\")
        if task != tasks[-1]:
            lines.append(r"\addlinespace")
    heads = [rf"\multicolumn{{2}}{{c}}{{{column.head}}}" for column in layout.columns]
    label = Path(layout.name).stem.replace("_", "-") + (f"-{_slug(tasks[0])}" if parted else "")
    caption = layout.caption + (f" Task: {escape(tasks[0])}." if parted else "")
    names = [name for task in tasks for name in layout.rows[task]]
    notes = _notes(layout, names, shown, tested)
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"\centering",
            r"\small",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{label}}}",
            r"\smallskip",
            rf"\begin{{tabular}}{{@{{}}l{'r@{ }l' * len(layout.columns)}r@{{}}}}",
            r"\toprule",
            " & ".join(["estimator", *heads, f"{layout.counted}"]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\medskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            *notes,
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _cells(estimate: Estimate, write: Callable[[float], str]) -> tuple[str, str]:
    """Return an estimate and its interval."""
    if not estimate.known:
        return "--", ""
    ends = f"[{write(estimate.low)}, {write(estimate.high)}]" if estimate.has_interval else ""
    return write(estimate.value), ends


def _notes(
    layout: Layout, names: Iterable[str], shown: Iterable[Estimate], tested: bool
) -> list[str]:
    """Return what stands under the table, a line each."""
    notes = list(layout.notes)
    if tested:
        notes.insert(0, layout.emboldened)
    counts = [estimate.n for estimate in shown if estimate.known and estimate.n]
    if not tested and counts and min(counts) < ENOUGH_SEEDS:
        notes.append(
            f"Nothing is bold: a test of fewer than {ENOUGH_SEEDS} {layout.counted} can find "
            "hardly any difference."
        )
    if counts and min(counts) < ENOUGH_SEEDS and layout.counted == "seeds":
        notes.append(
            f"Fewer than {ENOUGH_SEEDS} seeds: the intervals lean on normality."
            if min(counts) > 1
            else "Where there is one seed, there is neither interval nor test."
        )
    for name in dict.fromkeys(names):
        facts = estimator_facts(name)
        if facts.mark == "†":
            why = facts.why_biased or "declared so"
            notes.append(escape(f"† {name}: biased by design, so not ranked ({why})."))
        elif facts.mark == "‡":
            notes.append(escape(f"‡ {name}: not ranked, {unproven_text(facts)}."))
    return notes


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
