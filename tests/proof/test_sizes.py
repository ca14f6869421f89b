"""The sizes of problems that are known before a problem is made."""

from __future__ import annotations

import pytest

from estbench.proof.problems import PROBLEMS, SIZES, named


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_has_the_size_that_is_said_of_it(name: str) -> None:
    policy = named(name).policy
    assert SIZES[name] == (policy.vocabulary, policy.length)
