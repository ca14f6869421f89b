"""What estbench's own estimators declare, written down: for readers, and for ``estbench list``.

``python -m estbench.index`` (or ``make index``) writes docs/estimators/README.md and the catalogue
that ``estbench list`` reads instead of importing torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from estbench import estimators
from estbench.estimators.base import Estimator
from estbench.listing import described, evaluations
from estbench.terminal import say

__all__ = ["FILES", "catalogue", "index"]

SECTIONS = (
    (
        "Score functions",
        "score-function.md",
        (
            "score_function",
            "step_baselines",
            "grouped",
            "all_actions",
            "sets",
            "muprop",
            "published",  # REINFORCE, which is unbiased
        ),
    ),
    (
        "Trainers of language models",
        "trainers.md",
        ("trainers", "kl_losses", "off_policy"),
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
)
"""Headings, the page that describes what is below, and the modules that it is written in."""

CONTROLS = "Wrong on purpose: the check has to find them", "../check.md"
"""Heading and page of what declares itself a control, whatever its module."""

HEAD = """\
# All estimators

`python -m estbench list estimators` prints this on a terminal. Which is unbiased is proven by
`python -m estbench check` ([how](../check.md)). "Rewards a draw" are evaluations of the reward for
T positions, V tokens and n draws at a time; those that say *relaxed* need a reward that takes
weights in the place of tokens. K is the number of sequences that make one draw. Where "any K" is
written, `NAME-K` is the same estimator with another K of at least 2, such as `rloo-4`. This page is
made by `python -m estbench.index`.
"""


def _own() -> list[Estimator]:
    """Return estbench's own estimators, in the order of the catalogue."""
    made = [estimators.make(name) for name in estimators.names()]
    return [method for method in made if type(method).__module__.startswith("estbench.estimators.")]


def catalogue() -> str:
    """Return what they declare, as JSON."""
    rows = [dataclasses.asdict(method.info) for method in _own()]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def index() -> str:
    """Return the page on all of them."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    by_module: dict[str, list[Estimator]] = {}
    controls: list[Estimator] = []
    for method in _own():
        if method.info.control:
            controls.append(method)
        else:
            module = type(method).__module__.rpartition(".")[2]
            by_module.setdefault(module, []).append(method)
    yield HEAD
    for heading, page, modules in SECTIONS:
        yield from _section(
            heading, page, [method for m in modules for method in by_module.pop(m, ())]
        )
    yield from _section(*CONTROLS, controls)
    missing = ", ".join(by_module)
    assert not by_module, f"estbench.index.SECTIONS lacks {missing}"


def _section(heading: str, page: str, methods: list[Estimator]) -> Iterator[str]:
    yield f"## [{heading}]({page})\n"
    yield "| name | unbiased | rewards a draw | K | baseline | learned | what it is | paper |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from map(_row, methods)
    yield ""


def _row(method: Estimator) -> str:
    info = method.info
    cells = [
        f"`{info.name}`",
        "yes" if info.unbiased else "no",
        evaluations(info.hard_evals, info.relaxed_evals),
        str(info.group),
        info.baseline,
        ", ".join(info.learned),
        described(info.name, info.summary, info.any_group),
        info.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


PACKAGE = Path(__file__).parent
FILES = {
    PACKAGE.parent / "docs" / "estimators" / "README.md": index,
    PACKAGE / "estimators" / "catalogue.json": catalogue,
}
"""The files of a checkout that are generated, and what each must hold."""


if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text(), encoding="utf-8")
        say(f"wrote {path}")
