"""What ``estbench.training.live`` wrote down goes back into live objects of the same make."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from estbench.training.live import SIMPLE, Node, attributes, class_name, fixed, tensors_of

__all__ = ["MismatchError", "restore"]


class MismatchError(Exception):
    """The live objects are not those that were written down; says which."""


def restore(tree: Any, live: Any, device: torch.device | str = "cpu") -> Any:
    """Put what was captured into live objects; return the value of the whole.

    Everything is compared before anything is changed.

    Args:
      tree: What ``capture`` returned.
      live: The same objects, set up anew. Dictionaries and lists may hold anything: they are
        filled. What is in a network, an optimiser or an instance needs its counterpart.
      device: Where tensors go that were not on the CPU and have no counterpart.

    Raises:
      MismatchError: There is no counterpart, or one of another shape; nothing was changed.
    """
    plan = _Restore(device)
    value = plan.value(tree, live, "state")
    with torch.no_grad():
        for action in plan.actions:
            action()
    return value


class _Restore:
    """One walk along a tree and live objects; ``actions`` then changes them."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        self.made: dict[int, Any] = {}
        self.claimed: set[int] = set()
        self.actions: list[Callable[[], Any]] = []

    def value(self, tree: Any, live: Any, where: str) -> Any:
        if isinstance(tree, str):
            return sys.intern(tree)
        if not isinstance(tree, dict):
            return tree
        kind = tree["kind"]
        if kind == "same":
            return self.made[tree["id"]]
        found = getattr(self, "_" + kind.replace(" ", "_"))(tree, live, where)
        if "id" in tree:
            self.made[tree["id"]] = found
        return found

    def claim(self, live: Any, fits: bool) -> bool:
        """Return whether a live object takes a node's content; each takes one node's only."""
        if not fits or id(live) in self.claimed:
            return False
        self.claimed.add(id(live))
        return True

    def need(self, live: Any, fits: bool, where: str, what: str) -> None:
        if not self.claim(live, fits):
            raise MismatchError(f"{where} has no {what} to take what was kept ({class_name(live)})")

    def known(self, tree: Node, made: Any) -> Any:
        """Remember an object before its inner ones, which may refer to it."""
        self.made[tree["id"]] = made
        return made

    def _text(self, tree: Node, live: Any, where: str) -> str:
        return tree["text"]  # type: ignore[no-any-return]

    def _int(self, tree: Node, live: Any, where: str) -> int:
        return int(tree["text"])

    def _bytes(self, tree: Node, live: Any, where: str) -> bytes:
        return bytes.fromhex(tree["text"])

    def _complex(self, tree: Node, live: Any, where: str) -> complex:
        return complex(tree["text"])

    def _scalar(self, tree: Node, live: Any, where: str) -> Any:
        return _array(tree)[()]

    def _tuple(self, tree: Node, live: Any, where: str) -> tuple[Any, ...]:
        return tuple(self.items(tree, live if isinstance(live, tuple) else (), where))

    def _frozenset(self, tree: Node, live: Any, where: str) -> frozenset[Any]:
        return frozenset(self.items(tree, (), where))

    def _fixed(self, tree: Node, live: Any, where: str) -> Any:
        if fixed(live) != tree["name"]:
            raise MismatchError(f"{where} is {class_name(live)}, not {tree['name']}")
        return live

    def _fields(self, tree: Node, live: Any, where: str) -> Any:
        for name, value in self.table(tree, {}, where):
            self.actions.append(partial(setattr, live.owner, name, value))
        return live

    def _ungraded(self, tree: Node, live: Any, where: str) -> Any:
        self.value(tree["network"], live.network, where)
        return live

    def _unchanged(self, tree: Node, live: Any, where: str) -> Any:
        return live

    def _tensor(self, tree: Node, live: Any, where: str) -> Tensor:
        kept: Tensor = tree["value"]
        fits = (
            isinstance(live, Tensor)
            and (live.shape, live.dtype) == (kept.shape, kept.dtype)
            and (live.device.type == "cpu") == tree["cpu"]
            # What an optimiser or a module may hold is filled; anything else is replaced, for
            # several names may stand for one tensor as long as nothing was learned.
            and (live.requires_grad or isinstance(live, nn.Parameter))
        )
        if self.claim(live, fits):
            self.actions.append(partial(_fill, live, tree))
            return live  # type: ignore[no-any-return]
        if not tree["cpu"]:
            kept = kept.to(self.device)
        if tree["requires_grad"]:
            raise MismatchError(f"{where} has no tensor to take what was kept")
        return kept

    def _generator(self, tree: Node, live: Any, where: str) -> torch.Generator:
        fits = isinstance(live, torch.Generator) and live.device.type == tree["device"]
        on = "cpu" if tree["device"] == "cpu" else self.device
        made = live if self.claim(live, fits) else torch.Generator(device=on)
        self.actions.append(lambda: made.set_state(tree["state"]))
        return made

    def _module(self, tree: Node, live: Any, where: str) -> Any:
        fits = isinstance(live, nn.Module) and class_name(live) == tree["class"]
        self.need(live, fits, where, "network")
        self.known(tree, live)
        tensors, parts = dict(tensors_of(live)), dict(live.named_modules())
        if tensors.keys() != tree["tensors"].keys() or list(parts) != [p[0] for p in tree["parts"]]:
            raise MismatchError(f"{where} has other parameters than those kept")
        for name, node in tree["tensors"].items():
            inner = f"{where}.{name}"
            if node["kind"] == "same":
                if self.made[node["id"]] is not tensors[name]:
                    raise MismatchError(f"{inner} is not shared as it was")
                continue
            kept, mine = node["value"], tensors[name]
            fits = (mine.shape, mine.dtype) == (kept.shape, kept.dtype)
            self.need(mine, fits, inner, "tensor")
            self.known(node, mine)
            self.actions.append(partial(_fill, mine, node))
        for name, training, table in tree["parts"]:
            part = parts[name]
            held = attributes(part)
            inner = f"{where}.{name}" if name else where
            values = dict(self.table({"items": table}, held, inner))
            gone = held.keys() - values.keys()
            self.actions.append(partial(_refill, part, training, values, gone))
        return live

    def _optimiser(self, tree: Node, live: Any, where: str) -> torch.optim.Optimizer:
        fits = isinstance(live, torch.optim.Optimizer) and class_name(live) == tree["class"]
        self.need(live, fits, where, "optimiser")
        state = self.value(tree["state"], None, where)
        theirs = [len(group["params"]) for group in state["param_groups"]]
        if theirs != [len(group["params"]) for group in live.param_groups]:
            raise MismatchError(f"{where} has other groups of parameters than those kept")
        self.actions.append(lambda: live.load_state_dict(state))
        return live  # type: ignore[no-any-return]

    def _array(self, tree: Node, live: Any, where: str) -> np.ndarray[Any, Any]:
        return _array(tree)

    def _numpy_generator(self, tree: Node, live: Any, where: str) -> np.random.Generator:
        state = self.value(tree["state"], None, where)
        fits = isinstance(live, np.random.Generator)
        self.need(live, fits, where, "generator")
        self.actions.append(lambda: setattr(live.bit_generator, "state", state))
        return live  # type: ignore[no-any-return]

    def _dict(self, tree: Node, live: Any, where: str) -> dict[Any, Any]:
        held = live if isinstance(live, dict) else {}
        made = self.known(tree, self.container(tree, live, where, dict))
        entries = self.table(tree, held, where)
        self.fill(made, live, partial(_put, made), entries)
        return made  # type: ignore[no-any-return]

    def _list(self, tree: Node, live: Any, where: str) -> Any:
        held = live if isinstance(live, list | collections.deque) else ()
        made = self.known(tree, self.container(tree, live, where, list))
        values = self.items(tree, held, where)
        self.fill(made, live, made.extend, values)
        return made

    def _set(self, tree: Node, live: Any, where: str) -> Any:
        made = self.known(tree, self.container(tree, live, where, set))
        values = self.items(tree, (), where)
        self.fill(made, live, made.update, values)
        return made

    def _named(self, tree: Node, live: Any, where: str) -> Any:
        if class_name(live) != tree["class"]:
            raise MismatchError(f"{where} is a {class_name(live)}, not a {tree['class']}")
        return type(live)(*self.items(tree, live, where))

    def _instance(self, tree: Node, live: Any, where: str) -> Any:
        if class_name(live) != tree["class"]:
            raise MismatchError(f"{where} is a {class_name(live)}, not a {tree['class']}")
        # Where several names stood for one instance at first, all but one of them get their own.
        mine = self.claim(live, True)
        made = self.known(tree, live if mine else object.__new__(type(live)))
        entries = self.table(tree, vars(live), where)
        held = vars(made)
        self.fill(held, held if mine else None, held.update, entries)
        return made

    def container(self, tree: Node, live: Any, where: str, plain: type) -> Any:
        """Return the live container of a node, or a new one of the plain kind."""
        if self.claim(live, class_name(live) == tree["class"]):
            return live
        if tree["class"] != f"{plain.__module__}.{plain.__qualname__}":
            raise MismatchError(f"{where} is no {tree['class']}")
        return plain()

    def fill(self, made: Any, live: Any, add: Callable[[Any], Any], content: Any) -> None:
        """Put content into a container: at once if it is new, with everything else if it lives."""
        if made is live:
            self.actions.append(lambda: (made.clear(), add(content)))
        else:
            add(content)

    def items(self, tree: Node, live: Any, where: str) -> list[Any]:
        if set(map(type, tree["items"])) <= SIMPLE:
            return list(tree["items"])
        held = list(live)
        held += [None] * (len(tree["items"]) - len(held))
        return [
            self.value(node, held[index], f"{where}[{index}]")
            for index, node in enumerate(tree["items"])
        ]

    def table(self, tree: Node, live: Mapping[Any, Any], where: str) -> list[tuple[Any, Any]]:
        found = []
        for key_node, node in tree["items"]:
            key = self.value(key_node, None, where)
            found.append((key, self.value(node, live.get(key), f"{where}.{key}")))
        return found


def _fill(tensor: Tensor, node: Node) -> None:
    tensor.requires_grad_(node["requires_grad"])
    tensor.data.copy_(node["value"])
    grad = node["grad"]
    tensor.grad = None if grad is None else grad.to(tensor.device)


def _put(table: dict[Any, Any], entries: list[tuple[Any, Any]]) -> None:
    for key, value in entries:  # what a Counter calls update adds up
        table[key] = value


def _refill(part: nn.Module, training: bool, values: dict[str, Any], gone: set[str]) -> None:
    part.training = training
    for name in gone:
        vars(part).pop(name)
    vars(part).update(values)


def _array(node: Node) -> np.ndarray[Any, Any]:
    flat = node["data"].numpy().view(np.dtype(node["dtype"]))
    return flat.reshape(node["shape"]).copy()  # type: ignore[no-any-return]
