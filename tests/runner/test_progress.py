"""What is shown while an experiment runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from estbench.runner import jobs
from estbench.runner.estimate import Costs, longest_first
from estbench.runner.jobs import Job
from estbench.runner.progress import BarDisplay, LineDisplay, display_for, duration

from .conftest import SMALL


def job(task: str, estimator: str, seed: int, kind: str = "run") -> Job:
    return Job(kind, task, estimator, seed, "", jobs.train, SMALL, jobs.warm_up)


def test_without_a_terminal_every_run_is_a_line() -> None:
    stream = io.StringIO()
    display = display_for(stream)
    assert isinstance(display, LineDisplay)
    display.phase("training", 3)
    display.ended("t relax seed 0", "", 4.21, None)
    display.ended("t relax seed 1", "ValueError: no", 1.0, 200.0)
    assert stream.getvalue().splitlines() == [
        "[training 1/3] t relax seed 0: 4.2 s",
        "[training 2/3, 1 failed, about 3 min left] t relax seed 1: FAILED: ValueError: no",
    ]


def test_measurements_are_a_line_for_every_tenth_and_every_failure() -> None:
    stream = io.StringIO()
    display = LineDisplay(stream)
    display.phase("snapshots", 100)
    for index in range(100):
        display.ended("x", "ValueError: no" if index == 4 else "", 0.1, None)
    assert len(stream.getvalue().splitlines()) == 11


def test_on_a_terminal_there_are_bars_with_counts_failures_and_time_left() -> None:
    stream = io.StringIO()
    display = BarDisplay(Console(file=stream, force_terminal=True, width=100))
    display.phase("training", 4)
    display.ended("t relax seed 0", "", 1.0, 600.0)
    display.ended("t relax seed 1", "ValueError: [no]", 1.0, 600.0)
    display.close()
    text = stream.getvalue()
    for shown in ("training", "2/4", "1 failed", "about 10 min left", "FAILED: ValueError: [no]"):
        assert shown in text


def test_what_is_over_has_no_time_left() -> None:
    stream = io.StringIO()
    display = BarDisplay(Console(file=stream, force_terminal=True, width=100))
    display.phase("timing", 5)
    display.ended("round 0", "", 1.0, 4.0)  # the budget ends before the rounds
    display.close()
    assert "left" not in stream.getvalue().splitlines()[-1]
    lines = LineDisplay(io.StringIO())
    lines.phase("timing", 1)
    lines.ended("round 0", "", 1.0, 0.0)
    assert lines.stream.getvalue() == "[timing 1/1] round 0: 1.0 s\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (200, "3 min"), (4800, "1 h 20 min")]
)
def test_durations_are_said_roughly(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_long_jobs_begin_first() -> None:
    short, long = job("expressions-3", "reinforce", 0), job("expressions-15", "relax", 1)
    assert longest_first([short, long]) == [long, short]


def test_time_left_is_learnt_from_the_same_task_and_estimator() -> None:
    costs = Costs()
    slow, quick = job("expressions-15", "relax", 0), job("expressions-3", "rloo", 0)
    assert costs.left([slow], 2) is None, "nothing is known yet"
    costs.observe(slow, 8.0)
    costs.observe(quick, 1.0)
    others = [job("expressions-15", "relax", seed) for seed in (1, 2, 3, 4)]
    assert costs.left(others, 2) == pytest.approx(16.0)
    assert costs.left(others, 99) == pytest.approx(8.0), "no run is split among workers"
    assert costs.left([], 2) == 0.0
    unseen = costs.expected(job("expressions-15", "rebar", 0))
    assert unseen is not None
    assert unseen > 0
