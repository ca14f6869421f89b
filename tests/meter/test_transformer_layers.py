"""The layers of transformers' language models are metered without a loop, and it is the loop's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from models.tiny_language_models import MODELS, PROMPTS, T, gpt2, llama, policy, with_adapters
from torch import Tensor, nn

import estbench
from estbench import estimators
from estbench.meter.gradients import Tape
from estbench.meter.notices import EstbenchWarning, listening, warn
from estbench.meter.own import adapted
from estbench.models.huggingface import LanguageModel
from estbench.proof.rewards import rng

METHODS = ["reinforce", "rloo", "all-actions", "seqgan-rollouts"]
FAMILIES = ["gpt2", "llama", "qwen2", "gemma", "qwen3"]
IN_FLOAT32 = ("norm.weight", "layernorm.weight")
"""Of these autograd adds up a gradient in float32, whatever the type of the model (Gemma's)."""


class Reward:
    """A number for each answer, of no meaning: no two are alike."""

    is_relaxed = False
    hard_evals = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        return (tokens + 0.7 * torch.arange(tokens.shape[1])).sin().sum(dim=1)


def taped(made: LanguageModel, name: str = "rloo", draws: int = 6) -> tuple[Tape, Any]:
    own, method = adapted(made), estimators.make(name)
    with Tape(own) as tape:
        surrogate = method.surrogate(own, Reward(), draws, rng(4), method.initial_state(own, rng()))
    return tape, surrogate


def loop(tape: Tape, surrogate: Any) -> list[Tensor]:
    rows = [
        torch.autograd.grad(v, tape.parameters, retain_graph=True, materialize_grads=True)
        for v in surrogate.values
    ]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def check(made: LanguageModel, name: str = "rloo", tolerance: float = 1e-10) -> Tape:
    """Check each tensor's draws, and the squared norms, against a loop of backward passes."""
    tape, surrogate = taped(made, name)
    rows = loop(tape, surrogate)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    assert tape.declined == {}
    gemma = "Gemma" in type(made.model).__name__
    for label, row in zip(tape.names, rows, strict=True):
        assert bool(row.any()), label
        close = max(tolerance, 1e-6) if gemma and label.endswith(IN_FLOAT32) else tolerance
        gap = (found.tensor(label) - row).abs().max()
        assert gap <= close * row.abs().max(), label
    norms = torch.stack([row.double().flatten(1).square().sum(dim=1) for row in rows]).sum(dim=0)
    close = max(tolerance, 1e-6) if gemma else tolerance
    torch.testing.assert_close(found.squared_norms().double(), norms, rtol=close, atol=0)
    return tape


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_draws_are_those_of_the_loop(name: str, method: str) -> None:
    check(policy(name, temperature=0.8, top_k=9), method)


def test_a_window_and_capped_logits_are_metered_too() -> None:
    check(policy("gemma2", torch.float32), tolerance=1e-5)


def test_a_vocabulary_too_large_for_dense_rows_is_metered() -> None:
    for model in (gpt2(vocab_size=70), llama(pad_token_id=3, tie_word_embeddings=True)):
        check(estbench.from_huggingface(model.double(), PROMPTS, T))


def test_what_is_made_of_a_large_tied_table_is_that_of_whole_gradients() -> None:
    made = estbench.from_huggingface(gpt2(vocab_size=70).double(), PROMPTS, T)
    tape, surrogate = taped(made)
    other = replace(surrogate, weights=surrogate.weights.cos())
    a, b = (tape.differentiate(s, retain_graph=True) for s in (surrogate, other))
    assert a.factors.factors[0].rest is not None  # tokens are not spread out over the table
    whole = [torch.cat(list(each.chunks())) for each in (a, b)]
    direction = [torch.randn(p.shape, generator=rng(5)).double() for p in tape.parameters]
    flat = torch.cat([v.flatten() for v in direction])
    mixed = a.factors.plus(b.factors, [0.3] * len(a.names)).squared_norms()
    squares = torch.cat([s.flatten() for s in a.second_moments(4)[1]])
    by_tensor = torch.stack(a.factors.gram_by_tensor([a.factors, b.factors])).sum(dim=0)
    for found, wanted in (
        (a.squared_norms(), whole[0].square().sum(dim=1)),
        (a.squared_norms_by_tensor().sum(dim=0), whole[0].square().sum(dim=1)),
        (a.inner(b), (whole[0] * whole[1]).sum(dim=1)),
        (by_tensor[:, 0, 1], (whole[0] * whole[1]).sum(dim=1)),
        (mixed, (whole[0] + 0.3 * whole[1]).square().sum(dim=1)),
        (a.dots(direction), whole[0] @ flat),
        (a.block_sums(3), whole[0].reshape(3, 2, -1).sum(dim=1)),
        (torch.cat([g.flatten() for g in a.factors.sums()]), whole[0].sum(dim=0)),
        (squares, whole[0][:4].square().sum(dim=0)),
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_adapters_alone_are_metered(name: str) -> None:
    model = with_adapters(MODELS[name]()).double()
    made = estbench.from_huggingface(model, PROMPTS, T, adapter_only=True)
    tape = check(made)
    assert len(tape.names) == 4
    assert len(tape.taps) == 4  # nothing is held for frozen layers


def test_frozen_layers_are_left_out() -> None:
    model = gpt2().double()
    for frozen in (model.transformer.wpe, model.transformer.h[0], model.transformer.ln_f):
        frozen.requires_grad_(False)
    tape = check(estbench.from_huggingface(model, PROMPTS, T))
    assert not any(".wpe." in name or ".h.0." in name for name in tape.names)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_in_half_precision_are_metered_in_float32(name: str) -> None:
    made = policy(name, torch.bfloat16)
    tape, surrogate = taped(made)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    assert all(each.dtype == torch.float32 for each in found.sums)
    rows = loop(tape, surrogate)
    norms = torch.stack([row.float().flatten(1).square().sum(dim=1) for row in rows]).sum(dim=0)
    torch.testing.assert_close(found.squared_norms(), norms, rtol=0.03, atol=0)


class ShiftedRMSNorm(nn.Module):
    """Named like a normalisation of transformers, and none: its weight is a shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dtype=torch.float64))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_a_layer_that_is_not_what_its_name_says_takes_the_loop_and_is_named() -> None:
    model = llama().double()
    model.model.norm = ShiftedRMSNorm(16)
    made = estbench.from_huggingface(model, PROMPTS, T)
    tape, surrogate = taped(made)
    rows = loop(tape, surrogate)
    with pytest.warns(EstbenchWarning, match="norm"), listening(lambda slow: warn(slow.line(""))):
        found = tape.differentiate(surrogate)
    assert tape.fault.startswith("model.model.norm.weight: the draws do not add up")
    for label, row in zip(tape.names, rows, strict=True):
        torch.testing.assert_close(found.tensor(label), row, rtol=0, atol=0)
