"""A discrete autoencoder whose codes can all be listed."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from estbench.models.autoencoder import Decoder, Encoder, EvidenceBound

LENGTH, PIXELS = 3, 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(vocabulary: int, images: int = 3, dtype: torch.dtype = torch.float64) -> EvidenceBound:
    """Return encoder and decoder, T = 3, four pixels, some images as contexts."""
    x = (torch.rand(images, PIXELS, generator=rng(1)) < 0.5).to(dtype)
    encoder = Encoder(vocabulary, LENGTH, PIXELS, contexts=x, dtype=dtype)
    encoder.initialise(0.7, rng(2))
    decoder = Decoder(vocabulary, LENGTH, PIXELS, dtype=dtype)
    decoder.initialise(rng(3), torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=dtype))
    with torch.no_grad():
        decoder.prior.normal_(0, 0.5, generator=rng(4))
        decoder.pixels.weight *= 3
    return EvidenceBound(encoder, decoder)


def bound(reward: EvidenceBound) -> Tensor:
    """Return the evidence lower bound of each image ``[M]``, every code listed one by one.

    Written out anew: with the graph of all parameters, and of log q in the integrand too.
    """
    encoder, decoder = reward.encoder, reward.decoder
    V = encoder.vocabulary
    found = []
    for x in encoder.contexts.values:
        logits = (encoder.logits.weight @ (2 * x - 1) + encoder.logits.bias).view(LENGTH, -1)
        if V == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        log_q = logits.log_softmax(dim=1)
        log_p = decoder.prior.log_softmax(dim=1)
        total = torch.zeros((), dtype=x.dtype)
        for b in itertools.product(range(V), repeat=LENGTH):
            if V == 2:
                seen = torch.tensor([2.0 * v - 1 for v in b], dtype=x.dtype)
            else:
                seen = torch.zeros(LENGTH * V, dtype=x.dtype)
                for t, v in enumerate(b):
                    seen[t * V + v] = 1
            on = (decoder.pixels.weight @ seen + decoder.pixels.bias).sigmoid()
            likelihood = (x * on.log() + (1 - x) * (1 - on).log()).sum()
            code_q = torch.stack([log_q[t, v] for t, v in enumerate(b)]).sum()
            code_p = torch.stack([log_p[t, v] for t, v in enumerate(b)]).sum()
            total = total + code_q.exp() * (likelihood + code_p - code_q)
        found.append(total)
    return torch.stack(found)
