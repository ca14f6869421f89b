"""How long idle threads spin: a bound before torch is loaded, unless the user has chosen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from estbench.core.openmp import SPINS, idle_threads, limit_spinning
from estbench.runner.environment import environment


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what is set in a test is undone after it.
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_idle_threads_spin_a_bounded_time() -> None:
    limit_spinning()
    assert idle_threads() == f"GOMP_SPINCOUNT={SPINS}, set by estbench"
    assert environment()["idle_threads"] == idle_threads()


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")]
)
def test_the_users_choice_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    limit_spinning()
    assert idle_threads() == f"{name}={value}, set by the user"


def test_the_bound_is_set_before_torch_is_loaded() -> None:
    code = "import estbench, os, sys; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", str(SPINS)]
