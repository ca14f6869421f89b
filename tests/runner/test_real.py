"""The real jobs through the runner, as small as they go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from estbench.config import presets
from estbench.store import ResultSet

from .conftest import Grid, without_processes


@pytest.mark.slow
def test_real_numbers_are_the_same_to_the_bit_in_any_process_and_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = presets.preset("smoke")
    tiny = replace(
        smoke,
        tasks=("expressions-3",),
        estimators=("relax", "rloo"),
        also_measured=("reinforce-ema",),
        training=replace(smoke.training, data_size=256, discriminator_updates=1),
        timing=replace(smoke.timing, rounds=0),
    )
    pool, here = Grid(tiny, tmp_path / "pool"), Grid(tiny, tmp_path / "here")
    assert pool.run(2).failures == []
    without_processes(monkeypatch)
    assert here.run(1, seeds=(1,), estimators=("rloo",)).failures == []
    assert here.run(1).failures == []
    assert len(pool.numbers()) == 4 + 2 + 6
    assert pool.numbers() == here.numbers()
    for seed in tiny.seeds:
        states = [ResultSet(g.directory).state_path("expressions-3", seed) for g in (pool, here)]
        assert states[0].read_bytes() == states[1].read_bytes()
