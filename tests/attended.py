"""Normalized attention guidance in diffusers' networks, for comparison.

Batches of texts are twice as long as those of images: negative prompts, then prompts. The layers
run as they are; only what comes out of the heads is combined, before its projection.
"""

from __future__ import annotations

import torch


def combine(positive, negative, scale, tau, alpha, order):
    """Return the guided output as the published code computes it."""
    guided = scale * positive - (scale - 1.0) * negative
    sizes = (torch.linalg.vector_norm(x, order, -1, True) for x in (guided, positive))
    ratio = torch.div(*sizes)
    guided = guided * torch.clamp(ratio, max=tau) / ratio
    return alpha * guided + (1.0 - alpha) * positive


class Attended:
    """A processor that runs another one for prompts and negative prompts, and combines them."""

    def __init__(self, inner, numbers, order):
        self.inner = inner
        self.numbers = numbers
        self.order = order

    def combine(self, both):
        negative, positive = both.chunk(2)
        return combine(positive, negative, *self.numbers, self.order)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *others, **named):
        if encoder_hidden_states is None:
            return self.inner(attn, hidden_states, None, *others, **named)
        projection, attn.to_out = attn.to_out, torch.nn.ModuleList([torch.nn.Identity()] * 2)
        twice = torch.cat([hidden_states] * 2)
        both = self.inner(attn, twice, encoder_hidden_states, *others, **named)
        attn.to_out = projection
        if isinstance(both, tuple):
            image, text = both
            return projection[0](self.combine(image)), text
        return projection[0](self.combine(both))


class AttendedSingle(Attended):
    """The same for blocks of Flux.1 with one stream, whose first tokens are those of the text."""

    def __init__(self, inner, numbers, order, length):
        super().__init__(inner, numbers, order)
        self.length = length

    def __call__(self, attn, hidden_states, *arguments, **others):
        joined = self.inner(attn, hidden_states, *arguments, **others)
        text, image = joined[:, : self.length], joined[:, self.length :]
        return torch.cat([text, torch.cat([self.combine(image)] * 2)], dim=1)


def shorten_embedding(norm):
    """Let a norm of the image read the embedding of the prompts alone."""
    before = norm.forward
    norm.forward = lambda x, *rest, emb=None, **others: (
        before(x, *(row[-len(x) :] for row in rest), **others)
        if emb is None
        else before(x, *rest, emb=emb[-len(x) :], **others)
    )
