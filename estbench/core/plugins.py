"""Plugins: a user's Python files that register estimators, tasks, policies or discriminators.

In a plugin ``estbench.register`` is called, or is written over a class or a function. Installed
packages offer theirs by entry points: see ``estbench.core.registry``.

Whatever a plugin imports from its own folder belongs to it: if that changes, so does the plugin.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import linecache
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import estbench
from estbench.core.errors import UserError
from estbench.core.processes import is_stop
from estbench.core.reading import read_bytes
from estbench.core.registry import (
    ESTIMATORS,
    MORE,
    REGISTRIES,
    load_entry_points,
    one_line,
    origin,
    registering,
)

__all__ = ["MORE", "ensure", "load", "loaded", "place", "source_hash", "source_of"]

MOST_BYTES = 1 << 24  # of a plugin
STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True)
class _Plugin:
    """A file as it was when it was loaded.

    Attributes:
      digest: Of the file itself.
      names: (kind, name) of all that it registered.
      beside: For each file that it imports from beside it, at whatever remove, its digest.
    """

    digest: str
    names: tuple[tuple[str, str], ...]
    beside: dict[str, str]


# What an interpreter has imported belongs to the interpreter, as in ``sys.modules``.
_LOADED: dict[str, _Plugin] = {}


def load(path: Path) -> list[str]:
    """Import a plugin and return the names of the estimators that it registers.

    A file that is loaded already is not imported again, unless it or a file that it imports from
    its folder has changed: then what it registers replaces what it registered before.

    Args:
      path: The file.

    Raises:
      UserError: The file is missing or broken, or registers nothing; the text names the line, and
        the error it was raised from is the original one. Nothing of the file is kept.
    """
    load_entry_points()
    source, digest = _read(path)
    file = path.resolve()
    before = _LOADED.get(str(file))
    if before is not None and before.digest == digest and _unchanged(before.beside):
        return _estimators(before.names)
    module = ModuleType(f"estbench_plugin_{_digest(str(file).encode())[:12]}_{file.stem}")
    module.__file__ = str(file)
    if str(file.parent) not in sys.path:
        # Modules beside the plugin can be imported, but never shadow installed ones.
        sys.path.append(str(file.parent))
    linecache.checkcache()
    replaced = sys.modules.get(module.__name__)
    forgotten = _forget(before.beside if before else ())
    try:
        with registering(before.names if before else ()) as added, _open_streams():
            sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
            exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
            names = added()
            if not names:
                raise UserError("registers nothing: write @estbench.register over a class")
    except BaseException as error:
        sys.modules.pop(module.__name__)
        if replaced is not None:
            sys.modules[module.__name__] = replaced
        sys.modules.update(forgotten)
        if is_stop(error):
            raise
        raise UserError(f"{_place(path, file, error)}: {one_line(error)}") from error
    beside = {str(p): _digest(p.read_bytes()) for p in _local_imports(source, file.parent)}
    _LOADED[str(file)] = _Plugin(digest, tuple(names), beside)
    return _estimators(names)


def _estimators(names: Iterable[tuple[str, str]]) -> list[str]:
    return [name for kind, name in names if kind == ESTIMATORS.kind]


def loaded() -> tuple[str, ...]:
    """Return the absolute paths of the plugins of this process, for ``ensure`` in another."""
    return tuple(_LOADED)


def ensure(paths: Iterable[str | Path]) -> None:
    """Load plugins that are not loaded yet, such as in a worker process.

    Raises:
      UserError: See ``load``.
    """
    for path in paths:
        load(Path(path))


def place(error: BaseException) -> str:
    """Return FILE:LINE of the last line of a plugin that an error went through, or ""."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in _LOADED:
            return f"{frame.filename}:{frame.lineno}"
    return ""


def source_hash(name: str) -> str:
    """Return what identifies the code of an estimator, for keys and caches.

    Args:
      name: Its name, perhaps with a size or with switches.

    Returns:
      SHA-256 of the file in which a user's estimator is written, and of the files that it imports
      from beside it or from folders there, at whatever remove, all as they were when the plugin
      was loaded; "" for one of estbench's own. Where a plugin registers a class from another file,
      both count. Installed packages do not.

    Raises:
      UserError: There is none of that name.
    """
    from estbench.estimators import base

    plain = base.family(name)
    made = base.make(plain)
    digests: dict[str, str] = {}
    for path, plugin in _LOADED.items():
        if (ESTIMATORS.kind, plain) in plugin.names:
            digests |= {path: plugin.digest, **plugin.beside}
    code = _own_code(made)
    module = sys.modules.get(code.__module__)
    if module is not None and module.__name__.partition(".")[0] != "estbench":
        file = getattr(module, "__file__", None)
        if file is None:  # typed into a notebook
            digests[""] = _digest(_source_of(code).encode())
        elif (whole := str(Path(file).resolve())) not in digests:
            source = Path(whole).read_bytes()
            digests[whole] = _digest(source)
            for p in _local_imports(source, Path(whole).parent, module.__package__ or ""):
                digests.setdefault(str(p), _digest(p.read_bytes()))
    if len(digests) < 2:
        return next(iter(digests.values()), "")
    return _digest("".join(sorted(digests.values())).encode())


def source_of(kind: str, name: str) -> str:
    """Return what identifies a user's task, policy or discriminator; "" for estbench's own.

    Args:
      kind: The ``kind`` of its registry.
      name: Its name.
    """
    for plugin in _LOADED.values():
        if (kind, name) in plugin.names:
            return _digest("".join(sorted([plugin.digest, *plugin.beside.values()])).encode())
    for registry in REGISTRIES:
        if registry.kind == kind and name in registry.entries and name not in registry.own:
            module = sys.modules.get(origin(registry.entries[name])[0])
            if (file := getattr(module, "__file__", None)) is not None:
                return _digest(Path(file).read_bytes())
    return ""


def _local_imports(source: bytes, folder: Path, package: str = "") -> list[Path]:
    """Return the files under a folder that a Python file imports, and those that they import.

    Imports inside functions count as well. Installed packages do not, nor
    estbench itself, wherever they lie.

    Args:
      source: The file.
      folder: Its folder, resolved.
      package: The package that it belongs to, if any.
    """
    local: dict[Path, None] = {}
    waiting = [(source, package)]
    while waiting:
        for name in _imported(*waiting.pop()):
            path = _file_of(name)
            if path is None or path in local or not _is_local(path, folder):
                continue
            local[path] = None
            if path.suffix == ".py":
                inside = name if path.stem == "__init__" else name.rpartition(".")[0]
                waiting.append((path.read_bytes(), inside))
    return list(local)


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Yield whatever a file's imports may be the names of: of modules, their packages, and more."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # importing it will raise the error
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1]
            whole = [*(start if node.level else []), *([node.module] if node.module else [])]
            names = [".".join([*whole, alias.name]) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            by_name = called in ("import_module", "__import__")
            if by_name and isinstance(first, ast.Constant) and isinstance(first.value, str):
                names = [first.value]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:k]) for k in range(1, len(parts) + 1))


def _file_of(name: str) -> Path | None:
    """Return the file of a module, imported or not; None if it has none or does not exist."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None:
        where: Any = None
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            # By hand, because asking for a part of a package would import the package.
            spec = PathFinder.find_spec(".".join(parts[:k]), where) if all(parts) else None
            if spec is None or (k < len(parts) and spec.submodule_search_locations is None):
                return None
            file, where = spec.origin, spec.submodule_search_locations
    return Path(file).resolve() if file else None


def _is_local(path: Path, folder: Path) -> bool:
    installed = {"site-packages", "dist-packages"}
    return (
        path.is_relative_to(folder)
        and not installed & set(path.relative_to(folder).parts)
        and not path.is_relative_to(Path(estbench.__file__).resolve().parent)
        and path.is_file()
    )


def _unchanged(beside: dict[str, str]) -> bool:
    try:
        return all(_digest(Path(p).read_bytes()) == digest for p, digest in beside.items())
    except OSError:
        return False


def _forget(files: Iterable[str]) -> dict[str, ModuleType]:
    """Take the modules of some files out of ``sys.modules``, so that they are imported again."""
    wanted = {Path(file) for file in files}
    called = {path.name for path in wanted}
    forgotten = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).name in called and Path(file).resolve() in wanted:
            forgotten[name] = sys.modules.pop(name)
    importlib.invalidate_caches()
    return forgotten


@contextmanager
def _open_streams() -> Iterator[None]:
    """Open the standard streams again where they were closed inside.

    Raises:
      UserError: One of them was.
    """
    copies = {}
    for name, number in (("output", 1), ("error", 2)):
        with suppress(OSError):
            copies[name, number] = os.dup(number)
    try:
        yield
        closed = [name for name, number in copies if _is_closed(number)]
        if closed:
            raise UserError(f"closes the standard {closed[0]}, which others print to")
    finally:
        for (_, number), copy in copies.items():
            if _is_closed(number):
                os.dup2(copy, number)
                stream = open(number, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
                setattr(sys, STREAMS[number], stream)
            os.close(copy)


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return bool(getattr(getattr(sys, STREAMS[number]), "closed", False))


def _read(path: Path) -> tuple[bytes, str]:
    try:
        source = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the Python file in it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return source, _digest(source)


def _place(path: Path, file: Path, error: BaseException) -> str:
    """Return FILE:LINE of an error, as far as it is known: the last line of the plugin itself."""
    if isinstance(error, SyntaxError) and error.filename:
        own = Path(error.filename) == file
        return f"{path if own else error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _own_code(made: Any) -> Any:
    """Return the class or function that an estimator's numbers follow from."""
    from estbench.estimators.recipes import Recipe

    if not isinstance(made, Recipe):
        return type(made)
    function = made.function
    return function if hasattr(function, "__qualname__") else type(function)


def _source_of(code: Any) -> str:
    import inspect

    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return f"{code.__module__}.{code.__qualname__}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
