"""States of models from a file: tensors and plain values, nothing that runs, no more than is there.

``torch.load(weights_only=True)`` admits no code. What it does not bound is size: its files are zip
archives, and a compressed one can hold a thousand times what it weighs. ``torch.save`` compresses
nothing, so that nothing compressed is read.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

__all__ = ["load_states"]


def load_states(content: bytes) -> Any:
    """Return what ``torch.save`` wrote.

    Raises:
      ValueError: It is something else, damaged, compressed, or asks for code to be run.
    """
    import torch

    _check_archive(content)
    try:
        return torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        # Whatever a damaged or hostile file stumbles over, it holds no states.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"it holds no states: {reason[:200]}") from None


def _check_archive(content: bytes) -> None:
    """Check that an archive unpacks to no more than it weighs."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception as error:
        raise ValueError(f"it is no archive of tensors: {error}") from None
    whole = sum(member.file_size for member in members)
    if whole > len(content) or any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ValueError("it is compressed, as no file of states is")
