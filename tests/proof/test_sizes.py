"""The sizes of problems that are known before a problem is made."""

from __future__ import annotations

import pytest

from estbench.proof.conditions import DRAWN_SIZES
from estbench.proof.problems import EASY, HARDEST, PROBLEMS, SIZES, named, size_of

RANDOM = [f"drawn-{seed}" for seed in range(20)]


@pytest.mark.parametrize("name", [*PROBLEMS, *RANDOM])
def test_a_problem_has_the_size_that_is_said_of_it_and_little_noise(name: str) -> None:
    made = named(name)
    assert size_of(name) == (made.policy.vocabulary, made.policy.length)
    assert made.difficulty <= (EASY if name in RANDOM else HARDEST)


def test_a_random_problem_has_the_size_of_no_other_and_is_the_same_for_a_seed() -> None:
    assert not set(DRAWN_SIZES) & set(SIZES.values())
    assert len({size_of(name) for name in RANDOM}) > 5
    first, again = named(RANDOM[0]), named.__wrapped__(RANDOM[0])
    assert first.exact.squared_norm == again.exact.squared_norm
