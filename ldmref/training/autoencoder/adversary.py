"""The patch discriminator: a logit for every patch, and its terms in the loss.

Isola et al. 2017, arXiv:1611.07004, section 3.2.2; Esser, Rombach, Ommer 2021, arXiv:2012.09841,
section 3.1. Both networks are trained in one step, from the gradient of one sum: the discriminator
is a constant in the decoder's term, and the reconstruction is a constant in the discriminator's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch

from ldmref.backends.torch import TorchBackend
from ldmref.math.adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    log_discriminator_loss,
    log_generator_loss,
)
from ldmref.math.quantize import stop_gradient
from ldmref.models import layers as nn
from ldmref.models import specs
from ldmref.models.params import Params, Spec, numbered, tree_map
from ldmref.training.autoencoder.forward import Forward

WIDTHS = (3, 32, 64, 128)  # each convolution halves the image
GROUPS = 8
EPS = 1e-6
LOSSES = {
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "log": (log_discriminator_loss, log_generator_loss),
}


class AdversarialTerms(NamedTuple):
    """The losses of decoder and discriminator."""

    generator: torch.Tensor
    discriminator: torch.Tensor
    weight: torch.Tensor  # the adaptive weight of the generator's term


def discriminator_spec() -> Spec:
    """Return the shapes of 4x4 convolutions with stride 2 and norms, and of a 3x3 one to logits."""
    convolutions = [specs.conv_spec(*width, kernel=4) for width in pairwise(WIDTHS)]
    norms = [specs.norm_spec(c) for c in WIDTHS[1:]]
    return {
        "convs": numbered(convolutions),
        "norms": numbered(norms),
        "conv_out": specs.conv_spec(WIDTHS[-1], 1),
    }


def discriminator(ops: TorchBackend, p: Params, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of patches, (n, 1, H/8, W/8), of images (n, 3, H, W)."""
    for conv, norm in zip(p.convs.items_in_order(), p.norms.items_in_order(), strict=True):
        x = ops.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        x = nn.norm_silu(ops, norm, x, GROUPS, EPS)
    return nn.conv2d(ops, p.conv_out, x)


def adversarial_terms(
    ops: TorchBackend, params: Params, f: Forward, loss: torch.Tensor, kind: str
) -> AdversarialTerms:
    """Return the terms of both networks; `loss` is the sum of the autoencoder's other terms."""
    discriminator_loss, generator_loss = LOSSES[kind]
    constant = tree_map(stop_gradient, params.discriminator)

    def logits(p: Params, x: torch.Tensor) -> torch.Tensor:
        return discriminator(ops, p, ops.asarray(x)).to(x.dtype)

    generator = generator_loss(logits(constant, f.y)).mean()
    real, fake = (logits(params.discriminator, x) for x in (f.x, stop_gradient(f.y)))
    last = params.decoder.conv_out.weight
    gradients = (torch.autograd.grad(t, last, retain_graph=True)[0] for t in (loss, generator))
    weight = adaptive_weight(*gradients)
    return AdversarialTerms(generator, discriminator_loss(real, fake).mean(), weight)
