"""Sampling at a large vocabulary: the policy's own distribution, and the plain path's tokens."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy, choose_by_uniform
from estbench.models.sampling import LARGE, Sampler
from estbench.models.tempered import Tempered


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(
    vocabulary: int = 300,
    length: int = 6,
    dtype: torch.dtype = torch.float64,
    end: int | None = None,
    scale: float = 1.0,
) -> Generator:
    made = Generator(vocabulary, length, embedding=8, hidden=8, dtype=dtype, end=end)
    made.initialise("normal", scale, rng())
    if end is not None:
        with torch.no_grad():
            made.output.bias[end] += 4.0  # or next to no sequence would end
    return made


def uniforms(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=rng(seed), dtype=dtype)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("vocabulary", [LARGE, 300, 1111])
def test_equal_uniforms_give_the_plain_paths_tokens(vocabulary: int, ends: bool) -> None:
    policy = generator(vocabulary, end=vocabulary - 1 if ends else None)
    u = uniforms(500, 6)
    plain = policy.sample_by(500, choose_by_uniform(u))
    assert torch.equal(policy.sample_from(u), plain)
    assert len(torch.unique(plain)) > 40


def test_in_float32_rounding_moves_next_to_no_token() -> None:
    policy = generator(5000, 8, torch.float32)
    u = uniforms(2000, 8, dtype=torch.float32)
    plain = policy.sample_by(2000, choose_by_uniform(u))
    differ = (policy.sample_from(u) != plain).any(dim=1).double().mean().item()
    assert differ < 0.01


@pytest.mark.parametrize("scale", [0.1, 60.0])
def test_logits_of_any_size_are_sampled(scale: float) -> None:
    # At 60 the exponents are not bounded, and the row's maximum has to be taken off.
    policy = generator(scale=scale)
    assert Sampler(policy).bounded == (scale < 1)
    u = uniforms(300, 6)
    assert torch.equal(policy.sample_from(u), policy.sample_by(300, choose_by_uniform(u)))


@pytest.mark.parametrize("extreme", [0.0, 1 - torch.finfo(torch.float32).eps / 2])
def test_extreme_uniforms_give_tokens(extreme: float) -> None:
    policy = generator(257, dtype=torch.float32)
    tokens = policy.sample_from(torch.full((300, 6), extreme))
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < 257


@pytest.mark.slow
def test_sampled_tokens_have_the_policys_probabilities_at_full_size() -> None:
    # The first token's law is one distribution of 5000; the second's is averaged over the first.
    policy = generator(5000, 2, torch.float32, scale=0.5)
    n = 400_000
    tokens = policy.sample(n, rng(2))
    with torch.no_grad():
        log_first, state = policy.step(None, policy.initial_state(1))
        first = log_first[0].double().exp()
        state = tuple(part.expand(5000, -1) for part in state)
        log_second, _ = policy.step(torch.arange(5000), state)
        second = first @ log_second.double().exp()
    for t, expected in enumerate((first, second)):
        counts = torch.bincount(tokens[:, t], minlength=5000).double()
        expected = n * expected / expected.sum()
        order = expected.argsort()
        # Rare tokens are pooled, or the statistic would not follow its law.
        groups = (expected[order].cumsum(0) / 20).floor().long()
        pooled = torch.zeros(2, int(groups.max()) + 1, dtype=torch.float64)
        pooled.index_add_(1, groups, torch.stack([counts[order], expected[order]]))
        kept = pooled[1] > 10
        observed, wanted = pooled[:, kept]
        assert len(wanted) > 1000
        p = stats.chisquare(observed.numpy(), (wanted * observed.sum() / wanted.sum()).numpy())[1]
        assert p > 1e-4


@pytest.mark.parametrize("end", [None, 299])
def test_rollouts_are_the_plain_paths(end: int | None) -> None:
    policy = generator(end=end)
    tokens = policy.sample(20, rng(3))
    u = uniforms(20, 3, 5, 6)
    fast = policy.continue_from(tokens, u)
    assert torch.equal(fast, Policy.continue_from(policy, tokens, u))
    for t in range(5):
        prefix = tokens[:, None, : t + 1].expand(-1, 3, -1)
        assert torch.equal(fast[:, t, :, : t + 1], prefix)


@pytest.mark.parametrize("vocabulary", [5, 300])
def test_after_its_end_a_sequence_only_ends(vocabulary: int) -> None:
    end = vocabulary - 1
    policy = generator(vocabulary, end=end)
    samples = [policy.sample(400, rng(4)), policy.sample_from(uniforms(400, 6))]
    rolled = policy.continue_from(samples[0], uniforms(400, 2, 5, 6)).reshape(-1, 6)
    for tokens in (*samples, rolled):
        ended = tokens == end
        assert bool(ended.any())
        assert not bool(ended.all())
        assert torch.equal(ended, ended.cummax(dim=1).values)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [5, 300])
def test_a_tempered_policy_samples_what_it_says(vocabulary: int, temperature: float) -> None:
    policy = generator(vocabulary)
    tempered = Tempered(policy, temperature)
    u = uniforms(400, 6)
    tokens = tempered.sample_from(u)
    assert torch.equal(tokens, Policy.sample_by(tempered, 400, choose_by_uniform(u)))
    log_probs = tempered.log_probs(tokens)
    expected = (policy.log_probs(tokens) / temperature).log_softmax(dim=-1)
    torch.testing.assert_close(log_probs, expected)


def test_the_global_random_state_is_left_alone() -> None:
    policy = generator()
    before = torch.get_rng_state()
    policy.continue_from(policy.sample(10, rng()), uniforms(10, 2, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
