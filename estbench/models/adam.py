"""Adam, without the second that torch takes to import its compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["Adam"]

WRAPPERS = {
    "_disable_dynamo.<locals>.inner",
    "_use_grad_for_differentiable.<locals>._use_grad",
    "Optimizer.profile_hook_step.<locals>.wrapper",  # torch puts it around a subclass's step too
}
"""What torch wraps an optimiser's methods in, by the names in its source."""


def _bare(method: Any) -> Any:
    """Return a method of torch's without those wrappers; any other wrapper is left where it is."""
    while getattr(getattr(method, "__code__", None), "co_qualname", "") in WRAPPERS:
        method = method.__wrapped__
    return method


class Adam(torch.optim.Adam):
    """``torch.optim.Adam``: the same code, so the same numbers to the last bit.

    torch wraps these methods so that ``torch.compile`` leaves them alone. The first call of such a
    wrapper imports the compiler (336 modules, 0.9 s, 35 MB), whether anything is compiled or not.
    Here the methods are called without it. Where a version of torch wraps them in another way, they
    stay wrapped, and only the time is lost.
    """

    step = torch.no_grad()(_bare(torch.optim.Adam.step))
    zero_grad = _bare(Optimizer.zero_grad)
    add_param_group = _bare(Optimizer.add_param_group)
    state_dict = _bare(Optimizer.state_dict)
    load_state_dict = _bare(Optimizer.load_state_dict)
