"""Torch's own layers are metered without a loop, and their draws are those of the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estbench import estimators
from estbench.meter.gradients import Tape
from estbench.models.policy import Policy
from estbench.models.trees import leaves
from estbench.proof.rewards import rng

from .layered import POLICIES, WIDTH, Cell, Layered, Recurrent, T, Transformer, V, encoder_layer
from .test_gradients import DRAWS, Pathwise, Scaled, loop, same, taped

METHODS: dict[str, Callable[[], Any]] = {
    "reinforce": lambda: estimators.make("reinforce"),
    "rollouts": lambda: estimators.make("seqgan-rollouts"),
    "groups": lambda: estimators.make("rloo"),
    "pathwise": Pathwise,  # several calls, three rows a draw in some of them
}


def check(policy: Policy, method: Any, fault: str = "") -> None:
    tape, surrogate = taped(method, policy)
    rows = loop(policy, surrogate)
    found = tape.differentiate(surrogate)
    if fault:
        assert fault in tape.fault
        assert tape.fault.split(":")[0] in dict(policy.named_parameters())
    else:
        assert tape.fault == ""
    same(found, rows, 1e-12)
    assert not any("forward" in vars(m) for m in policy.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole sequences", "step by step"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_layer_is_metered_without_a_loop(name: str, whole: bool, method: str) -> None:
    check(POLICIES[name](whole), METHODS[method]())


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_computed_does_not_change_while_the_meter_listens(name: str) -> None:
    policy = POLICIES[name](True)
    tokens = torch.randint(V, (7, T), generator=rng(1))
    expected = policy.log_probs(tokens)
    with Tape(policy):
        found = policy.log_probs(tokens)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def check_products(policy: Policy, method: Any) -> None:
    """Check the inner products of an estimator's components."""
    tape, surrogate = taped(method, policy)
    flat = [
        torch.cat([r.flatten(1) for r in loop(policy, surrogate, c.weights)], dim=1)
        for c in surrogate.components
    ]
    expected = torch.stack([torch.stack([(a * b).sum(1) for b in flat], 1) for a in flat], 1)
    gram = tape.gram(surrogate, surrogate.components)
    torch.testing.assert_close(gram, expected, atol=1e-12 * float(expected.abs().max()), rtol=0)


def check_norms(policy: Policy) -> None:
    """Check the mean squared norm and its slope, which a learned control variate descends."""
    tape, surrogate = taped(estimators.make("reinforce"), policy)
    weights = surrogate.weights.detach().clone().requires_grad_()
    found = tape.mean_squared_norm(surrogate, weights, None)
    (slope,) = torch.autograd.grad(found, weights)
    # |sum_t w_t S_t|^2 is a quadratic form in the weights, with the scores' inner products in it.
    grams = []
    for row in surrogate.log_probs:
        scores = [
            torch.autograd.grad(
                x, list(policy.parameters()), retain_graph=True, materialize_grads=True
            )
            for x in row
        ]
        matrix = torch.stack([torch.cat([g.flatten() for g in parts]) for parts in scores])
        grams.append(matrix @ matrix.T)
    gram, w = torch.stack(grams), weights.detach()
    expected = torch.einsum("nt,nts,ns->n", w, gram, w).mean()
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-10)
    expected = 2 * torch.einsum("nts,ns->nt", gram, w) / DRAWS
    torch.testing.assert_close(slope, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ["relax", "rebar-soft"])
@pytest.mark.parametrize("layer", ["lstm", "gru", "transformer", "layer norm"])
def test_what_is_learned_learns_from_the_gradients_of_the_loop(layer: str, name: str) -> None:
    check_products(POLICIES[layer](True), estimators.make(name))


@pytest.mark.parametrize("name", POLICIES)
def test_mean_squared_norms_and_their_slopes_are_those_of_the_loop(name: str) -> None:
    check_norms(POLICIES[name](True))


class Tied(Layered):
    """The output layer's weight is the embedding's table."""

    def __init__(self, kind: str) -> None:
        super().__init__(nn.LSTMCell(WIDTH, WIDTH), False)
        table: nn.Module = nn.Embedding(V + 1, WIDTH, dtype=torch.float64)
        self.table = table
        self.output = nn.Linear(WIDTH, V + 1, dtype=torch.float64)
        self.output.weight = table.weight
        with torch.no_grad():
            table.weight.normal_(0, 0.6, generator=rng(3))

    def embedded(self, tokens: Tensor | None, n: int) -> Tensor:
        return self.table(torch.full((n,), V) if tokens is None else tokens)

    def initial_state(self, n: int) -> tuple[Tensor, Tensor]:
        return (torch.zeros(n, WIDTH).double(), torch.zeros(n, WIDTH).double())

    def step(self, previous: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        state = self.core(self.embedded(previous, state[0].shape[0]), state)
        return self.output(state[0])[:, :V].log_softmax(dim=-1), state


def test_a_table_that_serves_as_embedding_and_output_layer() -> None:
    check(Tied("lstm"), estimators.make("rloo"))


def test_products_of_two_weightings_hold_for_a_table_that_is_both() -> None:
    """Where the table makes the logits, both of its factors change with the weights."""
    policy = Tied("lstm")
    tape, surrogate = taped(estimators.make("reinforce"), policy)
    other = replace(surrogate, weights=surrogate.weights.cos())
    a, b = (tape.differentiate(s, retain_graph=True) for s in (surrogate, other))
    rows = [torch.cat([g.flatten(1) for g in loop(policy, s)], dim=1) for s in (surrogate, other)]
    torch.testing.assert_close(a.inner(b), (rows[0] * rows[1]).sum(dim=1))
    both = a.factors.plus(b.factors, [0.3] * len(a.names))
    torch.testing.assert_close(both.squared_norms(), (rows[0] + 0.3 * rows[1]).square().sum(dim=1))
    by_tensor = a.factors.gram_by_tensor([a.factors, b.factors])
    found = torch.stack(by_tensor).sum(dim=0)[:, 0, 1]
    torch.testing.assert_close(found, (rows[0] * rows[1]).sum(dim=1))


class Padded(Layered):
    """An embedding with a padding row, which has no gradient though its token occurs."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), False)
        self.table = nn.Embedding(V + 1, WIDTH, padding_idx=1, dtype=torch.float64)

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, WIDTH).double()

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.full(state.shape[:1], V) if previous is None else previous
        state = torch.tanh(self.core(state) + self.table(tokens))
        return self.output(state).log_softmax(dim=-1), state


def test_a_padding_row_has_no_gradient() -> None:
    check(Padded(), estimators.make("reinforce"))


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "gru cell", "transformer", "attention"])
def test_frozen_parts_are_left_out(name: str) -> None:
    policy = POLICIES[name](True)
    for i, parameter in enumerate(policy.parameters()):
        parameter.requires_grad_(i % 2 == 1)
    tape, surrogate = taped(estimators.make("reinforce"), policy)
    trained = [p for p in policy.parameters() if p.requires_grad]
    rows = [
        torch.stack(parts)
        for parts in zip(
            *(torch.autograd.grad(v, trained, retain_graph=True) for v in surrogate.values),
            strict=True,
        )
    ]
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    same(found, rows, 1e-12)


def test_an_unused_layer_has_gradients_of_zero() -> None:
    policy = POLICIES["lstm"](True)
    policy.spare = nn.ModuleList(
        [nn.GRU(2, 2), nn.LayerNorm(3), nn.MultiheadAttention(4, 2)]
    ).double()
    check(policy, estimators.make("reinforce"))


def both_ways() -> Policy:
    core = nn.LSTM(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True)
    policy = Recurrent(core, True)
    policy.run = lambda x, state: (core(x[:, :1].expand_as(x))[0], state)  # type: ignore[method-assign]
    policy.initial_state = lambda n: [torch.zeros(n, 1)]  # type: ignore[method-assign]
    return policy


def added_keys() -> Policy:
    return Transformer(nn.MultiheadAttention(WIDTH, 2, batch_first=True, add_bias_kv=True), True)


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (both_ways, "nn.LSTM in both directions has no rule"),
        (added_keys, "nn.MultiheadAttention with added keys has no rule"),
    ],
)
def test_what_no_rule_covers_is_named_and_measured_draw_by_draw(
    policy: Callable[[], Policy], complaint: str
) -> None:
    made = policy()
    made.sample_by = lambda n, choose: torch.randint(V, (n, T), generator=rng(8))  # type: ignore[method-assign]
    check(made, estimators.make("reinforce"), complaint)


def test_active_dropout_is_left_to_the_loop_and_named() -> None:
    recurrent = Recurrent(nn.LSTM(WIDTH, WIDTH, 2, dropout=0.5, batch_first=True), True)
    check(recurrent, estimators.make("reinforce"), "nn.LSTM with active dropout has no rule")
    transformer = Transformer(encoder_layer(dropout=0.5, batch_first=True), True)
    attention = "nn.MultiheadAttention with active dropout has no rule"
    check(transformer, estimators.make("reinforce"), attention)
    for policy in (recurrent, transformer):
        check(policy.eval(), estimators.make("reinforce"))


class SharedPositions(Transformer):
    """Positions are embedded once for all rows, which the meter cannot take apart."""

    def __init__(self) -> None:
        super().__init__(encoder_layer(batch_first=True), True)
        self.positions = nn.Embedding(T, WIDTH, dtype=torch.float64)

    def over(self, x: Tensor) -> Tensor:
        return super().over(x + self.positions(torch.arange(T)))


def test_what_rows_share_is_named_with_the_remedy() -> None:
    check(SharedPositions(), estimators.make("reinforce"), "must be given to each row anew")


@pytest.mark.parametrize("policy", [Scaled, SharedPositions])
def test_what_is_learned_does_so_without_rules_as_well(policy: type[Policy]) -> None:
    check_products(policy(), estimators.make("reinforce-constant"))
    check_norms(policy())


def test_a_replaced_forward_pass_is_left_alone() -> None:
    policy = POLICIES["lstm"](True)
    core: Any = policy.core
    core.forward = lambda *inputs: nn.LSTM.forward(core, *inputs)
    own = core.forward
    tape, surrogate = taped(estimators.make("reinforce"), policy)
    assert core.forward is own
    rows = loop(policy, surrogate)
    same(tape.differentiate(surrogate), rows, 1e-12)
    assert tape.fault.startswith("core.weight_ih_l0: the draws do not add up")


MASKS: dict[str, Callable[[int, int, int], dict[str, Any]]] = {
    "none": lambda n, L, S: {},
    "boolean": lambda n, L, S: {"attn_mask": torch.ones(L, S, dtype=torch.bool).triu(1)},
    "added": lambda n, L, S: {"attn_mask": torch.linspace(-2, 2, L * S).reshape(L, S).double()},
    "by head": lambda n, L, S: {
        "attn_mask": torch.linspace(-2, 2, n * 2 * L * S).reshape(n * 2, L, S).double()
    },
    "padding": lambda n, L, S: {"key_padding_mask": torch.arange(S).expand(n, S) > 2},
    "both": lambda n, L, S: {
        "attn_mask": torch.ones(L, S, dtype=torch.bool).triu(1),
        "key_padding_mask": torch.arange(S).expand(n, S) == 3,
    },
    "causal": lambda n, L, S: {
        "attn_mask": nn.Transformer.generate_square_subsequent_mask(S, dtype=torch.float64)[:L],
        "is_causal": True,
    },
    "blind": lambda n, L, S: {
        "attn_mask": torch.eye(L, S, dtype=torch.bool) | (torch.arange(L) == 0)[:, None]
    },
}


@pytest.mark.parametrize("weights", ["none", "averaged", "by head"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_unrolled_attention_equals_torchs(mask: str, batch_first: bool, weights: str) -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, dtype=torch.float64)
    torch.nn.init.normal_(layer.in_proj_bias, generator=rng(2))
    n, L = 3, 5
    x = torch.randn((n, L, 8) if batch_first else (L, n, 8), generator=rng(1)).double()
    options = {
        **MASKS[mask](n, L, L),
        "need_weights": weights != "none",
        "average_attn_weights": weights == "averaged",
    }
    expected = layer(x, x, x, **options)
    with Tape(layer) as tape:
        found = layer(x, x, x, **options)
    assert len(tape.taps) == 2
    assert not tape.declined
    torch.testing.assert_close(
        found[0], expected[0].nan_to_num() if mask == "blind" else expected[0]
    )
    if weights == "none":
        assert found[1] is None
        assert expected[1] is None
    else:
        torch.testing.assert_close(found[1], expected[1].nan_to_num())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_unrolled_recurrences_equal_torchs(
    kind: type[nn.RNNBase], batch_first: bool, given: bool
) -> None:
    layer = kind(3, 4, num_layers=2, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(5, 6, 3, generator=rng(1), dtype=torch.float64)
    rows = 5 if batch_first else 6
    start = torch.randn(2, rows, 4, generator=rng(2), dtype=torch.float64)
    state: Any = (start, 0.5 * start) if kind is nn.LSTM else start
    inputs = (x, state) if given else (x,)
    expected = layer(*inputs)
    with Tape(layer) as tape:
        found = layer(*inputs)
    assert tape.taps
    assert not tape.declined
    torch.testing.assert_close(found, expected)


def test_cells_without_rows_and_single_sequences_go_their_own_way() -> None:
    for layer, x in (
        (nn.LSTM(3, 4), torch.ones(5, 3)),
        (nn.GRUCell(3, 4), torch.ones(3)),
        (nn.MultiheadAttention(4, 2), torch.ones(5, 4)),
    ):
        inputs = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
        expected = layer(*inputs)
        with Tape(layer) as tape:
            found = layer(*inputs)
        torch.testing.assert_close(found, expected)
        assert tape.declined
        assert not tape.taps


def test_layers_may_be_called_by_keyword() -> None:
    class Keyword(Cell):
        def step(self, previous: Tensor | None, state: Any) -> tuple[Tensor, Any]:
            embedded = self.embedded(previous, leaves(state)[0].shape[0])
            hidden = self.core(input=embedded, hx=state.get("h"))
            return self.output(input=hidden).log_softmax(dim=-1), {"h": hidden}

    check(Keyword(nn.GRUCell(WIDTH, WIDTH), False), estimators.make("reinforce"))


def test_infinite_masks_leave_no_trace() -> None:
    """A row that sees nothing has attention of zero, and gradients without NaN."""
    layer = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 3, 4, generator=rng(1), dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    with Tape(layer):
        out, weights = layer(x, x, x, attn_mask=mask)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert bool(slope.isfinite().all())
    assert float(weights[:, 0].detach().abs().sum()) == 0
    assert math.isclose(float(weights[:, 1].detach().sum()), 2)
