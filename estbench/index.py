"""The table of all estimators in docs/estimators/README.md, from what they declare.

python -m estbench.index > docs/estimators/README.md
"""

from __future__ import annotations

from collections.abc import Iterator

from estbench import estimators
from estbench.estimators.base import Estimator
from estbench.listing import evaluations

__all__ = ["index"]

SECTIONS = (
    (
        "Score functions",
        "score-function.md",
        ("score_function", "step_baselines", "grouped", "all_actions", "sets", "muprop"),
    ),
    (
        "Control variates that see a relaxed token",
        "control-variates.md",
        ("rebar", "rebar_per_tensor", "relax", "relax_several"),
    ),
    (
        "Coupled tokens, Stein operators, double control variates",
        "coupled-and-stein.md",
        ("coupled", "arsm", "stein", "double_control"),
    ),
    ("Relaxed, biased by design", "relaxed.md", ("relaxed",)),
    ("Without a derivative, and without noise", "controls.md", ("perturbation", "exact")),
    (
        "Wrong on purpose: the check has to find them",
        "../check.md",
        ("controls", "coupled_controls", "published", "published_relax"),
    ),
)
"""Headings, the page that describes what stands below, and the modules that it is written in."""

HEAD = """\
# All estimators

`python -m estbench list estimators` prints this on a terminal. Which is unbiased is proven by
`python -m estbench check` ([how](../check.md)). "Rewards a draw" are evaluations of the reward for
T positions, V tokens and n draws at a time; those that say *relaxed* need a reward that takes
weights in the place of tokens. K is the number of sequences that make one draw. This page is made
by `python -m estbench.index`.
"""


def index() -> str:
    """Return the page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    by_module: dict[str, list[Estimator]] = {}
    for name in estimators.names():
        method = estimators.make(name)
        package, _, module = type(method).__module__.rpartition(".")
        if package == "estbench.estimators":  # the user's own have no page here
            by_module.setdefault(module, []).append(method)
    yield HEAD
    for heading, page, modules in SECTIONS:
        yield f"## [{heading}]({page})\n"
        yield "| name | unbiased | rewards a draw | K | baseline | learned | what it is | paper |"
        yield "|---|---|---|---|---|---|---|---|"
        yield from (_row(method) for module in modules for method in by_module.pop(module, ()))
        yield ""
    missing = ", ".join(by_module)
    assert not by_module, f"estbench.index.SECTIONS lacks {missing}"


def _row(method: Estimator) -> str:
    info = method.info
    cells = [
        f"`{info.name}`",
        "yes" if info.unbiased else "no",
        evaluations(info),
        str(info.group),
        info.baseline,
        ", ".join(info.learned),
        info.summary,
        info.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(index(), end="")
