"""SeqGAN at full size: V = 5000, T = 20, 1,720 feature maps, batch 64, 16 rollouts a position.

A row carries the operations of its matrix products and convolutions as they are defined, and its
exponentials. The bound is what these would take at the rates that the machine reaches in the same
session; a multiple below 1 means that work is saved (table, shared prefixes, gradients of the
positions that won).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import DEVICE, PATIENCE, THREADS, Beside, Table, seconds_of, step_of, synchronised
from peers import Norms, norms_by_others, norms_by_tape

from estbench.estimators import make
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward
from estbench.models.text_cnn import TextCNN
from estbench.training.discriminator import train_discriminator
from estbench.training.pretraining import pretrain

V, T, BATCH, ROLLOUTS, H = 5000, 20, 64, 16, 32
STEPS = 30


@pytest.fixture(autouse=True)
def all_threads(one_thread: None) -> None:
    """Full size is worth every thread; ``one_thread`` puts the number back."""
    torch.set_num_threads(THREADS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def generator(vocabulary: int = V, length: int = T) -> Generator:
    made = Generator(vocabulary, length).initialise("normal", 0.1, torch.Generator().manual_seed(0))
    return made.to(DEVICE)


def discriminator(vocabulary: int = V, length: int = T) -> TextCNN:
    made = TextCNN(vocabulary, length).initialise(torch.Generator().manual_seed(1))
    return made.to(DEVICE)


def discriminator_flop(model: TextCNN) -> tuple[int, int]:
    """Operations of one sequence's convolutions, and of its highway and output layers."""
    T = model.length
    convolutions = sum(2 * m * w * d * (T - w + 1) for m, w, d in (f.shape for f in model.filters))
    return convolutions, 2 * model.features * (2 * model.features + 2)


def rewards_flop(model: TextCNN, batch: int, rollouts: int) -> float:
    """Operations of the rewards of a step, windows inside a prefix read once."""
    T = model.length
    past = sum(
        2 * m * w * d * min(T - w + 1, T - known)
        for m, w, d in (f.shape for f in model.filters)
        for known in range(1, T)
    )
    whole, rest = discriminator_flop(model)
    return batch * (whole + rest + rollouts * (past + (T - 1) * rest))


def step(name: str, vocabulary: int, length: int, batch: int, rollouts: int) -> Callable[[], None]:
    """Return one generator step: draws, rewards, gradients, their variance, Adam."""
    method = make(name, rollouts=rollouts)
    reward = Reward(discriminator(vocabulary, length))
    return step_of(method, generator(vocabulary, length), reward, batch, clip=5.0)


def step_cost(vocabulary: int, length: int, batch: int, rollouts: int) -> tuple[float, float]:
    """Return operations and exponentials of a step with rollouts."""
    rows = batch * length + batch * rollouts * length * (length - 1) / 2
    products = 2 * rows * H * vocabulary + 2 * rows * 2 * H * 4 * H
    gradients = 3 * 2 * batch * length * H * vocabulary
    judged = rewards_flop(discriminator(vocabulary, length), batch, rollouts)
    return products + gradients + judged, rows * vocabulary + 2 * batch * length * vocabulary


def test_step_with_rollouts(beside: Beside) -> None:
    flop, exponentials = step_cost(V, T, BATCH, ROLLOUTS)
    run = step("seqgan-rollouts", V, T, BATCH, ROLLOUTS)
    beside("policy-gradient step, 16 rollouts", run, flop=flop, exponentials=exponentials)


@torch.no_grad()
def rewards_as_commonly_written(policy: Generator, model: TextCNN, tokens: torch.Tensor) -> None:
    """The same rewards by the loops that SeqGAN's ports have: a rollout and a prefix at a time.

    Every continuation begins at the first token, tokens are drawn by ``torch.multinomial``, and
    the discriminator convolves images of one channel, 64 sequences at a time.
    """
    images = [f.unsqueeze(1) for f in model.filters]

    def judge(sequences: torch.Tensor) -> torch.Tensor:
        embedded = torch.nn.functional.embedding(sequences, model.embedding).unsqueeze(1)
        found = [torch.nn.functional.conv2d(embedded, f).squeeze(3).amax(dim=2) for f in images]
        features = (torch.cat(found, dim=1) + model.bias).relu()
        g, t = model.highway(features).chunk(2, dim=1)
        mixed = t.sigmoid() * g.relu() + (1 - t.sigmoid()) * features
        return model.output(mixed).softmax(dim=1)[:, 1]

    rewards = torch.zeros(tokens.shape, device=tokens.device)
    for _ in range(ROLLOUTS):
        for known in range(1, T):
            state, previous, rows = policy.initial_state(len(tokens)), None, []
            for t in range(T):
                log_probs, state = policy.step(previous, state)
                drawn = torch.multinomial(log_probs.exp(), 1).squeeze(1)
                previous = tokens[:, t] if t < known else drawn
                rows.append(previous)
            rewards[:, known - 1] += judge(torch.stack(rows, dim=1)) / ROLLOUTS
        rewards[:, -1] += judge(tokens) / ROLLOUTS


def test_rewards_of_a_step(beside: Beside) -> None:
    """Rollouts and rewards, which are nearly all of a step."""
    policy, model = generator(), discriminator()
    reward, noise = Reward(model), rng(3)
    tokens = policy.sample(BATCH, rng())

    def ours() -> None:
        uniforms = torch.rand(BATCH, ROLLOUTS, T - 1, T, generator=noise, device=DEVICE)
        reward(tokens)
        reward.of_rollouts(tokens, policy.continue_from(tokens, uniforms))

    def commonly() -> None:
        rewards_as_commonly_written(policy, model, tokens)

    beside("its rollouts and rewards", ours, {"loops, as commonly written": commonly})


def test_rollouts_alone(beside: Beside) -> None:
    policy = generator()
    tokens = policy.sample(BATCH, rng())
    uniforms = torch.rand(BATCH, ROLLOUTS, T - 1, T, generator=rng(1), device=DEVICE)
    rows = BATCH * ROLLOUTS * T * (T - 1) / 2
    beside(
        "its rollouts alone",
        lambda: policy.continue_from(tokens, uniforms),
        flop=2 * rows * H * (V + 8 * H),
        exponentials=rows * V,
    )


def test_evaluations(beside: Beside) -> None:
    """The rewards of 19,456 rollouts and 64 sequences; every sequence by itself beside it."""
    rolled = torch.randint(V, (BATCH, T - 1, ROLLOUTS, T), generator=rng(), device=DEVICE)
    tokens = torch.randint(V, (BATCH, T), generator=rng(), device=DEVICE)
    for t in range(T - 1):
        rolled[:, t, :, : t + 1] = tokens[:, None, : t + 1]
    sequences = torch.cat([tokens, rolled.flatten(0, 2)])
    model = discriminator()
    reward = Reward(model)

    def shared() -> None:
        reward(tokens)
        reward.of_rollouts(tokens, rolled)

    others = {"every sequence by itself": lambda: reward(sequences)}
    beside(
        f"its rewards alone: {len(sequences):,} evaluations",
        shared,
        others,
        flop=rewards_flop(model, BATCH, ROLLOUTS),
    )


@pytest.mark.parametrize("name", ["reinforce", "rloo", "rebar", "relax"])
def test_step_without_rollouts(beside: Beside, name: str) -> None:
    beside(f"policy-gradient step, {name}", step(name, V, T, BATCH, 0))


def test_generate(beside: Beside) -> None:
    policy, noise, rows = generator(), rng(), 10_000 * T
    beside(
        "10,000 sequences",
        lambda: policy.sample(10_000, noise),
        flop=2 * rows * H * (V + 8 * H),
        exponentials=rows * V,
    )


def test_likelihood_epoch(beside: Beside) -> None:
    policy = generator()
    data = torch.randint(V, (9_984, T), generator=rng(), device=DEVICE)
    noise, rows = rng(1), 9_984 * T
    beside(
        "epoch of maximum likelihood, 9,984 sequences",
        lambda: pretrain(policy, data, 1, 64, 1e-2, noise, clip=5.0),
        flop=3 * 2 * rows * H * (V + 8 * H),
        exponentials=rows * V,
        rounds=3,
    )


def test_discriminator_steps(beside: Beside) -> None:
    model, noise = discriminator(), rng()
    real, fake = torch.randint(V, (2, STEPS * BATCH // 2, T), generator=noise, device=DEVICE)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    beside(
        f"{STEPS} discriminator steps of {BATCH} sequences",
        lambda: train_discriminator(model, optimiser, real, fake, STEPS, BATCH // 2, noise),
        # Forward, and two products of the same size backward.
        flop=3 * STEPS * BATCH * sum(discriminator_flop(model)),
    )


def test_norms(beside: Beside) -> None:
    """1000 draws' squared norms, each way a chunk of draws at a time that suits it best."""
    policy = generator()
    draws = 1000
    tokens = policy.sample(draws, rng())
    weights = torch.randn(draws, T, generator=rng(1), device=DEVICE)

    def chunked(norms: Norms) -> Callable[[], None]:
        def by(chunk: int) -> None:
            for start in range(0, draws, chunk):
                norms(tokens[start : start + chunk], weights[start : start + chunk])

        best = min((25, 100, 250), key=lambda chunk: seconds_of(synchronised(lambda: by(chunk))))
        return lambda: by(best)

    others = {name: chunked(norms) for name, norms in norms_by_others(policy).items()}
    rows = draws * T
    beside(
        "1000 per-draw norms, V = 5000",
        chunked(norms_by_tape(policy)),
        others,
        # Logits, their gradient's way back (two products), and the Gram matrices of T x T.
        flop=3 * 2 * rows * H * V + 2 * rows * T * V,
        exponentials=2 * rows * V,
    )


GROWTH: dict[str, list[tuple[int, int, int, int]]] = {
    "V": [(v, T, BATCH, ROLLOUTS) for v in (500, 5000, 50_000)],
    "T": [(V, t, BATCH, 4) for t in (10, 20, 40, 80)],
    "the batch": [(V, T, b, ROLLOUTS) for b in (16, 64, 128)],
    "rollouts": [(V, T, BATCH, n) for n in (1, 4, 16, 32)],
}


@pytest.mark.parametrize("varied", GROWTH)
def test_growth(table: Table, varied: str) -> None:
    """How the seconds of a step with rollouts grow; the exponents stand below the table."""
    index = list(GROWTH).index(varied)
    for sizes in GROWTH[varied]:
        run = synchronised(step("seqgan-rollouts", *sizes))
        found = [seconds_of(run)]
        while len(found) < 3 and found[-1] < PATIENCE:
            found.append(seconds_of(run))
        table.growth.setdefault(varied, {})[sizes[index]] = min(found)
