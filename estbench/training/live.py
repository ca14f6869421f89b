"""Live objects as trees that can be written down; ``restore`` turns them back.

A run is a web of objects that know one another: an optimiser holds the parameters of a network, a
lagging copy the contexts of its policy. ``capture`` writes down what is in them, each object once;
``estbench.training.restore`` puts it back *into* the objects of a run that was set up anew, so that
whoever else holds them sees it too. Tables, lists and tensors that nothing else can hold are made
where they are missing; networks, optimisers and instances of classes have to be there.

What is not known here is refused by name: nothing is written down by half.
"""

from __future__ import annotations

import collections
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Fields",
    "Unchanged",
    "Ungraded",
    "UnknownObjectError",
    "capture",
]

LEAVES = (type(None), bool, int, float, complex, str, bytes)
PLAIN = (type(None), bool, int, float, str)  # what stands in a tree as it is
SIMPLE = {type(None), bool, float}
Node = dict[str, Any]
INT64 = 2**63
FIXED = (torch.dtype, torch.device, torch.Size, type, types.BuiltinFunctionType)
EMPTY = type("Empty", (), {}).__basicsize__
"""Bytes of an instance that has a ``__dict__`` and nothing else."""


class UnknownObjectError(Exception):
    """Something that cannot be written down; says what, and where it was found."""


class Fields:
    """Some attributes of an object, where the rest of it is none of a run's state.

    Args:
      owner: The object.
      names: Its attributes, immutable ones.
    """

    def __init__(self, owner: Any, names: Sequence[str]) -> None:
        self.owner = owner
        self.names = tuple(names)


class Ungraded:
    """A network whose gradients every step sets anew: they are not written down.

    Args:
      network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network


class Unchanged:
    """An object of which nothing is written down, for nothing in it changes: that is checked.

    Args:
      owner: The object; its attributes are to stay those that they are now.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.held = dict(vars(owner))

    @property
    def changed(self) -> list[str]:
        """The attributes that are not what they were."""
        now = vars(self.owner)
        names = sorted(now.keys() | self.held.keys())
        return [n for n in names if now.get(n, self) is not self.held.get(n, self)]


def capture(live: Any) -> Any:
    """Return what is in live objects as tensors, numbers, text, lists and dictionaries.

    Tensors share their memory with the live ones: write the tree down before anything moves.

    Raises:
      UnknownObjectError: Something in them is of no kind that is known here.
    """
    return _Capture().node(live, "state")


def attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module itself holds beside parameters, buffers and other modules."""
    own = vars(module)
    return {k: v for k, v in own.items() if not k.startswith("_") and k != "training"}


def plain_instance(value: Any) -> bool:
    """Return whether all that is in an instance is in its ``__dict__``.

    Its class is written in Python, and has no slots and no base in C: its instances are as large as
    those of a class with nothing in it.
    """
    cls = type(value)
    reduces = any("__reduce_ex__" in vars(c) or "__reduce__" in vars(c) for c in cls.mro()[:-1])
    return hasattr(value, "__dict__") and cls.__basicsize__ == EMPTY and not reduces


def fixed(value: Any) -> str | None:
    """Return the name of what never changes: a class, a function, a type of numbers; else None."""
    if isinstance(value, FIXED):
        return repr(value)
    if isinstance(value, types.FunctionType) and not value.__closure__:
        return f"{value.__module__}.{value.__qualname__}"
    return None


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return all parameters and buffers, those under two names twice."""
    parameters = module.named_parameters(remove_duplicate=False)
    return [*parameters, *module.named_buffers(remove_duplicate=False)]


def class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def interned(text: str) -> bool:
    """Return whether a text is the one that this process keeps of all equal ones, as names are.

    A pickle writes a text once for each object: files whose bytes count tell them apart.
    """
    twin = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    return sys.intern(twin) is text


class _Capture:
    """One walk: each object is written down where it is met first, and named afterwards."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.kept: list[Any] = []  # or an id might be given away meanwhile
        self.memory: dict[int, tuple[bool, str]] = {}
        self.graded = True  # whether gradients are written down
        self.filled = False  # whether tensors will be filled where they are

    def node(self, value: Any, where: str) -> Any:
        if type(value) is str and not interned(value):
            return {"kind": "text", "text": value}
        if type(value) in PLAIN and not (type(value) is int and abs(value) >= INT64):
            return value
        if type(value) in LEAVES:
            return {"kind": type(value).__name__, "text": _text(value)}
        if isinstance(value, np.generic):
            return {"kind": "scalar", **self.array(np.asarray(value), where)}
        if type(value) is tuple:
            return {"kind": "tuple", "items": self.items(value, where)}
        if type(value) is frozenset:
            return {"kind": "frozenset", "items": self.items(_ordered(value), where)}
        name = fixed(value)
        if name is not None:
            return {"kind": "fixed", "name": name}
        if isinstance(value, Fields):
            taken = {name: getattr(value.owner, name) for name in value.names}
            return {"kind": "fields", "items": self.table(taken, where)}
        if isinstance(value, Ungraded):
            self.graded = False
            inner = self.node(value.network, where)
            self.graded = True
            return {"kind": "ungraded", "network": inner}
        if isinstance(value, Unchanged):
            if value.changed:
                what = f"{class_name(value.owner)}.{value.changed[0]}"
                raise UnknownObjectError(f"{what} changes: what is learned belongs in the state")
            return {"kind": "unchanged"}
        if id(value) in self.known:
            return {"kind": "same", "id": self.known[id(value)]}
        number = self.known[id(value)] = len(self.known)
        self.kept.append(value)
        return {"id": number, **self.content(value, where)}

    def content(self, value: Any, where: str) -> Node:
        if isinstance(value, Tensor):
            return self.tensor(value, where)
        if isinstance(value, torch.Generator):
            state = value.get_state()
            return {"kind": "generator", "device": value.device.type, "state": state}
        if isinstance(value, nn.Module):
            return self.module(value, where)
        if isinstance(value, torch.optim.Optimizer):
            state = self.node(value.state_dict(), f"{where}.state_dict()")
            return {"kind": "optimiser", "class": class_name(value), "state": state}
        if isinstance(value, np.ndarray):
            return {"kind": "array", **self.array(value, where)}
        if isinstance(value, np.random.Generator):
            state = self.node(dict(value.bit_generator.state), where)
            return {"kind": "numpy generator", "state": state}
        if isinstance(value, dict):
            return {"kind": "dict", "class": class_name(value), "items": self.table(value, where)}
        if isinstance(value, list | collections.deque):
            return {"kind": "list", "class": class_name(value), "items": self.items(value, where)}
        if isinstance(value, set):
            items = self.items(_ordered(value), where)
            return {"kind": "set", "class": class_name(value), "items": items}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"kind": "named", "class": class_name(value), "items": self.items(value, where)}
        if plain_instance(value):
            return {
                "kind": "instance",
                "class": class_name(value),
                "items": self.table(vars(value), where),
            }
        raise UnknownObjectError(f"{where} is a {class_name(value)}")

    def items(self, values: Any, where: str) -> list[Any]:
        if set(map(type, values)) <= SIMPLE:  # curves are long
            return list(values)
        return [self.node(entry, f"{where}[{index}]") for index, entry in enumerate(values)]

    def table(self, values: Mapping[Any, Any], where: str) -> list[tuple[Any, Any]]:
        return [
            (self.key(key, where), self.node(entry, f"{where}.{key}"))
            for key, entry in values.items()
        ]

    def key(self, key: Any, where: str) -> Any:
        found = self.node(key, f"a key of {where}")
        if isinstance(found, dict) and "id" in found:
            raise UnknownObjectError(f"a key of {where} is a {class_name(key)}")
        return found

    def tensor(self, value: Tensor, where: str) -> Node:
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            raise UnknownObjectError(f"{where} is a {class_name(value)} of layout {value.layout}")
        if value.grad_fn is not None:
            raise UnknownObjectError(f"{where} is a tensor that belongs to a graph: detach it")
        if value.numel():
            self.share(value, where)
        return {
            "kind": "tensor",
            "value": value.detach().cpu(),
            "cpu": value.device.type == "cpu",
            "requires_grad": value.requires_grad,
            "grad": value.grad.detach().cpu() if self.graded and value.grad is not None else None,
        }

    def share(self, value: Tensor, where: str) -> None:
        """Refuse a tensor whose memory is another's too, where they would part.

        One that is replaced parts from one that is filled; so do copies from another device.
        """
        filled = self.filled or value.requires_grad
        here = self.memory.setdefault(value.untyped_storage().data_ptr(), (filled, where))
        together = filled if here[0] else not filled and value.device.type == "cpu"
        if here[1] != where and not together:
            raise UnknownObjectError(f"{where} shares the memory of {here[1]}")

    def module(self, value: nn.Module, where: str) -> Node:
        self.filled = True
        tensors = {name: self.node(held, f"{where}.{name}") for name, held in tensors_of(value)}
        self.filled = False
        parts = []
        for name, part in value.named_modules():
            inner = f"{where}.{name}" if name else where
            parts.append((name, part.training, self.table(attributes(part), inner)))
        return {"kind": "module", "class": class_name(value), "tensors": tensors, "parts": parts}

    def array(self, value: np.ndarray[Any, Any], where: str) -> Node:
        if value.dtype.hasobject or value.dtype.fields:
            raise UnknownObjectError(f"{where} is an array of {value.dtype}")
        bits = np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy()
        shape = list(value.shape)
        return {"dtype": value.dtype.str, "shape": shape, "data": torch.from_numpy(bits)}


def _ordered(values: Any) -> list[Any]:
    """Return a set's members in an order; what it iterates in is none that can be kept."""
    return sorted(values, key=repr)


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
