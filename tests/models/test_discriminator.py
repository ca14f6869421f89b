"""The discriminator: the paper's size, and one function of hard and of relaxed tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estbench.models.lstm_discriminator import LSTMDiscriminator


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences(n: int, length: int, vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (n, length), generator=rng())


def relaxed(n: int, length: int, vocabulary: int, dtype: torch.dtype) -> Tensor:
    logits = torch.randn(n, length, vocabulary, generator=rng(), dtype=dtype)
    return logits.softmax(dim=2)


def make(vocabulary: int = 5, dtype: torch.dtype = torch.float32, scale: float = 0.5):  # type: ignore[no-untyped-def]
    """Weights far larger than the paper's, so that nothing is nearly linear."""
    return LSTMDiscriminator(vocabulary, dtype=dtype).initialise(rng(), scale)


def test_it_has_the_papers_number_of_parameters() -> None:
    assert sum(p.numel() for p in LSTMDiscriminator(5).parameters()) == 5058


def test_its_parameters_start_as_in_the_paper() -> None:
    values = torch.cat([p.flatten() for p in LSTMDiscriminator(5).initialise(rng()).parameters()])
    assert values.std().item() == pytest.approx(0.02, rel=0.05)
    again = torch.cat([p.flatten() for p in LSTMDiscriminator(5).initialise(rng()).parameters()])
    assert torch.equal(values, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("length", "vocabulary"), [(1, 2), (3, 5), (15, 6), (8, 50)])
@pytest.mark.parametrize("training", [True, False])
def test_a_one_hot_is_the_token_bit_for_bit(
    dtype: torch.dtype, length: int, vocabulary: int, training: bool
) -> None:
    model = make(vocabulary, dtype).train(training)
    tokens = sequences(37, length, vocabulary)
    one_hot = torch.nn.functional.one_hot(tokens, vocabulary).to(dtype)
    assert torch.equal(model(tokens), model(one_hot))
    assert torch.equal(model(tokens), model(one_hot.requires_grad_()))
    with torch.no_grad():
        assert torch.equal(model(tokens), model(one_hot))


def test_reading_token_by_token_agrees_with_reading_at_once() -> None:
    model = make()
    for given in (sequences(20, 15, 5), relaxed(20, 15, 5, torch.float32)):
        state = model.initial_state(20)
        for t in range(15):
            state = model.step(given[:, t], state)
            torch.testing.assert_close(
                model.read(state), model(given[:, : t + 1]), atol=1e-5, rtol=1e-5
            )


def test_a_shared_prefix_can_be_read_once() -> None:
    model = make()
    prefix = sequences(1, 4, 5)
    state = model.initial_state(1)
    for t in range(4):
        state = model.step(prefix[:, t], state)
    hidden, cell = (x.repeat(5, 1) for x in state)
    ends = torch.arange(5)
    whole = torch.cat([prefix.expand(5, 4), ends.unsqueeze(1)], dim=1)
    torch.testing.assert_close(model.read(model.step(ends, (hidden, cell))), model(whole))


def test_its_derivatives_in_relaxed_tokens_are_those_of_finite_differences() -> None:
    model = make(3, torch.float64)
    weights = relaxed(2, 3, 3, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(model, (weights,))
    # Training a temperature through the reward needs the second derivative as well.
    assert torch.autograd.gradgradcheck(model, (weights,))


def test_rows_do_not_see_each_other_and_nothing_is_random() -> None:
    model = make(dtype=torch.float64).train()
    tokens = sequences(40, 6, 5)
    torch.testing.assert_close(model(tokens)[:7], model(tokens[:7]), atol=1e-12, rtol=0)
    assert torch.equal(model(tokens), model(tokens))
    assert torch.equal(model(tokens), model.eval()(tokens))
