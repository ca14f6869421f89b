"""State as data: objects become tensors, numbers, text, lists and dictionaries, and back.

``state_dict`` describes what is in an object; ``load_state_dict`` puts it back *into* an object of
the same make, so that other holders of the object see it too. Tensors that are trained, networks,
optimisers, generators of noise and instances of classes need a counterpart; everything else is made
where it is missing. Each object is described once, so that two names for one object stay so.

An object that cannot be described is refused by name.
"""

from __future__ import annotations

import collections
import copy
import types
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["MismatchError", "Stateful", "UnknownObjectError", "load_state_dict", "state_dict"]

LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes})
CONSTANTS = (torch.dtype, torch.device, type, types.BuiltinFunctionType)
BUILTIN: dict[str, Any] = {
    f"builtins.{kind.__name__}": kind for kind in (dict, list, set, tuple, frozenset)
}
FILLED = (dict, list, set, collections.deque)
EMPTY = type("Empty", (), {}).__basicsize__
"""Bytes of an instance that has a ``__dict__`` and nothing else."""

Node = dict[str, Any]


class UnknownObjectError(Exception):
    """An object that cannot be described; says what it is and where."""


class MismatchError(Exception):
    """An object is not of the make that was described; says which."""


class Stateful:
    """Base of classes that have more in them than changes during a run.

    Attributes:
      changing: Names of the attributes that change.
    """

    changing: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> Any:
        """Return what changes during a run, as data."""
        return state_dict(self)

    def load_state_dict(self, kept: Any) -> None:
        """Take back what ``state_dict`` returned.

        Raises:
          MismatchError: It does not fit; part of it may have been taken.
        """
        load_state_dict(self, kept)


def state_dict(value: Any) -> Any:
    """Return what is in an object as tensors, numbers, text, lists and dictionaries.

    The tensors share their memory with the object: save them before anything changes.

    Raises:
      UnknownObjectError: Something in it cannot be described.
    """
    return _Description().of(value, "state")


def load_state_dict(value: Any, kept: Any) -> Any:
    """Put what ``state_dict`` returned into an object of the same make; return the object.

    The object takes over tensors of ``kept``: it can be loaded once.

    Raises:
      MismatchError: It does not fit; part of it may have been changed.
    """
    with torch.no_grad():
        return _Filling().of(kept, value, "state")


def class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an instance that may change."""
    if isinstance(value, Stateful):
        return {name: getattr(value, name) for name in value.changing}
    if isinstance(value, nn.Module):  # beside parameters, buffers and other modules
        return {k: v for k, v in vars(value).items() if not k.startswith("_")}
    return dict(vars(value))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    parameters = module.named_parameters(remove_duplicate=False)
    return dict([*parameters, *module.named_buffers(remove_duplicate=False)])


def constant(value: Any) -> str | None:
    """Return the name of an object that never changes, such as a function; else None."""
    if isinstance(value, CONSTANTS):
        return repr(value)
    if isinstance(value, types.FunctionType) and not value.__closure__:
        return f"{value.__module__}.{value.__qualname__}"
    return None


def plain_instance(value: Any) -> bool:
    """Return whether everything in an instance is in its ``__dict__``: no slots, no base in C."""
    bases = type(value).mro()[:-1]
    reduces = any("__reduce_ex__" in vars(b) or "__reduce__" in vars(b) for b in bases)
    return hasattr(value, "__dict__") and type(value).__basicsize__ == EMPTY and not reduces


class _Description:
    """One walk through objects; each is described where it is met first."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[Any, Node]] = {}  # the object too, or its id might be reused
        self.memory: dict[int, tuple[bool, str]] = {}

    def of(self, value: Any, where: str, filled: bool = False) -> Any:
        if type(value) in LEAVES:
            return value
        if id(value) in self.nodes:
            return self.nodes[id(value)][1]
        node: Node = {"class": class_name(value)}
        self.nodes[id(value)] = value, node
        node |= self.content(value, where, filled)
        return node

    def content(self, value: Any, where: str, filled: bool) -> Node:
        name = constant(value)
        if name is not None:
            return {"kind": "constant", "name": name}
        if isinstance(value, Tensor):
            return {"kind": "tensor", **self.tensor(value, where, filled)}
        if isinstance(value, torch.Generator):
            return {"kind": "generator", "state": value.get_state()}
        if isinstance(value, np.random.Generator):
            return {"kind": "numpy generator", "state": self.of(value.bit_generator.state, where)}
        if isinstance(value, np.ndarray | np.generic):
            return {"kind": "array", **self.array(np.asarray(value), where)}
        if isinstance(value, nn.Module):
            tensors = tensors_of(value).items()
            return {
                "kind": "module",
                "tensors": {k: self.of(t, f"{where}.{k}", filled=True) for k, t in tensors},
                "parts": {
                    k: self.table(attributes(part), f"{where}.{k}".rstrip("."))
                    for k, part in value.named_modules()
                },
            }
        if isinstance(value, torch.optim.Optimizer):
            return {"kind": "optimiser", "state": self.of(value.state_dict(), where)}
        if isinstance(value, dict):
            return {"kind": "dict", "items": self.table(value, where)}
        if isinstance(value, set | frozenset):  # whose own order differs from process to process
            return {"kind": "items", "items": self.items(sorted(value, key=repr), where)}
        if isinstance(value, list | tuple | collections.deque):
            return {"kind": "items", "items": self.items(value, where)}
        if isinstance(value, Stateful) or plain_instance(value):
            return {"kind": "instance", "items": self.table(attributes(value), where)}
        raise UnknownObjectError(f"{where} is a {class_name(value)}")

    def items(self, values: Any, where: str) -> list[Any]:
        if set(map(type, values)) <= LEAVES:  # curves are long
            return list(values)
        return [self.of(entry, f"{where}[{index}]") for index, entry in enumerate(values)]

    def table(self, values: dict[Any, Any], where: str) -> Node:
        for key in values:
            parts = key if type(key) is tuple else (key,)
            if not {type(part) for part in parts} <= LEAVES:
                raise UnknownObjectError(f"a key of {where} is a {class_name(key)}")
        return {key: self.of(entry, f"{where}.{key}") for key, entry in values.items()}

    def tensor(self, value: Tensor, where: str, filled: bool) -> Node:
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            raise UnknownObjectError(f"{where} is a {class_name(value)} of layout {value.layout}")
        if value.grad_fn is not None:
            raise UnknownObjectError(f"{where} is a tensor that belongs to a graph: detach it")
        filled = filled or value.requires_grad
        if value.numel():
            # A tensor that is replaced no longer shares memory with one that is filled.
            start = value.untyped_storage().data_ptr()
            first = self.memory.setdefault(start, (filled, where))
            if first[0] != filled:
                raise UnknownObjectError(f"{where} shares the memory of {first[1]}")
        gradient = None if value.grad is None else value.grad.detach()
        return {"value": value.detach(), "trained": value.requires_grad, "gradient": gradient}

    def array(self, value: np.ndarray[Any, Any], where: str) -> Node:
        if value.dtype.hasobject or value.dtype.fields:
            raise UnknownObjectError(f"{where} is an array of {value.dtype}")
        bits = np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy()
        return {"type": value.dtype.str, "shape": list(value.shape), "bits": torch.from_numpy(bits)}


class _Filling:
    """One walk through a description and the objects that take it."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.taken: set[int] = set()

    def of(self, node: Any, live: Any, where: str, filled: bool = False) -> Any:
        if not isinstance(node, dict):
            return node
        if id(node) not in self.made:
            self.fill(node, live, where, filled)
        return self.made[id(node)]

    def claim(self, node: Node, live: Any) -> bool:
        """Return whether a live object is of the node's class, and no other node has taken it."""
        if class_name(live) != node["class"] or id(live) in self.taken:
            return False
        self.taken.add(id(live))
        return True

    def need(self, node: Node, live: Any, where: str) -> Any:
        if not self.claim(node, live):
            raise MismatchError(f"{where} is a {class_name(live)}, not a {node['class']}")
        return live

    def fill(self, node: Node, live: Any, where: str, filled: bool) -> None:
        kind, number = node["kind"], id(node)
        if kind == "constant":
            if constant(live) != node["name"]:
                raise MismatchError(f"{where} is a {class_name(live)}, not {node['name']}")
            self.made[number] = live
        elif kind == "tensor":
            self.made[number] = self.tensor(node, live, where, filled)
        elif kind == "generator":
            self.made[number] = self.need(node, live, where)
            live.set_state(node["state"])
        elif kind == "numpy generator":
            self.made[number] = self.need(node, live, where)
            live.bit_generator.state = self.of(node["state"], None, where)
        elif kind == "array":
            flat = node["bits"].numpy().view(np.dtype(node["type"]))
            array = flat.reshape(node["shape"]).copy()
            self.made[number] = array if node["class"] == "numpy.ndarray" else array[()]
        elif kind == "module":
            self.made[number] = self.need(node, live, where)
            self.module(node, live, where)
        elif kind == "optimiser":
            self.made[number] = self.need(node, live, where)
            live.load_state_dict(self.of(node["state"], None, where))
        elif kind == "instance":
            if class_name(live) != node["class"]:
                raise MismatchError(f"{where} is a {class_name(live)}, not a {node['class']}")
            # Where several names stood for one instance at first, all but one get their own.
            made = live if self.claim(node, live) else object.__new__(type(live))
            self.made[number] = made
            for name, value in self.table(node["items"], attributes(live), where).items():
                if getattr(made, name, self) is not value:
                    setattr(made, name, value)
        else:
            self.container(node, live, where)

    def container(self, node: Node, live: Any, where: str) -> None:
        builtin = BUILTIN.get(node["class"])
        if builtin is None and class_name(live) != node["class"]:
            raise MismatchError(f"{where} is a {class_name(live)}, not a {node['class']}")
        cls = builtin or type(live)
        if not issubclass(cls, FILLED):
            values = self.items(node["items"], live if isinstance(live, tuple) else (), where)
            self.made[id(node)] = getattr(cls, "_make", cls)(values)
            return
        mine = self.claim(node, live)
        made = live if mine else builtin() if builtin else copy.copy(live)
        self.made[id(node)] = made  # before its content, which may refer to it
        if node["kind"] == "dict":
            entries = self.table(node["items"], live if isinstance(live, dict) else {}, where)
            made.clear()
            for key, value in entries.items():  # what a Counter calls update adds up
                made[key] = value
        else:
            old = live if isinstance(live, list | collections.deque) else ()
            values = self.items(node["items"], old, where)
            made.clear()
            (made.update if isinstance(made, set) else made.extend)(values)

    def items(self, nodes: list[Any], live: Any, where: str) -> list[Any]:
        if set(map(type, nodes)) <= LEAVES:
            return list(nodes)
        held = [*live, *[None] * (len(nodes) - len(live))]
        return [self.of(node, held[i], f"{where}[{i}]") for i, node in enumerate(nodes)]

    def table(self, nodes: Node, live: dict[Any, Any], where: str) -> dict[Any, Any]:
        return {key: self.of(node, live.get(key), f"{where}.{key}") for key, node in nodes.items()}

    def tensor(self, node: Node, live: Any, where: str, filled: bool) -> Tensor:
        kept: Tensor = node["value"]
        # What an optimiser or a network holds is filled. Anything else is replaced: one tensor may
        # have several names as long as nothing was learned.
        if not (filled or node["trained"] or getattr(live, "requires_grad", False)):
            return kept
        if not self.claim(node, live) or (live.shape, live.dtype) != (kept.shape, kept.dtype):
            raise MismatchError(f"{where} has no tensor to take what was kept")
        live.requires_grad_(node["trained"])
        live.data.copy_(kept)
        gradient = node["gradient"]
        live.grad = None if gradient is None else gradient.to(live.device)
        return live  # type: ignore[no-any-return]

    def module(self, node: Node, live: nn.Module, where: str) -> None:
        tensors, parts = tensors_of(live), dict(live.named_modules())
        if tensors.keys() != node["tensors"].keys() or parts.keys() != node["parts"].keys():
            raise MismatchError(f"{where} has other parameters than those kept")
        for name, tensor in node["tensors"].items():
            if self.of(tensor, tensors[name], f"{where}.{name}", filled=True) is not tensors[name]:
                raise MismatchError(f"{where}.{name} is not shared as it was")
        for name, table in node["parts"].items():
            own = attributes(parts[name])
            kept = self.table(table, own, f"{where}.{name}".rstrip("."))
            for gone in own.keys() - kept.keys():
                delattr(parts[name], gone)
            for key, value in kept.items():
                setattr(parts[name], key, value)
