"""What can be chosen by name: estimators, tasks, policies and rewards, all registered in one way.

``register`` stands over a class, which says by its attribute ``registry`` what it is, or over a
function that makes an estimator. estbench's own are registered by the modules of one package, which
are imported when a name is first asked for. Installed packages offer more by entry points, in the
groups ``estbench.estimators``, ``.tasks``, ``.policies`` and ``.rewards``: each names a module that
registers them, or a thing to be registered.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from estbench.core.errors import UserError, unknown_name
from estbench.core.processes import is_stop, message

__all__ = [
    "CATALOGUE",
    "ESTIMATORS",
    "POLICIES",
    "REGISTRIES",
    "REWARDS",
    "TASKS",
    "Declared",
    "Registry",
    "broken",
    "catalogue",
    "load_entry_points",
    "offered",
    "one_line",
    "origin",
    "register",
    "registering",
]

CATALOGUE = resources.files("estbench") / "core" / "catalogue.json"
"""What all that is estbench's own declares; written by ``make index``."""

SAFE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{i}" for p in ("COM", "LPT") for i in range(1, 10))}
"""Names that some systems keep for themselves."""

MORE = "(--traceback shows all of it)"

LAST = (sys.maxsize, "")  # what is not estbench's own comes after it, as it was registered

Thing = TypeVar("Thing", bound=Callable[..., Any])


@dataclass(frozen=True)
class Declared:
    """What a policy or a reward declares about itself.

    Attributes:
      name: Its name in TOML files and on the command line.
      summary: One line.
      source: Paper, where there is one.
    """

    name: str
    summary: str
    source: str = ""


class Registry:
    """The things of one kind, by name.

    Args:
      kind: What a thing is called in messages, such as "task".
      package: The package whose modules register estbench's own.
      contract: The module that defines the base class. It sets ``read``.

    Attributes:
      entries: What is registered, by name.
      read: Returns (name, rank, entry) for each thing that a class or factory registers: own things
        are listed by rank, then in the order of their modules. Raises UserError for what does not
        keep the contract.
      info: Returns what an entry declares, a dataclass with ``name`` and ``summary``.
      own: The names of estbench's own, each with the rank and the module that it is listed by.
    """

    all: ClassVar[list[Registry]] = []

    def __init__(self, kind: str, plural: str, package: str, contract: str) -> None:
        self.kind, self.group = kind, f"estbench.{plural}"
        self.package, self.contract = package, contract
        self.entries: dict[str, Any] = {}
        self.read: Callable[[Any], Iterable[tuple[str, int, Any]]] = lambda thing: ()
        self.info: Callable[[Any], Any] = lambda entry: entry.info
        self.own: dict[str, tuple[int, str]] = {}
        self._loaded = self._loading = False
        Registry.all.append(self)

    @property
    def loaded(self) -> bool:
        """Whether there may be more to choose from than ``catalogue`` says."""
        return self._loaded or bool(self.entries)

    def load(self) -> None:
        """Import what is estbench's own, and what installed packages offer; once."""
        self.load_own()
        load_entry_points()

    def load_own(self) -> None:
        """Import all modules of estbench's own."""
        if self._loaded:
            return
        self._loaded = self._loading = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._loading = False
        names = sorted(self.entries, key=lambda name: self.own.get(name, LAST))
        entries = {name: self.entries[name] for name in names}
        self.entries.clear()
        self.entries.update(entries)

    def names(self) -> list[str]:
        """Return all names: estbench's own in the order of the catalogue, then others."""
        self.load()
        return list(self.entries)

    def own_names(self) -> list[str]:
        """Return the names of estbench's own, in the order of the catalogue."""
        self.load()
        return [name for name in self.entries if name in self.own]

    def __getitem__(self, name: str) -> Any:
        """Return what is registered under a name.

        Raises:
          UserError: Nothing is.
        """
        self.load()
        if name not in self.entries:
            raise self.unknown(name)
        return self.entries[name]

    def unknown(self, name: str, known: Iterable[str] = ()) -> UserError:
        """Return the error for a name that does not exist."""
        plural = self.group.partition(".")[2]
        hint = f"(see: estbench list {plural})" if plural in ("estimators", "tasks") else ""
        return unknown_name(self.kind, name, [*self.entries, *known], hint)

    def add(self, thing: Any) -> None:
        """Register what ``thing`` declares; see ``register``."""
        importlib.import_module(self.contract)
        module = origin(thing)[0]
        own = self._loading or (isinstance(thing, type) and module.startswith("estbench."))
        for name, rank, entry in self.read(thing):
            if not own:
                self.load()
            check_name(name)
            self._check_free(name, thing)
            if own:
                self.own[name] = (rank, module)
            self.entries[name] = entry

    def _check_free(self, name: str, thing: Any) -> None:
        for taken, other in self.entries.items():
            # Folders of some systems make no difference between a and A.
            if taken.casefold() != name.casefold():
                continue
            module, *_ = theirs = origin(other)
            if taken == name and theirs == origin(thing):
                continue
            whose = getattr(sys.modules.get(module), "__file__", module)
            if module.startswith("estbench."):
                whose = "estbench's own"
            raise UserError(f"the name {name!r} is taken ({whose}): choose another")

    def rows(self) -> list[dict[str, Any]]:
        """Return what each thing declares, as JSON has it; imports torch only where it has to."""
        if not self.loaded and not offered(self):
            return list(catalogue()[self.group.partition(".")[2]])
        self.load()
        return [dataclasses.asdict(self.info(entry)) for entry in self.entries.values()]


def _simple(registry: Registry) -> None:
    """Have a registry hold classes whose attribute ``info`` says what they are."""

    def read(thing: Any) -> Iterator[tuple[str, int, Any]]:
        declared = vars(thing).get("info")
        if not isinstance(declared, Declared):
            raise UserError(
                f"{thing.__qualname__} has no info: set info = estbench.Declared(name=..., "
                "summary=...)"
            )
        yield declared.name, 0, thing

    registry.read = read


ESTIMATORS = Registry("estimator", "estimators", "estbench.estimators", "estbench.estimators.base")
TASKS = Registry("task", "tasks", "estbench.tasks", "estbench.tasks.base")
POLICIES = Registry("generator", "policies", "estbench.models", "estbench.models.policy")
REWARDS = Registry("discriminator", "rewards", "estbench.models", "estbench.models.reward")
REGISTRIES = tuple(Registry.all)
for _registry in (POLICIES, REWARDS):
    _simple(_registry)


def register(thing: Thing) -> Thing:
    """Add an estimator, a task, a policy or a discriminator; may stand over it as a decorator.

    What is registered again, as when a cell of a notebook is run twice, takes its own place.

    Args:
      thing: A class that inherits from ``estbench.Estimator``, ``Task``, ``Policy`` or
        ``LSTMDiscriminator``. For an estimator also a function that returns it when it is called
        without arguments. An estimator's may take ``rollouts`` by keyword, and ``group``, the
        number of sequences that make one draw: then ``NAME-K`` is the estimator with ``group=K``.
        One whose ``info`` declares switches takes ``switches`` by keyword as well: those that are
        on, or None for all of them.

    Returns:
      What was given.

    Raises:
      UserError: It declares no name that is free and fit for a folder, or lacks something.
    """
    registry: Registry = getattr(thing, "registry", ESTIMATORS)
    registry.add(thing)
    return thing


def check_name(name: Any) -> None:
    """Check that a name can be a folder's.

    Raises:
      UserError: It cannot.
    """
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name) or name.upper() in RESERVED:
        raise UserError(
            f"the name {name!r} cannot be a folder's: use letters, digits, '-', '_' and '.', "
            "at most 64, and begin with a letter or digit"
        )


def origin(thing: Any) -> tuple[str, ...]:
    """Return where a thing was written; what is the same is one thing, registered again."""
    if isinstance(thing, partial):
        options = sorted(thing.keywords.items())
        return (*origin(thing.func), repr(thing.args), repr(options))
    if hasattr(thing, "origin"):
        thing = thing.origin
    return (getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing)))


@cache
def catalogue() -> Mapping[str, Any]:
    """Return what estbench's own things declare, by kind, and how estimators are drawn."""
    found: Mapping[str, Any] = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return found


@contextmanager
def registering(
    stale: Iterable[tuple[str, str]] = (),
) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """Yield a function that returns (kind, name) of what was registered inside.

    On an error nothing has changed.

    Args:
      stale: (kind, name) of things to forget at the start.
    """
    before = {registry.kind: dict(registry.entries) for registry in REGISTRIES}
    for registry in REGISTRIES:
        for kind, name in stale:
            if kind == registry.kind:
                registry.entries.pop(name, None)
    kept = {registry.kind: dict(registry.entries) for registry in REGISTRIES}

    def added() -> list[tuple[str, str]]:
        return [
            (registry.kind, name)
            for registry in REGISTRIES
            for name, entry in registry.entries.items()
            if kept[registry.kind].get(name) is not entry and name not in registry.own
        ]

    try:
        yield added
    except BaseException:
        for registry in REGISTRIES:
            own = {n: e for n, e in registry.entries.items() if n in registry.own}
            registry.entries.clear()
            registry.entries.update(own | before[registry.kind])
        raise


# What an interpreter has imported belongs to the interpreter, as in ``sys.modules``.
_BROKEN: list[str] = []
_LOOKED_FOR_ENTRY_POINTS: list[bool] = []


def offered(*registries: Registry) -> list[tuple[Registry, EntryPoint]]:
    """Return what installed packages offer to registries, or to all; imports none of them."""
    return [
        (registry, point)
        for registry in registries or REGISTRIES
        for point in importlib.metadata.entry_points(group=registry.group)
    ]


def load_entry_points() -> None:
    """Load what installed packages offer, once; what is broken is skipped, see ``broken``."""
    if _LOOKED_FOR_ENTRY_POINTS:
        return
    _LOOKED_FOR_ENTRY_POINTS.append(True)  # first: a package may ask for names while it loads
    for registry, point in offered():
        try:
            _load_entry_point(registry, point)
        except BaseException as error:
            if is_stop(error):
                raise
            package = point.dist.name if point.dist else "a package"
            _BROKEN.append(f"{package} offers {point.name!r} ({point.value}): {one_line(error)}")


def _load_entry_point(registry: Registry, point: EntryPoint) -> None:
    with registering() as added:
        found = point.load()
        if isinstance(found, ModuleType):
            # One that was imported before has done so before.
            mine = (origin(entry)[0] for r in REGISTRIES for entry in r.entries.values())
            if not added() and found.__name__ not in mine:
                raise UserError("registers nothing")
        elif all(entry is not found for entry in registry.entries.values()):
            registry.add(found)


def broken() -> list[str]:
    """Return a line for each entry point that could not be loaded."""
    return list(_BROKEN)


def one_line(error: BaseException) -> str:
    """Return an error in one line, with its kind where the text was not written for users."""
    text = error.msg if isinstance(error, SyntaxError) else message(error)
    if isinstance(error, UserError):
        return " ".join(text.split())
    return " ".join(f"{type(error).__name__}: {text} {MORE}".split())
