"""The joint laws of coupled tokens: each token has the law p, and every pair its declared ratio."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from scipy.stats import qmc
from torch import Tensor

from estbench.estimators.coupling import antithetic_sticks, inverse_cdf_pair, simplex

LAWS = {
    "even": (0.2, 0.2, 0.2, 0.2, 0.2),
    "one likely": (0.02, 0.9, 0.05, 0.03),
    "one impossible": (0.3, 0.0, 0.5, 0.2),
    "binary": (0.83, 0.17),
}


def points(dimensions: int, power: int = 16) -> Tensor:
    """Points that fill the cube evenly: means of indicators to three digits or so."""
    return torch.tensor(qmc.Sobol(dimensions, seed=3).random(1 << power))


def drawn(law: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    p = torch.tensor(LAWS[law], dtype=torch.float64)
    each = 1 if count == 2 else count
    u = points((len(p) - 1) * each).reshape(-1, len(p) - 1, each)
    log_probs = p.log().clamp_min(-1e4).expand(len(u), -1)
    return p, *antithetic_sticks(log_probs, u, count)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("law", LAWS)
def test_each_token_has_its_law_and_each_pair_its_ratio(law: str, count: int) -> None:
    p, tokens, r = drawn(law, count)
    for k in range(count):
        found = torch.bincount(tokens[:, k], minlength=len(p)) / len(tokens)
        torch.testing.assert_close(found.double(), p, atol=3e-3, rtol=0)
    for a, b in permutations(range(len(p)), 2):
        pair = (tokens[:, 0] == a) & (tokens[:, 1] == b)
        weighted = float((r[:, 0, 1] * pair).mean())
        assert weighted == pytest.approx(float(p[a] * p[b]), abs=3e-3)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("law", LAWS)
def test_coupled_tokens_are_rarely_the_same(law: str, count: int) -> None:
    p, tokens, r = drawn(law, count)
    same = float((tokens[:, 0] == tokens[:, 1]).double().mean())
    assert same < float((p * p).sum()) - 0.005
    # No pair is so rare that one draw weighs much.
    assert float(r.max()) < 2
    assert not bool(r.diagonal(dim1=1, dim2=2).any())


def test_pairs_are_exchangeable() -> None:
    _, tokens, r = drawn("one likely", 3)
    for i, j in permutations(range(3), 2):
        pair = (tokens[:, i] == 0) & (tokens[:, j] == 2)
        assert float((r[:, i, j] * pair).mean()) == pytest.approx(0.02 * 0.05, abs=2e-4)


def test_points_on_the_simplex_are_uniform() -> None:
    for count in (2, 3, 5):
        d = simplex(points(1 if count == 2 else count), count)
        torch.testing.assert_close(d.sum(dim=1), torch.ones(len(d), dtype=d.dtype))
        for c in (0.1, 0.3, 0.45):
            alone, both = (1 - c) ** (count - 1), (1 - 2 * c) ** (count - 1)
            assert float((d[:, 0] > c).double().mean()) == pytest.approx(alone, abs=3e-3)
            found = ((d[:, 0] > c) & (d[:, 1] > c)).double().mean()
            assert float(found) == pytest.approx(both, abs=3e-3)


def test_the_inverse_cdf_leaves_pairs_out_and_knows_the_others() -> None:
    """Of three equally likely tokens the first two never come together, nor the last two."""
    u = points(1)
    log_probs = torch.full((len(u), 3), 1 / 3, dtype=torch.float64).log()
    tokens, r = inverse_cdf_pair(log_probs, u)
    for a, b in permutations(range(3), 2):
        pair = (tokens[:, 0] == a) & (tokens[:, 1] == b)
        expected = 1 / 9 if {a, b} == {0, 2} else 0.0
        assert float((r[:, 0, 1] * pair).mean()) == pytest.approx(expected, abs=1e-4)


def test_the_inverse_cdf_has_no_gap_for_two_tokens() -> None:
    u = points(1)
    p = torch.tensor([0.7, 0.3], dtype=torch.float64)
    tokens, r = inverse_cdf_pair(p.log().expand(len(u), -1), u)
    for a, b in ((0, 1), (1, 0)):
        pair = (tokens[:, 0] == a) & (tokens[:, 1] == b)
        assert float((r[:, 0, 1] * pair).mean()) == pytest.approx(0.21, abs=1e-4)
