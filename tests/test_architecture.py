"""The rooms of the package open their doors downwards only, and no modules import in a circle."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "estbench"

FLOORS = (
    "core",
    "config",
    "store",
    "models",
    "estimators",
    "tasks",
    "meter",
    "training",
    "proof",
    "runner",
    "report",
    "cli",
)
"""The rooms from the ground up: a room imports from those before it, and from itself."""

EXCEPTIONS = {
    # What identifies an estimator's code is asked of the estimator itself.
    ("core.plugins", "estimators"),
    # A record's key holds an estimator's version, and what its task reads.
    ("store.keys", "estimators"),
    ("store.keys", "tasks"),
}
"""(module, room) of the imports that run up. No others may be added."""


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by its name without the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> tuple[tuple[str, bool], ...]:
    """Return the modules that one imports, each with whether that is when it is itself imported."""
    return tuple(_imports(ast.parse(modules()[module].read_text(encoding="utf-8")), True))


def _imports(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        later = isinstance(child, (ast.FunctionDef, ast.Lambda))
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            whole = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [n if n.removeprefix("estbench.") in modules() else child.module for n in whole]
        for name in names:
            if name.startswith("estbench."):
                yield name.removeprefix("estbench."), at_once
        yield from _imports(child, at_once and not later)


def room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_from_its_own_floor_or_below(module: str) -> None:
    if room(module) not in FLOORS:  # the package itself, api and __main__ stand above all
        return
    own = FLOORS.index(room(module))
    for name, _ in imports(module):
        above = room(name) not in FLOORS or FLOORS.index(room(name)) > own
        assert not above or (module, room(name)) in EXCEPTIONS, f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    following: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        following[module] = {name for name, at_once in imports(module) if at_once} - {module}
    left = dict(following)
    while free := [m for m, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"in a circle, or above one: {', '.join(sorted(left))}"


def test_at_most_four_modules_stand_at_the_top() -> None:
    assert {m for m in modules() if "." not in m and room(m) not in FLOORS} <= {
        "",
        "api",
        "__main__",
    }


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_files_that_the_pages_name_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:estbench|tests|docs|examples)/[\w./-]*)`", text)
    assert named
    for name in named:
        assert (ROOT / name).exists(), f"{page} names {name}"


def test_the_page_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert all(f"`estbench/{name}/`" in text for name in FLOORS)
