"""Only a task with an adversary has adversarial batches; axes and captions say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from estbench import tasks
from estbench.report.building import load_comparisons
from estbench.report.data.labels import batch_name
from estbench.report.view.figures import log_variance, quality
from estbench.report.view.figures.base import drawing

from .synthetic import write_result_set


def test_every_task_has_the_batches_of_its_kind() -> None:
    for name in tasks.names():
        wanted = "adversarial batch" if tasks.info(name).kind == "adversarial" else "batch"
        assert batch_name(name) == wanted
    kinds = {tasks.info(name).kind for name in tasks.names()}
    assert kinds == {"adversarial", "fixed reward", "autoencoder", "language model"}


def test_several_tasks_have_adversarial_batches_if_all_have() -> None:
    assert batch_name("expressions-3", "oracle") == "adversarial batch"
    assert batch_name("expressions-3", "digits") == "batch"


def test_of_an_unknown_task_nothing_is_claimed() -> None:
    assert batch_name("not-installed") == "batch"


@pytest.mark.parametrize(
    ("task", "wanted"), [("bernoulli", "batch"), ("expressions-3", "adversarial batch")]
)
def test_figures_by_batch_say_which(tmp_path: Path, task: str, wanted: str) -> None:
    write_result_set(tmp_path, tasks=(task,), seeds=2, batches=3, rounds=1)
    comparisons = load_comparisons(tmp_path)
    with drawing():
        for draw in (log_variance.draw_log_variance, quality.draw):
            drawn = draw(comparisons)
            assert drawn is not None
            assert {axes.get_xlabel() for axes in drawn.figure.axes} - {""} == {wanted}
            assert f"at every {wanted} " in drawn.caption
