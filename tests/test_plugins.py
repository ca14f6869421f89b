"""A user's own estimators come from files and from packages, and their mistakes are named."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import estbench
from estbench import estimators
from estbench.cli import main
from estbench.core import plugins, registry
from estbench.core.errors import UserError
from estbench.core.registry import ESTIMATORS, REGISTRIES
from estbench.estimators.score_function import LeaveOneOut, Reinforce

GOOD = """
import estbench
from estbench.estimators.score_function import Reinforce


@estbench.register
class Mine(Reinforce):
    info = estbench.EstimatorInfo(name="mine", summary="mine", source="me")

    def __init__(self):
        super().__init__("mine", "none", summary="mine", source="me")
"""


BESIDE = ("beside", "deeper", "later", "by_name", "library")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Whatever a test loads is forgotten after it."""
    for one in REGISTRIES:
        one.load()
    before, loaded = [dict(r.entries) for r in REGISTRIES], dict(plugins._LOADED)
    path, modules = list(sys.path), set(sys.modules)
    broken, looked = list(registry._BROKEN), list(registry._LOOKED_FOR_ENTRY_POINTS)
    plugins._LOADED.clear()
    yield
    for store, kept in zip(
        (*(r.entries for r in REGISTRIES), plugins._LOADED), (*before, loaded), strict=True
    ):
        store.clear()
        store.update(kept)
    registry._BROKEN[:] = broken
    registry._LOOKED_FOR_ENTRY_POINTS[:] = looked
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("estbench_plugin_") or name.partition(".")[0] in BESIDE:
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.py"


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_a_file_registers_its_estimators(file: Path) -> None:
    assert plugins.load(written(file, GOOD)) == ["mine"]
    assert "mine" in estimators.names()
    assert estimators.make("mine").info.summary == "mine"
    assert plugins.loaded() == (str(file.resolve()),)


def test_register_returns_what_it_was_given() -> None:
    class Own(LeaveOneOut):
        def __init__(self) -> None:
            super().__init__(3, name="own-3")

    assert estbench.register(Own) is Own
    function = lambda: LeaveOneOut(4, name="own-4")  # noqa: E731
    assert estbench.register(function) is function
    given = partial(LeaveOneOut, 5, name="own-5")
    assert estbench.register(given) is given
    assert estimators.names()[-3:] == ["own-3", "own-4", "own-5"]


def test_loading_again_does_nothing_until_the_file_changes(file: Path) -> None:
    plugins.load(written(file, GOOD))
    made = type(estimators.make("mine"))
    plugins.ensure(plugins.loaded())
    plugins.ensure([file, str(file)])
    assert type(estimators.make("mine")) is made
    plugins.load(written(file, GOOD.replace('"mine"', '"renamed"')))
    assert "mine" not in estimators.names()
    assert type(estimators.make("renamed")) is not made
    assert plugins.loaded() == (str(file.resolve()),)
    with pytest.raises(UserError):
        plugins.load(written(file, "1 / 0"))
    assert "renamed" in estimators.names()  # what worked before still does


def test_a_class_that_is_registered_again_takes_its_own_place() -> None:
    def cell(summary: str) -> None:
        class Own(Reinforce):
            def __init__(self) -> None:
                super().__init__("own", "none", summary=summary)

        estbench.register(Own)

    cell("first")
    cell("second")
    assert estimators.info("own").summary == "second"


def test_a_factory_that_takes_group_makes_draws_of_any_size() -> None:
    class Own(LeaveOneOut):
        def __init__(self, group: int = 3) -> None:
            super().__init__(group, name="own")

    estbench.register(Own)
    assert (estimators.info("own").group, estimators.info("own").any_group) == (3, True)
    assert (estimators.info("own-5").group, estimators.info("own-5").name) == (5, "own-5")
    assert plugins.source_hash("own-5") == plugins.source_hash("own") != ""
    estbench.register(lambda: LeaveOneOut(4, name="own-4"))
    assert not estimators.info("own-4").any_group, "a name of its own comes first"


def test_rollouts_are_passed_to_those_who_take_them(file: Path) -> None:
    plugins.load(written(file, GOOD))
    assert estimators.make("mine", rollouts=0).info.name == "mine"
    with pytest.raises(UserError, match="mine takes no rollouts: set rollouts = 0"):
        estimators.make("mine", rollouts=4)
    taking = GOOD.replace("(self)", "(self, rollouts=0)").replace('"none",', '"none", rollouts,')
    plugins.load(written(file, taking))
    assert estimators.make("mine", rollouts=4).rollouts == 4  # type: ignore[attr-defined]


def test_truncation_is_declared_without_touching_the_class(file: Path) -> None:
    plugins.load(written(file, GOOD))
    assert not estimators.make("mine", truncation=2).info.unbiased
    assert estimators.make("mine").info.unbiased


def test_a_file_may_import_what_stands_beside_it(file: Path) -> None:
    written(file.with_name("beside.py"), "NAME = 'mine'\n")
    plugins.load(written(file, "import beside\n" + GOOD.replace('"mine"', "beside.NAME")))
    assert "mine" in estimators.names()


FAULTS = {
    "an error": ("\n\nfoo\n", "own.py:3: NameError: name 'foo' is not defined (--traceback"),
    "a syntax error": ("x = 1\ny = (\n", "own.py:2: SyntaxError: '(' was never closed (--tr"),
    "no code at all": ("\0", "own.py: "),
    "an error further down": (
        "import json\n\njson.loads('{')\n",
        "own.py:3: JSONDecodeError: Expecting property name",
    ),
    "an exit": ("raise SystemExit(3)", "own.py:1: SystemExit: 3"),
    "the end of a generator": ("raise GeneratorExit", "own.py:1: GeneratorExit: (--traceback"),
    "an error that is no exception": (
        "class Own(BaseException):\n    __str__ = lambda self: 1 // 0\nraise Own",
        "own.py:3: Own: (its message cannot be shown: ZeroDivisionError) (--traceback",
    ),
    "nothing registered": ("x = 1", "own.py: registers nothing: write @estbench.register"),
    "a factory that raises": (
        "import estbench\n\ndef make():\n    raise ValueError('two\\nlines')\n\n"
        "estbench.register(make)\n",
        "own.py:4: ValueError: two lines (--traceback",
    ),
    "a class that needs arguments": (
        GOOD.replace("(self)", "(self, k)"),
        "own.py:6: TypeError: Mine.__init__() missing 1 required positional argument: 'k'",
    ),
    "a name that is taken": (
        GOOD.replace('"mine"', '"reinforce"'),
        "own.py:6: the name 'reinforce' is taken (estbench's own): choose another",
    ),
    "a name that is taken but for its case": (
        GOOD.replace('"mine"', '"RLOO"'),
        "own.py:6: the name 'RLOO' is taken (estbench's own): choose another",
    ),
    "a name that says the size of a group": (
        GOOD.replace('"mine"', '"RLOO-3"'),
        "own.py:6: the name 'RLOO-3' is taken (rloo in groups of 3): choose another",
    ),
    "a name for no folder": (
        GOOD.replace('"mine"', '"../mine"'),
        "own.py:6: the name '../mine' cannot be a folder's: use letters, digits",
    ),
    "a name with a switch": (GOOD.replace('"mine"', '"mine@x"'), "own.py:6: the name 'mine@x'"),
    "a name that is kept": (GOOD.replace('"mine"', '"nul"'), "own.py:6: the name 'nul' cannot"),
    "no estimator": (
        "import estbench\nestbench.register(lambda: 3)",
        "own.py:2: <lambda> makes int, no estimator: inherit from estbench.Estimator",
    ),
    "no info": (
        "import estbench\n@estbench.register\nclass Mine(estbench.Estimator):\n"
        "    def surrogate(self, *_): ...\n",
        "own.py:2: Mine has no info: set info = estbench.EstimatorInfo(name=",
    ),
    "info of another kind": (
        "import estbench\n@estbench.register\nclass Mine(estbench.Estimator):\n    info = {}\n",
        "own.py:2: Mine has no info: set info = estbench.EstimatorInfo(name=",
    ),
    "no surrogate": (
        "import estbench\n@estbench.register\nclass Mine(estbench.Estimator):\n"
        "    info = estbench.EstimatorInfo('mine', '', '')\n",
        "own.py:2: Mine has no method surrogate",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_named_in_one_line_with_its_place(fault: str, file: Path) -> None:
    text, expected = FAULTS[fault]
    before, modules = estimators.names(), set(sys.modules)
    with pytest.raises(UserError) as caught:
        plugins.load(written(file, text))
    said = str(caught.value)
    assert said.startswith(f"{file.parent}/{expected}")
    assert "\n" not in said
    assert caught.value.__cause__ is not None
    assert estimators.names() == before
    assert plugins.loaded() == ()
    assert not any(name.startswith("estbench_plugin_") for name in set(sys.modules) - modules)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_file_that_closes_a_standard_stream_is_named_and_the_stream_is_open_again(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, name, io.StringIO())
    with pytest.raises(UserError, match=r"own.py: closes the standard (output|error), which"):
        plugins.load(written(file, f"{GOOD}\nimport sys\nsys.{name}.close()\n"))
    assert not getattr(sys, name).closed
    assert "mine" not in estimators.names()


def test_an_interrupt_that_a_file_raises_is_its_mistake(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(file, "raise KeyboardInterrupt")
    assert main(["list", "estimators", "--plugin", str(file)]) == 2
    assert "own.py:1: KeyboardInterrupt: " in capsys.readouterr().err


def test_what_an_estimator_raises_in_the_command_itself_is_a_line_with_its_place(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = GOOD.replace(
        "        super()",
        "        if 'mine' in ESTIMATORS.entries: raise SystemExit\n        super()",
    )
    written(file, "from estbench.core.registry import ESTIMATORS\n" + fails)
    assert main(["check", "--plugin", str(file), "--out", str(file.parent / "out")]) == 2
    said = capsys.readouterr().err
    assert "own.py:12: SystemExit: (--traceback" in said
    assert said.count("\n") == 1


def test_a_thread_that_a_file_leaves_keeps_no_command_alive(file: Path) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(9999,)).start()\n"
    words = ["list", "presets", "--plugin", str(written(file, GOOD + thread))]
    command = [sys.executable, "-m", "estbench", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "smoke" in ended.stdout


def test_what_was_registered_before_a_mistake_is_forgotten(file: Path) -> None:
    with pytest.raises(UserError, match=r"own.py:13: ZeroDivisionError"):
        plugins.load(written(file, GOOD + "\n1 / 0\n"))
    assert "mine" not in estimators.names()


def test_a_mistake_beside_the_file_is_found_there(file: Path) -> None:
    written(file.with_name("beside.py"), "x = (\n")
    with pytest.raises(UserError, match=r"beside.py:1: SyntaxError"):
        plugins.load(written(file, "import beside\n"))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        plugins.load(tmp_path / "nothing.py")
    with pytest.raises(UserError, match="is a folder"):
        plugins.load(tmp_path)


def test_two_files_cannot_have_one_name(tmp_path: Path) -> None:
    plugins.load(written(tmp_path / "a.py", GOOD))
    with pytest.raises(UserError, match=r"b.py:6: the name 'mine' is taken \(.*a.py"):
        plugins.load(written(tmp_path / "b.py", GOOD))


def test_the_source_of_an_estimator_identifies_it(file: Path, tmp_path: Path) -> None:
    plugins.load(written(file, GOOD))
    digest = hashlib.sha256(GOOD.encode()).hexdigest()
    assert plugins.source_hash("mine") == digest
    assert plugins.source_hash("reinforce") == ""
    file.write_text("# changed since\n")
    assert plugins.source_hash("mine") == digest  # of what runs
    text = (
        "import estbench\nfrom functools import partial\n"
        "from estbench.estimators.score_function import LeaveOneOut\n"
        "estbench.register(partial(LeaveOneOut, 5, name='mine-5'))\n"
    )
    plugins.load(written(tmp_path / "other.py", text))
    assert plugins.source_hash("mine-5") == hashlib.sha256(text.encode()).hexdigest()

    class Here(Reinforce):
        def __init__(self) -> None:
            super().__init__("here", "none")

    def there() -> estbench.Estimator:
        return estbench.Recipe(advantages=lambda rewards: rewards, name="there")

    estbench.register(Here)
    estbench.register(there)
    this = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert plugins.source_hash("here") == plugins.source_hash("there") == this
    with pytest.raises(UserError, match="unknown estimator"):
        plugins.source_hash("nobody")


def with_helpers(folder: Path) -> Path:
    """A plugin that imports in every way there is, and has files beside it that it does not."""
    texts = {
        "own.py": "import beside, json\nimport importlib\nfrom library.parts import first\n"
        "importlib.import_module('by_name')\n"
        "def use():\n    import later\n" + GOOD.replace('"mine"', "beside.NAME"),
        "beside.py": "from deeper import NAME\n",
        "deeper.py": "NAME = 'mine'\n",
        "later.py": "import library.third\n",
        "by_name.py": "",
        "library/__init__.py": "",
        "library/parts/__init__.py": "from . import first\n",
        "library/parts/first.py": "from ..second import x\n",
        "library/second.py": "x = 1\n",
        "library/third.py": "",
        "library/unused.py": "",
        "stranger.py": "",
        ".venv/lib/site-packages/installed.py": "",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "own.py"


def test_what_a_plugin_imports_from_beside_it_identifies_it(tmp_path: Path) -> None:
    file = with_helpers(tmp_path)
    plugins.load(file)
    (plugin,) = plugins._LOADED.values()
    assert {str(Path(p).relative_to(tmp_path.resolve())) for p in plugin.beside} == {
        "beside.py",
        "deeper.py",
        "later.py",
        "by_name.py",
        "library/__init__.py",
        "library/parts/__init__.py",
        "library/parts/first.py",
        "library/second.py",
        "library/third.py",
    }
    before = plugins.source_hash("mine")
    assert before != plugins._digest(file.read_bytes())
    for changed in sorted(plugin.beside):
        Path(changed).write_text(Path(changed).read_text() + "# another one\n")
        assert plugins.source_hash("mine") == before  # of what runs
        plugins.load(file)
        assert plugins.source_hash("mine") != before, changed
        before = plugins.source_hash("mine")
    for other in ("stranger.py", "library/unused.py"):
        (tmp_path / other).write_text("x = 3\n")
        plugins.load(file)
        assert plugins.source_hash("mine") == before, other


def test_the_same_files_have_the_same_hash_whatever_was_imported_before(tmp_path: Path) -> None:
    first, second = with_helpers(tmp_path / "a"), with_helpers(tmp_path / "b")
    plugins.load(first)
    once = plugins.source_hash("mine")
    plugins._LOADED.clear()
    ESTIMATORS.entries.pop("mine")
    for name in [n for n in sys.modules if n.partition(".")[0] in BESIDE]:
        del sys.modules[name]
    sys.path.remove(str(first.parent.resolve()))
    import importlib

    sys.path.append(str(second.parent.resolve()))
    importlib.import_module("later")
    plugins.load(second)
    assert plugins.source_hash("mine") == once


def test_a_changed_helper_is_what_runs_after_loading_again(tmp_path: Path) -> None:
    file = with_helpers(tmp_path)
    plugins.load(file)
    (tmp_path / "deeper.py").write_text("NAME = 'renamed'\n")
    assert plugins.load(file) == ["renamed"]
    assert "mine" not in estimators.names()
    hashed = plugins.source_hash("renamed")
    (tmp_path / "deeper.py").write_text("NAME = 1 / 0\n")
    with pytest.raises(UserError, match=r"own.py:1: ZeroDivisionError"):
        plugins.load(file)
    assert plugins.source_hash("renamed") == hashed
    assert sys.modules["deeper"].NAME == "renamed"  # what worked before still does
    (tmp_path / "deeper.py").unlink()
    with pytest.raises(UserError, match="No module named 'deeper'"):
        plugins.load(file)


def test_a_changed_helper_asks_for_a_new_proof_and_makes_a_stale_key(tmp_path: Path) -> None:
    from estbench.config import presets
    from estbench.proof.gate import Configuration, key_of
    from estbench.store.keys import key

    experiment = presets.preset("smoke", {"estimators": ["rloo"]})

    def keys() -> tuple[str, str]:
        plugins.load(file)
        proof = key_of(Configuration("mine", "p", 0, 0))
        return proof, key("run", experiment, experiment.tasks[0], "mine", 0)

    file = with_helpers(tmp_path)
    before = keys()
    (tmp_path / "library" / "second.py").write_text("x = 22\n")
    after = keys()
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_class_that_stands_beside_the_file_is_counted_once(tmp_path: Path) -> None:
    own = written(tmp_path / "own.py", "import beside\n")
    written(tmp_path / "beside.py", GOOD)
    plugins.load(own)
    digests = sorted(plugins._digest(p.read_bytes()) for p in tmp_path.glob("*.py"))
    assert plugins.source_hash("mine") == plugins._digest("".join(digests).encode())


class Point:
    """An entry point."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.value, self.dist, self.found = name, f"a.package:{name}", None, found

    def load(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found() if callable(self.found) and self.name == "module" else self.found


def test_packages_offer_estimators_and_broken_ones_break_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offered() -> Any:
        estbench.register(partial(LeaveOneOut, 6, name="offered-6"))
        return type(sys)("a_module")

    points = [
        Point("gone", ModuleNotFoundError("No module named 'gone'")),
        Point("module", offered),
        Point("factory", partial(LeaveOneOut, 7, name="offered-7")),
        Point("empty", type(sys)("empty")),
        Point("taken", partial(LeaveOneOut, 3)),
    ]
    asked = []

    def entry_points(group: str) -> list[Point]:
        asked.append(group)
        return points if group == "estbench.estimators" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._LOOKED_FOR_ENTRY_POINTS.clear()
    assert estimators.make("offered-7").info.group == 7
    assert estimators.names()[-2:] == ["offered-6", "offered-7"]
    groups = ["estimators", "tasks", "policies", "rewards"]
    assert asked == [f"estbench.{group}" for group in groups]  # once
    gone, empty, taken = registry.broken()
    assert gone.startswith("a package offers 'gone' (a.package:gone): ModuleNotFoundError: No mod")
    assert empty.endswith("registers nothing")
    assert taken.endswith("the name 'rloo' is taken (estbench's own): choose another")


def _in_a_worker(paths: tuple[str, ...], name: str) -> int:
    plugins.ensure(paths)
    return estimators.make(name).info.group


def test_worker_processes_make_a_plugins_estimators(file: Path) -> None:
    from joblib import Parallel, delayed

    plugins.load(written(file, GOOD))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(estbench.__file__).parents[1]))
        groups = Parallel(n_jobs=2)(
            delayed(_in_a_worker)(plugins.loaded(), "mine") for _ in range(2)
        )
    assert groups == [1, 1]


def test_a_traceback_is_shown_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import estbench\n\nfoo()\n")
    assert main(["list", "estimators", "--plugin", str(path)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "broken.py:3: NameError" in said
    assert main(["list", "estimators", "--traceback", "--plugin", str(path)]) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1].startswith("estbench: ")
