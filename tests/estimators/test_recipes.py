"""A trainer's loss is an estimator: its negative gradient is a draw, on whatever policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import estbench
from estbench import estimators
from estbench.estimators.recipes import Recipe
from estbench.meter.blocks import Look
from estbench.models.policy import has_ended
from estbench.models.reward import FunctionReward
from estbench.proof.conditions import RecurrentPolicy
from estbench.proof.interface import RecipeResult, shape
from estbench.proof.judging import BiasFinding
from estbench.proof.rewards import rng

END, K = 2, 4


def policy(end: int | None = END, contexts: Tensor | None = None) -> RecurrentPolicy:
    return RecurrentPolicy(3, 4, 2, end=end, contexts=contexts).initialise(0.7, rng(1))


def reward() -> FunctionReward:
    return FunctionReward(lambda tokens: (tokens == 1).double().sum(dim=1))


def draws_of(method: Any, policy: Any, draws: int = 6) -> estbench.Surrogate:
    state = method.initial_state(policy, rng(2))
    found = method.surrogate(policy, reward(), draws, rng(3), state)
    assert isinstance(found, estbench.Surrogate)
    return found


def leave_one_out(rewards: Tensor) -> Tensor:
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


def plain(log_probs: Tensor, old: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    advantages = leave_one_out(rewards).unsqueeze(1)
    return -(advantages * log_probs * mask).sum(dim=1).mean()


def branching(log_probs: Tensor, old: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    if float(rewards.max()) > 1e9:  # vmap cannot ask for a number
        return log_probs.sum()
    return plain(log_probs, old, rewards, mask)


@pytest.mark.parametrize(
    "method",
    [
        Recipe(advantages=leave_one_out, group=K),
        Recipe(loss=plain, group=K),
        Recipe(loss=branching, group=K),
    ],
    ids=["advantages", "loss", "a loss that takes one draw at a time"],
)
@pytest.mark.parametrize("end", [None, END])
def test_leave_one_out_as_a_function_is_rloo(method: Recipe, end: int | None) -> None:
    given = policy(end)
    mine, theirs = (draws_of(m, given) for m in (method, estimators.make(f"rloo-{K}")))
    torch.testing.assert_close(mine.tokens, theirs.tokens)
    for i in range(mine.log_probs.shape[0]):
        pair = [
            torch.autograd.grad(found.values[i], list(given.parameters()), retain_graph=True)
            for found in (mine, theirs)
        ]
        torch.testing.assert_close(*pair)


def seen_by(**options: Any) -> Callable[[Any], list[tuple[Tensor, ...]]]:
    """Return what makes draws on a policy, and returns what the loss was given for each."""

    def made(given: Any) -> list[tuple[Tensor, ...]]:
        seen = []

        def loss(*arguments: Tensor) -> Tensor:
            float(arguments[2].sum())  # one draw at a time
            seen.append(tuple(x.detach() for x in arguments))
            return plain(*arguments)

        method = Recipe(loss=loss, **options)
        seen.clear()
        draws_of(method, given)
        return [each for each in seen if each[0].dtype == torch.float64]

    return made


def test_the_mask_ends_with_the_end_token_and_padding_has_log_probabilities() -> None:
    given = policy()
    method = Recipe(loss=lambda lp, old, r, m: -(lp * (1 - m)).sum(), group=K)
    found = draws_of(method, given)
    after = has_ended(found.tokens.reshape(-1, given.length), END)
    assert after.any()
    torch.testing.assert_close(found.weights.reshape(after.shape), after.double())
    assert bool((found.log_probs.reshape(after.shape)[after] < 0).all())
    assert given.end == END


class NeedsItsEnd(RecurrentPolicy):
    """A policy that fails where there is no end token."""

    def step(self, previous: Tensor | None, state: Any) -> Any:
        assert self.end is not None
        return super().step(previous, state)


def test_a_policy_that_needs_its_end_token_gives_padding_nothing() -> None:
    given = NeedsItsEnd(3, 4, 2, end=END).initialise(0.7, rng(1))
    found = draws_of(Recipe(loss=plain, group=K), given)
    after = has_ended(found.tokens.reshape(-1, given.length), END)
    assert after.any()
    assert not found.log_probs.reshape(after.shape)[after].any()


def test_on_policy_the_old_log_probabilities_are_the_new_ones() -> None:
    for log_probs, old, *_ in seen_by(group=K)(policy()):
        torch.testing.assert_close(old, log_probs, rtol=0, atol=0)


def test_a_stale_sampler_stays_as_far_behind_when_the_policy_moves() -> None:
    method, given = Recipe(loss=plain, group=K, staleness=2), policy()
    state = method.initial_state(given, rng(2))
    gaps = []
    for _ in range(2):
        method.surrogate(given, reward(), 2, rng(3), state)
        pairs = zip(state["sampler"].parameters(), given.parameters(), strict=True)
        gaps.append(torch.cat([(a - b).detach().flatten() for a, b in pairs]))
        with torch.no_grad():
            for p in given.parameters():
                p += 1.0
    torch.testing.assert_close(*gaps)
    assert 0.05 < float(gaps[0].std()) < 0.2  # two steps of 0.05
    log_probs, old, *_ = seen_by(group=K, staleness=2)(policy())[0]
    assert not torch.allclose(old, log_probs)


def test_each_draw_has_every_prompt_one_after_the_other() -> None:
    contexts = torch.tensor([[0.3, 0.1, 10.0], [0.0, 0.5, 20.0], [0.2, 0.9, 30.0]]).double()
    given = policy(contexts=contexts)

    def level(tokens: Tensor) -> Tensor:
        assert given.contexts is not None
        return given.contexts.rows(len(tokens))[:, 2]

    method = Recipe(advantages=lambda r: r - r.mean(dim=1, keepdim=True), group=(3, 2))
    found = method.surrogate(given, FunctionReward(level), 6, rng(3), {})
    expected = torch.tensor([10.0, 10.0, 20.0, 20.0, 30.0, 30.0]).double()
    torch.testing.assert_close(found.rewards, expected.expand(6, 6))
    assert not found.weights.any()  # each prompt's rewards are alike
    assert given.contexts is not None
    assert given.contexts.count == 3


def test_a_recipe_is_measured_like_any_estimator() -> None:
    method = Recipe(loss=plain, group=K, name="mine")
    table = estbench.measure(policy(), reward(), [f"rloo-{K}", method], draws=64, progress=False)
    assert list(table["estimator"]) == [f"rloo-{K}", "mine"]
    assert list(table["meter_fault"]) == ["", ""]


def in_place(rewards: Tensor) -> Tensor:
    rewards -= rewards.mean()
    return rewards


def whitened(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / rewards.std()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"advantages": lambda r: r.mean()}, r"shape \(\) for rewards \(8,\)"),
    "0 / 0": ({"advantages": whitened}, "1.0, ...: is a deviation of 0 divided by"),
    "in place": ({"advantages": in_place}, "changes rewards in place"),
    "noise": ({"advantages": lambda r: torch.rand_like(r)}, "called again"),
    "no function": ({"advantages": 3}, "must be a function of rewards, not int"),
    "vector": ({"loss": lambda lp, o, r, m: -lp.sum(1)}, r"shape \(8,\), not one number"),
    "a float": ({"loss": lambda lp, o, r, m: float(lp.detach().sum())}, "float, not a tensor"),
    "no gradient": ({"loss": lambda lp, o, r, m: lp.detach().sum()}, "does not depend on"),
    "NaN": ({"loss": lambda lp, o, r, m: (lp.sum() - lp.sum()).sqrt()}, "not a finite number"),
    "too few arguments": ({"loss": lambda lp: lp.sum()}, "failed with TypeError"),
    "both": ({"loss": plain, "advantages": leave_one_out}, "either advantages= or loss="),
    "group": ({"loss": plain, "group": 0}, "group = 0: must be a number of sequences"),
    "staleness": ({"loss": plain, "staleness": -1}, "staleness = -1"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_functions_mistake_is_one_clear_line(fault: str) -> None:
    options, text = WRONG[fault]
    with pytest.raises(estbench.UserError, match=text) as caught:
        estbench.check(**options)
    assert "\n" not in str(caught.value)


def test_rewards_that_a_function_cannot_take_are_named() -> None:
    method = Recipe(advantages=lambda rewards: rewards.log(), group=2, name="logs")
    one_is_zero = FunctionReward(lambda tokens: (torch.arange(len(tokens)) < 7).double())
    with pytest.raises(
        estbench.UserError, match=r"logs: an advantage is not .* rewards 1\.0, 0\.0"
    ):
        method.surrogate(policy(), one_is_zero, 4, rng(3), {})


@pytest.mark.parametrize("options", [{}, {"estimator": "rloo", "staleness": 1}])
def test_check_takes_an_estimator_or_a_function(options: dict[str, Any]) -> None:
    with pytest.raises(estbench.UserError, match=r"give one of|for loss= and advantages="):
        estbench.check(**options)


def look(bias: float, projection: float) -> Look:
    return Look(1, bias, bias - 0.01, bias + 0.01, bias + 0.01, projection, 1.0, {})


def test_a_bias_is_split_into_length_and_direction() -> None:
    assert shape(look(0.125, 0.875)) == pytest.approx((0.875, 1.0))
    assert shape(look(1.0, 1.0)) == pytest.approx((2**0.5, 0.5**0.5))


def test_the_result_says_where_and_by_how_much() -> None:
    from estbench.meter.bias import BiasResult

    result = BiasResult("biased", "norm", (look(0.125, 0.875),), 0.02, 0.001)
    found = RecipeResult(
        Recipe(advantages=leave_one_out).info,
        bias=[BiasFinding("autoregressive", "fresh", result, 0.0)],
        conditions="groups of 8, on policy",
    )
    assert re.fullmatch(
        r"leave_one_out \(groups of 8, on policy\): biased\n.*\n"
        r"  autoregressive \(3 tokens\): biased by 12.5% \[11.5%, 13.5%\], length 0.88, "
        r"cosine 1.00",
        str(found),
    )
