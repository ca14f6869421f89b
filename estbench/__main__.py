"""``python -m estbench`` and the command ``estbench``: the command line as a process of its own.

A stop is heard before anything heavy is imported, and until the process has ended.
"""

from __future__ import annotations

from typing import NoReturn

from estbench.core.processes import Terminated, leave, terminable
from estbench.core.terminal import say

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line, and end this process with its exit code."""
    with terminable() as heard:
        try:
            from estbench.cli import main as run

            code = run()
        except BaseException:  # a stop within an import may come out as any error
            if not heard:
                raise
            say("estbench: interrupted")
            code = Terminated(heard[0]).code
    leave(code)


if __name__ == "__main__":
    main()
