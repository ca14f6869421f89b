"""The command line: the verbs, what they do, and what they show."""

from estbench.cli.verbs import EXIT_CODES, app, main

__all__ = ["EXIT_CODES", "app", "main"]
