"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def ran(name: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_an_estimator_of_ones_own_is_a_plugin(tmp_path: Path) -> None:
    assert ran("own_estimator.py", tmp_path) == ""
    code = (
        "import sys, pathlib; from estbench.core import plugins; "
        "print(plugins.load(pathlib.Path(sys.argv[1])))"
    )
    file = str(EXAMPLES / "own_estimator.py")
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, check=True)
    assert done.stdout.strip() == b"['first-token']"


@pytest.mark.slow
def test_a_policy_of_ones_own_is_measured(tmp_path: Path) -> None:
    head, *rows = ran("own_policy.py", tmp_path).splitlines()
    assert head.split()[:2] == ["estimator", "variance_per_sequence"]
    assert [row.split()[0] for row in rows] == ["reinforce", "rloo", "first-token"]
    for row in rows:
        ratio, bias_low = float(row.split()[2]), float(row.split()[6])
        assert 0.3 < ratio <= 1
        assert bias_low < 0.1
        assert row.rstrip().endswith("exact gradient")  # and no fault of the meter


OWN_TASK = """
preset = "smoke"
name = "own"
tasks = ["brackets"]
estimators = ["rloo"]
also_measured = []
seeds = 1
[training]
generator = "gru"
discriminator = "cnn"
batches = 2
[timing]
rounds = 0
"""


@pytest.mark.slow
def test_a_task_of_ones_own_is_run_and_its_metrics_are_in_tables_and_page(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN_TASK)
    plugin = str(EXAMPLES / "own_task.py")
    words = ["run", "own.toml", "--plugin", plugin, "--no-gate", "--no-live", "--jobs", "1"]
    command = [sys.executable, "-m", "estbench", *words]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "results" / "own"
    rows = (made / "tables" / "runs.csv").read_text().splitlines()
    assert {"balanced", "depth"} < set(rows[0].split(","))
    pages = ((made / name).read_text() for name in ("report.html", "figures.html"))
    assert any("balanced sequences" in page for page in pages)
    assert "balanced" in (made / "figures" / "quality.csv").read_text()


@pytest.mark.slow
def test_a_language_model_of_ones_own_is_measured(tmp_path: Path) -> None:
    head, *rows = ran("own_language_model.py", tmp_path).splitlines()
    assert head.split()[-1] == "noise_scale"
    found = {name: [float(x) for x in numbers] for name, *numbers in map(str.split, rows)}
    assert list(found) == ["rloo", "dr-grpo", "grpo-published"]
    assert found["rloo"][3] == 0  # no bias was found
    for numbers in found.values():
        assert 0 < numbers[1] <= 1
        assert 50 < numbers[4] < 1000
