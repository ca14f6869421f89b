"""The command line: what may be typed, what is refused, and what is said."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from estbench import estimators, report, runner
from estbench.cli import EXIT_CODES, app, commands, main
from estbench.config.experiment import Experiment
from estbench.core import terminal
from estbench.core.errors import UserError
from estbench.core.processes import Terminated
from estbench.proof.checking import CheckResult
from estbench.runner.backends import BackendLostError
from estbench.runner.grid import Failure
from estbench.store import ResultSet, StorageError, envelope, write_json

SIGNS = "2× 1…3 −1 ≤4 日"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that what is written shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["estbench"])


class Recorded:
    """Stands in for the runner: remembers what it was asked to do."""

    def __init__(self) -> None:
        self.experiment: Experiment | None = None
        self.directory = Path()
        self.options: dict[str, object] = {}
        self.failures: list[Failure] = []
        self.error: BaseException | None = None
        self.made = 5

    def run_experiment(
        self, experiment: Experiment, directory: Path, *, summary: runner.Summary, **options: object
    ) -> None:
        self.experiment, self.directory, self.options = experiment, directory, options
        summary.made, summary.failures = self.made, self.failures
        if self.error:
            raise self.error


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    fake = Recorded()
    monkeypatch.setattr(runner, "run_experiment", fake.run_experiment)
    made = report.ReportPaths(Path("report.html"), (), ())
    monkeypatch.setattr(report, "build", lambda directory, latex=False, console=None: made)
    return fake


BAD = [
    (["rnu"], "unknown command 'rnu': did you mean 'run'?"),
    (["frobnicate"], "unknown command 'frobnicate': one of: check, compare, completion, env,"),
    (["run", "--seed", "3"], "unknown option '--seed': did you mean '--seeds'?"),
    (["run", "--colour", "3"], "unknown option '--colour' (see: estbench run --help)"),
    (["run", "a.toml", "b"], "Unused Tokens: ['b']"),
    (["run", "--seeds"], "--seeds requires an argument"),
    (["run", "--seeds", "0"], "--seeds = 0: must be from 1 to"),
    (["run", "--seeds", "-3"], "--seeds '-3' is not a list of seeds"),
    (["run", "--seeds", "two"], "--seeds 'two' is not a list of seeds: give a count such as 10"),
    (["run", "--seeds", "5-2"], "--seeds '5-2' is not"),
    (["run", "--jobs", "0"], "--jobs 0: must be from 1 to 1000"),
    (["run", "--jobs", "-1"], "--jobs -1: must be from 1 to 1000"),
    (["run", "--jobs", "99999999"], "--jobs 99999999: must be from 1 to 1000"),
    (
        ["run", "many.toml"],
        "[execution] jobs = 99999999: must be a whole number, at least 0, at most 1000",
    ),
    (["check", "--jobs", "99999999"], "--jobs 99999999: must be from 1 to 1000"),
    (["run", "--jobs", "x"], 'unable to convert "x" into int'),
    (["run", "--estimators", "relx"], "unknown estimator 'relx': did you mean 'relax'?"),
    (["run", "--estimators", "nvil"], "unknown estimator 'nvil' (see: estbench list estimators)"),
    (["run", "--estimators", "relax,"], "--estimators 'relax,': give names separated by commas"),
    (["run", "--tasks", "expressions-4"], "unknown task 'expressions-4': did you mean"),
    (["run", "--preset", "papr"], "unknown preset 'papr': did you mean 'paper'?"),
    (["run", "--preset", "smoke", "bad.toml"], "give --preset or bad.toml, not both"),
    (["run", "smoke"], "no such file: smoke; did you mean --preset smoke?"),
    (["run", "none.toml"], "no such file: none.toml"),
    (["run", "bad.toml"], "unknown setting 'training.batchs': did you mean 'training.batches'?"),
    (["run", "far.toml"], "unknown setting 'snapshots.xyz': one of: adaptation_batches, "),
    (["run", "--device", "tpu"], "device 'tpu': must be cpu, cuda, cuda:N or several"),
    (["run", "--device", "cuda:99"], "device cuda:99: there is none here; one of: cpu"),
    (["run", "--out", "bad.toml"], "cannot write to bad.toml (it is a file): give --out"),
    (["run", "--out", "bad.toml/x"], "cannot write to bad.toml/x (Not a directory)"),
    (["run", "reference.toml"], "results/reference/ is for committed sets"),
    (["run", "--preset", "text"], "no text: give your own with --data FILE, or a ready corpus"),
    (["run", "--preset", "text", "--data", "none.txt"], "none.txt"),
    (["run", "--preset", "text", "--data", "empty.txt"], "empty.txt"),
    (["run", "--data", "bad.toml"], "--data is of no use to expressions-3"),
    (["run", "--tasks", "oracle", "--oracle-weights", "bad.toml"], "bad.toml is a text file"),
    (["run", "--tasks", "oracle", "--vocabulary", "1"], "vocabulary = 1: an oracle's must be"),
    (["run", "--vocabulary", "x"], 'unable to convert "x" into int'),
    (["run", "--preset", "text", "--level", "word"], 'Choose from: "words", "characters"'),
    (["run", "own.toml"], "[per_task.expressions-3] vocabulary: expressions-3 has no such choice"),
    (["report"], "DIR requires an argument"),
    (["report", "none"], "none"),
    (["report", "none", "--tensorboard"], "none"),
    (["compare"], "A requires an argument"),
    (["compare", "none"], "B requires an argument"),
    (["compare", "none", "none2"], "no result set at none: not a folder"),
    (["compare", "none", "none2", "--margin", ".9"], "margin 0.9: must be from 1 to 100"),
    (["compare", "none", "none2", "--fail-on-wrose"], "did you mean '--fail-on-worse'?"),
    (["list", "estimator"], 'Choose from: "estimators", "tasks", "presets"'),
]


@pytest.mark.parametrize(("words", "text"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2_before_anything_is_done(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("bad.toml").write_text('preset = "bench"\n[training]\nbatchs = 3\n')
    Path("far.toml").write_text('preset = "bench"\n[snapshots]\nxyz = 3\n')
    Path("many.toml").write_text('preset = "bench"\n[execution]\njobs = 99999999\n')
    Path("empty.txt").write_text("")
    Path("own.toml").write_text('preset = "bench"\n[per_task.expressions-3]\nvocabulary = 3\n')
    Path("reference.toml").write_text('preset = "bench"\n')
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert text in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_module_is_the_command_line() -> None:
    command = [sys.executable, "-m", "estbench", "run", "--seeds", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("estbench: --seeds = 0")
    assert result.stdout == ""


PRECIOUS = {"thesis.tex": "a year", ".draft.tmp": "of work", "check.json": "{}", "bias.csv": "mine"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run", "--preset", "smoke", "--out", "."], "no result set (it has no manifest.json) and"),
        (["check", "rloo", "--out", "."], "check.json was not written by estbench: give --out"),
        (["report", "."], "no result set at .: it holds neither manifest.json nor records"),
        (["report", ".", "--tensorboard"], "no result set at .: it holds neither manifest.json"),
        (["env", "--hash", "."], "no result set at .: it holds neither manifest.json nor records"),
        (
            ["compare", ".", "deep"],
            "no result set at .: it holds neither manifest.json nor records",
        ),
    ],
)
def test_a_folder_of_ones_own_is_refused_at_once_and_left_as_it_was(
    words: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such as the home folder, or the root of the disk: nobody waits until it has been walked."""
    (tmp_path / "deep").mkdir()
    for name, content in PRECIOUS.items():
        (tmp_path / name).write_text(content)
        (tmp_path / "deep" / name).write_text(content)

    scandir = os.scandir

    def scan(path: str = ".") -> object:
        assert not Path(path).absolute().is_relative_to(tmp_path), "the folder is walked through"
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan)
        assert main(words) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1
    for folder in (tmp_path, tmp_path / "deep"):
        assert {p.name: p.read_text() for p in folder.iterdir() if p.is_file()} == PRECIOUS


def test_help_answers_without_importing_anything_heavy() -> None:
    code = (
        "import sys; from estbench.cli import main; main(['run', '--help']);"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'matplotlib', 'seaborn', 'joblib'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for option in ["--preset", "--tasks", "--estimators", "--seeds", "--jobs", "--out", "--device"]:
        assert option in result.stdout


def test_a_bare_run_is_bench_in_results_bench(recorded: Recorded) -> None:
    assert main(["run"]) == 0
    assert recorded.experiment is not None
    assert recorded.experiment.name == "bench"
    assert recorded.directory == Path("results/bench")
    assert recorded.options["workers"]


def test_what_is_typed_wins(recorded: Recorded) -> None:
    Path("mine.toml").write_text('preset = "smoke"\nseeds = 7\ntasks = ["oracle-small"]\n')
    words = "run mine.toml --seeds 0-1,4 --tasks expressions-3,oracle-small --jobs 3 --out there"
    assert main(words.split()) == 0
    assert recorded.experiment is not None
    assert recorded.experiment.seeds == (0, 1, 4)
    assert recorded.experiment.tasks == ("expressions-3", "oracle-small")
    assert recorded.directory == Path("there")
    assert recorded.options["workers"] == 3
    assert main(["run", "mine.toml"]) == 0
    assert recorded.directory == Path("results/mine")


def test_the_report_is_live_and_event_files_are_not_written_unless_asked(
    recorded: Recorded,
) -> None:
    assert main(["run"]) == 0
    assert (recorded.options["live"], recorded.options["tensorboard"]) == (True, False)
    assert main(["run", "--no-live"]) == 0
    assert recorded.options["live"] is False


def test_reinforce_brings_the_one_with_a_baseline(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--estimators", "reinforce,rebar,relax", "--seeds", "10"]) == 0
    assert recorded.experiment is not None
    assert recorded.experiment.estimators == ("reinforce", "rebar", "relax")
    assert recorded.experiment.also_measured == ("reinforce-ema",)
    assert recorded.experiment.seeds == tuple(range(10))
    assert recorded.directory == Path("results/bench")
    printed = capsys.readouterr()
    assert "baseline" not in printed.out + printed.err, "the report says it, once"

    assert main(["run", "--estimators", "rloo,relax"]) == 0
    assert not recorded.experiment.also_measured


def test_failures_are_named_with_their_files_and_the_exit_code_is_1(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("results/bench/runs/t/relax/seed-003.json")
    recorded.failures = [Failure("t relax seed 3", "ValueError: no", path)] * 25
    assert main(["run"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "25 of 5 failed:" in lines
    assert f"  t relax seed 3: ValueError: no ({path})" in lines
    assert any("and 5 more" in line for line in lines)
    assert "--retry-failed" in lines[-1]


def test_an_interruption_says_what_is_kept_and_how_to_go_on(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.error = Terminated(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["estbench", "run", "--tasks", "expressions-3"])
    assert main() == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "interrupted; the 5 records that were finished are kept in results/bench; "
        "go on with: estbench run --tasks expressions-3"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_verb_ends_with_a_line_and_the_exit_code_of_the_signal(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(commands, "show_environment", lambda **_: os.kill(os.getpid(), number))
    assert main(["env"]) == 128 + number
    assert capsys.readouterr().err == "estbench: interrupted\n"
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored_as_under_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(
            commands, "show_environment", lambda **_: os.kill(os.getpid(), signal.SIGHUP) or 0
        )
        assert main(["env"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_end_of_a_run_says_how_to_open_its_page(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", "a set"]) == 0
    page = Path("a set", "report.html").resolve()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"open the report: {page.as_uri()}"
    assert main(["report", "a set"]) == 0
    assert page.as_uri() in capsys.readouterr().err


def test_a_pipe_has_the_width_of_columns_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal.console().width == 80
    monkeypatch.delenv("COLUMNS")
    assert terminal.console().width == terminal.UNBOUND


FULL = OSError(errno.ENOSPC, "No space left on device", "report.html")
LOST = StorageError("cannot write there: No space left on device")
NO_SUCH = UserError("there is none")
TOO_LITTLE = MemoryError("cannot allocate 9 TiB")
NOT_PROVEN = commands._NotProvenError("estbench: relax is biased")
UNSURE = [("rloo", CheckResult(estimators.info("rloo")))]  # nothing was tried

# What a verb calls, and what comes of it.
CODES = [
    ("run", "runner.run_experiment", None, 0),
    ("run", "runner.run_experiment", NOT_PROVEN, 1),
    ("run", "runner.run_experiment", NO_SUCH, 2),
    ("run", "runner.run_experiment", LOST, 3),
    ("run", "runner.run_experiment", TOO_LITTLE, 3),
    ("run", "runner.run_experiment", BackendLostError("the scheduler is gone"), 3),
    ("run", "report.build", FULL, 3),
    ("report set", "cli.commands._report", None, 0),
    ("report set", "report.build", NO_SUCH, 2),
    ("report set", "report.build", PermissionError(errno.EACCES, "Permission denied", "x"), 2),
    ("report set", "report.build", FULL, 3),
    ("report set", "report.build", TOO_LITTLE, 3),
    ("compare a b", "cli.comparing.compare", 0, 0),
    ("compare a b", "cli.comparing.compare", 1, 1),
    ("compare a b", "report.between.between", NO_SUCH, 2),
    ("compare a b", "report.between.between", LOST, 3),
    ("check rloo", "proof.running.check_many", UNSURE, 1),
    ("check rloo", "proof.running.check_many", NO_SUCH, 2),
    ("check rloo", "proof.running.check_many", LOST, 3),
    ("list", "cli.listing.listing", 0, 0),
    ("list", "cli.listing.listing", NO_SUCH, 2),
    ("list", "cli.listing.listing", OSError(errno.ENOSPC, "No space left on device"), 3),
    ("env", "runner.environment.environment", {}, 0),
    ("env", "runner.environment.environment", TOO_LITTLE, 3),
    ("env --hash set", "store.digest.digest", NO_SUCH, 2),
    ("completion bash", "cli.completion.script", "", 0),
    ("completion bash", "cli.completion.script", TOO_LITTLE, 3),
]


@pytest.mark.parametrize(("words", "where", "what", "code"), CODES)
def test_an_exit_code_means_the_same_for_every_verb(
    words: str,
    where: str,
    what: object,
    code: int,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(*_: object, **__: object) -> object:
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(f"estbench.{where}", end)
    assert main(words.split()) == code
    said = capsys.readouterr().err
    if isinstance(what, Exception):
        assert str(getattr(what, "strerror", None) or what) in said
    if code > 1 and words != "run":
        assert said.count("\n") == 1


@pytest.mark.parametrize("verb", ["", *(name for name in app if not name.startswith("-"))])
def test_every_verb_s_help_says_what_the_exit_codes_mean(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert EXIT_CODES in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_the_standard_output_is_a_line() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "estbench", "list", "presets"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(commands.__file__).parents[1])},
        )
    assert ended.stderr == "estbench: the output: No space left on device\n"
    assert ended.returncode == 3


def test_a_full_disk_is_one_line_and_exit_code_3(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.error = StorageError("cannot write results/bench/x: No space left on device")
    assert main(["run"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left on device; make room" in lines[0]

    def build(directory: Path, **options: object) -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(report, "build", build)
    assert main(["report", "results/bench"]) == 3
    assert "cannot write report.html: No space left" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("where", ["store.atomic.write_bytes", "cli.checks._write"])
def test_what_was_checked_is_printed_whatever_becomes_of_the_files(
    where: str,
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("estbench.proof.running.check_many", lambda *_, **__: UNSURE)
    monkeypatch.setattr(*(("os.fsync", full) if "bytes" in where else (f"estbench.{where}", full)))
    out = tmp_path / "out"
    assert main(["check", "rloo", "--out", str(out), *(["--json"] if as_json else [])]) == 3
    printed = capsys.readouterr()
    assert "rloo" in printed.out
    assert printed.err.startswith(f"estbench: cannot write {out}")
    assert printed.err.count("\n") == 1
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("what", ["estimators", "tasks", "presets"])
def test_lists_are_tables_or_json_arrays(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert isinstance(rows, list)
    assert main(["list", what]) == 0
    table = capsys.readouterr().out
    for row in rows:
        assert row["name"] in table


def test_the_environment_names_versions_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["cores"] <= (os.cpu_count() or 1)
    assert found["devices"][0] == "cpu"
    if (Path(__file__).parents[1] / ".git").exists():
        assert len(found["git"]["commit"]) == 40
        assert isinstance(found["git"]["changed"], bool)
    assert main(["env"]) == 0
    assert found["packages"]["torch"] in capsys.readouterr().out


def test_a_report_is_not_made_again_where_nothing_was_done_since(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[Path] = []
    made = report.ReportPaths(Path("report.html"), (), ())

    def build(directory: Path, **options: object) -> report.ReportPaths:
        built.append(directory)
        return made

    monkeypatch.setattr(report, "build", build)
    recorded.made = 0
    words = ["run", "--preset", "smoke", "--out", "set"]
    assert main(words) == 0
    assert len(built) == 1, "there was none yet"
    Path("set", "tables").mkdir(parents=True)
    Path("set", "tables", "summary.csv").write_text("")
    Path("set", "report.html").write_text("")
    capsys.readouterr()
    assert main(words) == 0
    assert len(built) == 1
    said = capsys.readouterr().err
    assert "nothing to do" in said
    assert "up to date; estbench report set makes it anew" in said
    recorded.made = 1
    assert main(words) == 0
    assert len(built) == 2


def test_the_numbers_of_a_result_set_have_one_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ResultSet(tmp_path)
    record = envelope("run", "key", "expressions-3", "relax", 0) | {"final": {"goodness": 0.5}}
    write_json(results.run_path("expressions-3", "relax", 0), record)
    assert main(["env", "--hash", str(tmp_path)]) == 0
    line = capsys.readouterr().out
    assert re.fullmatch(r"[0-9a-f]{64}\n", line)
    assert main(["env", "--hash", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sha256"] + "\n" == line
    assert set(found["kinds"]["run"]["tasks"]["expressions-3"]["estimators"]) == {"relax"}


def test_tables_alone_have_no_hash_of_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "runs.csv").write_text("task,estimator,seed,status\na,relax,0,ok\n")
    assert main(["env", "--hash", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "no run files, only tables" in said.err
    assert main(["env", "--hash", str(tmp_path / "nowhere")]) == 2


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/estbench/__main__.py", "run", "--out", "a b"])
    assert commands.command_line() == "python -m estbench run --out 'a b'"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "2x 1...3 -1 <=4 \\u65e5"), ("cp1252", "2× 1…3 -1 <=4 \\u65e5"), ("utf-8", SIGNS)],
)
def test_an_encoding_without_a_character_gets_a_plainer_one(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`?` would be a mark: another verdict without one snapshot."""
    written = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding))
    assert main(["list", "presets"]) == 0
    terminal.show(SIGNS)
    assert written.getvalue().decode(encoding).splitlines()[-1] == shown
