"""Maximum likelihood pre-training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from estbench.models.adam import Adam
from estbench.models.lstm_generator import Generator
from estbench.training import pretraining
from estbench.training.likelihood import summed_cross_entropy
from estbench.training.pretraining import fastest_loss, negative_log_likelihood, pretrain


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(dtype: torch.dtype = torch.float32, truncation: int = 0) -> Generator:
    model = Generator(5, 4, dtype=dtype, truncation=truncation)
    return model.initialise("normal", 0.3, rng())


DATA = torch.randint(5, (70, 4), generator=rng(9)) // 2


def test_the_likelihood_counts_every_token_the_first_included() -> None:
    model = generator(torch.float64)
    log_probs = model.log_probs(DATA)
    total = sum(
        log_probs[i, t, DATA[i, t]].item() for i in range(len(DATA)) for t in range(DATA.shape[1])
    )
    nll = negative_log_likelihood(model, DATA)
    assert nll.item() == pytest.approx(-total / DATA.numel())
    nll.backward()
    begin = model.embedding.weight.grad
    assert begin is not None
    assert begin[-1].abs().sum() > 0


@pytest.mark.parametrize("end", [None, 2])
@pytest.mark.parametrize("vocabulary", [5, 300])
def test_the_fast_path_gives_the_generators_likelihood_and_gradient(
    vocabulary: int, end: int | None
) -> None:
    model = Generator(vocabulary, 4, dtype=torch.float64, end=end).initialise("normal", 0.3, rng())
    data = DATA if end is None else torch.where((end == DATA).cummax(dim=1).values, end, DATA)
    ours, fused = negative_log_likelihood(model, data), fastest_loss(model)(data)
    assert fused.item() == pytest.approx(ours.item(), abs=1e-13)
    parameters = list(model.parameters())
    exact, mine = (torch.autograd.grad(loss, parameters) for loss in (ours, fused))
    for a, b in zip(exact, mine, strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=0)


def test_truncated_backpropagation_is_kept() -> None:
    cut, whole = generator(torch.float64, truncation=2), generator(torch.float64)
    grads = []
    for model in (cut, whole):
        (grad,) = torch.autograd.grad(fastest_loss(model)(DATA), model.recurrence.weight)
        grads.append(grad)
    (expected,) = torch.autograd.grad(negative_log_likelihood(cut, DATA), cut.recurrence.weight)
    torch.testing.assert_close(grads[0], expected)
    assert not torch.allclose(grads[0], grads[1])


def test_what_fills_a_sequence_up_is_no_token_of_it() -> None:
    model = Generator(5, 4, dtype=torch.float64, end=4).initialise("normal", 0.3, rng())
    tokens = torch.tensor([[1, 4, 4, 4], [0, 2, 1, 3]])
    log_probs = model.log_probs(tokens)
    real = [(0, 0), (0, 1), *((1, t) for t in range(4))]
    total = sum(log_probs[i, t, tokens[i, t]].item() for i, t in real)
    assert negative_log_likelihood(model, tokens).item() == pytest.approx(-total / len(real))


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_the_chunked_cross_entropy_is_the_librarys(scale: float) -> None:
    shapes = ((300, 6), (700, 6), (700,))  # more rows than a chunk holds
    hidden, weight, bias = (
        (scale * torch.randn(shape, generator=rng(k), dtype=torch.float64)).requires_grad_()
        for k, shape in enumerate(shapes)
    )
    targets = torch.randint(700, (300,), generator=rng(7))
    mine = summed_cross_entropy(hidden, weight, bias, targets)
    logits = hidden @ weight.t() + bias
    theirs = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(mine, theirs)
    inputs = (hidden, weight, bias)
    for a, b in zip(
        torch.autograd.grad(3 * mine, inputs), torch.autograd.grad(3 * theirs, inputs), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradients_are_cut_to_a_norm() -> None:
    # Adam's first step does not see the length of a gradient, the moments it leaves do.
    sizes = []
    for clip in (0.0, 1e-3):
        model = generator(torch.float64)
        with_moments: list[Adam] = []

        def kept(*args, **kwargs):  # type: ignore[no-untyped-def]
            with_moments.append(Adam(*args, **kwargs))  # noqa: B023
            return with_moments[0]  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pretraining, "Adam", kept)
            pretrain(model, DATA, 1, 100, 1e-3, rng(), clip=clip)
        moments = [state["exp_avg"] for state in with_moments[0].state.values()]
        sizes.append(10 * math.sqrt(sum(float((m**2).sum()) for m in moments)))
    assert sizes[0] > 1e-2
    assert sizes[1] == pytest.approx(1e-3, rel=1e-2)


def test_each_epoch_uses_every_sequence_once() -> None:
    seen: list[torch.Tensor] = []

    class Watched(Generator):
        def log_probs(self, tokens):  # type: ignore[no-untyped-def]
            seen.append(tokens)
            return super().log_probs(tokens)

    data = torch.cartesian_prod(*[torch.arange(3)] * 4)
    model = Watched(5, 4).initialise("normal", 0.1, rng())
    losses = pretrain(model, data, 2, 32, 1e-3, rng())
    assert [len(batch) for batch in seen] == [32, 32, 17] * 2
    for epoch in (seen[:3], seen[3:]):
        assert sorted(torch.cat(epoch).tolist()) == data.tolist()
    assert not torch.equal(seen[0], seen[3])
    assert len(losses) == 2


def test_the_reported_loss_is_the_mean_over_sequences() -> None:
    model = generator()
    expected = negative_log_likelihood(model, DATA).item()
    (loss,) = pretrain(model, DATA, 1, 32, 0.0, rng())
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_likelihood_approaches_the_datas_entropy() -> None:
    data = torch.zeros(1000, 4, dtype=torch.int64)
    data[:, 1::2] = torch.randint(1, 5, (1000, 2), generator=rng())
    losses = pretrain(generator(), data, 12, 50, 1e-2, rng())
    assert losses[0] > losses[1] > losses[-1]
    assert losses[-1] == pytest.approx(2 * math.log(4) / 4, abs=0.03)


def test_equal_streams_give_equal_generators() -> None:
    one = generator()
    two = copy.deepcopy(one)
    for model in (one, two):
        pretrain(model, DATA, 2, 16, 1e-3, rng(4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
