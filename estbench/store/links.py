"""Links in a result set that came from elsewhere: none may lead a writer out of it."""

from __future__ import annotations

import os
from pathlib import Path

from estbench.core.errors import UserError

__all__ = ["check_links"]


def check_links(root: Path) -> None:
    """Check that no folder of a result set is a link to one outside of it.

    Links to files are no matter: they are read, and where a file is written it takes their place.
    The result set itself may be a link.

    Raises:
      UserError: One is; it is named, with where it leads.
    """
    whole = root.resolve()
    waiting = [os.fspath(root)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # the caller that needs the folder reports why it cannot be read
        for entry in entries:
            if entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                if target.is_dir() and not target.is_relative_to(whole):
                    raise UserError(
                        f"{entry.path} is a link to {target}, outside of the result set, and "
                        "nothing is written there: put the folder itself in its place"
                    )
            elif entry.is_dir():
                waiting.append(entry.path)
