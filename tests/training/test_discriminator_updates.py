"""Hand-written discriminator updates are autograd's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.models.text_cnn import TextCNN
from estbench.training.discriminator import (
    shuffled_rows,
    train_by_autograd,
    train_discriminator,
)
from estbench.training.fused import FusedUpdates
from estbench.training.prefixes import merge_prefixes

CASES = {
    # name: V, T, updates, batch, share of tokens that break the grammar
    "paper, T=3": (5, 3, 3, 128, 0.1),
    "paper, T=15": (5, 15, 3, 128, 0.05),
    "padded": (6, 15, 2, 20, 0.3),
    "oracle": (50, 8, 2, 64, 1.0),
    "one token": (2, 1, 2, 3, 1.0),
    "a batch of one": (3, 4, 2, 1, 1.0),
    "prefixes past 62 bits": (50, 20, 2, 9, 1.0),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(case: str) -> tuple[Tensor, Tensor]:
    """Real strings x op x ... and generated ones that break the rule here and there."""
    V, T, updates, batch, broken = CASES[case]
    tokens = torch.zeros(2, updates, batch, T, dtype=torch.int64)
    operators = tokens[..., 1::2]
    operators.copy_(torch.randint(min(1, V - 1), V, operators.shape, generator=rng(1)))
    anything = torch.randint(V, tokens.shape[1:], generator=rng(2))
    breaks = torch.rand(anything.shape, generator=rng(3)) < broken
    return tokens[0], torch.where(breaks, anything, tokens[1])


def pair(
    vocabulary: int, dtype: torch.dtype, scale: float = 0.3
) -> tuple[LSTMDiscriminator, torch.optim.Adam]:
    model = LSTMDiscriminator(vocabulary, dtype=dtype).initialise(rng(), scale)
    return model, torch.optim.Adam(model.parameters(), lr=1e-2)


def fused_updates(
    model: LSTMDiscriminator, optimiser: torch.optim.Adam, real: Tensor, fake: Tensor
) -> None:
    plan = merge_prefixes(real, fake, model.vocabulary, model.output.weight.dtype)
    FusedUpdates(model, optimiser).run(plan, 2 * real.shape[1])


def close(a: nn.Module, b: nn.Module, tolerance: float) -> None:
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(
            x, y, atol=tolerance, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_autograds(case: str, dtype: torch.dtype, tolerance: float) -> None:
    real, fake = (x[:1] for x in batches(case))
    model, optimiser = pair(CASES[case][0], dtype)
    labels = torch.cat([torch.ones(len(real[0])), torch.zeros(len(fake[0]))]).to(dtype)
    logits = model(torch.cat([real[0], fake[0]]))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    exact = torch.autograd.grad(loss, list(model.parameters()))

    fused_updates(model, optimiser, real, fake)

    # After its first step, Adam's average is (1 - beta1) times the gradient.
    for parameter, gradient in zip(model.parameters(), exact, strict=True):
        mine = optimiser.state[parameter]["exp_avg"] / 0.1
        torch.testing.assert_close(mine, gradient, atol=tolerance, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_parameters_loss_and_accuracy_are_autograds(case: str) -> None:
    V, _, updates, batch, _ = CASES[case]
    real, fake = batches(case)
    model, optimiser = pair(V, torch.float64)
    other, reference = pair(V, torch.float64)
    pools = real.flatten(0, 1), fake.flatten(0, 1)
    rows = [shuffled_rows(len(pool), updates * batch, g) for pool in pools for g in [rng(7)]]
    stream = rng(7)
    order = [shuffled_rows(len(pool), updates * batch, stream) for pool in pools]
    assert torch.equal(rows[0], order[0])

    mine = train_discriminator(model, optimiser, *pools, updates, batch, rng(7))
    real, fake = (pool[r].view(updates, batch, -1) for pool, r in zip(pools, order, strict=True))
    exact = train_by_autograd(other, reference, real, fake)

    close(model, other, 1e-8)
    assert mine == pytest.approx(exact)


def test_a_long_epoch_stays_on_autograds_path() -> None:
    generator = rng(5)
    real = torch.zeros(150, 16, 3, dtype=torch.int64)
    real[..., 1] = torch.randint(1, 5, (150, 16), generator=generator)
    fake = torch.randint(5, (150, 16, 3), generator=generator)
    model, optimiser = pair(5, torch.float64)
    other = copy.deepcopy(model)
    reference = torch.optim.Adam(other.parameters(), lr=1e-2)
    fused_updates(model, optimiser, real, fake)
    train_by_autograd(other, reference, real, fake)
    close(model, other, 1e-6)


def test_adam_goes_on_from_either_path() -> None:
    real, fake = batches("paper, T=3")
    model, optimiser = pair(5, torch.float64)
    other, reference = pair(5, torch.float64)
    fused_updates(model, optimiser, real[:1], fake[:1])
    train_by_autograd(model, optimiser, real[1:2], fake[1:2])
    fused_updates(model, optimiser, real[2:], fake[2:])
    train_by_autograd(other, reference, real, fake)
    close(model, other, 1e-8)
    assert all(optimiser.state[p]["step"] == 3 for p in model.parameters())


def test_the_optimisers_state_can_be_saved_and_loaded() -> None:
    real, fake = batches("paper, T=3")
    model, optimiser = pair(5, torch.float32)
    fused_updates(model, optimiser, real, fake)
    other, reference = pair(5, torch.float32)
    other.load_state_dict(model.state_dict())
    reference.load_state_dict(optimiser.state_dict())
    for m, o in ((model, optimiser), (other, reference)):
        fused_updates(m, o, real, fake)
    close(model, other, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adam([{"params": [x]} for x in p], lr=0.1),
        lambda p: torch.optim.Adam(list(p)[:3], lr=0.1),
    ],
)
def test_what_is_not_plain_adam_is_left_to_autograd(make) -> None:  # type: ignore[no-untyped-def]
    model, _ = pair(5, torch.float64)
    optimiser = make(model.parameters())
    assert not FusedUpdates.supports(model, optimiser)
    real, fake = (x.flatten(0, 1) for x in batches("paper, T=3"))
    before = [p.clone() for p in model.parameters()]
    loss, _ = train_discriminator(model, optimiser, real, fake, 2, 8, rng())
    assert math.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_shared_prefixes_are_computed_once(case: str) -> None:
    real, fake = batches(case)
    plan = merge_prefixes(real, fake, CASES[case][0], torch.float32)
    rows = torch.cat([real, fake], dim=1)
    updates, n, T = rows.shape
    assert sum(stage.steps for stage in plan.stretches) == T
    assert torch.equal(plan.rows.sum(dim=1), torch.full((updates,), float(n)))
    assert torch.equal(plan.real.sum(dim=1), torch.full((updates,), n / 2))
    # Following parents from every last column back gives the rows, as often as they occur.
    for u in range(updates):
        column = torch.arange(plan.rows.shape[1])
        tokens = torch.empty(0)
        for stage in reversed(plan.stretches):
            tokens = torch.cat([stage.tokens[u][:, column].t(), tokens.reshape(len(column), -1)], 1)
            if stage.parents is not None:
                column = stage.parents[u][column]
        for half, counts in ((rows[u], plan.rows[u]), (real[u], plan.real[u])):
            rebuilt = tokens.long().repeat_interleave(counts.long(), dim=0)
            assert sorted(rebuilt.tolist()) == sorted(half.tolist())


def test_four_strings_of_three_tokens_need_sixteen_columns_not_256() -> None:
    real, fake = (x for x in batches("paper, T=3"))
    plan = merge_prefixes(real, real, 5, torch.float32)
    assert [stage.width for stage in plan.stretches] == [16]
    assert merge_prefixes(real, fake, 5, torch.float32).stretches[-1].width <= 48


def test_no_sequence_comes_back_before_all_have_been_used() -> None:
    rows = shuffled_rows(10, 25, rng())
    assert sorted(rows[:10].tolist()) == sorted(rows[10:20].tolist()) == list(range(10))
    assert len(set(rows[20:].tolist())) == 5
    assert torch.equal(rows, shuffled_rows(10, 25, rng()))


def test_it_learns_to_tell_expressions_from_noise() -> None:
    real = torch.zeros(500, 3, dtype=torch.int64)
    real[:, 1] = torch.randint(1, 5, (500,), generator=rng())
    fake = torch.randint(5, (500, 3), generator=rng(1))
    model = LSTMDiscriminator(5).initialise(rng())
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = train_discriminator(model, optimiser, real, fake, 10, 64, rng(2))
    train_discriminator(model, optimiser, real, fake, 300, 64, rng(3))
    last = train_discriminator(model, optimiser, real, fake, 10, 64, rng(4))
    assert first[0] == pytest.approx(math.log(2), abs=0.02)
    assert last[0] < 0.35
    assert last[1] > 0.9


def test_no_updates_change_nothing() -> None:
    model, optimiser = pair(5, torch.float32)
    before = copy.deepcopy(model)
    tokens = torch.zeros(4, 3, dtype=torch.int64)
    loss, accuracy = train_discriminator(model, optimiser, tokens, tokens, 0, 2, rng())
    assert math.isnan(loss)
    assert math.isnan(accuracy)
    close(model, before, 0)


def text_cnn(seed: int = 0) -> tuple[TextCNN, torch.optim.Adam]:
    model = TextCNN(8, 6, widths=(1, 2, 3), maps=(10, 10, 10)).initialise(rng(seed))
    return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def two_laws(n: int) -> tuple[Tensor, Tensor]:
    """Sequences that count upwards from anywhere, and uniform tokens."""
    start = torch.randint(8, (n, 1), generator=rng(1))
    return (start + torch.arange(6)) % 8, torch.randint(8, (n, 6), generator=rng(2))


def test_the_text_cnn_learns_to_tell_two_laws() -> None:
    model, optimiser = text_cnn()
    real, fake = two_laws(400)
    first = train_discriminator(model, optimiser, real, fake, 10, 32, rng(3))
    train_discriminator(model, optimiser, real, fake, 200, 32, rng(4))
    last = train_discriminator(model, optimiser, real, fake, 10, 32, rng(5))
    assert last[0] < first[0] / 2
    assert last[1] > 0.95
    with torch.no_grad():
        assert model(real).mean() > 1 > -1 > model(fake).mean()


def test_the_text_cnns_updates_are_their_streams_alone() -> None:
    real, fake = two_laws(100)
    before = torch.get_rng_state()
    (a, first), (b, second), (c, third) = text_cnn(), text_cnn(), text_cnn()
    found = train_discriminator(a, first, real, fake, 5, 16, rng(3))
    assert found == train_discriminator(b, second, real, fake, 5, 16, rng(3))
    close(a, b, 0)
    assert found != train_discriminator(c, third, real, fake, 5, 16, rng(4))
    assert torch.equal(before, torch.get_rng_state())


def test_the_objective_is_the_cross_entropy_with_dropout_and_the_penalty() -> None:
    real, fake = (x[:9] for x in two_laws(9))
    model, _ = text_cnn()
    other = copy.deepcopy(model)
    loss, _ = train_by_autograd(
        model, torch.optim.SGD(model.parameters(), lr=0.1), real[None], fake[None], rng(3)
    )
    logits = other.training_logits(torch.cat([real, fake]), rng(3))
    p = logits.sigmoid()
    entropy = -(p[:9].log().sum() + (1 - p[9:]).log().sum()) / 18
    (entropy + other.penalty()).backward()
    assert loss == pytest.approx(entropy.item(), rel=1e-5)
    for mine, parameter in zip(model.parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(mine, parameter - 0.1 * parameter.grad, atol=1e-6, rtol=0)


def test_dropout_without_a_stream_is_refused() -> None:
    real, fake = two_laws(4)
    with pytest.raises(TypeError, match="give rng"):
        train_by_autograd(*text_cnn(), real[None], fake[None])


def test_epochs_over_one_set_of_fakes_are_so_many_more_updates() -> None:
    seen: list[Tensor] = []

    class Listening(LSTMDiscriminator):
        def forward(self, sequences):  # type: ignore[no-untyped-def]
            seen.append(sequences)
            return super().forward(sequences)

    model = Listening(50).initialise(rng())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    real = torch.arange(24).unsqueeze(1)
    fake = torch.arange(24, 48).unsqueeze(1)
    train_discriminator(model, optimiser, real, fake, 3 * 24 // 8, 8, rng())
    for epoch in range(3):
        read = torch.cat([batch[8:] for batch in seen[3 * epoch : 3 * epoch + 3]])
        assert sorted(read.flatten().tolist()) == list(range(24, 48))
    assert not torch.equal(seen[0], seen[3])
