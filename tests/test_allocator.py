"""Workers keep the memory that a tensor has left, unless theirs is bounded."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from estbench.core.processes import in_workers

MIB = 64
BLOCK = MIB * 2**20
PAGES = BLOCK // 4096


def faults_of_a_second_block() -> int:
    """Return how many pages the system has to hand out for a block just like one that was freed."""
    import resource

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    block = bytearray(b"1") * BLOCK
    del block
    before = faults()
    block = bytearray(b"2") * BLOCK
    assert len(block) == BLOCK
    return faults() - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_worker_uses_again_what_it_has_freed() -> None:
    from joblib import delayed

    (found,) = in_workers([delayed(faults_of_a_second_block)()], 1)
    assert found < PAGES / 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_is_kept_can_be_returned() -> None:
    code = "\n".join(
        (
            "from estbench.core.allocator import keep_freed, return_freed",
            f"BLOCK = {BLOCK}",
            inspect.getsource(faults_of_a_second_block),
            "keep_freed(); kept = faults_of_a_second_block()",
            "return_freed(); print(kept, faults_of_a_second_block())",
        )
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, returned = map(int, out.stdout.split())
    assert kept < PAGES / 10 < PAGES / 2 < returned
