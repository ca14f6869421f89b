"""Write down what estbench's own things declare: for readers, and for ``estbench list``.

``make index`` writes docs/estimators/README.md, docs/settings.md, docs/tasks.md, and the catalogue
that the command line reads as long as it needs no torch.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from estbench import estimators
from estbench.cli.listing import described, evaluations
from estbench.config import presets
from estbench.config.experiment import TABLES, Experiment, Settings
from estbench.config.validation import MOST_WHOLE, allowed
from estbench.core.registry import CATALOGUE, ESTIMATORS, REGISTRIES, TASKS, catalogue
from estbench.core.terminal import say
from estbench.estimators.base import Estimator, Section
from estbench.report.data.order import KNOWN

__all__ = ["FILES", "contents", "index", "settings", "tasks"]

HEAD = """\
# All estimators

`python -m estbench list estimators` prints this on a terminal. Which is unbiased is proven by
`python -m estbench check` ([how](../check.md)). "Rewards a draw" are evaluations of the reward for
T positions, V tokens and n draws at a time; those that say *relaxed* need a reward that takes
weights in the place of tokens. K is the number of sequences that make one draw. Where "any K" is
written, `NAME-K` is the same estimator with another K of at least 2, such as `rloo-4`. What is made
of rollouts takes their number a position behind an `@`, as in `seqgan-rollouts@16`. This page is
made by `make index`.
"""


SETTINGS_HEAD = """\
# All settings

`python -m estbench run FILE.toml` reads a file of settings. It may start from a preset and say only
what differs; what neither says has the default below. `python -m estbench list presets` names the
presets. A setting under `[per_task.TASK]` holds for one task: all of `[training]` and `[snapshots]`
may stand there. This page is made by `make index`.

```toml
preset = "bench"                 # where to start; without it name tasks, estimators and seeds
name = "mine"                    # also the folder, results/mine
tasks = ["expressions-3", "oracle-small"]
estimators = ["reinforce-ema", "rloo", "relax"]
also_measured = ["muprop"]       # at the snapshots only, not trained
seeds = 8                        # 0 to 7; or "0-3,7", or [0, 1, 5]

[training]
batches = 100

[per_task.oracle-small]
batches = 40

[snapshots]
sequences = 2048

[timing]
rounds = 4

[execution]
jobs = 2
```

Where no largest value is given, a whole number may be up to 2,147,483,647, another up to 1e9.
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


def settings() -> str:
    """Return the page on all settings."""
    return "\n".join(_settings_lines())


def _settings_lines() -> Iterator[str]:
    yield SETTINGS_HEAD
    every = [presets.preset(name) for name in presets.names()]
    for section, table in TABLES.items():
        yield f"## [{section}]\n\n{(table.__doc__ or '').strip()}\n"
        yield "| setting | value | default | what it is | presets with another value |"
        yield "|---|---|---|---|---|"
        for entry in dataclasses.fields(table):
            where = ", ".join(_elsewhere(section, entry.name, entry.default, every))
            kind, meaning = _kind(table, entry.name), table.meaning(entry.name)
            default = _plain(entry.default)
            yield f"| `{entry.name}` | {kind} | {default} | {meaning} | {where} |"
        yield ""


def _elsewhere(section: str, name: str, default: object, every: list[Experiment]) -> Iterator[str]:
    """Yield the presets that give a setting another value than its default, and the value."""
    for preset in every:
        own = {task: values[name] for task, values in preset.per_task.items() if name in values}
        value = getattr(getattr(preset, section), name)
        said = [_plain(value)] * (value != default)
        if section in ("training", "snapshots"):
            said += [f"{_plain(value)} on {task}" for task, value in own.items()]
        if said:
            yield f"{preset.name}: {'; '.join(said)}"


def _kind(table: type[Settings], name: str) -> str:
    """Return what a setting may be, such as "whole number, at least 1"."""
    declared = typing.get_type_hints(table, include_extras=True)[name]
    if typing.get_origin(declared) is Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(declared))
    if typing.get_origin(declared) is tuple:
        return f"list: {_number(typing.get_args(declared)[0])}"
    return "text" if declared is str else _number(declared)


def _number(declared: Any) -> str:
    high = getattr(typing.get_args(declared)[1], "high", MOST_WHOLE)
    return allowed(declared) + (f", at most {high:,}" if high != MOST_WHOLE else "")


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"`{value}`" if value != "" else "none"


DOCS = Path(str(CATALOGUE)).parents[2] / "docs"
TASKS_HEAD = """\
# All tasks

`python -m estbench list tasks` prints this on a terminal. V is the number of tokens, T the longest
sequence; metrics are columns of `tables/runs` and rows of `tables/curves`. The first in bold is the
task's main one. This page is made by `make index`.
"""


def tasks() -> str:
    """Return the page on all tasks."""
    return "\n".join(_tasks_lines())


def _tasks_lines() -> Iterator[str]:
    yield TASKS_HEAD
    for name in TASKS.own_names():
        info: Any = TASKS.info(TASKS.entries[name])
        yield f"## {name}\n\nV = {info.vocabulary}, T = {info.length}. {_sentence(info.summary)}\n"
        yield "| metric | what it is | unit | better |\n|---|---|---|---|"
        for key, known in info.metrics.items():
            shown = f"**`{key}`**" if key == info.primary_metric else f"`{key}`"
            label = known.label.replace("|", "\\|")
            yield f"| {shown} | {label} | {known.unit} | {known.better} |"
        yield ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


FILES = {
    Path(str(CATALOGUE)): contents,
    DOCS / "estimators" / "README.md": index,
    DOCS / "settings.md": settings,
    DOCS / "tasks.md": tasks,
}
"""The files of a checkout that are generated, and what each must hold."""


if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text(), encoding="utf-8")
        say(f"wrote {path}")
