"""What a verb prints steers no terminal, whatever stands in the files that it read."""

from __future__ import annotations

import ast
import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from runner import fakes
from runner.conftest import without_processes

import estbench
from estbench import report
from estbench.cli import main
from estbench.config.experiment import Experiment
from estbench.core import plugins, registry
from estbench.core.console import SafeConsole
from estbench.core.errors import UserError, printable
from estbench.core.registry import ESTIMATORS
from estbench.proof import running
from estbench.proof.checking import Make, Unit
from estbench.proof.judging import BiasFinding
from estbench.proof.rules import RULES, ConductFinding
from estbench.proof.variance import VarianceFinding
from estbench.runner import jobs
from estbench.store.schema import check_manifest, check_proofs, check_record

from .mutations import places
from .test_records import PROOFS

EVIL = (
    "\x1b[31m\x1b]0;title\x07\rold\x08\x7f\x9b2J\u061c\u200e\u200f\u202e\u2066\u2028\ufeff"
    "[bold red]bold[/bold red]<b>|`*~~_\n# heading\nestbench: all is well"
)
UNTRUE = "estbench: all is well"


def steering(text: str) -> list[str]:
    """The characters that a terminal does not show: controls, marks of direction, halves."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in kinds and c not in "\n\t"]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a verb, checks what it printed, and returns that."""

    def run(*words: str, code: int | None = None) -> str:
        found = main(list(words))
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert code is None or found == code, text
        assert steering(text) == [], ascii(text)
        # Only estbench's own lines begin at the margin.
        assert UNTRUE not in [line.rstrip() for line in text.splitlines()], text
        if found == 2:
            assert printed.err.count("\n") == 1
        return text

    return run


def check_whole_manifest(document: Any) -> None:
    check_manifest(document)
    Experiment.from_dict(document["experiment"])


CHECKS = {"manifest.json": check_whole_manifest, "proofs.json": check_proofs}


def poisoned(path: Path) -> None:
    """Put ``EVIL`` in the place of every text of a file that may be any text."""
    document = json.loads(path.read_bytes())
    check = CHECKS.get(path.name, check_record)
    check(document)
    for *way, last in list(places(document)):
        inside = document
        for step in way:
            inside = inside[step]
        if not isinstance(inside[last], str):
            continue
        before, inside[last] = inside[last], EVIL
        try:
            check(document)
        except (ValueError, UserError):
            inside[last] = before
    path.write_text(json.dumps(document))


@pytest.fixture
def hostile(original: Path, tmp_path: Path) -> Path:
    """A set of which every free text is evil, in a folder of such a name, and further texts too."""
    folder = Path(shutil.copytree(original, tmp_path / EVIL.replace("/", "") / "set"))
    proof = json.loads(json.dumps(PROOFS))
    proof[0]["configuration"]["estimator"] = "reinforce"
    (folder / "proofs.json").write_text(json.dumps(proof))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["experiment"]["training"]["data"] = "0"
    manifest["environment"] |= {"estbench": "0", "git": {"commit": "0"}}
    manifest["refused"] = {"oracle-small": {"reinforce-critic": "0"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in folder.rglob("*.json"):
        poisoned(path)
    return folder


def test_a_set_is_poisoned_where_it_can_be(hostile: Path) -> None:
    manifest = json.loads((hostile / "manifest.json").read_bytes())
    with pytest.raises(ValueError, match="cannot be a name"):
        check_manifest(manifest | {"environment": {EVIL: "0"}})
    assert manifest["environment"]["estbench"] == EVIL
    assert manifest["environment"]["git"]["commit"] == EVIL
    assert manifest["refused"]["oracle-small"]["reinforce-critic"] == EVIL
    assert json.loads((hostile / "proofs.json").read_bytes())[0]["detail"] == EVIL
    failed = json.loads((hostile / "runs/oracle-small/rloo/seed-001.json").read_bytes())
    assert set(failed["error"].values()) == {EVIL}


@pytest.mark.parametrize("width", ["80", "200", None])
def test_a_report_shows_what_is_hidden_as_text(
    hostile: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, width: str | None
) -> None:
    monkeypatch.setattr("estbench.report.building.draw_all", lambda *args: [])
    monkeypatch.setattr("estbench.report.building.render", lambda *args: ("", ""))
    if width is not None:
        monkeypatch.setenv("COLUMNS", width)
    text = said("report", str(hostile), code=0)
    assert r"\x1b[31m" in text
    assert "[bold red]" in text


@pytest.mark.parametrize("width", ["80", "60", None])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_comparison_shows_it_as_text_in_the_terminal_and_in_markdown(
    original: Path,
    hostile: Path,
    tmp_path: Path,
    said: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    width: str | None,
) -> None:
    out = tmp_path / "out"
    if width is not None:
        monkeypatch.setenv("COLUMNS", width)
    said("compare", str(hostile), str(original), "--out", str(out), *more, code=0)
    text = said("compare", str(original), str(hostile), "--out", str(out), *more, code=0)
    assert "x1b" in text or "u001b" in text
    markdown = (out / "compare.md").read_text(encoding="utf-8")
    assert steering(markdown) == [], ascii(markdown)
    assert r"\x1b" in markdown
    assert "<b>" not in markdown.replace("`", "").split("- **A**")[1].split("\n\n", 1)[1]
    lines = markdown.splitlines()
    assert not any(line.startswith("# heading") or line == UNTRUE for line in lines)


def test_no_line_of_what_differs_begins_where_our_own_do() -> None:
    from estbench.report.between.settings import Difference
    from estbench.report.out.compare_terminal import _differences

    folded, name = StringIO(), f"training.{'x' * 30} {UNTRUE}"
    SafeConsole(file=folded, width=60).print(_differences([Difference(name, "a " * 80, "b " * 80)]))
    lines = folded.getvalue().splitlines()
    assert any("all is well" in line for line in lines)
    assert all(line.startswith("  ") for line in lines if line.strip())


def test_markup_is_text_in_markdown() -> None:
    from estbench.report.out.compare_documents import _escaped

    assert _escaped("a|b<i>*c*_`[d]") == "a\\|b&lt;i&gt;\\*c\\*\\_\\`\\[d\\]"
    assert _escaped("\\[x\\](y)~~z~~") == "\\\\\\[x\\\\\\](y)\\~\\~z\\~\\~", "no link, no line"


def test_a_hash_and_a_run_show_the_folders_name_as_text(
    hostile: Path, said: Callable[..., str]
) -> None:
    said("env", "--hash", str(hostile))
    said("env", "--hash", str(hostile), "--json")
    said("env", "--hash", str(hostile / EVIL.replace("/", "")), code=2)
    said("report", str(hostile.parent), code=2)
    said("run", "--preset", "smoke", "--out", str(hostile), code=2)
    said("run", "--preset", "smoke", "--out", str(hostile.parent), code=2)
    said("run", "--preset", "smoke", "--tasks", EVIL, code=2)
    said(EVIL, code=2)
    said("report", str(hostile), f"--{EVIL}", code=2)


def one_at_a_time(path: Path) -> Iterator[None]:
    """Put ``EVIL`` in the place of one value or key after the other."""
    before = path.read_bytes()
    for way in list(places(json.loads(before))):
        for rename in (False, True):
            document = json.loads(before)
            inside = document
            for step in way[:-1]:
                inside = inside[step]
            if rename and isinstance(inside, dict):
                inside[EVIL] = inside.pop(way[-1])
            else:
                inside[way[-1]] = EVIL
            path.write_text(json.dumps(document))
            yield
    path.write_bytes(before)


@pytest.mark.parametrize(
    "name", ["runs/oracle-small/rloo/seed-001.json", "timing/000.json", "manifest.json"]
)
def test_an_error_about_a_file_shows_it_as_text(
    original: Path, tmp_path: Path, said: Callable[..., str], name: str
) -> None:
    folder = tmp_path / EVIL.replace("/", "")
    (folder / name).parent.mkdir(parents=True)
    shutil.copy(original / name, folder / name)
    shutil.copy(original / "manifest.json", folder / "manifest.json")
    (folder / "runs").mkdir(exist_ok=True)
    for _ in one_at_a_time(folder / name):
        said("env", "--hash", str(folder))
        said("run", "--preset", "smoke", "--out", str(folder), code=2)


def test_what_a_run_says_of_jobs_that_fail_and_of_damaged_files_is_text(
    tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fakes.FOLDER, str(tmp_path))
    for name in ("train", "reference", "measure", "time_step", "warm_up"):
        monkeypatch.setattr(jobs, name, getattr(fakes, name))

    def fail(*args: object) -> dict[str, Any]:
        raise type(EVIL, (Exception,), {})(EVIL)

    monkeypatch.setattr(jobs, "train", fail)
    without_processes(monkeypatch)
    made = report.ReportPaths(Path("report.html"), (), ())
    monkeypatch.setattr(report, "build", lambda *args, **options: made)
    out = tmp_path / EVIL.replace("/", "")
    words = ["run", "--preset", "smoke", "--tasks", "expressions-3", "--seeds", "1"]
    words += ["--estimators", "rloo,relax", "--no-gate", "--no-live", "--out", str(out)]
    text = said(*words, code=1)
    assert r"\x1b[31m" in text
    for path in out.rglob("seed-000.json"):
        path.write_text(json.dumps({EVIL: EVIL}))
    assert "is not a whole record" in said(*words, code=1)


PLUGIN = f"""
import estbench
from estbench.estimators.score_function import Reinforce
EVIL = {EVIL!r}

class Mine(Reinforce):
    info = estbench.EstimatorInfo(
        name="mine", summary=EVIL, source=EVIL, baseline=EVIL, learned=(EVIL,), hard_evals=EVIL
    )

    def __init__(self):
        super().__init__("mine", "none", summary=EVIL, source=EVIL)
        self.info = Mine.info
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin whose every declaration is evil; what it registers is forgotten."""
    estbench.estimators.names()
    monkeypatch.setattr(ESTIMATORS, "entries", dict(ESTIMATORS.entries))
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(registry, "_BROKEN", [EVIL])
    path = tmp_path / f"{EVIL.replace('/', '')}.py"
    path.write_text(PLUGIN + "\nestbench.register(Mine)\n")
    return path


@pytest.mark.parametrize("width", ["80", "200"])
def test_what_a_plugin_declares_is_text(
    plugin: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    text = said("list", "estimators", "--plugin", str(plugin), code=0)
    assert "mine" in text
    assert "x1b" in text
    said("list", "--plugin", str(plugin), "--json", code=0)
    plugin.write_text(PLUGIN + "\nraise ValueError(EVIL)\n")
    said("list", "--plugin", str(plugin), code=2)


def test_the_traceback_of_a_plugin_is_text(
    plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin.write_text(PLUGIN + f"\nraise ValueError(EVIL)  # {chr(0x1B)}]0;title\n")
    assert main(["list", "--plugin", str(plugin), "--traceback"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert steering(text) == []


def test_what_a_check_finds_is_text(
    tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    findings = {
        "bias": BiasFinding("expressions-3", "fresh", None, 1.0, suspect=EVIL, error=EVIL),
        "rule": ConductFinding(next(iter(RULES)), False, EVIL),
        "variance": VarianceFinding("autoregressive", error=EVIL),
    }

    def units(name: str, make: Make, margin: float, *, seed: int) -> list[Unit]:
        return [Unit(name, what, partial(lambda f: f, f)) for what, f in findings.items()]

    monkeypatch.setattr(running, "units", units)
    out = tmp_path / EVIL.replace("/", "")
    text = said("check", "rloo", "--jobs", "1", "--out", str(out), code=1)
    assert r"\x1b[31m" in text
    said("check", "rloo", "--jobs", "1", "--out", str(out), "--json", code=1)


def test_versions_and_machine_are_text(
    said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"estbench": EVIL, "cpu": {EVIL: EVIL}, EVIL: [EVIL]}
    monkeypatch.setattr("estbench.runner.environment.environment", lambda: found)
    assert main(["env"]) == 0
    said("env", "--json", code=0)


def test_on_a_terminal_only_rich_writes_escapes() -> None:
    """Its own colours are escapes too, so that what it was given is looked for."""
    stream = StringIO()
    console = SafeConsole(file=stream, force_terminal=True, width=60)
    table = Table("a")
    table.add_row(f"\x1b]0;title\x07 {printable(EVIL)}")
    for shown in ("\x1b]8;;http://x\x1b\\", f"[bold]{EVIL[:20]}[/bold]", table):
        console.print(shown)
    console.print(EVIL, markup=False)
    text = stream.getvalue()
    assert "\x1b]" not in text
    assert "\x1b[31m" not in text
    assert not set("\x07\r\x08\x7f\x9b\u202e\u2066") & set(text)
    assert r"\x1b]0;title\x07" in text
    assert "\x1b[1m" in text, "bold, which was asked for"


def test_all_that_is_printed_goes_through_one_module() -> None:
    package = Path(estbench.__file__).parent
    doors = {package / "core/terminal.py", package / "core/console.py"}
    found = []
    for path in sorted(set(package.rglob("*.py")) - doors):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            plain = name in ("print", "Console", "print_exc", "print_exception")
            if plain or name.endswith((".print_exc", ".print_exception", "stdout.write")):
                found.append(f"{path.relative_to(package)}:{node.lineno} {name}")
            if name.endswith(("stderr.write", "console.out", "pprint")):
                found.append(f"{path.relative_to(package)}:{node.lineno} {name}")
    assert found == []
