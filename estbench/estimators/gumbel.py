"""Gumbel-max sampling, the conditional law of its noise, and the weights that both give rise to.

A token is b = argmax_i z_i with z = l + Gumbel noise and l normalised log-probabilities. Given b,
with E_i ~ Exp(1):  z~_b = -log E_b,  z~_i = -log(E_b + E_i / p_i)  for i != b
(Tucker et al. 2017, appendix; Grathwohl et al. 2018, appendix B).

A control variate c enters a surrogate as  -c(z~) S_t + grad c(z) - grad c(z~).  Both z and z~
depend on the parameters through l_t alone, with diagonal Jacobians 1 and dz~_i/dl_i, so the whole
of it is a vector of weights on l_t: no graph through c is kept.

Coupled, z~ is z itself seen as a draw from its conditional law: E_b = exp(-z_b),
E_i = p_i (exp(-z_i) - exp(-z_b)). Then c is evaluated once, and  dz_i/dl_i - dz~_i/dl_i =
exp(z_i - z_b).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from estbench.core import noise

__all__ = ["conditional", "coupled_weights", "independent_weights", "one_hot"]


def one_hot(tokens: Tensor, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """Return one-hot rows ``[..., V]`` of tokens ``[...]``."""
    return nn.functional.one_hot(tokens, vocabulary).to(dtype)


def conditional(log_probs: Tensor, tokens: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return z~ given the tokens, and its derivative with respect to the log-probabilities.

    Args:
      log_probs: Normalised log-probabilities ``[..., V]``.
      tokens: b, int64 ``[...]``.
      uniforms: Noise ``[..., V]``.

    Returns:
      z~ ``[..., V]`` with its maximum at b, and the diagonal dz~_i/dl_i ``[..., V]``.
    """
    log_e = noise.exponential(uniforms).log()
    index = tokens.unsqueeze(-1)
    log_e_b = log_e.gather(-1, index)
    others = log_e - log_probs
    joined = torch.logaddexp(log_e_b, others)
    slope = (others - joined).exp()
    z = (-joined).scatter(-1, index, -log_e_b)
    return z, slope.scatter(-1, index, 0.0)


def coupled_weights(value: Tensor, slope: Tensor, z: Tensor, tokens: Tensor) -> Tensor:
    """Return the weights on l_t of a control variate evaluated once, at z.

    Args:
      value: c_t ``[n, T]``.
      slope: dc_t/dz_t ``[n, T, V]``.
      z: Perturbed log-probabilities ``[n, T, V]``.
      tokens: b = argmax z, int64 ``[n, T]``.
    """
    index = tokens.unsqueeze(-1)
    # Rounding may put another z a hair above z_b where two nearly tie.
    share = (z - z.gather(-1, index)).clamp_max(0).exp()
    return (slope * share).scatter_add(-1, index, -value.unsqueeze(-1))


def independent_weights(
    value: Tensor, slope: Tensor, conditional_slope: Tensor, jacobian: Tensor, tokens: Tensor
) -> Tensor:
    """Return the weights on l_t of a control variate evaluated at z and at an independent z~.

    Args:
      value: c_t(z~_t) ``[n, T]``.
      slope: dc_t/dz_t at z ``[n, T, V]``.
      conditional_slope: dc_t/dz~_t at z~ ``[n, T, V]``.
      jacobian: dz~_i/dl_i ``[n, T, V]``.
      tokens: b, int64 ``[n, T]``.
    """
    weights = slope - conditional_slope * jacobian
    return weights.scatter_add(-1, tokens.unsqueeze(-1), -value.unsqueeze(-1))
