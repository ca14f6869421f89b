"""SeqGAN's TextCNN: its size and laws, and one function on every path, hard or relaxed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from estbench.models import text_cnn
from estbench.models.text_cnn import MAPS, WIDTHS, TextCNN

SMALL = {"embedding": 6, "widths": (1, 2, 4), "maps": (3, 4, 5)}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences(n: int, length: int, vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (n, length), generator=rng(1))


def relaxed(n: int, length: int, vocabulary: int) -> Tensor:
    logits = torch.randn(n, length, vocabulary, generator=rng(1), dtype=torch.float64)
    return logits.softmax(dim=2)


def rollouts(tokens: Tensor, N: int, vocabulary: int) -> Tensor:
    """Completions ``[n, T - 1, N, T]`` of all prefixes by uniform tokens."""
    n, T = tokens.shape
    completed = torch.randint(vocabulary, (n, T - 1, N, T), generator=rng(2))
    for t in range(T - 1):
        completed[:, t, :, : t + 1] = tokens[:, None, : t + 1]
    return completed


def small(dtype: torch.dtype = torch.float64, **changes: object) -> TextCNN:
    return TextCNN(5, 6, dtype=dtype, **{**SMALL, **changes}).initialise(rng())  # type: ignore[arg-type]


def by_definition(model: TextCNN, tokens: Tensor) -> Tensor:
    """Window by window, with the filters as matrices and the two outputs as a softmax."""
    embedded = model.embedding[tokens]
    features, start = [], 0
    for weight in model.filters:
        m, w, _ = weight.shape
        bias = model.bias[start : start + m]
        start += m
        windows = [
            (embedded[:, s : s + w].flatten(1) @ weight.flatten(1).t() + bias).relu()
            for s in range(tokens.shape[1] - w + 1)
        ]
        features.append(torch.stack(windows).amax(dim=0))
    x = torch.cat(features, dim=1)
    g, t = nn.functional.linear(x, model.highway.weight, model.highway.bias).chunk(2, dim=1)
    gate = t.sigmoid()
    outputs = model.output(gate * g.relu() + (1 - gate) * x).log_softmax(dim=1)
    return outputs[:, 1] - outputs[:, 0]


def test_at_twenty_tokens_it_has_seqgans_1720_maps() -> None:
    model = TextCNN(5000, 20)
    filters = sum(w * m * 64 + m for w, m in zip(WIDTHS, MAPS, strict=True))
    assert model.features == sum(MAPS) == 1720
    highway, output = 2 * (1720 * 1720 + 1720), 2 * 1720 + 2
    assert sum(p.numel() for p in model.parameters()) == 5000 * 64 + filters + highway + output


@pytest.mark.parametrize(("length", "features"), [(1, 100), (3, 500), (8, 1200), (19, 1560)])
def test_widths_beyond_the_length_are_left_out(length: int, features: int) -> None:
    model = TextCNN(7, length).initialise(rng())
    assert model.features == features
    assert model(sequences(3, length, 7)).shape == (3,)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"widths": (7, 8), "maps": (1, 1)}, "no width"),
        ({"maps": (1, 1)}, "as many maps"),
        ({"keep": 0.0}, "keep"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        small(**changes)  # type: ignore[arg-type]


def test_its_parameters_start_by_seqgans_laws() -> None:
    model = TextCNN(3000, 20).initialise(rng())
    embedding = model.embedding
    assert embedding.abs().max() <= 1
    assert embedding.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.01)
    for weight in (*model.filters, model.output.weight):
        assert weight.abs().max() <= 0.2
        # A normal law cut at two standard deviations keeps .880 of its own.
        assert weight.std().item() == pytest.approx(0.088, rel=0.05)
    assert (model.bias == 0.1).all()
    assert (model.output.bias == 0.1).all()
    assert model.highway.bias.tolist() == [0.0] * 1720 + [-2.0] * 1720
    again = TextCNN(3000, 20).initialise(rng())
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_the_global_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    model = small()
    model.training_logits(sequences(4, 6, 5), rng())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [1, 3, 400])
def test_the_logit_is_that_of_the_definition(n: int) -> None:
    model = small()
    tokens = sequences(n, 6, 5)
    expected = by_definition(model, tokens)
    torch.testing.assert_close(model(tokens), expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_full_size_agrees_with_the_definition(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = TextCNN(40, 20).initialise(rng())
        tokens = sequences(50, 20, 40)
        with torch.no_grad():
            torch.testing.assert_close(
                model(tokens), by_definition(model, tokens), atol=1e-4, rtol=1e-4
            )
        torch.testing.assert_close(
            model(tokens), by_definition(model, tokens), atol=1e-4, rtol=1e-4
        )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", [2, 300])
def test_a_one_hot_is_its_token(dtype: torch.dtype, tolerance: float, n: int) -> None:
    model = TextCNN(50, 8, dtype=dtype).initialise(rng())
    tokens = sequences(n, 8, 50)
    one_hot = nn.functional.one_hot(tokens, 50).to(dtype)
    close = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(model(tokens), model(one_hot), **close)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), model(one_hot), **close)


def test_its_derivatives_in_relaxed_tokens_are_those_of_finite_differences() -> None:
    model = small()
    weights = relaxed(2, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(model, (weights,))
    # Training a temperature through the reward needs the second derivative as well.
    assert torch.autograd.gradgradcheck(model, (weights,))


def test_rows_do_not_see_each_other_and_nothing_is_random() -> None:
    model = small().train()
    tokens = sequences(40, 6, 5)
    for mode in (torch.enable_grad(), torch.no_grad()):
        with mode:
            torch.testing.assert_close(model(tokens)[:7], model(tokens[:7]), atol=1e-12, rtol=0)
            assert torch.equal(model(tokens), model(tokens))
    weights = relaxed(40, 6, 5)
    assert torch.equal(model(weights), model(weights))
    torch.testing.assert_close(model(weights)[:7], model(weights[:7]), atol=1e-12, rtol=0)
    trained = model(tokens)
    assert torch.equal(trained, model.eval()(tokens))


def test_a_token_that_does_not_exist_is_an_error() -> None:
    model = small()
    for n in (1, 400):
        with torch.no_grad(), pytest.raises((RuntimeError, IndexError)):
            model(torch.full((n, 6), 5))


def test_without_dropout_the_training_logits_are_forwards() -> None:
    model = small(keep=1.0)
    for given in (sequences(9, 6, 5), relaxed(9, 6, 5)):
        torch.testing.assert_close(
            model.training_logits(given, rng()), model(given), atol=1e-12, rtol=0
        )


def test_dropout_keeps_three_quarters_and_the_expectation() -> None:
    # One feature of a constant 1, read by "real" with weight 1: the logit is the mask itself.
    model = TextCNN(2, 1, embedding=1, widths=(1,), maps=(1,), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bias.fill_(1)
        model.highway.bias[1] = -1e9
        model.output.weight[1] = 1
    n = 40_000
    masks = model.training_logits(torch.zeros(n, 1, dtype=torch.int64), rng())
    assert set(masks.tolist()) == {0.0, 4 / 3}
    kept = (masks > 0).double().mean().item()
    assert kept == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / n))


def test_dropout_is_its_streams_alone() -> None:
    model = small()
    tokens = sequences(20, 6, 5)
    first = model.training_logits(tokens, rng(3))
    assert torch.equal(first, model.training_logits(tokens, rng(3)))
    assert not torch.equal(first, model.training_logits(tokens, rng(4)))
    assert torch.equal(first, model.eval().training_logits(tokens, rng(3)))


def test_the_penalty_is_half_the_output_layers_squared_norm_times_its_weight() -> None:
    model = small()
    weight, bias = model.output.weight, model.output.bias
    assert model.penalty().item() == pytest.approx(
        0.2 * ((weight**2).sum() + (bias**2).sum()).item() / 2
    )
    gradients = torch.autograd.grad(model.penalty(), [weight, bias])
    torch.testing.assert_close(gradients, (0.2 * weight, 0.2 * bias))


@pytest.mark.parametrize("hard", [True, False])
def test_training_gradients_are_those_of_finite_differences(hard: bool) -> None:
    model = small()
    parameters = list(model.parameters())
    given = sequences(3, 6, 5) if hard else relaxed(3, 6, 5).requires_grad_()

    def logits(*_: Tensor) -> Tensor:
        return model.training_logits(given, rng(3))

    inputs = parameters if hard else [*parameters, given]
    assert torch.autograd.gradcheck(logits, inputs)


def test_gradients_of_repeated_windows_agree_with_the_dense_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small()
    tokens = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 2, 0, 2, 0, 2], [4, 4, 3, 4, 4, 3]])

    def gradients() -> tuple[Tensor, ...]:
        loss = model.training_logits(tokens, rng(3)).exp().sum()
        return torch.autograd.grad(loss, list(model.parameters()))

    sparse = gradients()
    monkeypatch.setattr(
        text_cnn, "_max_over_time", lambda e, f: text_cnn._convolve(e, f).max(dim=1).values
    )
    torch.testing.assert_close(sparse, gradients(), atol=1e-12, rtol=0)


def test_a_parameter_that_is_not_finite_makes_a_loss_and_gradients_that_are_not() -> None:
    model = small()
    with torch.no_grad():
        model.filters[1][0, 0, 0] = math.nan
    loss = model.training_logits(sequences(4, 6, 5), rng()).sum()
    loss.backward()
    assert loss.isnan()
    assert model.embedding.grad is not None
    assert model.embedding.grad.isnan().any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    ("vocabulary", "length", "n", "N"),
    [
        (5, 2, 3, 2),  # one prefix, one token
        (7, 3, 4, 3),
        (9, 8, 30, 5),  # the widths 9 to 20 are left out
        (40, 20, 6, 4),  # tables
        (3000, 20, 2, 2),  # convolutions for all widths
        (100, 12, 3, 1),  # tables for narrow filters, convolutions for wide ones
        (4, 25, 3, 2),
    ],
)
def test_shared_prefixes_change_no_logit(
    dtype: torch.dtype, tolerance: float, vocabulary: int, length: int, n: int, N: int
) -> None:
    model = TextCNN(vocabulary, length, dtype=dtype).initialise(rng())
    tokens = sequences(n, length, vocabulary)
    completed = rollouts(tokens, N, vocabulary)
    found = model.rollout_logits(tokens, completed)
    assert found.shape == (n, length - 1, N)
    assert not found.requires_grad
    plain = model(completed.flatten(0, 2)).view(found.shape)
    torch.testing.assert_close(found, plain, atol=tolerance * plain.std().item(), rtol=tolerance)


def test_chunks_change_no_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    tokens = sequences(13, 6, 5)
    completed = rollouts(tokens, 3, 5)
    whole = model.rollout_logits(tokens, completed)
    monkeypatch.setattr(TextCNN, "rows", 31)
    monkeypatch.setattr(text_cnn, "HIGHWAY_ROWS", 7)
    monkeypatch.setattr(text_cnn, "GATHER_ELEMENTS", 100)
    torch.testing.assert_close(model.rollout_logits(tokens, completed), whole, atol=1e-12, rtol=0)
    with torch.no_grad():
        plain = model(completed.flatten(0, 2)).view(whole.shape)
    torch.testing.assert_close(plain, whole, atol=1e-12, rtol=0)


def test_parameters_of_a_copy_can_be_loaded() -> None:
    model, other = small(), small()
    other.initialise(rng(9))
    other.load_state_dict(model.state_dict())
    tokens = sequences(5, 6, 5)
    assert torch.equal(model(tokens), other(tokens))
