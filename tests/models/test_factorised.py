"""Policies of independent tokens: fast paths give what slow ones do, rows keep their contexts."""

from __future__ import annotations

import copy

import pytest
import torch

from estbench.meter.cost import count_steps
from estbench.models.contexts import Contexts
from estbench.models.factorised import FactorisedPolicy
from estbench.models.policy import Policy, choose_by_gumbel, choose_by_uniform
from estbench.models.trees import leaves


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(vocabulary: int, contexts: int = 2) -> FactorisedPolicy:
    x = torch.randn(contexts, 3, generator=rng(1), dtype=torch.float64)
    policy = FactorisedPolicy(vocabulary, 4, 3, contexts=x, dtype=torch.float64)
    return policy.initialise(1.0, rng(2))


@pytest.mark.parametrize("vocabulary", [2, 5])
class TestFastPaths:
    def test_a_trace_is_what_single_steps_give(self, vocabulary: int) -> None:
        policy = made(vocabulary)
        tokens = torch.randint(vocabulary, (6, 4), generator=rng())
        slow, _ = Policy.trace(policy, tokens)
        fast, features = policy.trace(tokens)
        torch.testing.assert_close(fast, slow)
        torch.testing.assert_close(fast.exp().sum(dim=2), torch.ones(6, 4, dtype=torch.float64))
        assert features.shape == (6, 4, 3)
        assert not features.requires_grad

    def test_all_positions_are_sampled_at_once(self, vocabulary: int) -> None:
        policy = made(vocabulary)
        gumbel = torch.randn(6, 4, vocabulary, generator=rng(), dtype=torch.float64)
        uniforms = torch.rand(6, 4, generator=rng(), dtype=torch.float64)
        for choose in (choose_by_gumbel(gumbel), choose_by_uniform(uniforms)):
            fast = policy.sample_by(6, choose)
            assert torch.equal(fast, Policy.sample_by(policy, 6, choose))
            # One that knows no other way is asked position by position.
            assert torch.equal(fast, policy.sample_by(6, lambda t, p, c=choose: c(t, p)))

    def test_rollouts_keep_their_prefixes(self, vocabulary: int) -> None:
        policy = made(vocabulary)
        tokens = torch.randint(vocabulary, (6, 4), generator=rng())
        uniforms = torch.rand(6, 2, 3, 4, generator=rng(), dtype=torch.float64)
        fast, slow = (
            policy.continue_from(tokens, uniforms),
            Policy.continue_from(policy, tokens, uniforms),
        )
        assert torch.equal(fast, slow)

    @pytest.mark.parametrize("temperature", [0.5, 1.5])
    def test_all_positions_are_relaxed_at_once(self, vocabulary: int, temperature: float) -> None:
        policy = made(vocabulary)
        noise = torch.randn(6, 4, vocabulary, generator=rng(), dtype=torch.float64)
        along = torch.randn(6, 4, vocabulary, generator=rng(3), dtype=torch.float64)
        found = []
        for relaxed_from in (Policy.relaxed_from, FactorisedPolicy.relaxed_from):
            gumbel = noise.clone().requires_grad_()
            relaxed = relaxed_from(policy, gumbel, temperature)
            moved = [gumbel, *policy.parameters()]
            grads = torch.autograd.grad((along * relaxed).sum(), moved)
            found.append((relaxed, *grads))
            assert all(g.abs().max() > 0 for g in grads)
        for slow, fast in zip(*found, strict=True):
            torch.testing.assert_close(fast, slow, atol=1e-14, rtol=1e-12)
        torch.testing.assert_close(relaxed.sum(dim=2), torch.ones(6, 4, dtype=torch.float64))

    def test_relaxing_is_counted_as_steps(self, vocabulary: int) -> None:
        policy = made(vocabulary)
        with count_steps(policy) as counted:
            policy.relaxed_from(torch.zeros(6, 4, vocabulary, dtype=torch.float64), 1.0)
        assert counted.steps == 6 * 4


class TestContexts:
    def test_rows_of_a_draw_have_its_context(self) -> None:
        contexts = Contexts(torch.tensor([[1.0], [2.0], [3.0]]))
        assert contexts.rows(3).squeeze(1).tolist() == [1, 2, 3]
        # Three draws of two rows each, or six draws, two of each context.
        assert contexts.rows(6).squeeze(1).tolist() == [1, 1, 2, 2, 3, 3]

    def test_one_context_serves_any_number_of_rows(self) -> None:
        assert Contexts(torch.tensor([[7.0]])).rows(5).squeeze(1).tolist() == [7] * 5

    def test_rows_that_are_not_whole_draws_are_refused(self) -> None:
        with pytest.raises(ValueError, match="4 rows for 3 contexts"):
            Contexts(torch.zeros(3, 1)).rows(4)

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        policy = made(5, contexts=3)
        tokens = torch.zeros(6, 4, dtype=torch.int64)
        together = policy.log_probs(tokens)
        for i in range(3):
            with policy.contexts.given(policy.contexts.values[i : i + 1]):
                alone = policy.log_probs(tokens[:2])
            torch.testing.assert_close(together[2 * i : 2 * i + 2], alone)

    def test_contexts_come_back_after_a_loan(self) -> None:
        policy = made(2)
        own = policy.contexts.values
        with policy.contexts.given(own[:1]):
            assert policy.contexts.count == 1
        assert policy.contexts.values is own
        with pytest.raises(ZeroDivisionError), policy.contexts.given(own[:1]):
            _ = 1 / 0
        assert policy.contexts.values is own

    def test_a_lagging_copy_is_given_what_the_policy_is_given(self) -> None:
        policy = made(2)
        lagging = copy.deepcopy(policy)
        policy.contexts.values = torch.zeros(1, 3, dtype=torch.float64)
        assert lagging.contexts is policy.contexts
        assert lagging.logits.weight is not policy.logits.weight

    def test_states_have_a_row_for_each_row(self) -> None:
        policy = made(2)
        assert all(leaf.shape[0] == 4 for leaf in leaves(policy.initial_state(4)))

    def test_a_policy_may_be_conditioned_on_nothing(self) -> None:
        policy = FactorisedPolicy(2, 4).initialise(1.0, rng())
        assert policy.contexts is None
        assert policy.log_probs(torch.zeros(3, 4, dtype=torch.int64)).shape == (3, 4, 2)
