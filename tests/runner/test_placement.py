"""Runs on several cards: shared out in turn, and the same runs wherever they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estbench.core.errors import UserError
from estbench.runner.jobs import placed
from estbench.runner.plan import make_plan
from estbench.runner.timing import Again
from estbench.store import ResultSet

from .conftest import SMALL, Grid


def test_runs_are_shared_out_among_cards_and_keep_their_keys(grid: Grid) -> None:
    two = replace(SMALL, device="cuda:0,cuda:1")
    jobs = make_plan(two, ResultSet(grid.directory), Again()).training
    found = placed(jobs)
    assert [job.experiment.device for job in found] == ["cuda:0", "cuda:1"] * (len(jobs) // 2)
    assert [job.key for job in found] == [job.key for job in jobs]
    one = make_plan(replace(SMALL, device="cuda:1"), ResultSet(grid.directory), Again()).training
    assert [job.key for job in one] == [job.key for job in jobs], "which card makes no difference"
    here = make_plan(SMALL, ResultSet(grid.directory), Again()).training
    assert placed(here) == here
    assert not {job.key for job in here} & {job.key for job in jobs}


@pytest.mark.parametrize("device", ["cuda:0,", "cpu,cuda:0", "cuda,cuda:1", "cuda:0;cuda:1"])
def test_devices_that_cannot_be_shared_out_are_refused(device: str) -> None:
    with pytest.raises(UserError, match="several: cuda:0,cuda:1"):
        replace(SMALL, device=device)
