"""The report while a grid runs: it follows, costs little, and is in nobody's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from estbench import report
from estbench.report.data.unfinished import Progress as Shown
from estbench.runner import live
from estbench.runner.live import Progress, Refresher, refreshed
from estbench.store.atomic import replacing

from . import fakes
from .conftest import Grid
from .processes import until

HERE = str(Path(__file__).parent)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a module of a few lines in the place of the one that makes reports."""

    def put(code: str) -> Path:
        (tmp_path / "stand_in.py").write_text(textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(live, "MODULE", "stand_in")
        return tmp_path

    return put


LOG = """
    import json, os, sys, time
    order = json.loads(sys.stdin.readline())
    with open(sys.argv[1] + "/log", "a") as log:
        log.write(json.dumps(order | {"at": time.time(), "pid": os.getpid()}) + chr(10))
    print(0.01)
"""


def progress(done: int = 1) -> Progress:
    return Progress({"training": done, "snapshots": 0}, {"training": 4, "snapshots": 8})


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# When it is made ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_new_is_reported_once_and_not_sooner_than_allowed(
    stand_in: Callable[[str], Path],
) -> None:
    folder = stand_in(LOG)
    begun = time.time()
    notes: list[str] = []
    refresher = Refresher(folder, notes.append, least_s=0.3)
    try:
        assert not until(lambda: refresher.built, 1.0), "there is nothing new"
        refresher.tell(progress(1))
        refresher.tell(progress(2))
        assert until(lambda: refresher.built == 1)
        refresher.tell(progress(3))
        assert until(lambda: refresher.built == 2)
        assert not until(lambda: refresher.built > 2, 1.0), "nothing new since"
    finally:
        refresher.stop()
    orders = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [order["progress"]["done"]["training"] for order in orders] == [2, 3]
    assert orders[0]["at"] - begun >= 0.3
    assert orders[1]["at"] - orders[0]["at"] >= 0.3
    assert notes == []


def test_it_waits_many_times_what_the_last_report_took(stand_in: Callable[[str], Path]) -> None:
    folder = stand_in(LOG.replace("print(0.01)", "print(50.0)"))
    refresher = Refresher(folder, print, least_s=0.1, share=20.0)
    try:
        refresher.tell(progress(1))
        assert until(lambda: refresher.built == 1)
        refresher.tell(progress(2))
        assert not until(lambda: refresher.built == 2, 1.5)
    finally:
        refresher.stop()
    assert refresher._wait == 1000.0


def test_a_report_that_fails_is_one_line_however_often(stand_in: Callable[[str], Path]) -> None:
    folder = stand_in("import sys; sys.exit('first line\\nno figure today')")
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "LEAST_S", 0.1)
        patch.setattr(live, "SHARE", 0.0)
        refresher = Refresher(folder, notes.append, least_s=0.1, share=0.0)
        try:
            refresher.tell(progress())
            assert until(lambda: notes)
            for done in range(3):
                refresher.tell(progress(done))
                time.sleep(0.5)
        finally:
            refresher.stop()
    assert notes == ["the report could not be made while the grid runs: no figure today"]
    assert refresher.built == 0


def test_a_report_that_cannot_even_begin_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    notes: list[str] = []
    refresher = Refresher(tmp_path, notes.append, least_s=0.1)
    refresher.tell(progress())
    assert until(lambda: notes)
    refresher.stop()
    assert len(notes) == 1
    assert "FileNotFoundError" in notes[0]


# How it ends -------------------------------------------------------------------------------------

ASLEEP = """
    import os, sys, time, threading
    open(sys.argv[1] + "/pid.part", "w").write(str(os.getpid()))
    os.rename(sys.argv[1] + "/pid.part", sys.argv[1] + "/pid")
    sys.stdin.readline()
    {watch}
    time.sleep(60)
"""


def test_stopping_ends_a_report_that_is_being_made(stand_in: Callable[[str], Path]) -> None:
    folder = stand_in(ASLEEP.format(watch=""))
    refresher = Refresher(folder, print, least_s=0.1)
    refresher.tell(progress())
    assert until((folder / "pid").exists)
    begun = time.monotonic()
    refresher.stop()
    assert time.monotonic() - begun < 5.0
    assert not alive(int((folder / "pid").read_text()))


def test_a_driver_that_is_killed_leaves_no_refresher(tmp_path: Path) -> None:
    """The module itself, whose report would never end, under a driver that gets SIGKILL."""
    (tmp_path / "child.py").write_text(
        textwrap.dedent("""
        import os, sys, time
        from estbench import report
        from estbench.report import live
        def endless(directory, **options):
            open(sys.argv[1] + "/pid.part", "w").write(str(os.getpid()))
            os.rename(sys.argv[1] + "/pid.part", sys.argv[1] + "/pid")
            time.sleep(60)
        report.build = endless
        sys.exit(live.main())
        """)
    )
    driver = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from estbench.runner import live
        live.MODULE = "child"
        refresher = live.Refresher(Path(sys.argv[1]), print, least_s=0.1)
        refresher.tell(live.Progress({"training": 1}, {"training": 2}))
        time.sleep(60)
    """)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-c", driver, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}
    )
    try:
        assert until((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert alive(child)
        assert os.getpgid(child) != os.getpgid(process.pid), "Ctrl-C does not reach it"
        assert os.getpriority(os.PRIO_PROCESS, child) >= 5
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert until(lambda: not alive(child), 10.0)


# In the grid -------------------------------------------------------------------------------------


class Recorded:
    """Stands in for the refresher."""

    def __init__(self, directory: Path, note: object, least_s: float) -> None:
        self.told: list[Progress] = []
        self.calls_when_stopped: list[str] | None = None
        made.append(self)

    def tell(self, progress: Progress) -> None:
        self.told.append(Progress(dict(progress.done), dict(progress.total), progress.failed))

    def stop(self) -> None:
        self.calls_when_stopped = fakes.calls()


made: list[Recorded] = []


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    made.clear()
    monkeypatch.setattr(live, "Refresher", Recorded)
    return made


def test_the_grid_tells_of_every_record_and_stops_before_the_timing_pass(
    grid: Grid, recorded: list[Recorded]
) -> None:
    fakes.plan_mischief("raise", "expressions-3 reinforce seed 1")
    grid.run(live=True)
    (refresher,) = recorded
    assert len(refresher.told) == 8 + 12
    last = refresher.told[-1]
    assert last.done == last.total == {"training": 8, "snapshots": 12}
    assert last.failed == 1
    assert refresher.calls_when_stopped is not None
    assert len(refresher.calls_when_stopped) == 20
    assert not [call for call in refresher.calls_when_stopped if call.startswith("timing")]
    assert [call for call in fakes.calls() if call.startswith("timing")]


def test_what_was_there_already_counts_as_done(grid: Grid, recorded: list[Recorded]) -> None:
    grid.run(live=True, seeds=(0,))
    grid.run(live=True)
    first = recorded[1].told[0]
    assert first.total == {"training": 8, "snapshots": 12}
    assert first.done == {"training": 4 + 1, "snapshots": 6}


def test_it_is_stopped_when_the_grid_breaks(
    grid: Grid, recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("estbench.runner.backends.local.LocalBackend.run", broken)
    with pytest.raises(KeyboardInterrupt):
        grid.run(live=True)
    assert recorded[0].calls_when_stopped is not None


def test_without_it_nothing_is_started(grid: Grid, recorded: list[Recorded]) -> None:
    grid.run()
    assert recorded == []
    with refreshed(grid.directory, print, live=False) as tell:
        tell(progress())


def test_a_file_of_the_report_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as new:
            new.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


# What is shown -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_unfinished_set_is_reported_from_its_files_and_says_how_far_it_is(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real module, on a set whose grid is unfinished; nothing of it is computed."""
    grid.run(seeds=(0,), tasks=("expressions-3",))
    manifest = grid.results.manifest()
    assert manifest is not None
    manifest["experiment"] |= {"seeds": [0, 1], "tasks": ["expressions-3", "oracle-small"]}
    grid.results.write_manifest(manifest)
    before = grid.numbers()
    fakes.forget()
    order = {
        "progress": {
            "done": {"training": 2, "snapshots": 3},
            "total": {"training": 8, "snapshots": 12},
            "failed": 1,
        },
        "reload_s": 17,
        "plugins": [],
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "estbench.report.live", str(grid.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    page = (grid.directory / "report.html").read_text()
    assert '<meta http-equiv="refresh" content="17">' in page
    assert "2 of 8 training runs and 3 of 12 measurements done" in " ".join(page.split())
    assert "1 failed" in page
    assert not list(grid.directory.rglob("*.tmp"))

    report.build(grid.directory)
    page = (grid.directory / "report.html").read_text()
    assert 'http-equiv="refresh"' not in page, "nobody makes it anew"
    assert fakes.calls() == []
    assert grid.numbers() == before


def test_progress_reads_as_a_sentence() -> None:
    shown = Shown((2, 8), (0, 12), 1, "2026-01-02 03:04:05 UTC", 15)
    assert str(shown) == (
        "2 of 8 training runs and 0 of 12 measurements done (1 failed) at 2026-01-02 03:04:05 UTC"
    )
