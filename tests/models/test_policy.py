"""The policy: its fast paths are its definition, and what it samples is what it says."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from estbench.core import noise
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy, choose_by_gumbel, choose_by_uniform, inverse_cdf
from estbench.models.trees import flatten_rows, insert_rows, repeat_rows


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(V: int = 4, T: int = 5, **options: int) -> Generator:
    made = Generator(V, T, embedding=6, hidden=5, dtype=torch.float64, **options)
    return made.initialise("normal", 0.8, rng(7))


def test_the_papers_count_of_parameters() -> None:
    """8,773, and 32 for a begin symbol of its own."""
    assert sum(p.numel() for p in Generator(5, 15).parameters()) == 8_773 + 32


@pytest.mark.parametrize("truncation", [0, 2])
def test_a_trace_is_the_steps_one_by_one(truncation: int) -> None:
    policy = generator(truncation=truncation)
    tokens = policy.sample(9, rng())
    fast, seen = policy.trace(tokens)
    slow, known = Policy.trace(policy, tokens)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13)
    torch.testing.assert_close(seen, known[..., : seen.shape[-1]], rtol=0, atol=1e-13)
    parameters = list(policy.parameters())
    for a, b in zip(
        torch.autograd.grad(fast[..., 1].sum(), parameters),
        torch.autograd.grad(slow[..., 1].sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_log_probabilities_are_normalised_and_see_the_past_only() -> None:
    policy = generator()
    tokens = policy.sample(6, rng())
    log_probs = policy.log_probs(tokens)
    torch.testing.assert_close(log_probs.exp().sum(dim=2), torch.ones(6, 5, dtype=torch.float64))
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 4
    other = policy.log_probs(changed)
    assert torch.equal(other[:, :4], log_probs[:, :4])
    assert not torch.equal(other[:, 4], log_probs[:, 4])


def test_a_relaxed_token_equal_to_a_one_hot_is_the_token() -> None:
    policy = generator()
    _, state = policy.step(None, policy.initial_state(4))
    hard = torch.arange(4)
    soft = torch.eye(4, dtype=torch.float64)
    for a, b in zip(
        (policy.step(hard, state)[0], *policy.step(hard, state)[1]),
        (policy.step(soft, state)[0], *policy.step(soft, state)[1]),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n", [1, 7, 500])
def test_shared_prefixes_do_not_change_what_is_sampled(n: int) -> None:
    policy = generator()
    assert torch.equal(policy.sample(n, rng(3)), Policy.sample(policy, n, rng(3)))
    u = noise.uniform(rng(3), (n, 5), torch.float64)
    assert torch.equal(
        policy.sample_by(n, choose_by_uniform(u)), Policy.sample_by(policy, n, choose_by_uniform(u))
    )


@pytest.mark.parametrize("how", ["uniform", "gumbel"])
def test_samples_follow_the_policys_distribution(how: str) -> None:
    policy, n = generator(V=3, T=3), 20_000
    if how == "uniform":
        tokens = policy.sample(n, rng(5))
    else:
        u = noise.uniform(rng(5), (n, 3, 3), torch.float64)
        tokens = policy.sample_by(n, choose_by_gumbel(noise.gumbel(u)))
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)
    p = policy.log_probs(every).gather(2, every.unsqueeze(2)).sum(dim=(1, 2)).exp().detach()
    seen = torch.bincount(tokens @ torch.tensor([9, 3, 1]), minlength=27)
    assert stats.chisquare(seen.numpy(), (n * p / p.sum()).numpy()).pvalue > 0.001


def test_the_inverse_cdf_is_inside_for_every_uniform() -> None:
    probs = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert inverse_cdf(probs, torch.zeros(3)).tolist() == [0, 0, 2]
    largest = torch.full((3,), 1 - 2**-24)
    assert inverse_cdf(probs, largest).tolist() == [2, 0, 2]


def test_rollouts_leave_the_prefix_alone_and_follow_the_policy() -> None:
    policy, N = generator(V=3, T=3), 4000
    tokens = torch.tensor([[2, 0, 1], [1, 1, 0]])
    u = noise.uniform(rng(8), (2, N, 2, 3), torch.float64)
    rolled = policy.continue_from(tokens, u)
    assert rolled.shape == (2, 2, N, 3)
    assert bool((rolled[:, 0, :, :1] == tokens[:, None, :1]).all())
    assert bool((rolled[:, 1, :, :2] == tokens[:, None, :2]).all())
    for i in range(2):
        # After one token: nine continuations; after two: three.
        every = torch.cartesian_prod(tokens[i, :1], torch.arange(3), torch.arange(3))
        log_p = policy.log_probs(every).gather(2, every.unsqueeze(2)).squeeze(2).detach()
        expected = {0: log_p[:, 1:].sum(dim=1).exp(), 1: log_p[:, 2].exp()}
        codes = rolled[i, 0, :, 1] * 3 + rolled[i, 0, :, 2]
        assert chi_square(codes, expected[0]) > 0.001
        given = every[:, 1] == tokens[i, 1]
        assert chi_square(rolled[i, 1, :, 2], expected[1][given]) > 0.001


def chi_square(codes: Tensor, p: Tensor) -> float:
    seen = torch.bincount(codes, minlength=len(p))
    expected = len(codes) * p / p.sum()
    return float(stats.chisquare(seen.numpy(), expected.numpy()).pvalue)


def test_rows_of_a_draw_stand_together() -> None:
    state = (torch.arange(4).float().reshape(2, 2), {"h": torch.arange(2)})
    twice = repeat_rows(state, 2)
    assert twice[1]["h"].tolist() == [0, 0, 1, 1]
    joined = insert_rows([state, twice], 2)
    assert joined[1]["h"].tolist() == [0, 0, 0, 1, 1, 1]
    assert flatten_rows(joined).shape == (6, 2)
    assert flatten_rows(torch.arange(3)).shape == (3, 0)


def test_noise_is_finite_at_its_extremes() -> None:
    for dtype in (torch.float32, torch.float64):
        u = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2, 1.0], dtype=dtype)
        assert bool(noise.exponential(u).isfinite().all())
        assert bool((noise.exponential(u) > 0).all())
        assert bool(noise.gumbel(u).isfinite().all())


def test_a_draws_noise_does_not_depend_on_how_many_follow() -> None:
    shapes = {"a": (2, 3), "b": (4,)}
    few = noise.uniforms(rng(1), 3, shapes, torch.float32)
    many = noise.uniforms(rng(1), 8, shapes, torch.float32)
    for name in shapes:
        assert torch.equal(few[name], many[name][:3])
