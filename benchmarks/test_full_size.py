"""SeqGAN at its full size: V = 5000, T = 20, batch 64, 16 rollouts a position.

Each row carries what the work is bound by (matrix products and exponentials, as they are defined),
the seconds that they would take at this machine's own rates, measured in the same session, and the
multiple of them that was needed. On another machine of two cores (AVX-512, 400 GFLOP/s) the PyTorch
peers take, in seconds, with SeqGAN's original TensorFlow code last:

    policy-gradient step with rollouts and rewards      31.6, 32.7, 6.2
    10,000 sequences                                    21.7, 21.4, 2.5
    an epoch of maximum likelihood, 9,984 sequences     3.4, 3.6, 5.5
    1000 per-draw gradient norms, draw by draw          .68

``test_growth`` tells how the cost of a step grows with V, T, batch and rollouts.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import THREADS, Rates

from estbench.estimators import make
from estbench.estimators.base import Surrogate
from estbench.meter.gradients import Tape
from estbench.meter.moments import total_variance
from estbench.meter.step import measured_step
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward
from estbench.models.text_cnn import TextCNN
from estbench.training.pretraining import pretrain

V, T, BATCH, ROLLOUTS, H = 5000, 20, 64, 16, 32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def synchronised(work: Any) -> Any:
    """Return work that waits for the device before it says that it has ended."""

    def run() -> None:
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def discriminator_flop(model: TextCNN, batch: int, length: int, rollouts: int) -> float:
    """Operations of the rewards of a step, windows inside a prefix read once."""
    filters = [f.shape for f in model.filters]
    past = sum(
        2 * m * w * d * min(length - w + 1, length - known)
        for m, w, d in filters
        for known in range(1, length)
    )
    whole = sum(2 * m * w * d * (length - w + 1) for m, w, d in filters)
    rest = 2 * model.features * (2 * model.features + 2)
    return batch * (whole + rest + rollouts * (past + (length - 1) * rest))


def note(benchmark: Any, rates: Rates, flop: float, exponentials: float) -> None:
    """Add the bound and the multiple of it to a row."""
    bound = flop / rates.flops + exponentials / rates.exp2
    benchmark.extra_info |= {
        "device": DEVICE,
        "threads": rates.threads,
        "GFLOP": round(flop / 1e9, 1),
        "exponentials, 1e9": round(exponentials / 1e9, 2),
        "GFLOP/s of this machine": round(rates.flops / 1e9, 1),
        "exponentials/s of this machine, 1e9": round(rates.exp2 / 1e9, 2),
        "bound, seconds": round(bound, 3),
    }
    if benchmark.stats is not None:
        benchmark.extra_info["times the bound"] = round(benchmark.stats.stats.median / bound, 2)


def step(name: str, vocabulary: int, length: int, batch: int, rollouts: int) -> Any:
    """Return one generator step: draws, rewards, gradients, their variance, Adam."""
    policy = generator(vocabulary, length)
    reward = Reward(discriminator(vocabulary, length))
    method = make(name, rollouts=rollouts)
    state = method.initial_state(policy, rng())
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3, fused=True)
    noise = rng(2)

    def run() -> None:
        found, _, fault = measured_step(
            method,
            policy,
            reward,
            batch // method.info.group,
            noise,
            state,
            optimiser,
            check_rows=False,
            clip=5.0,
        )
        assert not fault
        total_variance(found)

    return run


def step_cost(vocabulary: int, length: int, batch: int, rollouts: int) -> tuple[float, float]:
    """Return operations and exponentials of a step with rollouts."""
    rows = batch * length + batch * rollouts * length * (length - 1) / 2
    products = 2 * rows * H * vocabulary + 2 * rows * 2 * H * 4 * H
    gradients = 3 * 2 * batch * length * H * vocabulary
    model = discriminator(vocabulary, length)
    judged = discriminator_flop(model, batch, length, rollouts)
    return products + gradients + judged, rows * vocabulary + 2 * batch * length * vocabulary


def test_step_with_rollouts(benchmark: Any, rates: Rates) -> None:
    benchmark.group = "policy-gradient step with 16 rollouts and rewards"
    run = synchronised(step("seqgan-rollouts", V, T, BATCH, ROLLOUTS))
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    note(benchmark, rates, *step_cost(V, T, BATCH, ROLLOUTS))


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


@pytest.mark.parametrize("how", ["ours", "as commonly written"])
def test_rewards_of_a_step(benchmark: Any, how: str) -> None:
    """Rollouts and rewards, which are all but .2 s of a step, both ways in one session."""
    policy, model = generator(), discriminator()
    reward, noise = Reward(model), rng(3)
    tokens = policy.sample(BATCH, rng())

    def ours() -> None:
        uniforms = torch.rand(BATCH, ROLLOUTS, T - 1, T, generator=noise, device=DEVICE)
        reward(tokens)
        reward.of_rollouts(tokens, policy.continue_from(tokens, uniforms))

    ways = {"ours": ours, "as commonly written": lambda: rewards_as_commonly_written(*given)}
    given = (policy, model, tokens)
    benchmark.group = "rollouts and rewards of a step"
    rounds, warmup = (5, 1) if how == "ours" else (1, 0)
    benchmark.pedantic(synchronised(ways[how]), rounds=rounds, warmup_rounds=warmup)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "rebar", "relax", "rebar-sibling"])
def test_step_of(benchmark: Any, name: str) -> None:
    """Steps without rollouts, beside each other: what a control variate costs at V = 5000."""
    benchmark.group = "step without rollouts"
    benchmark.pedantic(synchronised(step(name, V, T, BATCH, 0)), rounds=5, warmup_rounds=2)


def test_rollouts_alone(benchmark: Any, rates: Rates) -> None:
    policy = generator()
    tokens = policy.sample(BATCH, rng())
    uniforms = torch.rand(BATCH, ROLLOUTS, T - 1, T, generator=rng(1), device=DEVICE)
    benchmark.group = "16 rollouts of every prefix"
    run = synchronised(lambda: policy.continue_from(tokens, uniforms))
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    rows = BATCH * ROLLOUTS * T * (T - 1) / 2
    note(benchmark, rates, 2 * rows * H * (V + 8 * H), rows * V)


def test_generate(benchmark: Any, rates: Rates) -> None:
    policy = generator()
    noise = rng()
    benchmark.group = "10,000 sequences"
    run = synchronised(lambda: policy.sample(10_000, noise))
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    rows = 10_000 * T
    note(benchmark, rates, 2 * rows * H * (V + 8 * H), rows * V)


def test_likelihood_epoch(benchmark: Any, rates: Rates) -> None:
    policy = generator()
    data = torch.randint(V, (9_984, T), generator=rng(), device=DEVICE)
    noise = rng(1)
    benchmark.group = "an epoch of maximum likelihood, 9,984 sequences"
    run = synchronised(lambda: pretrain(policy, data, 1, 64, 1e-2, noise, clip=5.0))
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    rows = 9_984 * T
    note(benchmark, rates, 3 * 2 * rows * H * (V + 8 * H), rows * V)


@pytest.mark.parametrize("how", ["norms", "loop"])
def test_norms(benchmark: Any, rates: Rates, how: str) -> None:
    """1000 draws' squared norms, 25 at a time; "loop" differentiates draw by draw."""
    policy = generator()
    draws, chunk = 1000, 25
    tokens = policy.sample(draws, rng())
    weights = torch.randn(draws, T, generator=rng(1), device=DEVICE)

    def surrogate(rows: slice) -> Surrogate:
        chosen = policy.log_probs(tokens[rows]).gather(2, tokens[rows].unsqueeze(2)).squeeze(2)
        return Surrogate(chosen, weights[rows], tokens[rows].unsqueeze(1), weights[rows, :1])

    def norms() -> None:
        for start in range(0, draws, chunk):
            with Tape(policy) as tape:
                made = surrogate(slice(start, start + chunk))
            tape.differentiate(made, check=start == 0, check_rows=False).squared_norms()

    def loop() -> None:
        parameters = list(policy.parameters())
        for i in range(draws):
            grads = torch.autograd.grad(surrogate(slice(i, i + 1)).values.sum(), parameters)
            sum(float((g**2).sum()) for g in grads)

    benchmark.group = "1000 per-draw gradient norms"
    work = {"norms": norms, "loop": loop}[how]
    benchmark.pedantic(synchronised(work), rounds=1 if how == "loop" else 5, warmup_rounds=1)
    rows = draws * T
    # Logits, their gradient's way back (two products), and the Gram matrices of T x T.
    note(benchmark, rates, 3 * 2 * rows * H * V + 2 * rows * T * V, 2 * rows * V)


GROWTH = [
    *((v, T, BATCH, ROLLOUTS) for v in (500, 5000, 50_000)),
    *((V, t, BATCH, 4) for t in (10, 20, 40, 80)),
    *((V, T, b, ROLLOUTS) for b in (16, 64, 128)),
    *((V, T, BATCH, n) for n in (1, 4, 16, 32)),
]


@pytest.mark.parametrize(("vocabulary", "length", "batch", "rollouts"), dict.fromkeys(GROWTH))
def test_growth(
    benchmark: Any, rates: Rates, vocabulary: int, length: int, batch: int, rollouts: int
) -> None:
    benchmark.group = "growth of a step with rollouts"
    run = synchronised(step("seqgan-rollouts", vocabulary, length, batch, rollouts))
    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    note(benchmark, rates, *step_cost(vocabulary, length, batch, rollouts))
