"""Sums as a language-model task: right answers, exact rewards, gradients and divergences."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.core.errors import UserError
from estbench.estimators import make
from estbench.estimators.base import Surrogate
from estbench.meter.answers import Answers, equal_groups
from estbench.meter.contexts import in_sets, sets_of
from estbench.meter.truth import true_gradient
from estbench.models.enumeration import enumerate_sequences
from estbench.models.policy import at_tokens
from estbench.models.prompted_transformer import PromptedTransformer
from estbench.tasks.arithmetic import ArithmeticTask, ExactMatch, quality, success
from estbench.training.language import LanguageSession, pretrained
from estbench.training.resume import Phases
from estbench.training.session import prepare

TINY = "arithmetic-tiny"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task(name: str = TINY, seed: int = 0, size: int = 1000, **options: int) -> ArithmeticTask:
    made = tasks.make(name, seed, size, **options)
    assert isinstance(made, ArithmeticTask)
    return made


def experiment(**training: object) -> Experiment:
    own = {"batches": 4, "batch_size": 16, "pretrain_batch_size": 8, **training}
    return Experiment.from_dict(
        {
            "name": "x",
            "tasks": [TINY],
            "estimators": ["rloo-4"],
            "seeds": [0],
            "training": {"pretrain_learning_rate": 3e-3, **own},
            "snapshots": {"sequences": 64},
        }
    )


def session(**training: object) -> LanguageSession:
    made = prepare(experiment(**training), TINY, 0)
    assert isinstance(made, LanguageSession)
    return made


def drawn(prompts: Tensor, seed: int = 0, **sizes: int) -> PromptedTransformer:
    """Return a small policy in float64, at random."""
    sizes = {"width": 8, "blocks": 1, "heads": 2, **sizes}
    policy = PromptedTransformer(6, 3, prompts, 5, dtype=torch.float64, **sizes)
    return policy.initialise(rng(seed))


@cache
def listed() -> tuple[PromptedTransformer, Tensor]:
    """Return a policy with three prompts, and all answers to each of them."""
    policy = drawn(task().prompts[:3])
    return policy, enumerate_sequences(6, 3).repeat(3, 1)


def probabilities(policy: PromptedTransformer, answers: Tensor) -> Tensor:
    return at_tokens(policy.log_probs(answers), answers).sum(dim=1).exp()


class TestPrompts:
    @pytest.mark.parametrize(
        ("name", "length", "base"), [(TINY, 0, 4), ("arithmetic", 0, 10), ("arithmetic", 6, 10)]
    )
    def test_every_solution_is_the_sum(self, name: str, length: int, base: int) -> None:
        made = task(name, size=300, length=length)
        rows = torch.cat([made.examples, made.unseen])
        answers = rows[:, -made.digits - 2 :]
        for text in made.prompted(rows, answers):
            asked, answer = text.split("=")
            left, right = (int(number, base) for number in asked.split("+"))
            assert left + right == int(answer, base)
            assert answer == "0" or answer[0] != "0"
        assert (answers[:, -1] == made.end).all(), "the longest sum leaves room for the end"

    @pytest.mark.parametrize("name", [TINY, "arithmetic"])
    def test_no_prompt_is_both_trained_on_and_held_out(self, name: str) -> None:
        made = task(name)
        trained, unseen = ({tuple(row) for row in x.tolist()} for x in (made.examples, made.unseen))
        assert len(trained) == len(made.examples)
        assert not trained & unseen
        assert {tuple(row) for row in made.prompts.tolist()} <= trained

    def test_prompts_follow_from_the_seed(self) -> None:
        longer = task("arithmetic", size=500)
        assert torch.equal(task("arithmetic", size=300).prompts, longer.prompts[:300])
        assert not torch.equal(task("arithmetic", seed=1).unseen, longer.unseen)

    def test_sizes_that_cannot_be_are_refused(self) -> None:
        with pytest.raises(UserError, match="length = 9: answers of arithmetic have 3 to 8 tokens"):
            tasks.check_options("arithmetic", TrainingSettings(length=9))
        with pytest.raises(UserError, match="generator_width = 40: must be a multiple of 16"):
            tasks.check_options(TINY, TrainingSettings(generator_width=40))


class TestReward:
    def test_only_the_answer_with_its_end_is_right(self) -> None:
        # 3+3 is 12 in base 4; 5 is the end token.
        policy = drawn(torch.tensor([[3, 4, 3, 1, 2, 5]]))
        answers = torch.tensor([[1, 2, 5], [1, 2, 2], [2, 1, 5], [1, 5, 5], [5, 5, 5], [4, 2, 5]])
        reward = ExactMatch(policy)
        assert reward(answers).tolist() == [1, 0, 0, 0, 0, 0]
        assert reward.hard_evals == 6
        hot = torch.nn.functional.one_hot(answers, 6).double()
        assert torch.equal(reward.relaxed(hot), reward(answers))
        # What fills up a short answer is its end token: 1+1 is 2.
        short = ExactMatch(drawn(torch.tensor([[1, 4, 1, 2, 5, 5]])))
        assert short(torch.tensor([[2, 5, 5], [2, 2, 5], [2, 2, 2]])).tolist() == [1, 0, 0]

    def test_a_number_that_ends_earns_the_reward_of_its_form(self) -> None:
        policy = drawn(torch.tensor([[3, 4, 3, 1, 2, 5]]))
        answers = torch.tensor([[1, 2, 5], [3, 5, 5], [1, 2, 2], [5, 5, 5], [1, 4, 5]])
        assert ExactMatch(policy, 0.25)(answers).tolist() == [1.25, 0.25, 0, 0, 0]

    def test_each_row_is_judged_by_its_own_prompt(self) -> None:
        policy = drawn(task().prompts[:4])
        right = policy.solutions(8)
        assert torch.equal(right[::2], policy.contexts.values[:, -3:])
        reward = ExactMatch(policy)
        assert reward(right).sum() == 8
        assert reward(right.flip(0)).sum() < 8

    def test_the_penalty_is_the_exact_divergence(self) -> None:
        made = session(beta=0.5).stage
        policy, reward = made.policy, made.reward
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng(1)))
        with policy.contexts.given(made.task.prompts), torch.no_grad():
            every = enumerate_sequences(6, 3).repeat(8, 1)
            p, r = (probabilities(x, every).double() for x in (policy, made.reference))
            divergence = float((p * (p / r).log().nan_to_num()).sum() / 8)
            objective = float((p * reward(every).double()).sum() / 8)
        rate = success(policy, made.task.prompts)
        assert divergence > 0.1
        assert objective == pytest.approx(rate - 0.5 * divergence, abs=1e-5)
        found = quality(policy, made.reference, made.task.prompts, rng())
        assert found["kl_reference"] == pytest.approx(divergence, rel=1e-4)


class TestPolicy:
    def test_steps_that_keep_keys_and_values_agree_with_one_pass(self) -> None:
        policy = drawn(task().prompts[:4], blocks=2)
        answers = policy.sample(8, rng(3))
        state, previous = policy.initial_state(8), None
        for t in range(3):
            log_probs, state = policy.step(previous, state)
            torch.testing.assert_close(log_probs, policy.log_probs(answers)[:, t])
            previous = answers[:, t]

    def test_draws_have_the_frequencies_of_the_log_probabilities(self) -> None:
        policy, _ = listed()
        with policy.contexts.given(policy.contexts.values[1:2]):
            every = enumerate_sequences(6, 3)
            p = probabilities(policy, every)
            assert p.sum().item() == pytest.approx(1)
            index = policy.sample(20_000, rng()) @ torch.tensor([36, 6, 1])
        found = torch.bincount(index, minlength=216) / 20_000
        assert float((found - p).abs().sum()) < 0.1

    def test_tokens_are_counted_up_to_the_end_whoever_draws_them(self) -> None:
        policy = drawn(task().prompts[:2])
        answers = copy.deepcopy(policy).sample(8, rng())
        lengths = (answers != 5).sum(dim=1) + (answers == 5).any(dim=1)
        assert policy.contexts.generated == int(lengths.sum())
        before = policy.contexts.generated
        uniforms = torch.rand(8, 2, 2, 3, generator=rng(1), dtype=torch.float64)
        completed = policy.continue_from(answers, uniforms)
        whole = (completed != 5).sum(dim=3) + (completed == 5).any(dim=3)  # [n, T - 1, N]
        fresh = (whole - torch.tensor([1, 2]).view(1, 2, 1)).clamp_min(0)
        assert policy.contexts.generated - before == int(fresh.sum())


class TestGradient:
    @pytest.mark.parametrize("beta", [0.0, 0.3])
    def test_the_exact_gradient_is_that_of_all_answers_listed(self, beta: float) -> None:
        from estbench.models.penalty import Penalised

        policy, every = listed()
        match = ExactMatch(policy)
        reference = drawn(policy.contexts.values, seed=1)
        reference.contexts = policy.contexts
        reward = Penalised(match, policy, reference, beta) if beta else match
        log_p = at_tokens(policy.log_probs(every), every).sum(dim=1)
        value = log_p.exp() * match(every)
        if beta:
            log_r = at_tokens(reference.log_probs(every), every).sum(dim=1).detach()
            value = value - beta * log_p.exp() * (log_p - log_r)
        wanted = torch.autograd.grad(value.sum() / 3, list(policy.parameters()))
        found = true_gradient(policy, reward, 2, rng())
        assert found.noise == 0
        for a, b in zip(found.gradient, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)

    def test_a_reward_of_form_is_not_taken_for_one_of_single_answers(self) -> None:
        policy, _ = listed()
        assert ExactMatch(policy, 0.1).only_rewarded() is None


class TestPretraining:
    def test_it_ends_at_the_success_rate_that_is_asked_for(self) -> None:
        for rate in (0.2, 0.5):
            made = session(success_rate=rate)
            found = success(made.policy, made.stage.task.prompts)
            assert rate <= found < rate + 0.25
            start = made.full_quality(rng())
            assert start["success"] == pytest.approx(found)
            assert start["kl_reference"] == pytest.approx(0, abs=1e-5)

    def test_without_a_rate_it_takes_its_epochs(self) -> None:
        settings = experiment(success_rate=0.0, pretrain_epochs=2).training_for(TINY)
        _, losses = pretrained(settings, "cpu", TINY, 1)
        assert len(losses) == 1, "eight prompts are one batch: two updates, one mean"

    def test_seeds_differ_and_repeat(self) -> None:
        settings = experiment(success_rate=0.0).training_for(TINY)
        first = pretrained(settings, "cpu", TINY, 0)[0]
        again = pretrained(settings, "cpu", TINY, 0)[0]
        other = pretrained(settings, "cpu", TINY, 1)[0]
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["output.weight"], other["output.weight"])


def used(rewards: list[list[float]]) -> Surrogate:
    values = torch.tensor(rewards)
    n, K = values.shape
    ones = torch.ones(n, K * 3)
    return Surrogate(ones, ones, torch.zeros(n, K, 3, dtype=torch.int64), values)


class TestGroups:
    def test_groups_whose_rewards_are_all_equal_are_counted(self) -> None:
        match = ExactMatch(listed()[0])
        groups = [[1.0, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
        assert equal_groups(match, used(groups)) == 0.5
        assert equal_groups(match, used([[1.0], [0.0]])) is None

    def test_a_penalty_does_not_make_them_differ(self) -> None:
        made = session(beta=0.5)
        policy = made.policy
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng(1)))
        found = make("rloo-4").surrogate(policy, made.reward, 8, rng(), {})
        right = (found.tokens == policy.solutions(32).view(8, 4, 3)).all(dim=2)
        equal = (right == right[:, :1]).all(dim=1).double().mean()
        assert equal > 0
        assert (found.rewards == found.rewards[:, :1]).all(dim=1).double().mean() < equal
        assert equal_groups(made.reward, found) == pytest.approx(float(equal))

    def test_a_batch_that_is_standardised_whole_has_many_prompts(self) -> None:
        policy = drawn(task().prompts)
        whole, parts = (make(f"reinforce-{n}") for n in ("standardised", "plus-plus-baseline"))
        assert [sets_of(method, policy) for method in (whole, parts, make("rloo"))] == [1, 1, 8]
        with policy.contexts.given(task("arithmetic").prompts[:16]):
            assert sets_of(parts, policy) == 2
            with in_sets(policy, 2, 6):
                rows = policy.contexts.rows(6 * 64).view(6, 8, 8, -1)
            assert torch.equal(rows[0], rows[2]), "draws of a set have its prompts"
            assert not torch.equal(rows[0], rows[3])
            assert (rows == rows[:, :, :1]).all(), "eight answers to each of eight prompts"


class TestOlderPolicies:
    def test_a_snapshot_has_the_policies_of_steps_before(self) -> None:
        made = session()
        stage, seen = made.stage, []
        for step in range(6):
            seen.append(made.policy.output.bias.detach().clone())
            with torch.no_grad():
                made.policy.output.bias += 1 + step
            stage.next_batch(4, rng(step))
            draws = make("rloo-4").surrogate(made.policy, made.reward, 4, rng(), {})
            made.after_step(draws, Phases())
        for steps, wanted in ((1, seen[5]), (4, seen[2]), (16, seen[0])):
            older = stage.older(steps)
            assert isinstance(older, PromptedTransformer)
            assert torch.equal(older.output.bias, wanted)
        assert stage.older(3) is None

    def test_a_name_may_say_the_staleness(self) -> None:
        assert make("ppo-clip@4").staleness == 4  # type: ignore[attr-defined]
        assert make("importance-sequence-4@0", staleness=2).info.sampler == "policy"
        with pytest.raises(UserError, match="no switches"):
            make("rloo@4")

    def test_weights_are_measured_beside_the_variance(self) -> None:
        made = session()
        method = make("importance-sequence@1")
        older = copy.deepcopy(made.policy).requires_grad_(False)
        with torch.no_grad():
            older.output.bias += torch.linspace(-1, 1, 6)
        made.stage.next_batch(8, rng())
        answers = Answers(made.policy, made.reward)
        draws = method.surrogate(made.policy, made.reward, 8, rng(), {"past": [older]})
        answers.add(draws)
        found = answers.summary()
        tokens = draws.tokens.flatten(0, 1)
        with torch.no_grad():
            w = probabilities(made.policy, tokens) / probabilities(older, tokens)
        share = float(w.sum() ** 2 / (w**2).sum() / len(w))
        assert share < 0.9
        assert found["effective_sample_share"] == pytest.approx(share, rel=1e-4)
        lengths = (tokens != 5).sum(dim=1) + (tokens == 5).any(dim=1)
        assert found["tokens_per_draw"] == pytest.approx(float(lengths.sum()) / 8)
