"""Several control variates at once, and coefficients of their own for every tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench import estimators
from estbench.estimators.base import Surrogate
from estbench.estimators.rebar import Rebar, RebarPerTensor
from estbench.estimators.relax import RelaxSeveral
from estbench.meter.gradients import Tape
from estbench.meter.moments import total_variance
from estbench.proof.problems import tiny
from estbench.proof.rewards import rng
from estbench.proof.states import learned


def test_equal_coefficients_for_all_tensors_are_rebar() -> None:
    given = tiny()
    names = [name for name, _ in given.policy.named_parameters()]
    method, plain = RebarPerTensor(), Rebar(temperature_every=0)
    state = method.initial_state(given.policy, rng())
    for part in state["tensors"].values():
        part["values"] = (0.2, 0.7)
    other = plain.initial_state(given.policy, rng())
    other["coefficients"]["values"] = (0.2, 0.7)
    rows = []
    for each, its in ((method, state), (plain, other)):
        with Tape(given.policy) as tape:
            surrogate = each.surrogate(given.policy, given.reward, 64, rng(5), its)
        rows.append(torch.cat(list(tape.differentiate(surrogate).chunks())))
        assert tape.fault == ""
    torch.testing.assert_close(*rows, atol=1e-13, rtol=1e-10)
    assert set(state["tensors"]) == set(names)


def test_a_tensors_coefficients_move_that_tensor_alone() -> None:
    given = tiny()
    method = RebarPerTensor()

    def drawn(values: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
        state = method.initial_state(given.policy, rng())
        for name, each in values.items():
            state["tensors"][name]["values"] = each
        with Tape(given.policy) as tape:
            surrogate = method.surrogate(given.policy, given.reward, 16, rng(5), state)
        found = tape.differentiate(surrogate)
        return {name: found.tensor(name) for name in found.names}

    before, after = drawn({}), drawn({"output.bias": (0.3, 0.8)})
    moved = {name for name in before if not torch.allclose(before[name], after[name])}
    assert moved == {"output.bias"}


def test_coefficients_by_tensor_leave_no_more_variance_than_one_for_all() -> None:
    """Trained alike and at the same temperature, on draws of their own afterwards."""
    given = tiny()
    found = {}
    for method in (RebarPerTensor(), Rebar(temperature_every=0)):
        state = learned(method, given, "trained")
        with Tape(given.policy) as tape:
            surrogate = method.surrogate(given.policy, given.reward, 8192, rng(9), state)
        found[method.info.name] = total_variance(tape.differentiate(surrogate))
    assert found["rebar-per-tensor"] < 1.02 * found["rebar"]


def test_relax_several_contains_relax_with_rebars_term() -> None:
    given = tiny()
    several, two = RelaxSeveral(), estimators.make("relax-rebar")
    state, other = (m.initial_state(given.policy, rng()) for m in (several, two))
    values = dict(zip(("constant", "factor", "eta"), (0.1, 0.6, 0.4), strict=True))
    state["coefficients"]["values"] = (*values.values(), 0.0)
    other["coefficients"]["values"] = tuple(values.values())
    other["network"].load_state_dict(state["network"].state_dict())
    mine = several.surrogate(given.policy, given.reward, 40, rng(2), state)
    theirs = two.surrogate(given.policy, given.reward, 40, rng(2), other)
    assert isinstance(theirs, Surrogate)
    assert several.coefficients.labels == ("constant", "factor", "eta", "value")
    torch.testing.assert_close(mine.weights, theirs.weights, atol=1e-13, rtol=0)
    assert [c.name for c in mine.components] == ["score", "constant", "factor", "eta", "value"]
