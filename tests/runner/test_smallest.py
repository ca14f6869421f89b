"""The smallest problems there are, through a whole run with nothing replaced."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from estbench.cli import main

ONE_TOKEN = """
name = "one-token"
tasks = ["bernoulli"]
estimators = ["reinforce", "rebar"]
seeds = 2

[training]
batches = 4
batch_size = 8

[snapshots]
sequences = 16

[timing]
rounds = 1
"""


@pytest.mark.slow
def test_sequences_of_one_token_are_trained_measured_timed_and_reported(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(ONE_TOKEN)
    out = tmp_path / "set"
    words = ["run", str(tmp_path / "one.toml"), "--out", str(out), "--jobs", "1"]
    assert main([*words, "--no-gate", "--no-live"]) == 0
    assert (out / "report.html").is_file()
    runs = pd.read_csv(out / "tables" / "runs.csv")
    assert set(runs["status"]) == {"ok"}
    variance = pd.read_csv(out / "tables" / "variance.csv")
    assert (variance["total_variance"] > 0).all()
