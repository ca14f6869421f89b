"""Per-draw gradients as sums of outer products, and the algebra that never writes them out.

For a parameter W used in m rows of a draw, the draw's gradient is sum_s d_s x_s'. Its squared
norm is sum_{s,s'} (x_s.x_s')(d_s.d_s'): m^2 (a + b) operations where the gradient itself costs
m a b. Whichever is cheaper is taken. Parameters that share their d (a layer's weight, its bias,
an LSTM's two matrices) share the second Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor, nn

from estbench.meter.diagnosis import Fault, as_fault
from estbench.meter.rules import DENSE_VOCABULARY
from estbench.meter.taps import Part, Tap, at_least_float32

__all__ = ["Factors", "join"]

CHUNK_NUMBERS = 1 << 22  # numbers held at a time where whole gradients must be formed
CACHED_NUMBERS = 1 << 17  # fewer where each is read once: in the cache it is ten times as fast


@dataclass(frozen=True)
class Factor:
    """The gradients ``[n, *shape]`` of one parameter.

    Attributes:
      d: Output gradients ``[n, m, b]``; for a parameter whose gradient is held whole, None.
      x: Inputs ``[n, m, a]``, int64 tokens ``[n, m]`` that stand for one-hot rows, or None where
        the gradient is the plain sum of d.
      whole: The gradients themselves where they are held.
      transposed: The parameter is [a, b] rather than [b, a]; a convolution's is that, folded.
      classes: a, where x holds tokens.
      key: Factors of equal key have the same d.
      rest: Inputs ``[n, m2, a]`` of the last m2 rows, where x holds the tokens of the others: an
        embedding whose table is the output layer's, too.
      turned: Inputs and output gradients have changed places in some rows: x belongs to one
        backward pass, as d always does.
    """

    shape: tuple[int, ...]
    d: Tensor | None = None
    x: Tensor | None = None
    whole: Tensor | None = None
    transposed: bool = False
    classes: int = 0
    key: tuple[int, ...] = ()
    rest: Tensor | None = None
    turned: bool = False

    def split(self) -> list[Factor]:
        """Return factors whose gradients add up to this one's, with inputs of one kind each."""
        if self.rest is None:
            return [self]
        assert self.d is not None
        first = self.d.shape[1] - self.rest.shape[1]
        return [
            replace(self, d=self.d[:, :first], rest=None),
            replace(self, d=self.d[:, first:], x=self.rest, rest=None),
        ]

    def form(self, picked: slice | Tensor) -> Tensor:
        """Return whole gradients ``[picked, *shape]``."""
        if self.whole is not None:
            return self.whole[picked]
        if self.rest is not None:
            tokens, dense = (part.form(picked) for part in self.split())
            return tokens + dense
        assert self.d is not None
        d = self.d[picked]
        if self.x is None:
            return d.sum(dim=1).reshape(-1, *self.shape)
        x = self.x[picked]
        if not x.is_floating_point():
            out = d.new_zeros(d.shape[0], self.classes, d.shape[2])
            index = x.unsqueeze(-1).expand(-1, -1, d.shape[2])
            return out.scatter_add(1, index, d)
        left, right = (x, d) if self.transposed else (d, x)
        return (left.transpose(1, 2) @ right).reshape(-1, *self.shape)

    def squares(self) -> Tensor:
        """Return the sum over draws of each element's square, float64 ``[*shape]``."""
        tokens = self.x is not None and not self.x.is_floating_point() and self.rest is None
        if tokens and self.d is not None and self.x is not None:
            return self._token_squares(self.d, self.x)
        total = torch.zeros(self.shape, dtype=torch.float64, device=self._device())
        draws = len(self.d if self.whole is None else self.whole)  # type: ignore[arg-type]
        size = max(1, CACHED_NUMBERS // max(1, total.numel()))
        for start in range(0, draws, size):
            total += self.form(slice(start, start + size)).square().sum(dim=0)
        return total

    def _token_squares(self, d: Tensor, x: Tensor) -> Tensor:
        """Return ``squares`` of an embedding, from the rows that a draw's tokens touch alone."""
        same = x.unsqueeze(1) == x.unsqueeze(2)
        touched = same.to(d.dtype) @ d  # at each place, the whole gradient of its token's row
        again = same.tril(diagonal=-1).any(dim=2)
        touched[again] = 0  # a row counts once, where its token stands first
        total = torch.zeros(self.shape, dtype=torch.float64, device=d.device)
        return total.index_add_(0, x.flatten(), touched.double().square().flatten(0, 1))

    def _device(self) -> torch.device:
        held = self.d if self.whole is None else self.whole
        assert held is not None
        return held.device

    def first(self, draws: int) -> Factor:
        """Return the first draws alone."""
        held = (self.d, self.x, self.whole, self.rest)
        d, x, whole, rest = (None if t is None else t[:draws] for t in held)
        return replace(self, d=d, x=x, whole=whole, rest=rest)

    @property
    def fits(self) -> bool:
        """Whether inputs and output gradients make a gradient of the parameter's shape."""
        if self.d is None:
            return True
        if self.rest is not None:
            return all(part.fits for part in self.split())
        a = 1
        if self.x is not None:
            a = self.x.shape[2] if self.x.is_floating_point() else self.classes
        rows = self.x is None or self.x.shape[1] == self.d.shape[1]
        return rows and a * self.d.shape[2] == torch.Size(self.shape).numel()

    @property
    def prefers_gram(self) -> bool:
        """Whether the Gram trick is cheaper than the gradient."""
        if self.whole is not None or self.x is None:
            return False
        assert self.d is not None
        m, b = self.d.shape[1], self.d.shape[2]
        a = self.x.shape[2] if self.x.is_floating_point() else self.classes
        return m * (a + b) < a * b

    def input_gram(self) -> Tensor:
        """Return x x' of every draw, ``[n, m, m]``."""
        assert self.x is not None
        assert self.d is not None
        if self.x.is_floating_point():
            return self.x @ self.x.transpose(1, 2)
        same = (self.x.unsqueeze(1) == self.x.unsqueeze(2)).to(self.d.dtype)
        if self.rest is None:
            return same
        # The product with a one-hot row is the entry at its token.
        m = self.rest.shape[1]
        mixed = self.rest.gather(2, self.x.unsqueeze(1).expand(-1, m, -1))
        above = torch.cat([same, mixed.transpose(1, 2)], dim=2)
        below = torch.cat([mixed, self.rest @ self.rest.transpose(1, 2)], dim=2)
        return torch.cat([above, below], dim=1)


class Factors:
    """The factors of all parameters, for n draws."""

    def __init__(self, factors: list[Factor], draws: int) -> None:
        self.factors = factors
        self.draws = draws

    @classmethod
    def empty(cls, draws: int, parameters: Sequence[Tensor]) -> Factors:
        """Return factors that hold nothing."""
        return cls([Factor(tuple(p.shape), whole=None) for p in parameters], draws)

    @classmethod
    def direct(cls, whole: Sequence[Tensor]) -> Factors:
        """Return factors of gradients that are held whole, ``[n, *shape]`` each."""
        return cls([Factor(tuple(g.shape[1:]), whole=g) for g in whole], whole[0].shape[0])

    def whole(self, picked: Tensor) -> list[Tensor]:
        """Return the whole gradients of some draws, ``[picked, *shape]`` for each parameter."""
        return [f.form(picked) for f in self.factors]

    def tensor(self, index: int) -> Tensor:
        """Return every draw's gradient of one parameter, ``[n, *shape]``."""
        return self.factors[index].form(slice(None))

    def plus(self, other: Factors, coefficients: Sequence[float]) -> Factors:
        """Return these gradients plus others of the same tape, a coefficient for each parameter."""
        triples = zip(self.factors, other.factors, coefficients, strict=True)
        return Factors([_plus(a, b, c) for a, b, c in triples], self.draws)

    def sums(self) -> list[Tensor]:
        """Return the sum over all draws for each parameter."""
        return [reduce(torch.add, map(_sum, f.split())) for f in self.factors]

    def second_moments(self, draws: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each parameter the sum of the first draws, and of their elements' squares."""
        some = [f.first(draws) for f in self.factors]
        return Factors(some, draws).sums(), [f.squares() for f in some]

    def scales(self) -> list[float]:
        """Return for each parameter the size that the rounding of its sum goes with.

        That is the root of the sum of squares of all that is added up: sum_s |x_s|^2 |d_s|^2.
        """
        out = []
        sizes: dict[tuple[int, ...], Tensor] = {}
        for f in self.factors:
            if f.whole is not None:
                out.append(float(f.whole.norm()))
                continue
            if f.key not in sizes:
                sizes[f.key] = torch.linalg.vector_norm(_d(f), dim=2)
            size = sizes[f.key]
            if f.x is not None and f.x.is_floating_point():
                size = size * torch.linalg.vector_norm(f.x, dim=2)
            elif f.rest is not None:
                before = size.shape[1] - f.rest.shape[1]
                last = size[:, before:] * torch.linalg.vector_norm(f.rest, dim=2)
                size = torch.cat([size[:, :before], last], dim=1)
            out.append(float(size.norm()))
        return out

    def terms(self) -> list[int]:
        """Return for each parameter how many terms a draw's gradient is the sum of."""
        return [1 if f.d is None else f.d.shape[1] for f in self.factors]

    def block_sums(self, blocks: int) -> Tensor:
        """Return sums over ``blocks`` equal groups of consecutive draws, ``[blocks, P]``."""
        if self.draws % blocks:
            raise ValueError(f"{self.draws} draws do not fall into {blocks} equal blocks")
        parts = []
        for f in self.factors:
            if f.whole is not None:
                parts.append(f.whole.reshape(blocks, -1, *f.shape).sum(dim=1).reshape(blocks, -1))
                continue
            merged = (_in_blocks(each, blocks).form(slice(None)) for each in f.split())
            parts.append(reduce(torch.add, merged).reshape(blocks, -1))
        return torch.cat(parts, dim=1)

    def squared_norms(self) -> Tensor:
        """Return ``[n]`` squared norms over all parameters together."""
        return self.gram([self])[:, 0, 0]

    def gram(self, sets: Sequence[Factors]) -> Tensor:
        """Return inner products ``[n, k, k]`` between k sets of factors of the same inputs."""
        groups: dict[tuple[int, ...], list[int]] = {}
        totals: list[Tensor] = []
        for i, f in enumerate(self.factors):
            if f.turned and len(sets) > 1:
                totals.append(_gram_by_form([s.factors[i] for s in sets], self.draws))
            elif f.prefers_gram or (f.x is None and f.whole is None):
                groups.setdefault(f.key, []).append(i)
            else:
                totals.append(_gram_by_form([s.factors[i] for s in sets], self.draws))
        for members in groups.values():
            inputs = _input_gram([self.factors[i] for i in members])
            if inputs is None:  # biases alone: their gradients are short
                totals += [_gram_by_form([s.factors[i] for s in sets], self.draws) for i in members]
                continue
            k, m = len(sets), inputs.shape[1]
            each = [_d(s.factors[members[0]]) for s in sets]
            d = torch.cat(each, dim=1) if k > 1 else each[0]  # cat would copy a single one
            pairs = (d @ d.transpose(1, 2)).reshape(-1, k, m, k, m)
            if k == 1:
                totals.append((pairs[:, 0, :, 0] * inputs).sum(dim=(1, 2)).reshape(-1, 1, 1))
            else:
                totals.append((pairs * inputs[:, None, :, None]).sum(dim=(2, 4)))
        return torch.stack(totals).sum(dim=0)

    def squared_norms_by_tensor(self) -> Tensor:
        """Return ``[parameters, n]`` squared norms."""
        rows = []
        for f in self.factors:
            if f.prefers_gram:
                d = _d(f)
                rows.append((f.input_gram() * (d @ d.transpose(1, 2))).sum(dim=(1, 2)))
            else:
                rows.append(_gram_by_form([f], self.draws)[:, 0, 0])
        return torch.stack(rows)

    def gram_by_tensor(self, sets: Sequence[Factors]) -> list[Tensor]:
        """Return inner products ``[n, k, k]`` between k sets, for each parameter alone."""
        found = []
        for i, f in enumerate(self.factors):
            same = all(s.factors[i].d is not None for s in sets) and f.prefers_gram
            same = same and not f.turned
            if not same or len({_d(s.factors[i]).shape for s in sets}) > 1:
                found.append(_gram_by_form([s.factors[i] for s in sets], self.draws))
                continue
            k, inputs = len(sets), f.input_gram()
            m = inputs.shape[1]
            d = torch.cat([_d(s.factors[i]) for s in sets], dim=1)
            pairs = (d @ d.transpose(1, 2)).reshape(-1, k, m, k, m)
            found.append((pairs * inputs[:, None, :, None]).sum(dim=(2, 4)))
        return found

    def inner(self, other: Factors) -> Tensor:
        """Return ``[n]`` inner products with factors of the same inputs (the same tape)."""
        return self.gram([self, other])[:, 0, 1]

    def dots(self, direction: Sequence[Tensor]) -> Tensor:
        """Return ``[n]`` inner products with one direction."""
        total = None
        given = zip(self.factors, direction, strict=True)
        for f, v in ((part, v) for factor, v in given for part in factor.split()):
            if f.whole is not None:
                part = _flat(f.whole) @ v.flatten()
            elif f.x is None:
                assert f.d is not None
                part = f.d.sum(dim=1) @ v.flatten()
            else:
                assert f.d is not None
                if not f.x.is_floating_point():
                    image = v[f.x]
                else:
                    image = f.x @ (v if f.transposed else v.reshape(f.d.shape[2], -1).t())
                part = (image * f.d).sum(dim=(1, 2))
            total = part if total is None else total + part
        assert total is not None
        return total


def _flat(rows: Tensor) -> Tensor:
    """Return ``[n, numbers]``; ``flatten`` would not take the gradients of a scalar, ``[n]``."""
    return rows.reshape(len(rows), -1)


def _d(factor: Factor) -> Tensor:
    assert factor.d is not None
    return factor.d


def _plus(a: Factor, b: Factor, coefficient: float) -> Factor:
    if not coefficient:
        return a
    if a.d is not None and b.d is not None and a.d.shape == b.d.shape and not a.turned:
        # Of one tape, and reached by the same calls: the inputs are the same.
        d = a.d + coefficient * b.d
        return replace(a, d=d, key=(*a.key, *b.key, hash(coefficient)))
    whole = a.form(slice(None)) + coefficient * b.form(slice(None))
    return Factor(a.shape, whole=whole)


def _sum(f: Factor) -> Tensor:
    """Return the sum over all draws, for inputs of one kind."""
    if f.whole is not None:
        return f.whole.sum(dim=0)
    d = _d(f).reshape(-1, _d(f).shape[2])
    if f.x is None:
        return d.sum(dim=0).reshape(f.shape)
    if not f.x.is_floating_point():
        return d.new_zeros(f.shape).index_add(0, f.x.reshape(-1), d)
    x = f.x.reshape(-1, f.x.shape[2])
    return (x.t() @ d if f.transposed else d.t() @ x).reshape(f.shape)


def _in_blocks(f: Factor, blocks: int) -> Factor:
    """Return equal groups of consecutive draws as one draw each, which has more rows."""
    d = _d(f).reshape(blocks, -1, _d(f).shape[2])
    x = None if f.x is None else f.x.reshape(blocks, -1, *f.x.shape[2:])
    return Factor(f.shape, d, x, transposed=f.transposed, classes=f.classes)


def _input_gram(members: Sequence[Factor]) -> Tensor | None:
    """Return the sum of x x' over factors of the same d; None where all of them are biases."""
    if members[0].rest is not None:  # its d is made of several, and no other factor's
        return members[0].input_gram()
    inputs = [f.x for f in members if f.x is not None]
    if not inputs:
        return None
    # Inputs side by side make one matrix; a bias is an input that is always 1.
    total: Tensor | None = None
    dense = [x for x in inputs if x.is_floating_point()]
    if dense:
        x = torch.cat(dense, dim=2) if len(dense) > 1 else dense[0]
        total = x @ x.transpose(1, 2)
    for f in members:
        if f.x is not None and not f.x.is_floating_point():
            total = f.input_gram() if total is None else total + f.input_gram()
    assert total is not None
    return total + sum(f.x is None for f in members)


def _gram_by_form(factors: Sequence[Factor], draws: int) -> Tensor:
    """Return inner products ``[n, k, k]`` from whole gradients, some draws at a time."""
    size = max(1, CHUNK_NUMBERS // max(1, int(torch.Size(factors[0].shape).numel())))
    parts = []
    for start in range(0, draws, size):
        picked = slice(start, start + size)
        rows = [_flat(f.form(picked)) for f in factors]
        if len(rows) == 1:
            parts.append((rows[0] * rows[0]).sum(dim=1).reshape(-1, 1, 1))
        else:
            stacked = torch.stack(rows, dim=1)
            parts.append(stacked @ stacked.transpose(1, 2))
    return torch.cat(parts)


def join(
    taps: Sequence[Tap],
    grads: Sequence[Tensor | None],
    draws: int,
    parameters: Sequence[Tensor],
    names: Sequence[str],
) -> Factors:
    """Return the factors of all parameters from the taps and the gradients that reached them.

    Raises:
      Fault: A call's rows are not a whole number to each draw, or do not make a gradient of the
        parameter's shape.
    """
    names_by_id = {id(p): name for p, name in zip(parameters, names, strict=True)}
    collected: dict[int, list[_Share]] = {id(p): [] for p in parameters}
    for tap, grad in zip(taps, grads, strict=True):
        wanted = [part for part in tap.parts if id(part.parameter) in collected]
        if grad is None or not wanted:
            continue
        if tap.arrange is not None:
            with as_fault(names_by_id[id(wanted[0].parameter)]):
                grad = tap.arrange(grad)
        rows = grad.shape[0] if grad.dim() > 1 else 1
        if rows % draws:
            raise Fault(
                names_by_id[id(wanted[0].parameter)],
                f"a call has {rows} rows, no multiple of {draws} draws "
                "(what all rows share, such as positions, must be given to each row anew)",
                "shared",
            )
        # Half precision would add rounding of its own to what is squared and summed here.
        grad = grad.to(at_least_float32(grad.dtype))
        d = grad.reshape(draws, -1, grad.shape[-1])
        padded: dict[int, Tensor] = {}  # parameters that share a gradient go on sharing it
        for part in wanted:
            with as_fault(names_by_id[id(part.parameter)]):
                collected[id(part.parameter)].append(_share(part, d, padded, draws))
    found = []
    for p, name in zip(parameters, names, strict=True):
        with as_fault(name):
            factor = _joined(p, collected[id(p)], draws)
            if not factor.fits:
                raise ValueError("inputs and outputs are of other shapes")
            found.append(factor)
    return Factors(found, draws)


@dataclass(frozen=True)
class _Share:
    """What one tap holds of a parameter's gradients; fields as in ``Factor``."""

    d: Tensor
    x: Tensor | None
    transposed: bool
    classes: int

    def turned(self) -> _Share:
        """Return the same gradient with the parameter read as [a, b]: input and d change places."""
        if self.transposed or self.x is None:
            return self
        return _Share(self.x, self.d, True, 0)


def _share(part: Part, d: Tensor, padded: dict[int, Tensor], draws: int) -> _Share:
    if part.elementwise:
        assert part.x is not None
        return _Share(d * part.x.to(d.dtype).reshape(d.shape), None, False, 0)
    entries = part.parameter.shape[0] if part.parameter.dim() else 1
    after = 0 if part.transposed else entries - part.offset - d.shape[-1]
    if part.offset or after > 0:
        if part.offset not in padded:
            padded[part.offset] = nn.functional.pad(d, (part.offset, after))
        d = padded[part.offset]
    x = part.x
    if x is not None:
        x = x.to(d.dtype) if x.is_floating_point() else x
        x = x.reshape(draws, -1, *(x.shape[-1:] if x.is_floating_point() else ()))
    return _Share(d, x, part.transposed, part.classes)


def _joined(parameter: Tensor, shares: list[_Share], draws: int) -> Factor:
    shape = tuple(parameter.shape)
    if not shares:
        zero = parameter.new_zeros((), dtype=at_least_float32(parameter.dtype))
        return Factor(shape, whole=zero.expand(draws, *shape))
    tied = len({s.transposed for s in shares}) > 1
    if tied:  # an embedding whose table is the output layer's, too
        shares = [s.turned() for s in shares]
    classes = max(s.classes for s in shares)
    tokens = [s for s in shares if s.classes]
    mixed = tied and classes > DENSE_VOCABULARY and all(_holds_tokens(s) for s in tokens)
    if mixed:
        shares = [*tokens, *(s for s in shares if not s.classes)]
    d = torch.cat([s.d for s in shares], dim=1) if len(shares) > 1 else shares[0].d
    inputs = [s.x for s in shares]
    x: Tensor | None = None
    rest: Tensor | None = None
    if mixed:
        x, rest = (
            torch.cat([i for i in some if i is not None], dim=1)
            for some in (inputs[: len(tokens)], inputs[len(tokens) :])
        )
    elif inputs[0] is not None:
        found = [i for i in inputs if i is not None]
        if classes and (classes <= DENSE_VOCABULARY or any(i.is_floating_point() for i in found)):
            found = [
                i if i.is_floating_point() else nn.functional.one_hot(i, classes).to(d.dtype)
                for i in found
            ]
        x = torch.cat(found, dim=1) if len(found) > 1 else found[0]
    # Memory alone would not do: one gradient may be looked at in several ways.
    key = tuple(number for s in shares for number in (s.d.data_ptr(), *s.d.shape, *s.d.stride()))
    transposed = shares[0].transposed
    return Factor(shape, d, x, None, transposed, classes, key, rest, turned=tied)


def _holds_tokens(share: _Share) -> bool:
    return share.x is not None and not share.x.is_floating_point()
