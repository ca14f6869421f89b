"""Sequences of different lengths: the policy after an end token, and gradients of it."""

from __future__ import annotations

import pytest
import torch

from estbench import estimators
from estbench.core.seeding import stream
from estbench.meter.bias import Plan, bias_test
from estbench.meter.exact import enumerate_sequences
from estbench.models.lstm_generator import Generator
from estbench.proof.problems import Problem, problem
from estbench.proof.rewards import function_reward, rng
from estbench.proof.states import learned

END = 2


def policy() -> Generator:
    made = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=END)
    return made.initialise("normal", 0.7, rng(1))


@pytest.fixture(scope="module")
def ending() -> Problem:
    # Sequences that go on after their end have probability e^-10000: they are not there.
    return problem(policy(), function_reward(3, 4, 2))


def test_probabilities_add_up_to_one_over_sequences_that_end_once() -> None:
    made = policy()
    sequences = enumerate_sequences(3, 4)
    with torch.no_grad():
        log_p = made.log_probs(sequences).gather(2, sequences.unsqueeze(2)).sum(dim=(1, 2))
    ended = sequences == END
    possible = (ended == ended.cummax(dim=1).values).all(dim=1)
    assert log_p[possible].exp().sum().item() == pytest.approx(1.0)
    assert float(log_p[~possible].max()) < -1000
    assert int(possible.sum()) == 2**4 + 2**3 + 2**2 + 2 + 1


def test_step_and_trace_agree() -> None:
    made = policy()
    tokens = made.sample(50, rng())
    torch.testing.assert_close(made.log_probs(tokens), super(Generator, made).trace(tokens)[0])


def test_what_fills_a_sequence_up_has_no_gradient() -> None:
    made = policy()
    tokens = torch.tensor([[0, END, END, END]])
    chosen = made.log_probs(tokens).gather(2, tokens.unsqueeze(2))[0, :, 0]
    assert chosen[2:].tolist() == [0.0, 0.0]
    grads = torch.autograd.grad(
        chosen[2:].sum(), list(made.parameters()), materialize_grads=True, allow_unused=True
    )
    assert all(not bool(g.any()) for g in grads)


@pytest.mark.proof
@pytest.mark.parametrize(
    "name",
    [
        "reinforce-ema",
        "reinforce-critic",
        pytest.param("rloo", marks=pytest.mark.sentinel),
        "seqgan-rollouts-ema",
        "reinforce-greedy",
        "reinforce-step-constants",
        "vine",
        "all-actions",
        "sum-and-sample",
        "unordered-set-4",
        "unordered-set-8",
        "without-replacement-8",
        "muprop",
        "rebar",
        "rebar-soft",
        "rebar-independent",
        "relax",
        "relax-rebar",
        "relax-independent",
        "relax-several",
        "rebar-per-tensor",
        "disarm",
        "carms",
        "arsm",
        "rodeo",
        "double-cv",
        "opo",
        "token-baseline",
        "rloo-shrunk",
        "single-stream",
        "last-token",
        "importance-sequence",
    ],
)
def test_estimators_are_unbiased_for_sequences_of_any_length(name: str, ending: Problem) -> None:
    method = estimators.make(name)
    result = bias_test(
        method,
        ending.policy,
        ending.reward,
        ending.gradient,
        stream("test of ends", name),
        learned(method, ending, "trained" if method.info.learned else "fresh"),
        Plan(first=49_152, growth=3, looks=3, margin=0.03, alpha=0.001),
    )
    assert result.meter_fault == ""
    assert result.verdict == "unbiased", str(result)
