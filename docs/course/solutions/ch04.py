"""Solutions of chapter 4: the quantiser, its commitment term, and the adversarial weight."""

import numpy as np


def nearest_code(z, codebook):
    """Return the index of the nearest entry for every vector, and the entry."""
    distance = ((z[..., None, :] - codebook) ** 2).sum(axis=-1)
    indices = distance.argmin(axis=-1)
    return indices, codebook[indices]


def commitment_loss(z, quantised):
    """Return |z - z_q|^2; in a framework, without a gradient by z_q."""
    return ((z - quantised) ** 2).sum(axis=-1)


def adaptive_weight(reconstruction, adversarial, delta=1e-6, maximum=1e4):
    """Return the ratio of the lengths of the gradients, at most the maximum."""
    ratio = np.linalg.norm(reconstruction) / (np.linalg.norm(adversarial) + delta)
    return np.minimum(ratio, maximum)
