"""The meter's per-draw gradients are those of a loop of backward passes, or it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estbench import estimators
from estbench.estimators.base import Component, Direct, Surrogate
from estbench.estimators.score_function import LeaveOneOut
from estbench.meter.bias import Centred
from estbench.meter.gradients import DrawGradients, Tape
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.proof.rewards import function_reward, rng
from estbench.proof.states import disturb

V, T, DRAWS = 4, 5, 12


def make_policy(dtype: torch.dtype, hidden: int = 6, truncation: int = 0) -> Generator:
    policy = Generator(V, T, embedding=5, hidden=hidden, dtype=dtype, truncation=truncation)
    return policy.initialise("normal", 0.5, rng(1))


def reward() -> Any:
    return Centred(function_reward(V, T, 2), 0.1)


def taped(method: Any, policy: Policy, draws: int = DRAWS) -> tuple[Tape, Surrogate]:
    state = method.initial_state(policy, rng(2))
    disturb(method, policy, state, rng(3))
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward(), draws, rng(4), state)
    return tape, surrogate


def loop(
    policy: nn.Module, surrogate: Surrogate, weights: Tensor | None = None, path: bool = True
) -> list[Tensor]:
    """Return gradients ``[draws, *shape]`` for each parameter, one backward pass a draw."""
    parameters = list(policy.parameters())
    w = surrogate.weights if weights is None else weights
    values = (surrogate.log_probs * w.detach()).sum(dim=1)
    if path and surrogate.pathwise is not None:
        values = values + surrogate.pathwise
    rows = [
        torch.autograd.grad(v, parameters, retain_graph=True, materialize_grads=True)
        for v in values
    ]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


class Pathwise:
    """A draw with score terms and two kinds of path: a soft trajectory, and its own log-probs.

    Every parameter has records of many calls: the trace, and each soft step of three rows a draw.
    """

    info = estimators.info("reinforce")

    def initial_state(self, policy: Policy, generator: torch.Generator) -> dict[str, Any]:
        return {}

    def surrogate(
        self, policy: Policy, f: Any, draws: int, generator: torch.Generator, state: dict[str, Any]
    ) -> Surrogate:
        tokens = policy.sample(draws, generator)
        log_probs = policy.log_probs(tokens)
        chosen = log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)
        gumbel = torch.randn(draws * 3, T, V, generator=generator, dtype=policy.dtype)
        inner, previous, rows = policy.initial_state(draws * 3), None, []
        for t in range(T):
            logits, inner = policy.step(previous, inner)
            previous = (logits + gumbel[:, t]).softmax(dim=-1)
            rows.append(previous)
        soft = f.relaxed(torch.stack(rows, dim=1)).reshape(draws, 3).sum(dim=1)
        path = soft + (log_probs**2).sum(dim=(1, 2))
        returns = f(tokens)
        weights = returns.unsqueeze(1) * torch.linspace(0.5, 1.5, T, dtype=policy.dtype)
        return Surrogate(chosen, weights, tokens.unsqueeze(1), returns.unsqueeze(1), pathwise=path)


CASES: dict[str, Callable[[], Any]] = {
    "reinforce": lambda: estimators.make("reinforce"),
    "rollouts": lambda: estimators.make("seqgan-rollouts"),
    "rloo": lambda: LeaveOneOut(3),
    "rebar A": lambda: estimators.make("rebar-soft"),
    "rebar B": lambda: estimators.make("rebar"),
    "rebar B, independent": lambda: estimators.make("rebar-independent"),
    "relax": lambda: estimators.make("relax"),
    "relax and rebar": lambda: estimators.make("relax-rebar"),
    "pathwise": Pathwise,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hidden", [3, 24])  # whole gradients are cheaper, Gram matrices are
@pytest.mark.parametrize("name", CASES)
def test_the_meter_equals_a_loop_of_backwards(name: str, hidden: int, dtype: torch.dtype) -> None:
    policy = make_policy(dtype, hidden)
    tape, surrogate = taped(CASES[name](), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    same(found, rows, 1e-12 if dtype == torch.float64 else 2e-5)


def same(found: DrawGradients, rows: list[Tensor], tolerance: float) -> None:
    flat = torch.cat([r.flatten(1) for r in rows], dim=1)
    scale = float(flat.norm(dim=1).max())
    assert scale > 0.05

    def equal(a: Tensor, b: Tensor, size: float) -> None:
        torch.testing.assert_close(a, b, atol=tolerance * size, rtol=0)

    norms = torch.stack([r.flatten(1).norm(dim=1) ** 2 for r in rows])
    equal(torch.cat(list(found.chunks(5))), flat, scale)
    equal(found.squared_norms(), norms.sum(dim=0), scale**2)
    equal(found.squared_norms_by_tensor(), norms, scale**2)
    direction = [torch.randn(r.shape[1:], generator=rng(5), dtype=r.dtype) for r in rows]
    along = torch.cat([d.flatten() for d in direction])
    equal(found.dots(direction), flat @ along, scale * float(along.norm()))
    equal(torch.cat([s.flatten() for s in found.sums]), flat.sum(dim=0), DRAWS * scale)
    equal(torch.cat([s.flatten() for s in found.mean()]), flat.mean(dim=0), scale)
    equal(found.block_sums(4), flat.reshape(4, 3, -1).sum(dim=1), 3 * scale)
    equal(found.inner(found), norms.sum(dim=0), scale**2)


@pytest.mark.parametrize("truncation", [1, 2])
def test_truncated_gradients_equal_a_loop_of_backwards(truncation: int) -> None:
    policy = make_policy(torch.float64, truncation=truncation)
    for name in ("reinforce", "pathwise"):
        tape, surrogate = taped(CASES[name](), policy)
        rows = loop(policy, surrogate)
        found = tape.differentiate(surrogate)
        assert tape.fault == ""
        same(found, rows, 1e-12)


def test_blocks_must_be_equal() -> None:
    tape, surrogate = taped(CASES["reinforce"](), make_policy(torch.float64))
    with pytest.raises(ValueError, match="12 draws do not fall into 5 equal blocks"):
        tape.differentiate(surrogate).block_sums(5)


@pytest.mark.parametrize("hidden", [3, 24])
@pytest.mark.parametrize("name", ["rebar A", "rebar B", "relax and rebar", "ema with rollouts"])
def test_inner_products_of_components_equal_the_loops(name: str, hidden: int) -> None:
    policy = make_policy(torch.float64, hidden)
    cases = {**CASES, "ema with rollouts": lambda: estimators.make("rebar-critic", rollouts=2)}
    tape, surrogate = taped(cases[name](), policy)
    flat = [
        torch.cat([r.flatten(1) for r in loop(policy, surrogate, c.weights)], dim=1)
        for c in surrogate.components
    ]
    expected = torch.stack([torch.stack([(a * b).sum(1) for b in flat], 1) for a in flat], 1)
    gram = tape.gram(surrogate, surrogate.components)
    assert gram.shape == (DRAWS, len(flat), len(flat))
    torch.testing.assert_close(gram, expected, atol=1e-12 * float(expected.abs().max()), rtol=0)
    # Scores and control variates differ: nothing above was a comparison of equals.
    assert float((gram[:, 0, 0] - gram[:, -1, -1]).abs().min()) > 1e-6


def test_inner_products_of_components_with_paths() -> None:
    policy = make_policy(torch.float64)
    tape, surrogate = taped(Pathwise(), policy)
    ones = torch.ones_like(surrogate.weights)
    components = [
        Component("score", surrogate.weights),
        Component("path", torch.zeros_like(ones), surrogate.pathwise),
    ]
    gram = tape.gram(surrogate, components)
    score = torch.cat([r.flatten(1) for r in loop(policy, surrogate, path=False)], dim=1)
    path = torch.cat([r.flatten(1) for r in loop(policy, surrogate, 0 * ones)], dim=1)
    torch.testing.assert_close(gram[:, 0, 0], (score * score).sum(1))
    torch.testing.assert_close(gram[:, 0, 1], (score * path).sum(1))
    torch.testing.assert_close(gram[:, 1, 1], (path * path).sum(1))


class Scaled(Policy):
    """A policy with one layer that the meter has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary, self.length = V, T
        self.table = nn.Embedding(V + 1, 6, dtype=torch.float64)
        self.output = nn.Linear(6, V, dtype=torch.float64)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, V, dtype=torch.float64))

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 6, dtype=torch.float64)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.full(state.shape[:1], V) if previous is None else previous
        state = torch.tanh(0.5 * state + self.table(tokens))
        return (self.output(state) * self.scale).log_softmax(dim=-1), state


class Gated(Policy):
    """A GRU built of plain linear layers and an embedding of tokens, hard or relaxed."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.vocabulary, self.length = V, T
        self.table = nn.Linear(V + 1, hidden, bias=False, dtype=torch.float64)
        self.inputs = nn.Linear(hidden, 3 * hidden, dtype=torch.float64)
        self.states = nn.Linear(hidden, 3 * hidden, bias=False, dtype=torch.float64)
        self.output = nn.Linear(hidden, V, dtype=torch.float64)
        self.hidden = hidden
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.6, generator=rng(6))

    def initial_state(self, n: int) -> dict[str, Tensor]:
        return {"h": torch.zeros(n, self.hidden, dtype=torch.float64)}

    def step(
        self, previous: Tensor | None, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        h = state["h"]
        if previous is None:
            previous = torch.full(h.shape[:1], V)
        if not previous.is_floating_point():
            rows = nn.functional.one_hot(previous, V + 1).double()
        else:
            rows = nn.functional.pad(previous, (0, 1))
        x = self.inputs(torch.tanh(self.table(rows))).chunk(3, dim=1)
        y = self.states(h).chunk(3, dim=1)
        reset, update = (x[0] + y[0]).sigmoid(), (x[1] + y[1]).sigmoid()
        h = update * h + (1 - update) * torch.tanh(x[2] + reset * y[2])
        return self.output(h).log_softmax(dim=-1), {"h": h}


class Embedded(Gated):
    """The same with torch's own embedding, for hard tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(V + 1, self.hidden, dtype=torch.float64)

    def step(
        self, previous: Tensor | None, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        h = state["h"]
        tokens = torch.full(h.shape[:1], V) if previous is None else previous
        x = self.inputs(self.table(tokens)).chunk(3, dim=1)
        y = self.states(h).chunk(3, dim=1)
        h = torch.tanh(x[0] + y[0]) * x[1].sigmoid() + y[2]
        return self.output(h).log_softmax(dim=-1), {"h": h}


@pytest.mark.parametrize("name", CASES)
def test_a_policy_of_plain_layers_is_metered_without_a_loop(name: str) -> None:
    policy = Gated()
    tape, surrogate = taped(CASES[name](), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    same(found, rows, 1e-12)


@pytest.mark.parametrize("name", ["reinforce", "rollouts", "rloo", "relax"])
def test_torchs_embedding_is_metered_without_a_loop(name: str) -> None:
    policy = Embedded()
    tape, surrogate = taped(CASES[name](), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    same(found, rows, 1e-12)


def test_a_large_vocabulary_of_torchs_embedding() -> None:
    table = nn.Embedding(200, 3, dtype=torch.float64)
    tokens = torch.randint(200, (DRAWS * 4, 2), generator=rng(7))
    tokens[::3] = 17  # the same row several times in a draw
    scale = torch.randn(DRAWS * 4, 2, 3, generator=rng(8), dtype=torch.float64)
    for shape in ((DRAWS, 8), (DRAWS, 8)):
        with Tape(table) as tape:
            out = (table(tokens) * scale).sin().sum(dim=2).reshape(shape)
        surrogate = Surrogate(out, torch.ones_like(out), tokens, out.detach())
        rows = loop(table, surrogate)
        found = tape.differentiate(surrogate)
        assert tape.fault == ""
        same(found, rows, 1e-12)


def test_an_unknown_layer_is_named_and_measured_draw_by_draw() -> None:
    policy = Scaled()
    tape, surrogate = taped(CASES["reinforce"](), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault.startswith("scale: the draws do not add up")
    same(found, rows, 1e-12)


class OutOfOrder:
    """Rows of the surrogate run backwards, those of the policy's calls forwards."""

    info = estimators.info("reinforce")

    def initial_state(self, policy: Policy, generator: torch.Generator) -> dict[str, Any]:
        return {}

    def surrogate(
        self, policy: Policy, f: Any, draws: int, generator: torch.Generator, state: dict[str, Any]
    ) -> Surrogate:
        tokens = policy.sample(draws, generator)
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        returns = f(tokens)
        weights = self.mix(returns.unsqueeze(1).expand(draws, T))
        return Surrogate(self.mix(chosen), weights, tokens.unsqueeze(1), returns.unsqueeze(1))

    def mix(self, rows: Tensor) -> Tensor:
        return rows.flip(0)


class Influence(OutOfOrder):
    """Each row's value takes something from its neighbour's: no row serves one draw alone."""

    def mix(self, rows: Tensor) -> Tensor:
        return rows + 0.3 * rows.roll(1, dims=0)


class SampleMajor(OutOfOrder):
    """Two rows a draw, laid out sample by sample."""

    def surrogate(
        self, policy: Policy, f: Any, draws: int, generator: torch.Generator, state: dict[str, Any]
    ) -> Surrogate:
        tokens = policy.sample(2 * draws, generator)
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        weights = f(tokens).unsqueeze(1).expand(2 * draws, T)
        pairs = [
            x.reshape(2, draws, T).transpose(0, 1).reshape(draws, 2 * T) for x in (chosen, weights)
        ]
        return Surrogate(*pairs, tokens.reshape(draws, 2, T), f(tokens).reshape(draws, 2))


class Shared(OutOfOrder):
    """One row more than the draws have: it belongs to no one."""

    def surrogate(
        self, policy: Policy, f: Any, draws: int, generator: torch.Generator, state: dict[str, Any]
    ) -> Surrogate:
        tokens = policy.sample(draws + 1, generator)
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        returns = f(tokens)[:-1]
        both = chosen[:-1] + 0.1 * chosen[-1:]
        weights = returns.unsqueeze(1).expand(draws, T)
        return Surrogate(both, weights, tokens[:-1].unsqueeze(1), returns.unsqueeze(1))


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (OutOfOrder, "embedding.weight: single draws differ from autograd's"),
        (Influence, "embedding.weight: single draws differ from autograd's"),
        (SampleMajor, "embedding.weight: single draws differ from autograd's"),
        (Shared, "a call has 13 rows, no multiple of 12 draws"),
    ],
)
def test_a_breach_of_the_row_contract_is_noticed_and_measured_right(
    method: Any, complaint: str
) -> None:
    policy = make_policy(torch.float64)
    tape, surrogate = taped(method(), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert complaint in tape.fault
    assert tape.fault.split(":")[0] in dict(policy.named_parameters())
    same(found, rows, 1e-12)


class Batched(Gated):
    """A policy that normalises over its batch, so that rows see each other."""

    def step(
        self, previous: Tensor | None, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        log_probs, state = super().step(previous, state)
        return log_probs, {"h": state["h"] - state["h"].mean(dim=0)}


def test_rows_that_see_each_other_inside_the_policy_are_noticed() -> None:
    policy = Batched()
    tape, surrogate = taped(CASES["reinforce"](), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert "single draws differ from autograd's" in tape.fault
    same(found, rows, 1e-12)


def test_an_unused_parameter_has_a_gradient_of_zero() -> None:
    policy = make_policy(torch.float64)
    policy.spare = nn.Linear(2, 2, dtype=torch.float64)
    tape, surrogate = taped(CASES["reinforce"](), policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    same(found, rows, 1e-12)
    assert float(found.squared_norms_by_tensor()[-2:].sum()) == 0


def test_a_tape_listens_only_while_it_is_open() -> None:
    policy = make_policy(torch.float64)
    with Tape(policy) as tape:
        policy.log_probs(torch.zeros(2, T, dtype=torch.int64))
        heard = len(tape.taps)
        policy.sample(3, rng())
        assert len(tape.taps) == heard
    policy.log_probs(torch.zeros(2, T, dtype=torch.int64))
    assert len(tape.taps) == heard > 0


@pytest.mark.parametrize("vocabulary", [V, 70])  # the latter's tokens are not made one-hot
@pytest.mark.parametrize("name", ["reinforce", "rloo", "rebar", "gumbel-softmax", "spsa"])
def test_second_moments_of_elements_are_those_of_the_loop(name: str, vocabulary: int) -> None:
    policy = Generator(vocabulary, T, embedding=5, hidden=6, dtype=torch.float64)
    policy.initialise("normal", 0.5, rng(1))
    method, f = estimators.make(name), Centred(function_reward(vocabulary, T, 2), 0.1)
    state = method.initial_state(policy, rng(2))
    disturb(method, policy, state, rng(3))
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, f, DRAWS, rng(4), state)
    if isinstance(surrogate, Direct):
        whole = list(surrogate.gradients(0, DRAWS))
    else:
        whole = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    for draws in (DRAWS, 5):
        sums, squares = found.second_moments(draws)
        for each, total, square in zip(whole, sums, squares, strict=True):
            torch.testing.assert_close(total, each[:draws].sum(dim=0))
            torch.testing.assert_close(square, each[:draws].square().sum(dim=0))


def test_second_moments_do_not_depend_on_how_many_draws_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tape, surrogate = taped(estimators.make("rebar"), make_policy(torch.float64))
    found = tape.differentiate(surrogate)
    _, together = found.second_moments(DRAWS)
    monkeypatch.setattr("estbench.meter.factors.CACHED_NUMBERS", 1)
    for a, b in zip(together, found.second_moments(DRAWS)[1], strict=True):
        torch.testing.assert_close(a, b)


def test_rounding_of_a_long_sum_is_no_fault() -> None:
    # Draws of RODEO score hundreds of sequences each: millions of rows reach few embeddings.
    table = nn.Embedding(1, 2)
    nn.init.ones_(table.weight)
    tokens = torch.zeros(16, 200_000, dtype=torch.int64)
    with Tape(table) as tape:
        log_probs = torch.cat(
            [table(part).sum(dim=2) for part in tokens.split(8_000, dim=1)], dim=1
        )
    weights = torch.randn(log_probs.shape, generator=rng(2))
    surrogate = Surrogate(log_probs, weights, tokens.unsqueeze(1), weights[:, :1])
    tape.differentiate(surrogate)
    assert tape.fault == ""
