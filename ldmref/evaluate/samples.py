"""Generated images compared with images of the data: feature distances, retrieval by prompt."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ldmref.backends.base import Backend
from ldmref.evaluate.intervals import proportion
from ldmref.evaluate.report import Section
from ldmref.math.evaluation import frechet_distance, kernel_distance
from ldmref.models.classifier import ClassifierConfig, classifier_features
from ldmref.models.params import Params, tree_map

THUMBNAIL = 16  # pixels, for retrieval without a classifier
NAME = "ldmref's own classifier"


def latent_features(
    ops: Backend, classifier: tuple[ClassifierConfig, Params], latents: np.ndarray, batch: int
) -> np.ndarray:
    """Return the classifier's features (n, d) float64 of clean, scaled latents (n, c, h, w)."""
    config = classifier[0]
    compute = ops.compile(classifier_features, tree_map(ops.weight, classifier[1]))
    rows = []
    with ops.inference():
        for start in range(0, len(latents), batch):
            x = ops.asarray(np.ascontiguousarray(latents[start : start + batch]))
            t = ops.asarray(np.zeros(len(x)), ops.state_dtype)
            rows.append(ops.to_numpy(compute(config, x, t)))
    return np.concatenate(rows).astype(np.float64)


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    """Return images as box averages of 16 x 16 pixels, (n, 768) float64."""
    size = (THUMBNAIL, THUMBNAIL)
    small = [np.asarray(image.resize(size, Image.Resampling.BOX)) for image in images]
    return np.stack(small).reshape(len(images), -1).astype(np.float64)


def distances(real: np.ndarray, generated: np.ndarray, name: str) -> Section:
    """Measure the Frechet and kernel distances of two sets of features, (n, d) each."""
    section = Section(
        "Distances of samples", f"on features of {name}: neither FID nor KID", len(generated)
    )
    moments = [m for f in (real, generated) for m in (f.mean(axis=0), np.cov(f, rowvar=False))]
    section.add("Frechet distance", frechet_distance(*moments))
    section.add("kernel distance", kernel_distance(real, generated))
    return section


def retrieval(real: np.ndarray, generated: np.ndarray, name: str) -> Section:
    """Measure how often a generated image is nearest to the image of its prompt."""
    note = f"the prompt's own image among {len(real)}, by {name}"
    section = Section("Prompt retrieval", note, len(real))
    squares = (((real - z) ** 2).sum(axis=1) for z in generated)
    rank = np.array([(square < square[i]).sum() for i, square in enumerate(squares)])
    for k in (1, 5):
        section.add("nearest" if k == 1 else f"among the {k} nearest", proportion(rank < k))
    return section
