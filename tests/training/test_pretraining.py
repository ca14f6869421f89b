"""Maximum likelihood pre-training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from estbench.models.generator import Generator
from estbench.training.pretraining import (
    fastest_log_probs,
    negative_log_likelihood,
    pretrain,
)


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
    nll = negative_log_likelihood(model.log_probs, DATA)
    assert nll.item() == pytest.approx(-total / DATA.numel())
    nll.backward()
    begin = model.embedding.weight.grad
    assert begin is not None
    assert begin[-1].abs().sum() > 0


def test_the_librarys_lstm_gives_the_generators_likelihood_and_gradient() -> None:
    model = generator(torch.float64)
    ours, fused = (
        negative_log_likelihood(log_probs, DATA)
        for log_probs in (model.log_probs, fastest_log_probs(model))
    )
    assert fused.item() == pytest.approx(ours.item(), abs=1e-13)
    parameters = list(model.parameters())
    exact, mine = (torch.autograd.grad(loss, parameters) for loss in (ours, fused))
    for a, b in zip(exact, mine, strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=0)


def test_truncated_backpropagation_is_kept() -> None:
    model = generator(truncation=2)
    assert fastest_log_probs(model) == model.log_probs


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
    expected = negative_log_likelihood(model.log_probs, DATA).item()
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
