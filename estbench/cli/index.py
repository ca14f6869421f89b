"""Write down what estbench's own things declare: for readers, and for ``estbench list``.

``make index`` writes docs/estimators/README.md, and the catalogue
that the command line reads as long as it needs no torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from estbench import estimators
from estbench.cli.listing import described, evaluations
from estbench.core.registry import CATALOGUE, ESTIMATORS, REGISTRIES, catalogue
from estbench.core.terminal import say
from estbench.estimators.base import Estimator, Section
from estbench.report.data.order import KNOWN

__all__ = ["FILES", "contents", "index"]

HEAD = """\
# All estimators

`python -m estbench list estimators` prints this on a terminal. Which is unbiased is proven by
`python -m estbench check` ([how](../check.md)). "Rewards a draw" are evaluations of the reward for
T positions, V tokens and n draws at a time; those that say *relaxed* need a reward that takes
weights in the place of tokens. K is the number of sequences that make one draw. Where "any K" is
written, `NAME-K` is the same estimator with another K of at least 2, such as `rloo-4`. This page is
made by `make index`.
"""


def contents() -> str:
    """Return what estbench's own things declare, by kind, as JSON with a line for each."""
    parts = []
    for registry in REGISTRIES:
        own = (registry.entries[name] for name in registry.own_names())
        rows = (_json(dataclasses.asdict(registry.info(entry))) for entry in own)
        parts.append(f'"{registry.group.partition(".")[2]}": [\n' + ",\n".join(rows) + "\n]")
    parts.append(f'"looks": {_json(looks())}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def looks() -> dict[str, dict[str, str | int]]:
    """Return the hue of each estimator, and the place that fixes its shade, marker and dash.

    A name keeps the place that it has, so that it looks the same in every version; a new name gets
    the next one.
    """
    known = catalogue()["looks"]
    following = max(look.get("place", -1) for look in known.values()) + 1
    found: dict[str, dict[str, str | int]] = {}
    for name in ESTIMATORS.own_names():
        found[name] = {"hue": estimators.make(name).hue}
        if name not in KNOWN:
            found[name]["place"] = known.get(name, {}).get("place", following)
            following += found[name]["place"] == following
    return dict(sorted(found.items(), key=lambda item: item[1].get("place", -1)))


def index() -> str:
    """Return the page on all estimators."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    by_section: dict[Section, list[Estimator]] = {section: [] for section in Section}
    for name in ESTIMATORS.own_names():
        method = estimators.make(name)
        by_section[Section.WRONG if method.info.control else method.section].append(method)
    yield HEAD
    for section, methods in by_section.items():
        if methods:
            yield from _section(*section.value, methods)


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


FILES = {
    Path(str(CATALOGUE)): contents,
    Path(str(CATALOGUE)).parents[2] / "docs" / "estimators" / "README.md": index,
}
"""The files of a checkout that are generated, and what each must hold."""


if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text(), encoding="utf-8")
        say(f"wrote {path}")
