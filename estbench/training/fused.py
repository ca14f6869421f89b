"""Many discriminator updates at once: the LSTM's forward, backward and Adam written out by hand.

The paper's schedule makes 18,486 updates of a 32-unit LSTM a run; at that size most of autograd's
time is bookkeeping. Here every intermediate lives in a buffer made once (``columns``), prefixes
that rows share are computed once (``prefixes``), and all parameters are one vector. The numbers
are those of ``torch.nn.LSTM``, ``binary_cross_entropy_with_logits`` and ``torch.optim.Adam``, to
rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from estbench.models.adam import Adam
from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.training.columns import BACKWARD_SCALE, FORWARD_SCALE, HIDDEN_SCALE, Columns
from estbench.training.prefixes import PrefixTrees

__all__ = ["FusedUpdates"]


class FusedUpdates:
    """A discriminator and its Adam, taken out of their modules into flat buffers.

    Args:
      discriminator: On the CPU.
      optimiser: Plain Adam over exactly the discriminator's parameters (see ``supports``).
    """

    def __init__(self, discriminator: LSTMDiscriminator, optimiser: torch.optim.Optimizer) -> None:
        self.discriminator = discriminator
        self.optimiser = optimiser
        H, V = discriminator.hidden, discriminator.vocabulary
        self.hidden, self.vocabulary = H, V
        self.dtype = discriminator.output.weight.dtype
        # Rows of the weights: H recurrent, V input, the two biases; filled up to vector width.
        self.rows = math.ceil((H + V + 2) / 8) * 8
        size = self.rows * 4 * H + 2 * (H + 1)
        self.parameters, self.gradient, self.mean, self.square, self.scratch = torch.zeros(
            5, size, dtype=self.dtype
        )
        self.weight, self.head = self._split(self.parameters)
        self.weight_gradient, self.head_gradient = self._split(self.gradient)
        self.step = 0
        self._load()

        by_row = torch.ones(self.rows, 1, dtype=self.dtype)
        by_row[:H] = HIDDEN_SCALE
        by_gate = torch.tensor(FORWARD_SCALE, dtype=self.dtype).repeat_interleave(H)
        self.forward_scale = (by_row * by_gate).t().contiguous()
        self.backward_scale = torch.tensor(BACKWARD_SCALE, dtype=self.dtype).repeat_interleave(H)
        self.gradient_scale = by_row * self.backward_scale
        self.forward_weight = torch.empty(4 * H, self.rows, dtype=self.dtype)
        self.backward_weight = torch.empty(H, 4 * H, dtype=self.dtype)

    @staticmethod
    def supports(discriminator: nn.Module, optimiser: torch.optim.Optimizer) -> bool:
        """Return whether the pair can be trained here; where not, autograd has to do it."""
        if type(discriminator) is not LSTMDiscriminator:
            return False
        if type(optimiser) not in (Adam, torch.optim.Adam) or len(optimiser.param_groups) != 1:
            return False
        group, mine = optimiser.param_groups[0], list(discriminator.parameters())
        return (
            {id(p) for p in group["params"]} == {id(p) for p in mine}
            and all(p.device.type == "cpu" and p.requires_grad for p in mine)
            and not (group["weight_decay"] or group["amsgrad"] or group["maximize"])
            and not isinstance(group["lr"], Tensor)
        )

    @torch.no_grad()
    def run(self, plan: PrefixTrees, batch: int) -> Tensor:
        """Make one update after another and write the result back to the modules.

        Args:
          plan: The batches.
          batch: Rows of an update, real and generated; the loss is their mean.

        Returns:
          Logits ``[U, n]`` of every column of the plan's last stretch, each before its update.
        """
        stages = [
            Columns(stage, self.hidden, self.rows, self.vocabulary) for stage in plan.stretches
        ]
        linked = list(zip(stages, [None, *stages[:-1]], strict=True))
        real, rows = plan.real / batch, plan.rows / batch
        logits = torch.empty_like(real)
        for u in range(len(logits)):
            torch.mul(self.weight.t(), self.forward_scale, out=self.forward_weight)
            torch.mul(self.weight[: self.hidden], self.backward_scale, out=self.backward_weight)
            for stage, before in linked:
                stage.forward(u, before, self.forward_weight)
            self._read(stages[-1], real[u], rows[u], logits[u])
            for stage, before in reversed(linked):
                stage.backward(u, before, self.backward_weight)
            torch.mm(stages[0].inputs, stages[0].gates_gradient.t(), out=self.weight_gradient)
            for stage in stages[1:]:
                self.weight_gradient.addmm_(stage.inputs, stage.gates_gradient.t())
            self.weight_gradient.mul_(self.gradient_scale)
            self._adam()
        self._store()
        return logits

    def _read(self, last: Columns, real: Tensor, rows: Tensor, logits: Tensor) -> None:
        """Fill the logits and the gradients of the output layer and of the last hidden state.

        The loss is the cross-entropy of the real and generated rows that a column represents;
        ``real`` and ``rows`` are their shares of the batch, ``[n]``.
        """
        H = self.hidden
        weight = self.head[1] - self.head[0]
        half_h = last.end[:H]
        torch.mv(half_h.t(), weight[:H] * HIDDEN_SCALE, out=logits).add_(weight[H])
        d = logits.sigmoid().mul_(rows).sub_(real)
        torch.mv(half_h, d, out=self.head_gradient[1, :H]).mul_(HIDDEN_SCALE)
        self.head_gradient[1, H] = d.sum()
        torch.neg(self.head_gradient[1], out=self.head_gradient[0])
        torch.mul(weight[:H].unsqueeze(1), d, out=last.end_gradient[:H])
        last.end_gradient[H:].zero_()

    def _adam(self) -> None:
        """One step of ``torch.optim.Adam``, its operations in its order."""
        group = self.optimiser.param_groups[0]
        beta1, beta2 = group["betas"]
        self.step += 1
        self.mean.lerp_(self.gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)
        torch.sqrt(self.square, out=self.scratch)
        self.scratch.div_(math.sqrt(1 - beta2**self.step)).add_(group["eps"])
        rate = group["lr"] / (1 - beta1**self.step)
        self.parameters.addcdiv_(self.mean, self.scratch, value=-rate)

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return views: the LSTM's weights ``[rows, 4H]`` and the output layer ``[2, H + 1]``."""
        cut = self.rows * 4 * self.hidden
        return flat[:cut].view(self.rows, -1), flat[cut:].view(2, -1)

    def _pieces(self, flat: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        """Return each parameter with the view of a flat buffer that holds its values."""
        H, V = self.hidden, self.vocabulary
        w_input, w_hidden, b_input, b_hidden = self.discriminator.lstm_parameters
        w_output, b_output = self.discriminator.output.parameters()
        weight, head = self._split(flat)
        return [
            (w_hidden, weight[:H].t()),
            (w_input, weight[H : H + V].t()),
            (b_input, weight[H + V]),
            (b_hidden, weight[H + V + 1]),
            (w_output, head[:, :H]),
            (b_output, head[:, H]),
        ]

    def _reordered(self, values: Tensor) -> Tensor:
        """Return values with torch's gates i, f, g, o turned into o, g, f, i, or back."""
        if values.shape[0] != 4 * self.hidden:
            return values
        return values.reshape(4, self.hidden, -1).flip(0).reshape(values.shape)

    @torch.no_grad()
    def _load(self) -> None:
        """Copy parameters and Adam's moments in; no moments yet means zeros."""
        for parameter, mine in self._pieces(self.parameters):
            mine.copy_(self._reordered(parameter))
        for buffer, name in ((self.mean, "exp_avg"), (self.square, "exp_avg_sq")):
            for parameter, mine in self._pieces(buffer):
                state = self.optimiser.state.get(parameter)
                if state:
                    mine.copy_(self._reordered(state[name]))
                    self.step = int(state["step"])

    def _store(self) -> None:
        """Copy parameters and moments back, as the optimiser itself would have left them."""
        for parameter, mine in self._pieces(self.parameters):
            parameter.copy_(self._reordered(mine))
        for (parameter, mean), (_, square) in zip(
            self._pieces(self.mean), self._pieces(self.square), strict=True
        ):
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": self._reordered(mean).clone(),
                "exp_avg_sq": self._reordered(square).clone(),
            }
