"""All metrics of a model on a data set, those of generated images among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.datasets import Dataset, StyledImages
from ldmref.errors import InputError, UsageError
from ldmref.evaluate.images import encode_images, likelihood, reconstruction
from ldmref.evaluate.intervals import estimate, proportion
from ldmref.evaluate.report import Section
from ldmref.evaluate.styles import choose_names, choose_pairs, measure_asked, measure_shares
from ldmref.io.classifier import FILE, load_classifier
from ldmref.math.evaluation import frechet_distance, kernel_distance
from ldmref.math.neighbours import (
    nearest_distance,
    neighbourhood_counts,
    neighbourhood_coverage,
)
from ldmref.models.classifier import ClassifierConfig, classifier_features
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, tree_map
from ldmref.models.text_kind import kind_of

TRIES = 20  # captions of an image among which a unique one is searched


@dataclass(frozen=True)
class EvaluationSettings:
    """The amount of computation of `evaluate`.

    Args:
        images: Number of random images of the data that are measured, >= 2.
        timesteps: Timesteps per image at which terms of the bound are computed.
        flow_images: Images whose exact likelihood is computed; 0: none.
        flow_steps: Integration steps of the exact likelihood.
        samples: Images that the model generates; 0 or 1: no distances and no retrieval.
        conditional: Whether the likelihood is conditional on the captions.
        seed: Seed of the choice of images and of all random numbers.
        batch: Number of images that are computed at once.

    >>> from ldmref.evaluate import EvaluationSettings
    >>> EvaluationSettings(images=16, flow_images=0).timesteps
    50
    """

    images: int = 64
    timesteps: int = 50
    flow_images: int = 8
    flow_steps: int = 30
    samples: int = 64
    conditional: bool = False
    seed: int = 0
    batch: int = 16


def evaluate(
    model: LatentDiffusion,
    data: Dataset,
    settings: EvaluationSettings,
    folder: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Section]:
    r"""Measure a model on images: reconstruction, likelihood, distances of samples, retrieval.

    Args:
        model: The model, such as `ldmref.load(path)` returns.
        data: Images of the model's size, (n, 3, size, size) uint8, such as
            `ldmref.training.load_dataset` returns.
        settings: How much is measured.
        folder: The model's folder. If it contains a classifier, distances are measured in the
            classifier's features; without one they are left out. None: there is none.
        log: Called with a line about what is measured next, or is left out.

    Returns:
        Sections of measurements; `to_lines` and `to_dict` format them.

    Raises:
        UsageError: The model needs an image as input.
        InputError: The data is a single image, or has classes that the model does not have.

    >>> import ldmref
    >>> from ldmref.evaluate import EvaluationSettings, evaluate, to_lines
    >>> from ldmref.training import DataConfig, load_dataset
    >>> data = load_dataset(DataConfig("photos", size=128))  # doctest: +SKIP
    >>> sections = evaluate(ldmref.load(), data, EvaluationSettings(16))  # doctest: +SKIP
    >>> print(*to_lines(sections), sep="\n")  # doctest: +SKIP
    """
    if model.config.image_channels:
        message = f"{model.config.name!r} needs an image as input and cannot be evaluated"
        raise UsageError(message, code="E-MODE")
    if len(data.images) < 2:
        raise InputError("a confidence interval needs at least two images", code="E-DATA")
    rng = np.random.default_rng(settings.seed)
    most = min(max(settings.images, settings.samples), len(data.images))
    indices = rng.choice(len(data.images), most, replace=False, p=data.weights / data.weights.sum())
    number = min(settings.images, most)
    images = np.asarray(data.images[indices])
    log(f"reconstruction of {number} images")
    encoded = encode_images(model, images[:number], rng, settings.batch)
    sections = [reconstruction(encoded)]
    prompts = _prompts(model, data, indices, rng)
    if np.isfinite(encoded.logvar).all():
        log(f"likelihood of {number} images")
        texts = prompts[:number] if settings.conditional else [""] * number
        flow = settings.flow_images, settings.flow_steps
        sections.append(
            likelihood(model, encoded, texts, rng, settings.timesteps, flow, settings.batch)
        )
    else:
        log("no likelihood: latents of a VQ autoencoder do not have a density")
    if settings.samples > 1:
        count = min(settings.samples, most)
        log(f"{count} samples")
        sections += _samples(model, images[:count], prompts[:count], settings, folder, log)
    pictures = getattr(data, "styled", None)
    if settings.samples > 1 and pictures is not None:
        sections += _styles(model, pictures, settings, log)
    return sections


def _samples(
    model: LatentDiffusion,
    images: np.ndarray,
    prompts: list[str],
    settings: EvaluationSettings,
    folder: Path | None,
    log: Callable[[str], None],
) -> list[Section]:
    """Generate an image for each prompt, and compare them with the images of the data."""
    generated = modes.txt2img(model, prompts, seed=settings.seed, batch_size=settings.batch)
    rng = np.random.default_rng(settings.seed)
    if folder is not None and (folder / FILE).is_file():
        classifier = load_classifier(folder)
        encoded = encode_images(model, images, rng, settings.batch)
        latents = model.latent_scale(NumpyBackend(dtype="float64")).normalize(encoded.mean)
        real, ours = (
            latent_features(model.backend, classifier, z, settings.batch)
            for z in (latents, generated.latents)
        )
        sections = [distances(real, ours, NAME)]
        name = f"features of {NAME}"
    else:
        log(f"no distances: the model has no {FILE}")
        originals = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
        real = thumbnails(originals)
        ours = thumbnails(generated.images)
        sections = []
        name = "averages of 16 x 16 pixels"
    sections += [s for s in (coverage(real, ours, name), nearest(real, ours, name)) if s.rows]
    if len(set(prompts)) == len(prompts):
        sections.append(retrieval(real, ours, name))
    else:
        log("no retrieval: several images have the same caption")
    return sections


def _styles(
    model: LatentDiffusion,
    pictures: StyledImages,
    settings: EvaluationSettings,
    log: Callable[[str], None],
) -> list[Section]:
    """Ask for names in styles that training shows and never shows, and for names alone."""
    rng = np.random.default_rng(settings.seed)
    log(f"{len(pictures.names)} drawings in {len(set(pictures.styles))} styles")
    drawings = (Image.fromarray(image.transpose(1, 2, 0)) for image in pictures.images[:])
    gallery = thumbnails([*drawings])

    def generate(prompts: list[str]) -> np.ndarray:
        result = modes.txt2img(model, prompts, seed=settings.seed, batch_size=settings.batch)
        return thumbnails(result.images)

    sections = []
    for shown, of in ((True, "pairs that training shows"), (False, "pairs that it never shows")):
        asked = choose_pairs(pictures, shown, settings.samples, rng)
        log(f"{len(asked.names)} samples of {of}")
        found = generate(asked.prompts)
        sections.append(measure_asked(found, asked, pictures, gallery, of))
    names, shares = choose_names(pictures, settings.samples, rng)
    log(f"{len(names)} samples of names alone")
    return [*sections, measure_shares(generate(names), names, shares, pictures, gallery)]


def _prompts(
    model: LatentDiffusion, data: Dataset, indices: np.ndarray, rng: np.random.Generator
) -> list[str]:
    """Return a prompt for each image: a caption, unique if possible; its class; or ""."""
    reads = kind_of(model.config.text_encoder).reads
    if reads == "nothing":
        return [""] * len(indices)
    if reads == "class":
        return [_class(model, data.classes[int(i)]) for i in indices]
    prompts: list[str] = []
    for i in indices:
        captions = [data.caption(int(i), rng) for _ in range(TRIES)]
        prompts.append(next((c for c in captions if c not in prompts), captions[0]))
    return prompts


def _class(model: LatentDiffusion, name: str) -> str:
    """Check that the model knows a class, and return it."""
    if name not in model.config.text_encoder.class_names:
        message = f"the model does not know the class {name!r}"
        raise InputError(message, code="E-CLASS", hint="evaluate it on data with its classes")
    return name


# -- generated images ------------------------------------------------------------------------------


PRECISION, DENSITY = 3, 5  # neighbours that end a neighbourhood: of precision and recall; density
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


def coverage(real: np.ndarray, generated: np.ndarray, name: str) -> Section:
    """Measure how much of the samples is near the data, and of the data near the samples.

    Args:
        real: Features of images of the data, (n, d), n > `DENSITY`.
        generated: Features of generated images, (m, d).
        name: What the features are.

    Returns:
        The section; without rows if there are too few images.
    """
    section = Section("Coverage of samples", f"by neighbours among {name}", len(generated))
    if len(real) <= DENSITY or len(generated) <= PRECISION:
        return section
    inside = neighbourhood_counts(generated, real, PRECISION) > 0
    section.add(f"precision, {PRECISION} neighbours", proportion(inside))
    inside = neighbourhood_counts(real, generated, PRECISION) > 0
    section.add(f"recall, {PRECISION} neighbours", proportion(inside))
    counts = neighbourhood_counts(generated, real, DENSITY)
    section.add(f"density, {DENSITY} neighbours", estimate(counts / DENSITY))
    covered = neighbourhood_coverage(real, generated, DENSITY)
    section.add(f"coverage, {DENSITY} neighbours", proportion(covered > 0))
    return section


def nearest(real: np.ndarray, generated: np.ndarray, name: str) -> Section:
    """Measure how near samples are to images of the data, and these to each other.

    Copies of the training are nearer to it than images of the data are to each other.

    Args:
        real: Features of images of the data, (n, d), n >= 2.
        generated: Features of generated images, (n, d).
        name: What the features are.
    """
    note = f"distance of {name} to {len(real)} images"
    section = Section("Nearest image of the data", note, len(generated))
    of_data = nearest_distance(real, real, 2)  # the first is the image itself
    of_samples = nearest_distance(generated, real)
    section.add("from a sample", estimate(of_samples))
    section.add("from an image of the data to another", estimate(of_data))
    section.add("samples nearer than half of the data", proportion(of_samples < np.median(of_data)))
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
