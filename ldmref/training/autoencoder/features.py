"""The network of the perceptual term, which learns to predict an image's words.

A small network is trained on the same images before the autoencoder, because ldmref downloads no
trained one. Its features respond to the content of an image, like those of LPIPS (Zhang et al.
2018, arXiv:1801.03924). The loss is the cross-entropy of each word's presence in the caption.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.datasets import Dataset
from ldmref.math.variational import bernoulli_log_likelihood
from ldmref.models import layers as nn
from ldmref.models import specs
from ldmref.models.params import Params, Spec, init, numbered
from ldmref.training.batches import FULL_BATCH, Part, image_batch, step_generator
from ldmref.training.loss import Loss
from ldmref.training.recipes.schema import FeaturesStage
from ldmref.training.trainer import Trainer

WIDTHS = (3, 32, 64, 96)
GROUPS = 8
EPS = 1e-6
MOST_WORDS = 256  # that are predicted


def features_spec(words: int) -> Spec:
    """Return the shapes of convolutions with norms, and of a linear layer to a logit per word."""
    return {
        "convs": numbered([specs.conv_spec(*width) for width in pairwise(WIDTHS)]),
        "norms": numbered([specs.norm_spec(c) for c in WIDTHS[1:]]),
        "words": specs.linear_spec(WIDTHS[-1], words),
    }


def features(ops: TorchBackend, p: Params, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the activations of every layer, at H, H/2, H/4, for images (n, 3, H, W) in [-1, 1]."""
    layers = []
    x = ops.asarray(x)
    for i, conv in enumerate(p.convs.items_in_order()):
        x = ops.conv2d(x, conv.weight, conv.bias, stride=2 if i else 1, padding=1)
        x = nn.norm_silu(ops, p.norms[str(i)], x, GROUPS, EPS)
        layers.append(ops.asarray(x, ops.state_dtype))
    return layers


def feature_trainer(data: Dataset, stage: FeaturesStage, seed: int, ops: TorchBackend) -> Trainer:
    """Return a trainer of the network on images and random captions."""
    words = common_words(data)
    number = {word: i for i, word in enumerate(words)}
    batch_size = stage.optimizer.batch_size

    def loss(ops: TorchBackend, params: Params, step: int, part: Part = FULL_BATCH) -> Loss:
        rng = step_generator(seed, step, "features")
        batch, x = image_batch(data, rng, batch_size, ops, part)
        present = np.zeros((batch_size, len(words)), np.float32)
        for row, i in zip(present, batch, strict=True):
            row[[number[w] for w in _words(data.caption(int(i), rng)) if w in number]] = 1.0
        target = torch.as_tensor(part.slice(present), device=x.device)
        deepest = features(ops, params, x)[-1]
        logits = nn.linear(ops, params.words, deepest.mean((2, 3)))
        right = target.gather(1, logits.argmax(1, keepdim=True)).mean()
        total = -bernoulli_log_likelihood(target, logits).mean()
        return Loss(total, {"right": right.detach()}, part.slice(batch))

    params = init(features_spec(len(words)), seed)
    return Trainer(stage.optimizer, stage.budget.steps, params, loss, ops)


def common_words(data: Dataset) -> list[str]:
    """Return the most frequent words of the captions, alphabetically."""
    counts = Counter(word for text in data.vocabulary() for word in _words(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return sorted(ranked[:MOST_WORDS])


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
