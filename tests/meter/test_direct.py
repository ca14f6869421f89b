"""Draws that are given whole, and terms with a coefficient for each tensor, in the meter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import estbench
from estbench.estimators import make
from estbench.estimators.base import (
    Component,
    Direct,
    Estimator,
    EstimatorInfo,
    Reward,
    Surrogate,
    TensorTerm,
)
from estbench.estimators.score_function import Reinforce
from estbench.meter import loop, streamed
from estbench.meter.bias import Plan, bias_test
from estbench.meter.gradients import DrawGradients, MeterError, Tape
from estbench.meter.measuring import measure
from estbench.meter.moments import Reference
from estbench.meter.step import measured_step
from estbench.models.policy import Policy
from estbench.proof.checking import by_name, check_one
from estbench.proof.problems import tiny
from estbench.proof.rewards import rng


class Handed(Estimator):
    """REINFORCE, whose gradients are computed draw by draw and handed over whole."""

    info = EstimatorInfo("handed", "REINFORCE, given whole", "Williams 1992")

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Direct:
        plain = Reinforce("plain", "none")
        made = plain.surrogate(policy, reward, draws, rng, plain.initial_state(policy, rng))
        with Tape(policy) as tape:
            again = policy.log_probs(made.tokens[:, 0]).gather(2, made.tokens[:, 0].unsqueeze(2))
        made = replace(made, log_probs=again.squeeze(2))
        whole = torch.cat(list(tape.differentiate(made, retain_graph=True).chunks()))
        sizes = [p.numel() for p in policy.parameters()]

        def gradients(start: int, stop: int) -> list[Tensor]:
            parts = zip(whole[start:stop].split(sizes, dim=1), policy.parameters(), strict=True)
            return [part.reshape(-1, *p.shape) for part, p in parts]

        return Direct(draws, gradients, made.tokens, made.rewards)


def both(draws: int, seed: int = 3) -> tuple[DrawGradients, DrawGradients]:
    """Return REINFORCE's draws from its graph, and the same ones given whole."""
    problem = tiny()
    found = []
    for method in (make("reinforce"), Handed()):
        with Tape(problem.policy) as tape:
            made = method.surrogate(
                problem.policy,
                problem.reward,
                draws,
                rng(seed),
                method.initial_state(problem.policy, rng()),
            )
        found.append(tape.differentiate(made))
    return found[0], found[1]


@pytest.mark.parametrize("numbers", [1 << 24, 2_000])
def test_what_is_given_whole_has_the_moments_of_the_same_draws_from_a_graph(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held at once, or a few draws at a time."""
    monkeypatch.setattr(streamed, "NUMBERS", numbers)
    graph, given = both(24)
    direction = [torch.randn(s.shape, generator=rng(5), dtype=s.dtype) for s in graph.sums]
    for a, b in (
        (graph.squared_norms(), given.squared_norms()),
        (graph.squared_norms_by_tensor(), given.squared_norms_by_tensor()),
        (graph.dots(direction), given.dots(direction)),
        (graph.block_sums(4), given.block_sums(4)),
        (torch.cat(list(graph.chunks(7))), torch.cat(list(given.chunks(7)))),
        (graph.tensor("output.bias"), given.tensor("output.bias")),
        (graph.inner(graph), given.inner(given)),
        *zip(graph.sums, given.sums, strict=True),
        *zip(
            graph.factors.whole(torch.tensor([5, 0, 23])),
            given.factors.whole(torch.tensor([5, 0, 23])),
            strict=True,
        ),
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_it_is_measured_trained_with_and_tested_as_any_other() -> None:
    problem = tiny()
    rows = [
        measure(
            method,
            problem.policy,
            problem.reward,
            512,
            rng(4),
            method.initial_state(problem.policy, rng()),
            Reference(problem.gradient, 0.0),
        )
        for method in (make("reinforce"), Handed())
    ]
    for column in ("total_variance", "relative_bias", "kurtosis", "mse", "cosine"):
        assert rows[0][column] == pytest.approx(rows[1][column], rel=1e-6, abs=1e-9)
    assert rows[0]["by_tensor"] == pytest.approx(rows[1]["by_tensor"], rel=1e-6)

    import copy

    policy = copy.deepcopy(problem.policy)
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.1)
    measured_step(Handed(), policy, problem.reward, 64, rng(1), {}, optimiser)
    plain = copy.deepcopy(problem.policy)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    method = make("reinforce")
    state = method.initial_state(plain, rng())
    measured_step(method, plain, problem.reward, 64, rng(1), state, optimiser)
    for a, b in zip(policy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)

    plan = Plan(first=4_096, looks=1, margin=0.2)
    found = bias_test(Handed(), problem.policy, problem.reward, problem.gradient, rng(2), {}, plan)
    assert found.verdict == "unbiased", str(found)


def test_gradients_of_another_shape_are_named() -> None:
    class Misshapen(Handed):
        def surrogate(self, *args: Any) -> Direct:
            made = super().surrogate(*args)
            return replace(made, gradients=lambda a, b: [g[:, :1] for g in made.gradients(a, b)])

    problem = tiny()
    with Tape(problem.policy) as tape:
        made = Misshapen().surrogate(problem.policy, problem.reward, 4, rng(), {})
    with pytest.raises(MeterError, match=r"embedding.weight: gradients of 4 draws have shape"):
        tape.differentiate(made)


def test_draws_that_are_others_when_asked_again_are_found() -> None:
    class Fickle(Handed):
        def surrogate(self, *args: Any) -> Direct:
            made, noise = super().surrogate(*args), rng(9)

            def again(start: int, stop: int) -> list[Tensor]:
                scale = 1 + torch.rand((), generator=noise, dtype=torch.float64)
                return [scale * g for g in made.gradients(start, stop)]

            return replace(made, gradients=again)

    problem = tiny()
    with Tape(problem.policy) as tape:
        made = Fickle().surrogate(problem.policy, problem.reward, 6, rng(), {})
    with pytest.raises(MeterError, match="is another one when asked for alone"):
        tape.differentiate(made)


def with_terms(problem_policy: Policy) -> tuple[Surrogate, tuple[Component, ...], Tape]:
    problem, method = tiny(), make("rebar")
    state = method.initial_state(problem.policy, rng(2))
    with Tape(problem_policy) as tape:
        made = method.surrogate(problem.policy, problem.reward, 10, rng(3), state)
    assert isinstance(made, Surrogate)
    return made, made.components, tape


def test_a_coefficient_for_each_tensor_is_applied_to_each_tensor() -> None:
    """And the loop, which takes over where a layer has no rule, agrees."""
    policy = tiny().policy
    made, components, tape = with_terms(policy)
    coefficients = {"input.weight": 0.5, "output.bias": -2.0, "embedding.weight": 0.25}
    term = TensorTerm(components[-1], coefficients)
    base = tape.differentiate(made, retain_graph=True)
    extra = tape.differentiate(
        replace(made, weights=components[-1].weights), retain_graph=True, check=False
    )
    whole = tape.differentiate(replace(made, tensor_terms=(term,)), retain_graph=True)
    assert tape.fault == ""
    looped = loop.gradients(replace(made, tensor_terms=(term,)), tape.parameters, tape.names)
    for name, slow in zip(tape.names, looped, strict=True):
        expected = base.tensor(name) + coefficients.get(name, 0.0) * extra.tensor(name)
        torch.testing.assert_close(whole.tensor(name), expected)
        torch.testing.assert_close(slow, expected)
    flat = torch.cat(list(whole.chunks()), dim=0)
    torch.testing.assert_close(whole.squared_norms(), flat.square().sum(dim=1))
    torch.testing.assert_close(
        torch.cat([s.flatten() for s in whole.sums]), flat.sum(dim=0), atol=1e-12, rtol=1e-9
    )


def test_a_wrong_coefficient_is_found_by_the_meters_own_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, components, tape = with_terms(tiny().policy)
    term = TensorTerm(components[-1], dict.fromkeys(tape.names, 0.5))
    from estbench.meter.factors import Factors

    right = Factors.plus
    monkeypatch.setattr(Factors, "plus", lambda a, b, c: right(a, b, [2 * x for x in c]))
    tape.differentiate(replace(made, tensor_terms=(term,)), retain_graph=True)
    assert "do not add up" in tape.fault


def test_inner_products_of_components_come_by_tensor() -> None:
    made, components, tape = with_terms(tiny().policy)
    found = tape.gram_by_tensor(made, components)
    total = tape.gram(made, components)
    torch.testing.assert_close(torch.stack(list(found.values())).sum(dim=0), total)
    slow = loop.gram_by_tensor(made, components, tape.parameters)
    for a, b in zip(found.values(), slow, strict=True):
        torch.testing.assert_close(a, b)


def test_the_table_of_measurements_takes_it() -> None:
    problem = tiny()
    table = estbench.measure(
        problem.policy, problem.reward, [make("reinforce"), Handed()], draws=64, adapt=0
    )
    assert table["total_variance"].notna().all()


class Choosy(Reinforce):
    """REINFORCE that fits two tokens alone."""

    def __init__(self) -> None:
        super().__init__("choosy", "none")

    def refusal(self, vocabulary: int, length: int) -> str:
        return "" if vocabulary == 2 else f"choosy is for 2 tokens, not {vocabulary}"


def test_what_does_not_fit_is_left_out_of_a_check_which_says_so() -> None:
    problems = ["bernoulli-.5-.45", "categorical-linear"]
    found = check_one(Choosy, problems=problems)
    assert {f.problem for f in found.bias} == {"bernoulli-.5-.45"}
    assert found.verdict == "unbiased"
    assert "not tried on" in str(found)
    assert "choosy is for 2 tokens, not 4" in str(found)
    assert by_name("reinforce")().refusal(10**6, 10**6) == ""
