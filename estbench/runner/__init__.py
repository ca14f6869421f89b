"""Runs the grid of an experiment: what is missing in its result set is made."""

from estbench.runner.grid import Failure, Summary, run_experiment
from estbench.runner.progress import display_for

__all__ = ["Failure", "Summary", "display_for", "run_experiment"]
