"""Estimators are measured at any policy and reward from Python, and mistakes are named."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import estbench
from estbench.core.errors import UserError
from estbench.estimators.score_function import LeaveOneOut
from estbench.meter.exact import exact
from estbench.meter.own import OwnPolicy, OwnReward
from estbench.models.lstm_generator import Generator
from estbench.models.policy import has_ended
from estbench.models.reward import FunctionReward
from estbench.models.tempered import Tempered
from estbench.proof.rewards import SmoothReward, rng

V, T, H = 3, 3, 4
SMALL: dict[str, Any] = {"draws": 256, "adapt": 256}


class Plain(nn.Module):
    """A recurrent policy that has no more than it must; it does not know estbench."""

    def __init__(self, length: int = T, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocabulary, self.length = V, length
        self.table = nn.Embedding(V + 1, H)
        self.cell = nn.LSTM(H, H, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(H, V)
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.7, generator=rng(1))

    def initial_state(self, n: int) -> Any:
        return (torch.zeros(n, H).double(), torch.zeros(n, H).double())

    def step(self, previous: Tensor | None, state: Any) -> Any:
        n = state[0].shape[0]
        tokens = torch.full((n,), V) if previous is None else previous
        out, (h, c) = self.cell(
            self.table(tokens).unsqueeze(1), (state[0].unsqueeze(0), state[1].unsqueeze(0))
        )
        return self.output(self.dropout(out[:, 0])).log_softmax(dim=-1), (h[0], c[0])


class Raw(nn.Module):
    """Nothing but a table of logits, which no layer of the meter's rules holds."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary, self.length = V, T
        self.logits = nn.Parameter(torch.randn(T, V, generator=rng(2)))

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 1)

    def step(self, previous: Tensor | None, state: Tensor) -> Any:
        rows = self.logits[int(state[0, 0])].expand(len(state), V)
        return rows.log_softmax(dim=-1), state + 1


class Growing(Plain):
    """Its state is all tokens so far."""

    def initial_state(self, n: int) -> Tensor:
        return torch.full((n, 1), V)

    def step(self, previous: Tensor | None, state: Tensor) -> Any:
        if previous is not None:
            state = torch.cat([state, previous.unsqueeze(1)], dim=1)
        out = self.cell(self.table(state))[0][:, -1]
        return self.output(out).log_softmax(dim=-1), state


smooth = SmoothReward(V, T, 1)


def test_the_table_says_what_enumeration_says() -> None:
    policy = Plain()
    table = estbench.measure(policy, smooth, ["reinforce", "rloo"], draws=4096)
    truth = exact(OwnPolicy(policy), smooth)
    reinforce, rloo = (row for _, row in table.iterrows())
    for row, expected in (
        (reinforce, truth.reinforce_variance(0.0)),
        (rloo, truth.leave_one_out_variance(8)),
    ):
        assert row["variance_low"] < expected < row["variance_high"]
        assert row["bias_low"] == 0
        assert row["bias_high"] < 0.3
        assert row["cosine"] > 0.95
    assert rloo["variance_per_sequence"] == 8 * rloo["total_variance"]
    assert rloo["ratio"] == rloo["variance_per_sequence"] / reinforce["variance_per_sequence"]
    assert rloo["ratio_low"] < rloo["ratio"] < rloo["ratio_high"]
    assert (reinforce[["ratio", "ratio_low", "ratio_high"]] == 1).all()
    assert (table["hard_evals_per_draw"] == [1, 8]).all()
    assert (table["policy_steps_per_draw"] == [2 * T, 16 * T]).all()
    assert (table["bias_against"] == "exact gradient").all()
    assert (table["meter_fault"] == "").all()


def test_a_policy_may_inherit_or_not() -> None:
    class Heir(Plain, estbench.Policy):
        pass

    def numbers(policy: nn.Module) -> pd.DataFrame:
        table = estbench.measure(policy, smooth, "reinforce-critic, rloo", **SMALL)
        return table.drop(columns="seconds_per_draw")

    pd.testing.assert_frame_equal(numbers(Plain()), numbers(Heir()))


def test_equal_seeds_give_equal_tables() -> None:
    def numbers(seed: int) -> pd.DataFrame:
        table = estbench.measure(Plain(), smooth, ["reinforce-ema", "relax"], seed=seed, **WITH)
        return table.drop(columns="seconds_per_draw")

    WITH = {**SMALL, "relaxed": smooth}
    pd.testing.assert_frame_equal(numbers(1), numbers(1))
    assert (numbers(1)["total_variance"] != numbers(2)["total_variance"]).all()


def test_too_many_sequences_to_enumerate() -> None:
    table = estbench.measure(
        Plain(12), lambda x: x.double().mean(dim=1), "rloo", reference=8192, **SMALL
    )
    (row,) = table.to_dict("records")
    assert row["bias_against"] == "8192 sequences"
    assert row["bias_low"] < 0.1


def test_rewards_may_be_tensors_arrays_or_lists() -> None:
    def evens(tokens: Tensor) -> Tensor:
        return (tokens % 2 == 0).sum(dim=1)

    forms: list[Callable[[Tensor], Any]] = [
        evens,
        lambda x: evens(x).float(),
        lambda x: evens(x).numpy(),
        lambda x: evens(x).tolist(),
        lambda x: [np.float32(value) for value in evens(x)],
        FunctionReward(evens),
    ]
    found = [estbench.measure(Plain(), f, "rloo", **SMALL)["total_variance"][0] for f in forms]
    assert len(set(found)) == 1


def test_a_relaxed_reward_serves_those_who_need_one() -> None:
    for reward, more in (
        (smooth, {"relaxed": smooth}),
        (FunctionReward(smooth, smooth), {}),
    ):
        table = estbench.measure(
            Generator(V, T, 4, 4), reward, ["reinforce", "rebar"], **more, **SMALL
        )
        assert table["relaxed_evals_per_draw"][1] > 0
        assert table["ratio"][1] < 1


@pytest.mark.filterwarnings("ignore:slow")
def test_a_policy_of_raw_parameters_is_measured_draw_by_draw_by_every_kind() -> None:
    names = ["reinforce", "reinforce-constant", "rebar", "relax", "seqgan-rollouts"]
    table = estbench.measure(Raw(), smooth, names, relaxed=smooth, draws=64, adapt=128)
    assert table["meter_fault"].str.startswith("logits: the draws do not add up").all()
    assert table["total_variance"].gt(0).all()


def test_a_state_may_grow_in_a_plain_module() -> None:
    class Heir(Growing, estbench.Policy):
        pass

    for policy in (Growing(), Heir()):
        names = ["reinforce-critic", "seqgan-rollouts", "relax"]
        table = estbench.measure(policy, smooth, names, relaxed=smooth, **SMALL)
        assert (table["meter_fault"] == "").all()


def test_the_policy_is_as_it_was() -> None:
    policy = Plain(dropout=0.5)
    policy.table.eval()
    before = {name: p.clone() for name, p in policy.state_dict().items()}
    first = estbench.measure(policy, smooth, "rloo", **SMALL)
    assert policy.training
    assert policy.dropout.training
    assert not policy.table.training
    assert all(p.grad is None for p in policy.parameters())
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    second = estbench.measure(Plain(), smooth, "rloo", **SMALL)  # dropout was off
    assert first["total_variance"][0] == second["total_variance"][0]


def test_a_truncated_policy_is_held_against_the_whole_gradient() -> None:
    policy = Generator(V, T, 4, 4, dtype=torch.float64, truncation=1)
    policy.initialise("normal", 0.9, rng(1))
    (row,) = estbench.measure(policy, smooth, "rloo", draws=2048).to_dict("records")
    assert not row["unbiased"]
    assert row["bias_low"] > 0.02
    assert policy.truncation == 1


def test_estimators_by_name_as_classes_and_as_objects() -> None:
    class Three(LeaveOneOut):
        def __init__(self) -> None:
            super().__init__(3, name="three")

    table = estbench.measure(Plain(), smooth, ["rloo", Three, LeaveOneOut(2, name="two")], **SMALL)
    assert table["estimator"].tolist() == ["rloo", "three", "two"]
    assert table["sequences_per_draw"].tolist() == [8, 3, 2]
    named = estbench.measure(Plain(), smooth, "rloo,reinforce", baseline="reinforce", **SMALL)
    assert named["ratio"][1] == 1
    assert len(estbench.measure(Plain(), smooth, Three(), **SMALL)) == 1


def test_a_plugin_brings_its_estimators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench.core import plugins
    from estbench.core.registry import ESTIMATORS

    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(ESTIMATORS, "entries", dict(ESTIMATORS.entries))
    file = tmp_path / "own.py"
    file.write_text(
        "import estbench\nfrom functools import partial\n"
        "from estbench.estimators.score_function import LeaveOneOut\n"
        "estbench.register(partial(LeaveOneOut, 5, name='own-5'))\n"
    )
    table = estbench.measure(Plain(), smooth, "own-5", plugin=file, **SMALL)
    assert table["sequences_per_draw"][0] == 5


def altered(**methods: Any) -> nn.Module:
    """Return a plain policy with some of its attributes replaced."""
    policy = Plain()
    for name, value in methods.items():
        object.__setattr__(policy, name, value)
    return policy


def stepping(change: Callable[[Tensor, Any], Any]) -> nn.Module:
    """Return a plain policy whose step's results are changed."""
    policy = Plain()
    step = policy.step
    object.__setattr__(policy, "step", lambda previous, state: change(*step(previous, state)))
    return policy


class Peeking(Plain, estbench.Policy):
    """Its trace shows each position the token that is drawn there."""

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.cell(self.table(tokens))[0]
        return self.output(hidden).log_softmax(dim=-1), hidden.detach()


def no_step() -> nn.Module:
    policy = nn.Linear(2, 2)
    policy.vocabulary, policy.length = 2, 3  # type: ignore[assignment]
    policy.initial_state = lambda n: torch.zeros(n, 1)  # type: ignore[assignment]
    return policy


POLICIES: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: 3, "the policy must be a torch.nn.Module with initial_state, step"),
    "no vocabulary": (lambda: nn.Linear(2, 2), "Linear has no vocabulary: the number of tokens V"),
    "no step": (no_step, "Linear has no step: step(previous, state), which returns log-prob"),
    "a length that is none": (lambda: altered(length=2.5), "Plain.length is 2.5: it must be the"),
    "nothing to train": (
        lambda: Plain().requires_grad_(False),
        "Plain has no parameters that require gradients",
    ),
    "one state for all rows": (
        lambda: altered(initial_state=lambda n: (torch.zeros(1, n, H),) * 2),
        "initial_state(3) returned a state with a tensor of shape (1, 3, 4) for 3 rows: rows come",
    ),
    "no state": (lambda: altered(initial_state=lambda n: ()), "initial_state(3) returned an empty"),
    "a state of another kind": (
        lambda: altered(initial_state=lambda n: None),
        "initial_state(3) returned a state that is none: a state is a tree of tensors; found None",
    ),
    "no tuple": (lambda: stepping(lambda p, s: p), "step returned Tensor at position 0: it must"),
    "another shape": (
        lambda: stepping(lambda p, s: (p.unsqueeze(1), s)),
        "step returned log-probabilities of shape (3, 1, 3) for 3 rows at position 0: it must be",
    ),
    "logits": (
        lambda: stepping(lambda p, s: (p + 1, s)),
        "step returned probabilities that sum to 2.718 at position 0: they must be normalised, as",
    ),
    "no number": (
        lambda: stepping(lambda p, s: (p * torch.nan, s)),
        "step returned probabilities that sum to nan at position 0",
    ),
    "rows that vanish": (
        lambda: stepping(lambda p, s: (p, s[0][:1])),
        "step at position 0 returned a state with a tensor of shape (1, 4) for 3 rows",
    ),
    "no gradient": (
        lambda: stepping(lambda p, s: (p.detach(), s)),
        "step's log-probabilities do not depend on any parameter: is there a detach()",
    ),
    "another trace": (Peeking, "trace and step disagree from position 0 on, by up to"),
    "a trace that is none": (
        lambda: type("Odd", (Plain,), {"trace": lambda self, tokens: tokens})(),
        "trace returned Tensor: it must be a tuple of log-probabilities [n, T, V] and what",
    ),
    "log_probs of sequences": (
        lambda: type("Odd", (Plain,), {"log_probs": lambda self, x: x[:, 0].double()})(),
        "log_probs returned log-probabilities of shape (3,): it must be (3, 3, 3)",
    ),
    "a sampler of another shape": (
        lambda: type("Odd", (Plain,), {"sample_from": lambda self, u: u[:, 0].long()})(),
        "sample_from returned (3,) for 3 rows: it must be tokens (3, 3)",
    ),
}


@pytest.mark.parametrize("fault", POLICIES)
def test_a_policys_mistake_is_named(fault: str) -> None:
    make, text = POLICIES[fault]
    with pytest.raises(UserError, match=re.escape(text)) as caught:
        estbench.measure(make(), smooth, "rloo", **SMALL)
    assert "\n" not in str(caught.value)


REWARDS: dict[str, tuple[Any, str]] = {
    "no function": (3, "the reward must be a function of tokens [n, T], not int"),
    "nothing": (lambda x: None, "the reward returned NoneType, which is not 3 numbers"),
    "a word": (lambda x: "good", "the reward returned text ('good'): it must return a number"),
    "numbers as text": (lambda x: ["1.5"] * len(x), "the reward returned text ('1.5'): it must"),
    "one number": (lambda x: x.sum(), "the reward returned shape () for 3 sequences: it must be"),
    "a column": (lambda x: x[:, :1], "the reward returned shape (3, 1) for 3 sequences: it must"),
    "an array too long": (lambda x: np.ones(7), "the reward returned shape (7,) for 3 sequences"),
    "no finite number": (
        lambda x: torch.full((len(x),), torch.inf),
        "the reward returned inf for tokens [",
    ),
}


@pytest.mark.parametrize("fault", REWARDS)
def test_a_rewards_mistake_is_named(fault: str) -> None:
    reward, text = REWARDS[fault]
    with pytest.raises(UserError, match=re.escape(text)):
        estbench.measure(Plain(), reward, "reinforce", **SMALL)


RELAXED: dict[str, tuple[Any, str]] = {
    "none": (
        None,
        "rebar evaluates the reward at relaxed tokens, and this one takes tokens only: give "
        "relaxed=, a function of weights [n, T, V], or leave rebar out",
    ),
    "an array": (
        lambda w: w.detach().numpy().sum((1, 2)),
        "the relaxed reward returned ndarray for 3 sequences: it must be a tensor (3,)",
    ),
    "another shape": (lambda w: w.sum(dim=2), "the relaxed reward returned (3, 3) for 3 sequences"),
    "no gradient": (
        lambda w: w.detach().sum(dim=(1, 2)),
        "the relaxed reward cannot be differentiated: compute it with torch",
    ),
}


@pytest.mark.parametrize("fault", RELAXED)
def test_a_relaxed_rewards_mistake_is_named(fault: str) -> None:
    relaxed, text = RELAXED[fault]
    with pytest.raises(UserError, match=re.escape(text)):
        estbench.measure(Generator(V, T, 4, 4), smooth, "rebar", relaxed=relaxed, **SMALL)


def test_an_undeclared_need_of_a_relaxed_reward_is_named() -> None:
    with pytest.raises(UserError, match="this reward takes tokens only: give relaxed="):
        OwnReward(lambda x: x.sum(dim=1)).relaxed(torch.zeros(2, T, V))


def test_a_policy_of_hard_tokens_alone_is_named() -> None:
    with pytest.raises(UserError, match="rebar-soft feeds relaxed tokens, weights") as caught:
        estbench.measure(Plain(), smooth, "rebar-soft", relaxed=smooth, **SMALL)
    assert caught.value.__cause__ is not None


class Faulty(estbench.Estimator):
    """REINFORCE with one part of its draws replaced."""

    info = estbench.EstimatorInfo("faulty", "", "")

    def __init__(self, **parts: Callable[[Tensor], Any]) -> None:
        self.parts = parts

    def surrogate(
        self, policy: Any, reward: Any, draws: int, rng: torch.Generator, state: Any
    ) -> Any:
        tokens = policy.sample(draws, rng)
        rewards = reward(tokens)
        parts = {
            "log_probs": policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2),
            "weights": rewards.unsqueeze(1).expand(draws, T),
            "tokens": tokens.unsqueeze(1),
            "rewards": rewards.unsqueeze(1),
        }
        for name, change in self.parts.items():
            parts[name] = change(parts.get(name, rewards))
        return estbench.Surrogate(**parts) if "all" not in parts else parts["log_probs"]


SURROGATES: dict[str, tuple[dict[str, Any], str]] = {
    "of another kind": ({"all": lambda x: x}, "faulty: surrogate returned Tensor, not a Surrogate"),
    "log_probs summed": (
        {"log_probs": lambda x: x.sum(dim=1)},
        "faulty: log_probs of 3 draws have shape (3,): it must be (3, m), all of a draw in its row",
    ),
    "weights of another shape": (
        {"weights": lambda x: x[:, :1]},
        "faulty: weights of 3 draws of 1 (info.group) have shape (3, 1): it must be (3, 3)",
    ),
    "tokens without a group": (
        {"tokens": lambda x: x[:, 0]},
        "faulty: tokens of 3 draws of 1 (info.group) have shape (3, 3): it must be (3, 1, 3)",
    ),
    "paths of another shape": (
        {"pathwise": lambda x: x.sum()},
        "faulty: pathwise of 3 draws of 1 (info.group) have shape (): it must be (3,)",
    ),
    "weights of another type": (
        {"weights": lambda x: x.float()},
        "faulty: weights are torch.float32, log_probs torch.float64: both must be the policy's",
    ),
    "no graph": (
        {"log_probs": lambda x: x.detach()},
        "faulty: log_probs do not depend on the policy's parameters: take them from",
    ),
}


@pytest.mark.parametrize("fault", SURROGATES)
def test_an_estimators_mistake_is_named(fault: str) -> None:
    parts, text = SURROGATES[fault]
    with pytest.raises(UserError, match=re.escape(text)):
        estbench.measure(Plain(), smooth, Faulty(**parts), **SMALL)


@pytest.mark.parametrize("adapt", [0, 100, 300])
def test_adaptation_takes_the_sequences_that_were_asked_for(adapt: int) -> None:
    table = estbench.measure(Plain(), smooth, "reinforce-ema", draws=8, adapt=adapt)
    assert table["adapt_evals"].item() == adapt


def test_a_constant_reward_has_no_gradient_that_bias_could_be_relative_to() -> None:
    def constant(tokens: Tensor) -> Tensor:
        return torch.full((len(tokens),), 0.35)

    names = ["reinforce", "rloo", "reinforce-ema", "exact", "all-actions"]
    table = estbench.measure(Plain(), constant, names, draws=64, adapt=128)
    for column in ("relative_bias", "bias_low", "bias_high", "snr", "cosine"):
        assert table[column].isna().all(), column
    assert table["total_variance"][3] == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"estimators": "rlo"}, "unknown estimator 'rlo': did you mean 'rloo'?"),
        ({"estimators": []}, "no estimators: name at least one"),
        ({"estimators": [3]}, "int is no estimator: give a name, or an estbench.Estimator"),
        ({"draws": 1}, "draws is 1: it must be a whole number of at least 2"),
        ({"adapt": -1}, "adapt is -1: it must be a whole number of at least 0"),
        ({"reference": 1.5}, "reference is 1.5: it must be a whole number"),
        ({"reward_samples": 0}, "reward_samples is 0: it must be a whole number of at least 1"),
        ({"baseline": "rebar"}, "unknown baseline 'rebar'"),
        ({"plugin": "nothing.py"}, "no such file: nothing.py"),
    ],
)
def test_an_options_mistake_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        estbench.measure(Plain(), smooth, **{"estimators": "rloo", **options})


@pytest.mark.slow
def test_importing_estbench_is_light() -> None:
    code = (
        "import sys, estbench; "
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules); "
        "assert set(dir(estbench)) >= {'measure', 'register', 'Policy', '__version__'}; "
        "from estbench import *; assert Policy is estbench.Policy; "
        "import estbench.api; assert measure is estbench.api.measure"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        estbench.nothing  # noqa: B018


class Given(Plain):
    """It declares everything that a policy can, in plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.end, self.truncation, self.temperature = 1, 0, 0.7
        self.contexts = estbench.Contexts(torch.randn(4, H, generator=rng(5)).double())

    def initial_state(self, n: int) -> Any:
        return (self.contexts.rows(n), torch.zeros(n, H).double())


DECLARED = (
    *("vocabulary", "length", "end", "contexts", "truncation", "temperature", "training"),
    *("dtype", "device"),
)
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "own": lambda policy: policy,
    "tempered": lambda policy: Tempered(policy, 0.7),
    "tempered twice": lambda policy: Tempered(Tempered(policy, 2.0), 0.7),
    "own again": OwnPolicy,
    "a copy": copy.deepcopy,
}


@pytest.mark.parametrize("attribute", DECLARED)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_a_policy_declares_survives_every_wrapper(wrapper: str, attribute: str) -> None:
    inner = OwnPolicy(Given().eval())
    outer = WRAPPERS[wrapper](inner)
    expected = getattr(inner, attribute)
    assert getattr(outer, attribute) == expected
    assert expected == {"end": 1, "training": False, "temperature": 0.7}.get(attribute, expected)


@pytest.mark.parametrize("wrapper", [w for w in WRAPPERS if w != "a copy"])
def test_a_later_change_reaches_through_every_wrapper(wrapper: str) -> None:
    policy = Given()
    outer = WRAPPERS[wrapper](OwnPolicy(policy))
    outer.truncation = 2
    outer.train(False)
    assert policy.truncation == 2
    assert not policy.training
    assert not policy.cell.training
    with policy.contexts.given(torch.zeros(2, H)):
        assert outer.contexts.count == 2


def test_a_policy_with_contexts_and_an_end_is_measured() -> None:
    policy = Given()
    names = ["reinforce", "rloo", "relax", "relax-published"]
    table = estbench.measure(policy, smooth, names, relaxed=smooth, **SMALL)
    assert (table["meter_fault"] == "").all()
    assert table["total_variance"].gt(0).all()
    tokens = OwnPolicy(policy).sample(400, rng(3))
    ended = has_ended(tokens, 1)
    assert ended.any()
    assert (tokens[ended] == 1).all()


def test_frozen_parameters_are_no_part_of_a_gradient_over_contexts() -> None:
    policy = Given()
    policy.table.requires_grad_(False)
    (row,) = estbench.measure(policy, smooth, "rloo", **SMALL).to_dict("records")
    assert row["bias_low"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_as_float32_is_and_at_once(dtype: torch.dtype) -> None:
    def row(policy: nn.Module) -> Any:
        return estbench.measure(policy, smooth, "rloo", draws=1024).to_dict("records")[0]

    half = Half().to(dtype)
    found, expected = row(half), row(copy.deepcopy(half).float())
    assert found["meter_fault"] == ""
    assert found["bias_low"] == 0
    assert found["total_variance"] == pytest.approx(expected["total_variance"], rel=0.05)


class Half(nn.Module):
    """Independent tokens, at any precision; its rows come from a state of that precision."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary, self.length = V, T
        self.table, self.output = nn.Embedding(V + 1, H), nn.Linear(H, V)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.7, generator=rng(1))

    def initial_state(self, n: int) -> Tensor:
        return self.table.weight.new_zeros(n, H)

    def step(self, previous: Tensor | None, state: Tensor) -> Any:
        tokens = torch.full((len(state),), V) if previous is None else previous
        state = (state + self.table(tokens)).tanh()
        return self.logits(state).log_softmax(dim=-1), state

    def logits(self, state: Tensor) -> Tensor:
        return self.output(state)


class Autocast(Half):
    def logits(self, state: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.output(state)


class Scalar(Half):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def logits(self, state: Tensor) -> Tensor:
        return self.scale * self.output(state)


class Functional(Half):
    def logits(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.output.weight, self.output.bias)


class Adapter(Half):
    def __init__(self) -> None:
        super().__init__()
        self.output.requires_grad_(False)
        self.a, self.b = (nn.Parameter(torch.full(s, 0.2)) for s in ((2, H), (V, 2)))

    def logits(self, state: Tensor) -> Tensor:
        return nn.functional.linear(state, self.output.weight + self.b @ self.a)


class Matrix(Half):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.full((H, V), 0.2))

    def logits(self, state: Tensor) -> Tensor:
        return state @ self.output


class AutocastLSTM(Half):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(H, H, batch_first=True)

    def logits(self, state: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.output(self.cell(state.unsqueeze(1))[0][:, 0])


class SharedPositions(Half):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(T, H)

    def logits(self, state: Tensor) -> Tensor:
        return self.output(state + self.positions(torch.arange(1)))


SLOW: dict[type[nn.Module], str] = {
    Scalar: r"slow: scale \(Scalar\): .* about \d.*make self.scale a layer, nn.Linear\(1, 1",
    Functional: r"slow: output \(Linear\): .*call self.output\(x\) itself",
    Adapter: r"slow: a \(Adapter\): .*LoRA by Parameters: make self.a and self.b layers, "
    r"nn.Linear\(in, 2, bias=False\) and nn.Linear\(2, out, bias=False\)",
    Matrix: r"slow: output \(Matrix\): .*make self.output a layer: nn.Linear\(3, 4, bias=False\)",
    SharedPositions: r"slow: positions \(Embedding\): all rows share one call of it, .*"
    r"self.positions\(torch.arange\(t\).expand\(n, t\)\)",
}


@pytest.mark.parametrize("kind", SLOW)
def test_what_the_meter_cannot_read_is_said_once_and_measured(kind: type[nn.Module]) -> None:
    names = ["reinforce", "rloo"]
    with pytest.warns(estbench.EstbenchWarning, match=SLOW[kind]) as caught:
        table = estbench.measure(kind(), smooth, names, draws=64)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    remedy = str(caught[0].message).partition("Faster: ")[2]
    assert table["meter_fault"].str.endswith(f"; faster: {remedy}").all()
    assert table["total_variance"].gt(0).all()


def test_the_remedy_for_shared_positions_works() -> None:
    class Mended(SharedPositions):
        def logits(self, state: Tensor) -> Tensor:
            n, t = len(state), 1
            return self.output(state + self.positions(torch.arange(t).expand(n, t))[:, -1])

    table = estbench.measure(Mended(), smooth, "rloo", draws=64)
    assert table["meter_fault"][0] == ""


@pytest.mark.parametrize("kind", [Autocast, AutocastLSTM])
def test_a_policy_under_autocast_is_measured_at_once(kind: type[nn.Module]) -> None:
    policy = kind()
    if kind is AutocastLSTM:
        try:
            policy.logits(torch.zeros(1, H))
        except RuntimeError as error:  # oneDNN has it for AVX-512 only
            pytest.skip(f"PyTorch has no LSTM in bfloat16 for this processor: {error}")
    table = estbench.measure(policy, smooth, "rloo, relax", relaxed=smooth, draws=64, adapt=128)
    assert (table["meter_fault"] == "").all()


def test_a_generator_of_estbenchs_under_autocast_is_measured_at_once() -> None:
    generator = Generator(V, T, 4, 4).initialise("normal", 0.5, rng(1))

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.vocabulary, self.length = generator, V, T

        def initial_state(self, n: int) -> Any:
            return self.inner.initial_state(n)

        def step(self, previous: Tensor | None, state: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner.step(previous, state)

    table = estbench.measure(Cast(), smooth, "rloo, rebar", relaxed=smooth, draws=256, adapt=128)
    assert (table["meter_fault"] == "").all()
    expected = exact(generator, FunctionReward(SmoothReward(V, T, 1, torch.float32)))
    low, high = table["variance_low"][0], table["variance_high"][0]
    assert low < expected.leave_one_out_variance(8) < high


class Uniform(nn.Module):
    """All 4,096 sequences are equally likely."""

    def __init__(self, length: int = 4) -> None:
        super().__init__()
        self.vocabulary, self.length = 8, length
        self.output = nn.Linear(1, 8)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def initial_state(self, n: int) -> Tensor:
        return torch.ones(n, 1)

    def step(self, previous: Tensor | None, state: Tensor) -> Any:
        return self.output(state).log_softmax(dim=-1), state


@pytest.mark.parametrize("length", [4, 12])  # enumerated, and not
def test_draws_that_met_no_reward_say_only_how_rare_it_is(length: int) -> None:
    def rare(tokens: Tensor) -> Tensor:
        return (tokens == 0).all(dim=1)

    names = ["reinforce", "all-actions"]
    options = {"draws": 512, "reference": 1024, "baseline": "all-actions"}
    said = "no reward was seen that differs: at most 0.58 % of the sequences are rewarded otherwise"
    with pytest.warns(estbench.EstbenchWarning, match=f"reinforce: {said}"):
        table = estbench.measure(Uniform(length), rare, names, **options)
    row = table.iloc[0]
    assert row["note"] == f"{said} (95 %)"  # 1 - 0.05^(1 / 512)
    unknown = "total_variance variance_low variance_high variance_per_sequence ratio ratio_low "
    unknown += "ratio_high kurtosis relative_bias bias_low bias_high snr cosine mse"
    assert row[unknown.split()].isna().all()
    assert (row["draws"], row["hard_evals_per_draw"]) == (512, 1)


def test_no_variance_is_a_number_where_every_sequence_was_seen() -> None:
    def rare(tokens: Tensor) -> Tensor:
        return (tokens == 0).all(dim=1)

    (row,) = estbench.measure(Uniform(), rare, "exact", draws=4).to_dict("records")
    assert (row["note"], row["total_variance"], row["variance_high"]) == ("", 0, 0)
    constant = estbench.measure(Uniform(), lambda x: x[:, 0] * 0 + 1, "rloo", draws=4)
    assert (constant["note"][0], constant["total_variance"][0]) == ("", 0)


def noisy(size: float) -> Callable[[Tensor], Tensor]:
    noise = rng(9)
    return lambda x: smooth(x) + size * torch.randn(len(x), generator=noise, dtype=torch.float64)


def test_a_noisy_reward_is_refused_in_one_line_with_two_remedies() -> None:
    with pytest.raises(
        UserError, match=r"the reward is noisy: .*seed.* reward_samples=k"
    ) as caught:
        estbench.measure(Plain(), noisy(0.5), "rloo", **SMALL)
    assert "\n" not in str(caught.value)


def test_the_mean_of_several_evaluations_is_measured_with_its_noise() -> None:
    options = {"draws": 4096, "reference": 32_768, "reward_samples": 4, "adapt": 0}
    table = estbench.measure(Plain(), noisy(2.0), ["reinforce", "rloo"], **options)
    truth = exact(OwnPolicy(Plain()), smooth)
    row = table.iloc[0]
    expected = truth.reinforce_variance(0.0) + 2.0**2 / 4 * truth.score_moment
    assert row["variance_low"] < expected < row["variance_high"]
    assert (table["bias_low"] == 0).all()
    assert (table["bias_against"] == "32768 sequences").all()
    assert table["hard_evals_per_draw"].tolist() == [4, 32]


def test_a_reward_that_is_whitened_within_its_batch_is_refused() -> None:
    def whitened(tokens: Tensor) -> Tensor:
        found = smooth(tokens)
        return (found - found.mean()) / found.std()

    with pytest.raises(UserError, match="depends on the others in its batch"):
        estbench.measure(Plain(), whitened, "reinforce, rloo", **SMALL)


def test_a_policy_that_samples_at_another_temperature_is_refused() -> None:
    class Sharp(Plain):
        def sample_by(self, n: int, choose: Any) -> Tensor:
            return Tempered(OwnPolicy(Plain(self.length)), 0.5).sample_by(n, choose)

    with pytest.raises(UserError, match=r"^Sharp.sample_by does not draw .* a temperature of 0.5"):
        estbench.measure(Sharp(12), SmoothReward(V, 12, 1), "rloo", **SMALL)


@pytest.mark.parametrize("double", ["table", "output"])
def test_layers_may_be_of_different_types(double: str) -> None:
    class Mixed(Half):
        def __init__(self) -> None:
            super().__init__()
            getattr(self, double).double()

        def logits(self, state: Tensor) -> Tensor:
            return self.output(state.to(self.output.weight.dtype))

    (row,) = estbench.measure(Mixed(), smooth, "rloo", draws=256).to_dict("records")
    assert row["meter_fault"] == ""
    expected = exact(OwnPolicy(Half()), smooth).leave_one_out_variance(8)
    assert row["variance_low"] < expected < row["variance_high"]


def test_autocast_around_the_measurement_is_refused() -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(UserError, match="use it inside the policy's step instead"),
    ):
        estbench.measure(Half(), smooth, "rloo", **SMALL)


def test_a_sampler_that_cannot_be_used_is_said() -> None:
    class Sampling(Plain):
        def sample(self, n: int, rng: torch.Generator) -> Tensor:
            raise AssertionError

    with pytest.warns(
        estbench.EstbenchWarning, match=r"Sampling.sample is not used: .*sample_from"
    ):
        estbench.measure(Sampling(), smooth, "rloo", **SMALL)


def test_faster_ways_of_a_plain_module_are_used() -> None:
    used = set()

    class Fast(Plain):
        def log_probs(self, tokens: Tensor) -> Tensor:
            used.add("log_probs")
            return OwnPolicy.trace(OwnPolicy(self), tokens)[0]

        def sample_from(self, uniforms: Tensor) -> Tensor:
            used.add("sample_from")
            return OwnPolicy(Plain()).sample_from(uniforms)

    estbench.measure(Fast(), smooth, "reinforce", draws=8)
    assert used == {"log_probs", "sample_from"}


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({"end": V}, "Plain.end is 3: it must be a token, 0 to 2, or None"),
        ({"contexts": torch.zeros(4, H)}, "Plain.contexts is Tensor: it must be estbench.Contexts"),
        ({"truncation": -1}, "Plain.truncation is -1: it must be a number of steps, or 0"),
    ],
)
def test_a_declaration_of_the_wrong_kind_is_named(declared: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        estbench.measure(altered(**declared), smooth, "rloo", **SMALL)
