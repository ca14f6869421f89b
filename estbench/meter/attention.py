"""Torch's attention, unrolled: equal results, and projections that can be tapped.

``nn.MultiheadAttention`` uses its parameters inside one function that gives away no gradient from
inside. While a tape listens the function below stands in for it; softmax and products are
written out, so that it can be differentiated twice as well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from estbench.meter.taps import Declined, Part, Record, Tap, affine_parts

__all__ = ["attention", "time_first"]


def attention(
    layer: nn.MultiheadAttention,
    record: Record,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    if layer.bias_k is not None or layer.add_zero_attn:
        raise Declined("nn.MultiheadAttention with added keys has no rule")
    if layer.dropout and layer.training:
        raise Declined(
            "nn.MultiheadAttention with active dropout has no rule: policy.eval() turns it off"
        )
    if query.dim() != 3 or query.is_nested:
        raise Declined("nn.MultiheadAttention of nested or single sequences has no rule")
    if is_causal and attn_mask is None:
        raise Declined("nn.MultiheadAttention wants attn_mask beside is_causal")
    if not layer.batch_first:
        # The same tensor must stay the same: it is then projected once.
        moved = {id(x): x.transpose(0, 1) for x in (query, key, value)}
        query, key, value = moved[id(query)], moved[id(key)], moved[id(value)]
    q, k, v = (_heads(x, layer.num_heads) for x in _projections(layer, record, query, key, value))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    mask = _mask(scores, attn_mask, key_padding_mask)
    weights = _softmax(scores, mask)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    project = layer.out_proj
    output = functional.linear(mixed, project.weight, project.bias)
    record(Tap(output, affine_parts(project.weight, project.bias, mixed)))
    if not layer.batch_first:
        output = output.transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(dim=1) if average_attn_weights else weights


def time_first(policy: nn.Module) -> set[nn.Module]:
    """Return the layers inside a policy that torch calls with rows second, ``[T, n, ...]``.

    These are the linear and normalising ones inside transformer layers without ``batch_first``.
    """
    found: set[nn.Module] = set()
    for module in policy.modules():
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            if not module.self_attn.batch_first:
                found |= set(module.children())
        elif isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
            first = module.layers[0] if len(module.layers) else None
            attends = getattr(first, "self_attn", None)
            if isinstance(module.norm, nn.Module) and attends and not attends.batch_first:
                found.add(module.norm)
    return found


def _projections(
    layer: nn.MultiheadAttention, record: Record, query: Tensor, key: Tensor, value: Tensor
) -> list[Tensor]:
    """Return q, k and v, ``[n, T, E]`` each; equal inputs are projected together."""
    E, bias = layer.embed_dim, layer.in_proj_bias
    if layer.in_proj_weight is None:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        out: list[Tensor] = []
        for i, (x, weight) in enumerate(zip((query, key, value), weights, strict=True)):
            own = None if bias is None else bias[i * E : (i + 1) * E]
            out.append(functional.linear(x, weight, own))
            parts = affine_parts(weight, None, x)
            if bias is not None:
                parts = (*parts, Part(bias, None, offset=i * E))
            record(Tap(out[-1], parts))
        return out
    if query is key and key is value:
        runs = [(query, 0, 3)]
    elif key is value:
        runs = [(query, 0, 1), (key, 1, 3)]
    else:
        runs = [(query, 0, 1), (key, 1, 2), (value, 2, 3)]
    out = []
    for x, start, stop in runs:
        rows = slice(start * E, stop * E)
        projected = functional.linear(
            x, layer.in_proj_weight[rows], None if bias is None else bias[rows]
        )
        record(Tap(projected, affine_parts(layer.in_proj_weight, bias, x, offset=start * E)))
        out += projected.chunk(stop - start, dim=-1)
    return out


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return ``[n, T, E]`` as ``[n, heads, T, E / heads]``."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _mask(scores: Tensor, attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """Return what is added to the scores ``[n, heads, L, S]``; -inf where nothing may be seen."""
    masks = []
    if attention is not None:
        three = attention.dim() == 3  # [n * heads, L, S]
        masks.append(attention.reshape(scores.shape) if three else attention)
    if padding is not None:
        masks.append(padding[:, None, None, :])
    total: Tensor | None = None
    for mask in masks:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)
        total = mask if total is None else total + mask
    return total


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention weights; all 0, as torch has them, where nothing may be seen at all."""
    if mask is None:
        return scores.softmax(dim=-1)
    blind = (mask == -math.inf).all(dim=-1, keepdim=True)
    scores = scores + mask.masked_fill(blind, 0.0)
    return scores.softmax(dim=-1).masked_fill(blind, 0.0)
