"""What the benchmarks share: the paper's sizes, one thread, and models that have learned a little.

Absolute seconds depend on the machine; compare rows of one run. Figures of other implementations
are printed beside ours as context; they were measured on another machine of two cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from estbench import tasks
from estbench.models.build import build
from estbench.models.discriminator import Discriminator
from estbench.models.generator import Generator
from estbench.models.reward import Reward
from estbench.seeding import stream
from estbench.training.discriminator import train_discriminator
from estbench.training.pretraining import pretrain

BATCH = 128


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, and a run has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def learned() -> dict[int, tuple[Generator, Discriminator]]:
    """Return, for T = 3 and 15, a pre-trained generator and a discriminator that can tell."""
    found = {}
    for length in (3, 15):
        name = f"expressions-{length}"
        task = tasks.make(name, 0)
        policy, discriminator = build(task.vocabulary, task.length)
        policy.initialise(*task.initialisation, stream("generator", name, 0))
        discriminator.initialise(stream("discriminator", name, 0))
        pretrain(policy, task.train, 2, BATCH, 1e-3, stream("pretraining", name, 0))
        optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3, fused=True)
        fake = policy.sample(80 * BATCH, stream("fakes", name, 0))
        train_discriminator(
            discriminator, optimiser, task.train, fake, 80, BATCH, stream("order", name, 0)
        )
        found[length] = (policy, discriminator)
    return found


@pytest.fixture
def setting(
    learned: dict[int, tuple[Generator, Discriminator]], request: pytest.FixtureRequest
) -> tuple[Generator, Reward]:
    """Return the generator and the reward for the requested length, fresh copies."""
    policy, discriminator = learned[request.param]
    copy, other = build(policy.vocabulary, policy.length)
    copy.load_state_dict(policy.state_dict())
    other.load_state_dict(discriminator.state_dict())
    return copy, Reward(other, "p")
