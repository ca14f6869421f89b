"""What is in objects becomes data, and goes back into objects of the same make."""

from __future__ import annotations

import collections
import copy
import io
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estbench.training.state_dict import (
    MismatchError,
    Stateful,
    UnknownObjectError,
    load_state_dict,
    state_dict,
)


def through_a_file(tree: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def moved(live: Any, fresh: Any) -> Any:
    """What was in ``live`` put into ``fresh``."""
    return load_state_dict(fresh, through_a_file(state_dict(live)))


class Pair(NamedTuple):
    mean: float
    rows: Tensor


@dataclass
class Moments:
    weight: float
    seen: list[Tensor]


class Network(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.calls = 0
        self.history: list[float] = []
        self.activation = torch.tanh


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63) - 1,
        2**200,
        float("inf"),
        2 - 3j,
        "text \ud800",
        b"\x00\xff",
        (1, (2.5, "a")),
        {"a": {1: [1, 2, None]}, (1, "b"): 0.5, 0.25: "c"},
        {3, 1, 2},
        frozenset({"a"}),
        [1.0, None, 2.0],
        collections.deque([1, 2], maxlen=3),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("abca"),
        np.float64(0.1),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array(["a", "bc"]),
        torch.float64,
    ],
    ids=repr,
)
def test_values_come_back_as_they_were(value: Any) -> None:
    fresh = {"x": copy.deepcopy(value)}
    if isinstance(value, (dict, set, collections.deque)):
        fresh["x"].clear()
    moved({"x": value}, fresh)
    assert type(fresh["x"]) is type(value)
    assert np.array_equal(fresh["x"], value) if isinstance(value, np.ndarray) else True
    assert isinstance(value, np.ndarray) or fresh["x"] == value


def test_dictionaries_and_lists_are_filled_where_they_are() -> None:
    inner: list[Any] = [1]
    fresh = {"gone": 1, "rows": inner}
    assert moved({"rows": [2, 3], "new": {"a": torch.ones(2)}}, fresh) is fresh
    assert list(fresh) == ["rows", "new"]
    assert fresh["rows"] is inner
    assert inner == [2, 3]


def test_names_for_one_thing_stay_names_for_one_thing_and_others_get_their_own() -> None:
    zeros = torch.zeros(2)
    fresh = {"a": zeros, "b": zeros, "c": torch.ones(2)}
    shared = torch.full((2,), 3.0)
    moved({"a": shared, "b": torch.full((2,), 4.0), "c": shared}, fresh)
    assert fresh["a"] is fresh["c"]
    assert fresh["b"].tolist() == [4.0, 4.0]
    assert zeros.tolist() == [0.0, 0.0]


def test_views_of_one_memory_stay_so() -> None:
    whole = torch.arange(6.0)
    fresh: dict[str, Tensor] = {}
    moved({"whole": whole, "part": whole[2:4]}, fresh)
    fresh["part"].zero_()
    assert fresh["whole"].tolist() == [0, 1, 0, 0, 4, 5]


def test_a_thing_that_holds_itself() -> None:
    loop: list[Any] = [1]
    loop.append({"loop": loop})
    fresh: list[Any] = []
    moved(loop, fresh)
    assert fresh[0] == 1
    assert fresh[1]["loop"] is fresh


def test_an_optimiser_goes_on_with_the_parameters_that_it_holds() -> None:
    def made() -> dict[str, Any]:
        eta = torch.zeros(2, requires_grad=True)
        return {"eta": eta, "optimiser": torch.optim.Adam([eta], lr=0.1)}

    def step(state: dict[str, Any]) -> None:
        state["optimiser"].zero_grad()
        ((state["eta"] - 1) ** 2).sum().backward()
        state["optimiser"].step()

    old, fresh = made(), made()
    for _ in range(3):
        step(old)
    eta = fresh["eta"]
    moved(old, fresh)
    assert fresh["eta"] is eta
    for state in (old, fresh):
        step(state)
    assert torch.equal(old["eta"], fresh["eta"])
    assert fresh["eta"][0] > 0.3


def test_networks_with_all_that_is_in_them() -> None:
    old, fresh = Network(), Network()
    old.inner(torch.randn(4, 2)).sum().backward()
    old.scratch += 5
    old.calls, old.history = 7, [0.5]
    old.inner[1].eval()
    old.inner[0].weight.requires_grad_(False)
    moved({"network": old}, {"network": fresh})
    for (name, a), (_, b) in zip(old.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.requires_grad == b.requires_grad
        assert torch.equal(a.grad, b.grad) if a.grad is not None else b.grad is None
    for (name, a), (_, b) in zip(old.named_buffers(), fresh.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert (fresh.calls, fresh.history) == (7, [0.5])
    assert [m.training for m in fresh.modules()] == [m.training for m in old.modules()]


def test_streams_go_on_where_they_were() -> None:
    old = {"torch": torch.Generator().manual_seed(1), "numpy": np.random.default_rng(1)}
    fresh = {"torch": torch.Generator(), "numpy": np.random.default_rng(2)}
    torch.rand(3, generator=old["torch"])  # type: ignore[call-overload]
    old["numpy"].random(3)  # type: ignore[union-attr]
    held = fresh["torch"]
    moved(old, fresh)
    assert fresh["torch"] is held
    draws = [torch.rand(3, generator=each["torch"]) for each in (old, fresh)]  # type: ignore[call-overload]
    assert torch.equal(*draws)
    assert old["numpy"].random() == fresh["numpy"].random()  # type: ignore[union-attr]


def test_instances_and_named_tuples_need_a_counterpart() -> None:
    old = {"pair": Pair(2.0, torch.ones(1)), "moments": Moments(3.0, [torch.ones(2)])}
    fresh = {"pair": Pair(0.0, torch.zeros(1)), "moments": Moments(0.0, [])}
    held = fresh["moments"]
    moved(old, fresh)
    assert fresh["moments"] is held
    assert held.weight == 3.0  # type: ignore[union-attr]
    assert held.seen[0].tolist() == [1, 1]  # type: ignore[union-attr]
    assert fresh["pair"].mean == 2.0  # type: ignore[union-attr]
    with pytest.raises(MismatchError, match=r"state\.pair is a builtins\.NoneType"):
        moved(old, {})


class Counter(Stateful):
    changing = ("count",)

    def __init__(self) -> None:
        self.count = 0
        self.file = io.StringIO()


def test_a_class_says_which_of_its_attributes_change() -> None:
    old, fresh = Counter(), Counter()
    old.count = 7
    fresh.load_state_dict(through_a_file(old.state_dict()))
    assert fresh.count == 7


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (threading.Lock(), "is a _thread.lock"),
        (iter([1]), "is a builtins.list_iterator"),
        (io.StringIO(), "is a _io.StringIO"),
        ({(1, "a"): 1, object(): 2}, "a key of state.x is a builtins.object"),
        (torch.ones(1, requires_grad=True) * 2, "a tensor that belongs to a graph: detach it"),
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (np.array([object()]), "array of object"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_unknown_is_named(value: Any, what: str) -> None:
    with pytest.raises(UnknownObjectError, match=r"state\.x") as caught:
        state_dict({"x": value})
    assert what in str(caught.value)


def test_a_view_that_would_part_from_its_network_is_refused() -> None:
    network = nn.Linear(2, 1)
    with pytest.raises(
        UnknownObjectError, match=r"state\.bias shares the memory of state\.network"
    ):
        state_dict({"network": network, "bias": network.bias.detach()})


def test_a_function_with_a_memory_is_unknown() -> None:
    count = [0]

    def counting() -> None:
        count[0] += 1

    with pytest.raises(UnknownObjectError, match=r"state\.x is a builtins\.function"):
        state_dict({"x": counting})


@pytest.mark.parametrize(
    ("old", "fresh", "what"),
    [
        (Network(), Network(4), r"state\.x\.inner\.0\.weight has no tensor"),
        (Network(), nn.Linear(2, 3), "is a torch.nn.modules.linear.Linear, not a .*Network"),
        (nn.Linear(2, 3), nn.Linear(2, 3, bias=False), "other parameters than those kept"),
        (nn.Linear(2, 3), None, r"state\.x is a builtins\.NoneType, not a torch\.nn"),
        (torch.ones(2, requires_grad=True), None, "has no tensor"),
        (
            collections.deque([1]),
            None,
            r"state\.x is a builtins\.NoneType, not a collections\.deque",
        ),
    ],
    ids=repr,
)
def test_an_object_that_does_not_fit_is_named(old: Any, fresh: Any, what: str) -> None:
    with pytest.raises(MismatchError, match=what):
        moved({"x": old}, {"x": fresh})


def test_two_optimisers_groups_are_compared() -> None:
    def made(groups: int) -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": [torch.zeros(1)]} for _ in range(groups)])

    with pytest.raises(ValueError, match="different number of parameter groups"):
        moved({"o": made(2)}, {"o": made(1)})
