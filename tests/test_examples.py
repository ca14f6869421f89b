"""The examples run as they stand."""

from __future__ import annotations

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
        "import sys, pathlib; from estbench import plugins; "
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
