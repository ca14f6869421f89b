"""The published estimators: their names and switches, what they are made of, their statistic."""

from __future__ import annotations

import math

import pytest
import torch

from estbench import estimators
from estbench.core.errors import UserError
from estbench.estimators.base import Surrogate
from estbench.estimators.rebar import Rebar
from estbench.estimators.regan import element_gradients, element_variance
from estbench.meter.gradients import DrawGradients, Tape
from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward
from estbench.proof.problems import expressions
from estbench.proof.rewards import rng
from estbench.training.curves import output_bias_draws

NAMES = ["reinforce-published", "rebar-published", "relax-published"]
FORMS = ["rebar-published@none", "rebar-published@sign+joint", "relax-published@untrained", *NAMES]


def drawn(name: str, draws: int) -> tuple[DrawGradients, Surrogate]:
    problem, method = expressions(), estimators.make(name)
    state = method.initial_state(problem.policy, rng())
    with Tape(problem.policy) as tape:
        surrogate = method.surrogate(problem.policy, problem.reward, draws, rng(1), state)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    return found, surrogate


def test_a_name_alone_has_all_faults_and_switches_choose_among_them() -> None:
    every = estimators.info("rebar-published")
    assert every.switches == ("sign", "shared-noise", "redrawn", "joint")
    assert estimators.info("relax-published").switches == (*every.switches, "untrained")
    chosen = estimators.info("rebar-published@sign+shared-noise")
    assert chosen.name == "rebar-published@sign+shared-noise"
    assert "sign, shared-noise" in chosen.why_biased
    assert "joint" not in chosen.why_biased
    assert estimators.info("rebar-published@none").why_biased == ""
    assert "unbiased" in estimators.info("rebar-published@shared-noise").summary
    assert not any("@" in name for name in estimators.names())


def test_examples_that_share_noise_are_one_draw() -> None:
    for name in ("rebar-published", "relax-published", "rebar-published@shared-noise"):
        assert estimators.info(name).group == 128
    for name in ("reinforce-published", "rebar-published@sign", "relax-published@none"):
        assert estimators.info(name).group == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rebar-published@sgn", "'sgn'.*rebar-published has sign, shared-noise, redrawn, joint"),
        ("rebar-published@", "unknown switch ''.*sign, shared-noise"),
        ("rebar-published@none+sign", "unknown switch 'none'.*sign, shared-noise"),
        ("rebar-published@sign+sign", "twice.*sign, shared-noise"),
        ("rebar-published@../sign", "unknown switch '../sign'"),
        ("rebar-published@untrained", "unknown switch 'untrained'"),
        ("rebar@none", "rebar has no switches"),
        ("rebar-publishd@none", "unknown estimator 'rebar-publishd'.*'rebar-published'"),
    ],
)
def test_a_switch_that_does_not_exist_is_refused_with_those_that_do(name: str, text: str) -> None:
    for refuse in (estimators.check_name, estimators.make, estimators.info):
        with pytest.raises(UserError, match=text) as caught:
            refuse(name)
        assert "\n" not in str(caught.value)


def test_published_rebar_without_faults_is_rebar_a_step_at_a_time() -> None:
    problem = expressions()
    rebar = Rebar(form="A", future="zeros", coupled=False, baseline="none", temperature=1.0)
    state = rebar.initial_state(problem.policy, rng())
    state["coefficients"]["values"] = (1.0,)
    one = rebar.surrogate(problem.policy, problem.reward, 40, rng(2), state)
    method = estimators.make("rebar-published@none")
    two = method.surrogate(problem.policy, problem.reward, 40, rng(2), {})
    assert torch.equal(one.tokens, two.tokens)
    torch.testing.assert_close(one.weights, two.weights, atol=1e-12, rtol=0)


def test_what_was_published_as_relax_is_its_rebar_times_a_constant() -> None:
    problem = expressions()
    plain, weighted = (
        estimators.make(f"{name}-published@{faults}")
        for name, faults in (("rebar", "joint"), ("relax", "joint+untrained"))
    )
    n = 20_000
    one = plain.surrogate(problem.policy, problem.reward, n, rng(3), {})
    two = weighted.surrogate(problem.policy, problem.reward, n, rng(3), {})
    shares = []
    for s in (one, two):
        score = s.rewards.unsqueeze(-1) * torch.nn.functional.one_hot(s.tokens[:, 0], 5)
        shares.append((s.weights - score.flatten(1)).abs().mean())
    assert float(shares[1] / shares[0]) == pytest.approx(0.477, rel=0.02)


@pytest.mark.parametrize("name", FORMS)
def test_the_paper_statistic_is_the_variance_of_an_element_of_the_gradient(name: str) -> None:
    found, surrogate = drawn(name, 12)
    K = estimators.info(name).group
    shape = (12 * K, 3, 5)
    log_probs = surrogate.log_probs.detach().reshape(shape)
    elements = element_gradients(surrogate.weights.reshape(shape) * K, log_probs)
    exact = output_bias_draws(found)[:, 0]
    torch.testing.assert_close(elements.reshape(12, K).mean(dim=1), exact, atol=1e-12, rtol=1e-10)
    expected = elements.reshape(12, K).var(dim=1).mean() if K > 1 else elements.var()
    assert surrogate.info["published_variance"] == pytest.approx(float(expected))


def test_the_statistic_of_single_sequences_is_not_a_number() -> None:
    log_probs = torch.full((1, 3, 5), 0.2).log()
    assert math.isnan(element_variance(torch.ones(1, 3, 5), log_probs))


@pytest.mark.slow
def test_the_paper_statistic_cannot_see_noise_that_the_examples_share() -> None:
    found, surrogate = drawn("rebar-published", 256)
    per_sequence = 128 * float(output_bias_draws(found)[:, 0].var())
    assert per_sequence > 3 * surrogate.info["published_variance"]
    found, surrogate = drawn("rebar-published@sign+redrawn+joint", 4096)
    per_sequence = float(output_bias_draws(found)[:, 0].var())
    assert per_sequence == pytest.approx(surrogate.info["published_variance"])


def test_at_the_start_the_published_ranking_is_that_of_constant_baselines() -> None:
    """An untrained discriminator says .5 to everything, and (R - c)^2 Var(score) is all there is.

    R is exp(.5), and c is 0, .5 and .477 times .5.
    """
    policy = Generator(5, 3).initialise("normal", 0.3, rng(4))
    reward = Reward(LSTMDiscriminator(5).initialise(rng(5)), "exp_p")
    found = {}
    for name in NAMES:
        method = estimators.make(name)
        draws = 16_384 // method.info.group
        state = method.initial_state(policy, rng())
        surrogate = method.surrogate(policy, reward, draws, rng(6), state)
        found[name] = surrogate.info["published_variance"]
    score = found["reinforce-published"] / math.e
    paid = math.exp(0.5)
    assert found["rebar-published"] == pytest.approx((paid - 0.5) ** 2 * score, rel=0.05)
    assert found["relax-published"] == pytest.approx((paid - 0.5 * 0.477) ** 2 * score, rel=0.05)


def test_stale_rollouts_say_what_they_need_of_a_policy() -> None:
    class Bare(Generator):
        def modules(self):  # type: ignore[no-untyped-def]  # a policy without linear layers
            return iter([self])

    method = estimators.make("biased-stale-rollouts")
    problem = expressions()
    with pytest.raises(UserError, match=r"nn\.Linear"):
        method.surrogate(Bare(5, 3, dtype=torch.float64), problem.reward, 4, rng(), {})
