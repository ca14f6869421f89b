"""A pickle that leaves a file behind where it is read: proof that it ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["Evil"]


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)
