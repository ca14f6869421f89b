"""How long idle threads of torch wait awake for more work.

They spin, so that the next small operation need not wake them, and then sleep. By its own default
libgomp, the OpenMP of torch for Linux, lets them spin for some 10 ms. On a machine where something
else wants the cores, a thread that spins keeps out the very thread that it waits for: small
operations on two threads take 30 times as long. It pays to spin about as long as it takes to wake
a thread. libgomp reads the number once, when torch is loaded. Other kinds of OpenMP ignore it.
"""

from __future__ import annotations

import os

__all__ = ["SPINS", "idle_threads", "limit_spinning"]

SPINS = 10_000  # some 0.5 ms; measured by benchmarks/idle_threads.py
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning() -> None:
    """Bound the spinning, unless the user has set either variable; call before torch is loaded."""
    if not any(name in os.environ for name in VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def idle_threads() -> str:
    """Return what is set, and who has set it: "GOMP_SPINCOUNT=10000, set by estbench"."""
    found = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    who = "estbench" if found == [f"GOMP_SPINCOUNT={SPINS}"] else "the user"
    return f"{' '.join(found)}, set by {who}"
