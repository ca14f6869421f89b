"""SeqGAN's discriminator: a TextCNN with a highway layer (Yu et al. 2017, appendix; Kim 2014).

More than half of its arithmetic are convolutions of embeddings, and a filter that reads token v at
offset k always sees the same product. Where many sequences of tokens are evaluated, these products
are computed once for every (v, k), in a table, and a convolution becomes a sum of w rows of it: for
19,520 sequences of 20 out of 5,000 tokens, 8 GFLOP of products and 3 GFLOP of additions instead of
296. What remains is the highway layer, 231 GFLOP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from estbench.core.registry import Declared, register
from estbench.models.reward import Discriminator

__all__ = ["MAPS", "WIDTHS", "TextCNN"]

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
MAPS = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
"""SeqGAN's filters: numbers of feature maps by width, 1,720 in all."""

GATE_BIAS = -2.0  # a highway starts as a mere copy of its input (Srivastava et al. 2015)
HIGHWAY_ROWS = 1024  # per matrix product: 21 MB of inputs and outputs stay in cache
GATHER_ELEMENTS = 1 << 21  # per gather: 8 MB of window sums stay in cache until their maximum


@register
class TextCNN(Discriminator):
    """Convolutions over the tokens' embeddings, maximum over time, a highway layer, two outputs.

    Filters of several widths read the embeddings (Kim 2014); each map's maximum over all positions,
    biased and rectified, is a feature. The highway layer (Srivastava et al. 2015) mixes
    g = relu(W_g x + b_g) and x by the gate t = sigmoid(W_t x + b_t): t g + (1 - t) x. The outputs
    are "generated" and "real"; their difference, the logit of "real", is all that is ever seen.

    ``forward`` has nothing random in it, in training mode as in evaluation mode, and no row sees
    another one: dropout belongs to ``training_logits`` alone. Until ``initialise``, or a state that
    is loaded, its parameters hold whatever the memory held.

    Args:
      vocabulary: Number of tokens V.
      length: Tokens T in a sequence. Widths larger than T are left out, with their maps.
      embedding: Dimensions D of an embedding.
      widths: Widths of the filters, in tokens.
      maps: Feature maps of each width; SeqGAN's unless told.
      keep: Probability that dropout keeps a feature.
      l2: Weight of the penalty on the output layer.
      dtype: float32 or float64.

    Attributes:
      features: Number F of feature maps.
      rows: Sequences to be evaluated in one call; bounds memory (F numbers a sequence).

    Raises:
      ValueError: No width fits T, widths and maps differ in number, or keep is not in (0, 1].
    """

    info = Declared("cnn", "SeqGAN's convolutions with a highway layer", "Yu et al. 2017, appendix")

    rows = 20480

    def __init__(
        self,
        vocabulary: int,
        length: int,
        embedding: int = 64,
        widths: tuple[int, ...] = WIDTHS,
        maps: tuple[int, ...] = MAPS,
        keep: float = 0.75,
        l2: float = 0.2,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(widths) != len(maps):
            raise ValueError(f"{len(widths)} widths need as many maps, not {len(maps)}")
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be in (0, 1], not {keep}")
        chosen = [(w, m) for w, m in zip(widths, maps, strict=True) if w <= length]
        if not chosen:
            raise ValueError(f"no width of {widths} fits sequences of {length} tokens")
        self.vocabulary = vocabulary
        self.length = length
        self.keep = keep
        self.l2 = l2
        self.features = sum(m for _, m in chosen)
        self.embedding = nn.Parameter(torch.empty(vocabulary, embedding, dtype=dtype))
        # [m, w, D]: a filter lies in memory as a window of embeddings does.
        self.filters = nn.ParameterList(
            torch.empty(m, w, embedding, dtype=dtype) for w, m in chosen
        )
        self.bias = nn.Parameter(torch.empty(self.features, dtype=dtype))
        # Both of the highway's layers in one product: rows of W_g, then rows of W_t.
        self.highway = _linear(self.features, 2 * self.features, dtype)
        self.output = _linear(self.features, 2, dtype)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> TextCNN:
        """Draw all parameters from the laws of SeqGAN's public code; return self.

        Embeddings uniform(-1, 1); filters and output weights normal(0, .1) truncated at two
        standard deviations, with biases of .1; highway weights uniform with Glorot's bound
        sqrt(3 / F), with biases 0 and, at the gate, -2.
        """
        self.embedding.uniform_(-1, 1, generator=rng)
        for weight in (*self.filters, self.output.weight):
            nn.init.trunc_normal_(weight, 0, 0.1, -0.2, 0.2, generator=rng)
        self.bias.fill_(0.1)
        self.output.bias.fill_(0.1)
        bound = math.sqrt(3 / self.features)
        self.highway.weight.uniform_(-bound, bound, generator=rng)
        self.highway.bias[: self.features] = 0
        self.highway.bias[self.features :] = GATE_BIAS
        return self

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the logit of "real", ``[n]``, twice differentiable in relaxed sequences.

        A relaxed sequence of one-hots has its tokens' embeddings bit for bit, and their logit to
        rounding: large batches of tokens are summed in another order.

        Args:
          sequences: Tokens int64 ``[n, T]``, or weights ``[n, T, V]``.
        """
        if sequences.is_floating_point() or self._records():
            embedded = self._embed(sequences)
            maxima = [_convolve(embedded, f).amax(dim=1) for f in self.filters]
            return self._read(self._mix(self._rectify(torch.cat(maxima, dim=1))))
        features = self.bias.new_empty(len(sequences), self.features)
        for columns, weight in self._columns():
            positions = sequences.shape[1] - weight.shape[1] + 1
            windows = _Windows(self.embedding, weight, len(sequences) * positions)
            for rows in _pieces(len(sequences), self.length * weight.shape[0]):
                torch.amax(windows(sequences[rows]), dim=1, out=features[rows, columns])
        return self._judge(features)

    def training_logits(self, sequences: Tensor, rng: torch.Generator) -> Tensor:
        """Return the logits ``[n]`` that the discriminator is trained on, with dropout.

        Features that survive are divided by ``keep``, so that their expectation is ``forward``'s.

        Args:
          sequences: Tokens int64 ``[n, T]``, or weights ``[n, T, V]``.
          rng: Stream of the dropout, on the parameters' device.
        """
        embedded = self._embed(sequences)
        maxima = [_max_over_time(embedded, f) for f in self.filters]
        mixed = self._mix(self._rectify(torch.cat(maxima, dim=1)))
        mask = torch.empty_like(mixed).bernoulli_(self.keep, generator=rng)
        return self._read(mixed * mask.div_(self.keep))

    def penalty(self) -> Tensor:
        """Return ``l2`` times half the squared norm of the output layer, a scalar."""
        weight, bias = self.output.weight, self.output.bias
        return (weight.square().sum() + bias.square().sum()) * (self.l2 / 2)

    @torch.no_grad()
    def rollout_logits(self, tokens: Tensor, completed: Tensor) -> Tensor:
        """Return the logits ``[n, T - 1, N]`` of rollouts, without a graph.

        Rollouts of one prefix share their first tokens: windows inside the prefix are read once,
        in ``tokens``. Agrees with ``forward`` to rounding.

        Args:
          tokens: The sequences whose prefixes were completed, int64 ``[n, T]``.
          completed: int64 ``[n, T - 1, N, T]``; ``completed[i, t, :, : t + 1]`` are the first
            t + 1 tokens of ``tokens[i]``.
        """
        per_sequence = completed.shape[1] * completed.shape[2]
        step = max(1, self.rows // max(1, per_sequence))
        parts = [
            self._rollout_logits(tokens[i : i + step], completed[i : i + step])
            for i in range(0, len(tokens), step)
        ]
        return torch.cat(parts)

    def _rollout_logits(self, tokens: Tensor, completed: Tensor) -> Tensor:
        n, prefixes, N, T = completed.shape
        features = self.bias.new_empty(n, prefixes, N, self.features)
        for columns, weight in self._columns():
            m, w, _ = weight.shape
            # The first window that reaches past a prefix of 1, ..., T - 1 tokens.
            starts = [max(0, known - w + 1) for known in range(1, T)]
            windows = _Windows(
                self.embedding, weight, n * N * sum(T - w + 1 - start for start in starts)
            )
            inside = windows(tokens).cummax(dim=1).values
            for known, start in enumerate(starts, 1):
                tails = completed[:, known - 1, :, start:]
                for rows in _pieces(n, N * (T - start) * m):
                    maxima = features[rows, known - 1, :, columns]
                    sums = windows(tails[rows].flatten(0, 1))
                    torch.amax(sums.view(-1, N, *sums.shape[1:]), dim=2, out=maxima)
                    if known >= w:
                        torch.maximum(maxima, inside[rows, known - w].unsqueeze(1), out=maxima)
        return self._judge(features.flatten(0, 2)).view(n, prefixes, N)

    def _judge(self, maxima: Tensor) -> Tensor:
        """Return logits ``[n]`` of maxima ``[n, F]``, which are overwritten; makes no graph."""
        logits = [
            self._read(self._mix(rows.add_(self.bias).relu_()))
            for rows in torch.split(maxima, HIGHWAY_ROWS)
        ]
        return torch.cat(logits)

    def _embed(self, sequences: Tensor) -> Tensor:
        if sequences.is_floating_point():
            return sequences @ self.embedding
        return nn.functional.embedding(sequences, self.embedding)

    def _rectify(self, maxima: Tensor) -> Tensor:
        # A bias and a rectifier keep the order of numbers: after the maximum, not before it.
        return (maxima + self.bias).relu()

    def _mix(self, features: Tensor) -> Tensor:
        g, t = _affine(features, self.highway).chunk(2, dim=1)
        return torch.lerp(features, g.relu(), t.sigmoid())

    def _read(self, mixed: Tensor) -> Tensor:
        outputs: Tensor = self.output(mixed)
        return outputs[:, 1] - outputs[:, 0]

    def _records(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def _columns(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the features of each width and its filters ``[m, w, D]``."""
        start = 0
        for weight in self.filters:
            yield slice(start, start + weight.shape[0]), weight
            start += weight.shape[0]


def _linear(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """Return a layer whose parameters are not set: torch would take them from the global stream."""
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, inputs, outputs, dtype=dtype
    )
    return layer


class _Windows:
    """What filters of one width make of windows of tokens; makes no graph.

    Args:
      embedding: ``[V, D]``.
      weight: Filters ``[m, w, D]``.
      count: Windows that will be asked for: a table costs as much as a convolution of V windows.
    """

    def __init__(self, embedding: Tensor, weight: Tensor, count: int) -> None:
        self.embedding, self.weight = embedding.detach(), weight.detach()
        m, w, _ = weight.shape
        self.table: Tensor | None = None
        if count > len(embedding):
            by_offset = self.weight.transpose(0, 1).reshape(w * m, -1)
            self.table = (self.embedding @ by_offset.t()).view(-1, m)
            self.offsets = torch.arange(w, device=embedding.device)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return sums ``[n, P, m]`` of the P windows of tokens ``[n, P + w - 1]``."""
        m, w, _ = self.weight.shape
        if self.table is None:
            return _convolve(nn.functional.embedding(tokens, self.embedding), self.weight)
        first = (tokens * w).unfold(1, w, 1)
        rows = torch.add(first, self.offsets, out=tokens.new_empty(first.shape))
        sums = nn.functional.embedding_bag(rows.view(-1, w), self.table, mode="sum")
        return sums.view(len(tokens), -1, m)


def _pieces(size: int, elements: int) -> Iterator[slice]:
    """Yield slices of ``size`` rows of so many elements each, as large as the cache allows."""
    step = max(1, GATHER_ELEMENTS // elements)
    return (slice(i, i + step) for i in range(0, size, step))


def _convolve(embedded: Tensor, weight: Tensor) -> Tensor:
    """Return ``[n, P, m]`` of embeddings ``[n, T, D]`` and filters ``[m, w, D]``."""
    # As images of one line with D channels, channels last: the layout these tensors have already.
    images, kernel = embedded.transpose(1, 2).unsqueeze(2), weight.transpose(1, 2).unsqueeze(2)
    return nn.functional.conv2d(images, kernel).squeeze(2).transpose(1, 2)


def _affine(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return ``layer(x)``, on several threads of a CPU as a convolution of width 1.

    That takes oneDNN, as fast as the BLAS behind ``nn.Linear`` where that knows the processor and
    twice as fast where it does not (MKL on AMD's AVX-512). On one thread both take the BLAS.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.get_num_threads() == 1:
        return nn.functional.linear(x, layer.weight, layer.bias)
    image = x.t().unsqueeze(0).unsqueeze(2)
    kernel = layer.weight.unsqueeze(2).unsqueeze(3)
    return nn.functional.conv2d(image, kernel, layer.bias)[0, :, 0].t()


def _max_over_time(embedded: Tensor, weight: Tensor) -> Tensor:
    """Return maxima ``[n, m]`` over the positions of ``_convolve``."""
    if embedded.device.type != "cpu":
        return _convolve(embedded, weight).max(dim=1).values
    maxima: Tensor = _MaxOverTime.apply(embedded, weight)  # type: ignore[no-untyped-call]
    return maxima


def _first_of(maxima: Tensor, sums: Tensor) -> Tensor:
    """Return the first positions ``[n, m]`` of maxima over dimension 1 of sums ``[n, P, m]``.

    The same as ``sums.max(dim=1).indices``, which compares number by number on a CPU; here every
    pass is vectorised, and the whole takes two fifths of the time. The sums are overwritten.
    """
    P = sums.shape[1]
    countdown = torch.arange(P, 0, -1, dtype=sums.dtype).unsqueeze(1)
    # P, ..., 1 where a sum is the maximum, at most 0 elsewhere.
    left = sums.sub_(maxima.unsqueeze(1)).sign_().mul_(P).add_(countdown).amax(dim=1)
    return (P - left).long().clamp_(0, P - 1)  # sums that are not finite have no maximum


class _MaxOverTime(torch.autograd.Function):
    """A convolution's maximum, whose backward pass visits the positions that won, and no others.

    One of P positions of a map has a gradient. Both gradients are sums of few long vectors: of
    windows of embeddings for a filter, of filters for a window. In training steps of 64 sequences
    of 20 tokens this takes 40 % of the time of convolutions of a gradient that is mostly zero.
    """

    @staticmethod
    def forward(ctx: Any, embedded: Tensor, weight: Tensor) -> Tensor:
        sums = _convolve(embedded, weight)
        maxima = sums.amax(dim=1)
        ctx.save_for_backward(embedded, weight, _first_of(maxima, sums))
        return maxima

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        embedded, weight, winners = ctx.saved_tensors
        n, _, D = embedded.shape
        m, w, _ = weight.shape
        windows = embedded.unfold(1, w, 1).transpose(2, 3)  # [n, P, w, D]
        P = windows.shape[1]
        by_embedded = by_weight = None
        number = winners + torch.arange(0, n * P, P).unsqueeze(1)  # of a window, in all rows
        if ctx.needs_input_grad[1]:
            by_weight = nn.functional.embedding_bag(
                number.t().contiguous(),
                windows.reshape(n * P, w * D),
                mode="sum",
                per_sample_weights=gradient.t().contiguous(),
            ).view(m, w, D)
        if ctx.needs_input_grad[0]:
            # NumPy sorts short integers by radix, several times as fast as torch sorts long ones.
            order = winners.to(torch.int16).numpy().argsort(axis=1, kind="stable")
            maps = torch.from_numpy(order)
            ends = torch.zeros(n * P + 1, dtype=torch.int64)
            ends[1:].scatter_add_(0, number.flatten(), ends.new_ones(1).expand(n * m))
            by_window = nn.functional.embedding_bag(
                maps.flatten(),
                weight.reshape(m, w * D),
                ends.cumsum(dim=0),
                mode="sum",
                per_sample_weights=gradient.gather(1, maps).flatten(),
                include_last_offset=True,
            ).view(n, P, w, D)
            by_embedded = torch.zeros_like(embedded)
            for k in range(w):
                by_embedded[:, k : k + P] += by_window[:, :, k]
        return by_embedded, by_weight
