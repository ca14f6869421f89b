"""A language model's session: it is pre-trained on right answers, then trained on a reward.

Pre-training depends on task, settings and seed alone. It ends at a success rate, so that every
estimator of a seed starts from the same policy, which solves some of the prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.core.errors import UserError
from estbench.core.seeding import stream
from estbench.estimators.base import Draws
from estbench.meter.answers import equal_groups
from estbench.models.adam import Adam
from estbench.models.prompted_transformer import PromptedTransformer
from estbench.tasks.arithmetic import EVALUATED, ArithmeticStage, ArithmeticTask, quality, success
from estbench.training.pretraining import negative_log_likelihood
from estbench.training.resume import Phases
from estbench.training.session import Session

__all__ = ["LanguageSession"]

WARMUP = 50  # updates in which the learning rate rises
ROUND = 20  # updates between looks at the success rate
LOOKED = 512  # prompts, at most, that a look takes in
MOST = 20_000  # updates


class LanguageSession(Session):
    """A policy that answers prompts, its reward, and the policies of the last steps.

    Args:
      experiment: Settings.
      task: Name of the task.
      seed: The replicate.
    """

    changing = (*Session.changing, "past", "losses")

    stage: ArithmeticStage

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        self.settings = experiment.training_for(task)
        self.identity = experiment, task, seed
        self.stage = ArithmeticStage(experiment, task, seed)
        self.task = self.stage.task
        self.optimiser = Adam(
            self.policy.parameters(), lr=self.settings.generator_learning_rate, fused=True
        )
        self.past: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    @property
    def policy(self) -> PromptedTransformer:
        """The language model."""
        return self.stage.policy

    @property
    def pretraining(self) -> list[float]:
        return self.losses

    def pretrain(self, phases: Phases) -> None:
        for _ in phases.steps("likelihood", 1):
            experiment, task, seed = self.identity
            weights, losses = pretrained(self.settings, experiment.device, task, seed)
            self.losses = list(losses)
            for part in self.stage.parts.values():
                part.load_state_dict(weights)
            self.past = [self._weights()]

    def after_step(self, used: Draws | None, phases: Phases) -> dict[str, float]:
        """Remember the policy; return what the step's answers say."""
        assert used is not None
        self.past = [*self.past[-max(self.stage.past) :], self._weights()]
        for steps, policy in self.stage.past.items():
            policy.load_state_dict(self.past[max(0, len(self.past) - 1 - steps)])
        found = {"tokens": float(self.policy.contexts.generated)}
        equal = equal_groups(self.reward, used)
        return found if equal is None else {**found, "equal_groups": equal}

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return nothing: what a step's own answers say is enough, see ``after_step``."""
        return {}

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return success rates, which are exact, and what ``quality`` of the task does."""
        task, policy, contexts = self.stage.task, self.policy, self.policy.contexts
        generated = contexts.generated
        some = task.prompts[: self.settings.evaluation_samples]
        found = {
            "success": success(policy, task.prompts[:EVALUATED]),
            "success_heldout": success(policy, task.unseen),
            **quality(policy, self.stage.reference, some, rng),
        }
        contexts.generated = generated
        return found

    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        task = self.stage.task
        prompts = task.unseen[torch.arange(count) % len(task.unseen)]
        with self.policy.contexts.given(prompts):
            return task.prompted(prompts, self.policy.sample(count, rng).cpu())

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.policy.state_dict().items()}


def pretrained(
    settings: TrainingSettings, device: str, task: str, seed: int
) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    """Return the parameters of a pre-trained policy, and the mean loss of every 20 updates.

    Args:
      settings: Of the training. With ``success_rate`` above 0 it goes on until the policy solves
        that share of the prompts; else for ``pretrain_epochs``.
      device: Where.
      task: Name of the task.
      seed: The replicate.

    Raises:
      UserError: The success rate was not reached.
    """
    made = tasks.make(task, seed, settings.data_size, **tasks.options(task, settings))
    assert isinstance(made, ArithmeticTask)
    policy = made.start(settings).initialise(stream("generator", task, seed)).to(device)
    examples, rng = made.examples.to(device), stream("pretraining", task, seed)
    size, wanted = settings.pretrain_batch_size, settings.success_rate
    updates = MOST if wanted else settings.pretrain_epochs * -(-len(examples) // size)
    optimiser = Adam(policy.parameters(), lr=settings.pretrain_learning_rate, fused=True)
    losses, reached = list[float](), 0.0
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = settings.pretrain_learning_rate * min(
            1.0, (update + 1) / WARMUP
        )
        rows = torch.randint(len(examples), (size,), generator=rng).to(device)
        with policy.contexts.given(examples[rows]):
            loss = negative_log_likelihood(policy, policy.solutions(size))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
        if wanted and (update + 1) % ROUND == 0:
            reached = success(policy, made.prompts[:LOOKED])
            if reached >= wanted:
                break
    if reached < wanted:
        raise UserError(
            f"{task}: pre-training reached a success rate of {reached:.2f}, not {wanted:g}: raise "
            "pretrain_learning_rate or generator_width, or lower success_rate"
        )
    rounds = [losses[i : i + ROUND] for i in range(0, len(losses), ROUND)]
    kept = {name: value.detach() for name, value in policy.state_dict().items()}
    return kept, tuple(sum(part) / len(part) for part in rounds)
