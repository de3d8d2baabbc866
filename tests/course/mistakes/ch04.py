"""Wrong answers to the exercises of chapter 4."""

import numpy as np


def nearest_code__largest_product(z, codebook):
    indices = (z @ codebook.T).argmax(axis=-1)
    return indices, codebook[indices]


def commitment_loss__mean_for_sum(z, quantised):
    return ((z - quantised) ** 2).mean(axis=-1)


def commitment_loss__one_number_for_all(z, quantised):
    return ((z - quantised) ** 2).sum()


def adaptive_weight__squares(reconstruction, adversarial, delta=1e-6, maximum=1e4):
    ratio = (reconstruction**2).sum() / ((adversarial**2).sum() + delta)
    return np.minimum(ratio, maximum)


def adaptive_weight__upside_down(reconstruction, adversarial, delta=1e-6, maximum=1e4):
    ratio = np.linalg.norm(adversarial) / (np.linalg.norm(reconstruction) + delta)
    return np.minimum(ratio, maximum)


def adaptive_weight__no_maximum(reconstruction, adversarial, delta=1e-6, maximum=1e4):
    return np.linalg.norm(reconstruction) / (np.linalg.norm(adversarial) + delta)


def nearest_code__naive(z, codebook):
    squares = (z**2).sum(-1)[..., None] - 2 * z @ codebook.T + (codebook**2).sum(-1)
    indices = squares.argmin(axis=-1)
    return indices, codebook[indices]
