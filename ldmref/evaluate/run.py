"""All figures of a model on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.errors import InputError, UsageError
from ldmref.evaluate.images import encode_images, likelihood, reconstruction
from ldmref.evaluate.report import Section
from ldmref.evaluate.samples import NAME, distances, latent_features, retrieval, thumbnails
from ldmref.io.classifier import FILE, load_classifier
from ldmref.models.model import LatentDiffusion
from ldmref.training.data import Dataset

TRIES = 20  # captions generated for an image, to find one that no other has


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    `images`: of the data, at random. `timesteps`: per image, of the sum in the bound.
    `flow_images`, `flow_steps`: of the exact likelihood; 0 images leave it out. `samples`:
    images that the model draws; 0 leaves out distances and retrieval. `conditional`: the
    likelihood given the captions, in place of that without a prompt.
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
    settings: Settings,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Section]:
    """Measure a model on images of its size.

    Args:
        folder: of the model, which may hold a classifier.
        say: called with a line about what is measured next, and about what is left out.

    Raises:
        UsageError: a model that needs an image as input.
        InputError: a single image.
    """
    if model.config.image_channels:
        message = f"{model.config.name!r} draws from a given image: there are no figures for it"
        raise UsageError(message, code="E-MODE")
    if len(data.images) < 2:
        raise InputError("an interval needs two images, there is one", code="E-DATA")
    rng = np.random.default_rng(settings.seed)
    most = min(max(settings.images, settings.samples), len(data.images))
    indices = rng.choice(len(data.images), most, replace=False, p=data.weights / data.weights.sum())
    number = min(settings.images, most)
    images = np.asarray(data.images[indices])
    say(f"reconstruction of {number} images")
    encoded = encode_images(model, images[:number], rng, settings.batch)
    sections = [reconstruction(encoded)]
    prompts = _prompts(model, data, indices, rng)
    if np.isfinite(encoded.logvar).all():
        say(f"likelihood of {number} images")
        texts = prompts[:number] if settings.conditional else [""] * number
        flow = settings.flow_images, settings.flow_steps
        sections.append(
            likelihood(model, encoded, texts, rng, settings.timesteps, flow, settings.batch)
        )
    else:
        say("no likelihood: latents without a density, as of a VQ autoencoder")
    if settings.samples > 1:
        count = min(settings.samples, most)
        say(f"{count} samples")
        sections += _samples(model, images[:count], prompts[:count], settings, folder, say)
    return sections


def _samples(
    model: LatentDiffusion,
    images: np.ndarray,
    prompts: list[str],
    settings: Settings,
    folder: Path | None,
    say: Callable[[str], None],
) -> list[Section]:
    """Draw an image for each prompt, and compare them with those of the data."""
    generated = modes.txt2img(model, prompts, seed=settings.seed, batch_size=settings.batch)
    rng = np.random.default_rng(settings.seed)
    if folder is not None and (folder / FILE).is_file():
        classifier = load_classifier(folder)
        encoded = encode_images(model, images, rng, settings.batch)
        latents = encoded.mean * model.config.vae.scaling_factor
        real, ours = (
            latent_features(model.backend, classifier, z, settings.batch)
            for z in (latents, generated.latents)
        )
        sections = [distances(real, ours, NAME)]
        name = f"features of {NAME}"
    else:
        say(f"no distances: the model has no {FILE}")
        originals = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
        real = thumbnails(originals)
        ours = thumbnails(generated.images)
        sections = []
        name = "averages of 16 x 16 pixels"
    if len(set(prompts)) == len(prompts):
        sections.append(retrieval(real, ours, name))
    else:
        say("no retrieval: several images have the same caption")
    return sections


def _prompts(
    model: LatentDiffusion, data: Dataset, indices: np.ndarray, rng: np.random.Generator
) -> list[str]:
    """A prompt for each image: a caption, if possible one that no other has; its class; or ""."""
    kind = model.config.text_encoder.model_type
    if kind == "none":
        return [""] * len(indices)
    if kind == "class":
        return [_class(model, data.classes[int(i)]) for i in indices]
    prompts: list[str] = []
    for i in indices:
        captions = [data.caption(int(i), rng) for _ in range(TRIES)]
        prompts.append(next((c for c in captions if c not in prompts), captions[0]))
    return prompts


def _class(model: LatentDiffusion, name: str) -> str:
    if name not in model.config.text_encoder.class_names:
        message = f"the model knows no class {name!r}"
        raise InputError(message, code="E-CLASS", hint="evaluate it on data with its classes")
    return name
