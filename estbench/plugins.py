"""A user's own estimators: files that register some, and installed packages that offer some.

A plugin is a Python file that calls ``estbench.register``, or uses it as a decorator. A package
offers estimators by an entry point of the group ``estbench.estimators``, which names a module that
registers them, or a class or function to be registered.

What a plugin imports from beside it belongs to it: where that has changed, the plugin has.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from estbench.errors import UserError
from estbench.processes import is_stop, message
from estbench.store.reading import read_bytes

__all__ = [
    "GROUP",
    "broken",
    "ensure",
    "load",
    "load_entry_points",
    "loaded",
    "offered",
    "place",
    "source_hash",
]

GROUP = "estbench.estimators"
MOST_BYTES = 1 << 24  # of a plugin
STREAMS = {1: "stdout", 2: "stderr"}
MORE = "(--traceback shows all of it)"


@dataclass(frozen=True)
class _Plugin:
    """A file as it was when it was loaded.

    Attributes:
      digest: Of the file itself.
      names: Names of the estimators that it registered.
      beside: For each file that it imports from beside it, at whatever remove, its digest.
    """

    digest: str
    names: tuple[str, ...]
    beside: dict[str, str]


# What an interpreter has imported belongs to the interpreter, as in ``sys.modules``.
_LOADED: dict[str, _Plugin] = {}
_BROKEN: list[str] = []
_LOOKED_FOR_ENTRY_POINTS: list[bool] = []


def load(path: Path) -> list[str]:
    """Import a plugin and return the names of the estimators that it registers.

    A file that is loaded already is not imported again, unless it has changed, or what it imports
    from beside it has: then its estimators take the place of those it registered before.

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
        return list(before.names)
    module = ModuleType(f"estbench_plugin_{_digest(str(file).encode())[:12]}_{file.stem}")
    module.__file__ = str(file)
    if str(file.parent) not in sys.path:
        # Modules beside the plugin can be imported, but never shadow installed ones.
        sys.path.append(str(file.parent))
    linecache.checkcache()
    replaced = sys.modules.get(module.__name__)
    forgotten = _forget(before.beside if before else ())
    try:
        with _registering(before.names if before else ()) as added, _open_streams():
            sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
            exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
            names = added()
            if not names:
                raise UserError("registers no estimator: write @estbench.register over its class")
    except BaseException as error:
        sys.modules.pop(module.__name__)
        if replaced is not None:
            sys.modules[module.__name__] = replaced
        sys.modules.update(forgotten)
        if is_stop(error):
            raise
        raise UserError(f"{_place(path, file, error)}: {_text(error)}") from error
    beside = {str(p): _digest(p.read_bytes()) for p in _local_imports(source, file.parent)}
    _LOADED[str(file)] = _Plugin(digest, tuple(names), beside)
    return names


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


def offered() -> list[EntryPoint]:
    """Return the entry points of installed packages that offer estimators; imports none of them."""
    return list(importlib.metadata.entry_points(group=GROUP))


def load_entry_points() -> None:
    """Load the estimators of installed packages, once; broken ones are skipped: see ``broken``."""
    if _LOOKED_FOR_ENTRY_POINTS:
        return
    _LOOKED_FOR_ENTRY_POINTS.append(True)  # first: a package may ask for names while it loads
    for point in offered():
        try:
            _load_entry_point(point)
        except BaseException as error:
            if is_stop(error):
                raise
            package = point.dist.name if point.dist else "a package"
            _BROKEN.append(f"{package} offers {point.name!r} ({point.value}): {_text(error)}")


def broken() -> list[str]:
    """Return a line for each entry point that could not be loaded."""
    return list(_BROKEN)


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
        if plain in plugin.names:
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
        and not path.is_relative_to(Path(__file__).resolve().parent)
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


def _load_entry_point(point: EntryPoint) -> None:
    from estbench.estimators import base

    with _registering(()) as added:
        offer = point.load()
        if isinstance(offer, ModuleType):
            # One that was imported before has done so before.
            mine = (getattr(f, "__module__", "") for f in base._REGISTRY.values())
            if not added() and offer.__name__ not in mine:
                raise UserError("registers no estimator")
        elif offer not in base._REGISTRY.values():
            base.register(offer)


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


@contextmanager
def _registering(stale: Iterable[str]) -> Iterator[Callable[[], list[str]]]:
    """Return the names that were registered inside; on an error nothing has changed.

    Args:
      stale: Names to forget at the start.
    """
    from estbench.estimators import base

    before = dict(base._REGISTRY)
    for name in stale:
        base._REGISTRY.pop(name, None)
    kept = dict(base._REGISTRY)

    def added() -> list[str]:
        return [n for n, f in base._REGISTRY.items() if kept.get(n) is not f]

    try:
        yield added
    except BaseException:
        base._REGISTRY.clear()
        base._REGISTRY.update(before)
        raise


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


def _text(error: BaseException) -> str:
    """Return an error in one line, with its kind where the text was not written for users."""
    text = error.msg if isinstance(error, SyntaxError) else message(error)
    if isinstance(error, UserError):
        return " ".join(text.split())
    return " ".join(f"{type(error).__name__}: {text} {MORE}".split())


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
