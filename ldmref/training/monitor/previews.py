"""Images that show what a stage has learned so far."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldmref import modes
from ldmref.backends.torch import TorchBackend
from ldmref.datasets import Dataset
from ldmref.io.images.pil import to_images
from ldmref.models.config import AutoencoderConfig, ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, tree_map
from ldmref.models.text_kind import kind_of
from ldmref.modes.generate import CancelFlag
from ldmref.training.autoencoder.forward import forward, make_noise
from ldmref.training.autoencoder.objective import AutoencoderObjective
from ldmref.training.batches import evenly_spaced, step_generator, to_unit
from ldmref.training.recipes.schema import ProgressConfig

IMAGES = 8
PROMPTS = 4
SEED = 0
RECONSTRUCTIONS = "reconstructions.png"
SAMPLES = "samples.png"
LEFT_OUT = "(--no-plots leaves it out)"


class TrainingPreview(NamedTuple):
    """The name of a file, and `render(params, title, tell)`, its image for averaged parameters.

    `tell` is called with a line of progress.
    """

    file: str
    render: Callable[[Params, str, Callable[[str], None]], Image.Image]


def reconstructions(
    data: Dataset,
    config: AutoencoderConfig,
    objective: AutoencoderObjective,
    seed: int,
    ops: TorchBackend,
) -> TrainingPreview:
    """Preview originals and reconstructions of images evenly spaced in the data set."""

    def render(params: Params, title: str, tell: Callable[[str], None]) -> Image.Image:
        tell(f"making {RECONSTRUCTIONS} {LEFT_OUT}")
        tensors = tree_map(ops.asarray, params)
        with ops.inference():
            x = to_unit(data.images[evenly_spaced(len(data.images), IMAGES)], ops)
            f = forward(ops, tensors, config, objective, x, make_noise(seed, 0, ops))
        rows = [("original", f.x), ("input", f.corrupted), ("reconstruction", f.y)]
        if objective.corruption == "none":
            del rows[1]
        return grid(title, [LabelledRow(label, to_images(ops.to_numpy(x))) for label, x in rows])

    return TrainingPreview(RECONSTRUCTIONS, render)


def samples(
    make_model: Callable[[Params], LatentDiffusion],
    prompts: Sequence[str],
    count: int,
    size: int,
    cancel: CancelFlag | None,
) -> TrainingPreview:
    """Preview a row of images for each prompt, with seeds 0, 1, ... and the model's defaults.

    `make_model` is called with the parameters on the host.
    """

    def render(params: Params, title: str, tell: Callable[[str], None]) -> Image.Image:
        model = make_model(params)
        rows = []
        for number, prompt in enumerate(prompts, start=1):
            tell(f"making {SAMPLES}: row {number} of {len(prompts)} {LEFT_OUT}")
            result = modes.txt2img(
                model,
                prompt,
                width=size,
                height=size,
                seed=SEED,
                count=count,
                batch_size=count,
                cancel=cancel,
            )
            rows.append(LabelledRow(prompt, result.images))
        return grid(title, rows)

    return TrainingPreview(SAMPLES, render)


def sample_prompts(
    config: ModelConfig, progress: ProgressConfig, data: Dataset, seed: int
) -> tuple[str, ...]:
    """Return the recipe's prompts; without any, captions or classes of evenly spaced images.

    Raises:
        UsageError: The model cannot generate images for a prompt of the recipe.
    """
    check_prompts(config, progress.prompts)
    reads = kind_of(config.text_encoder).reads
    if progress.prompts or reads == "nothing":
        return progress.prompts or ("",)
    numbers = evenly_spaced(len(data.images), PROMPTS)
    rng = step_generator(seed, 0, "prompts")
    if reads == "class":
        texts = [data.classes[i] for i in numbers]
    else:
        texts = [data.caption(int(i), rng) for i in numbers]
    return tuple(dict.fromkeys(texts))


def check_prompts(config: ModelConfig, prompts: Sequence[str]) -> None:
    """Check the prompts of previews before the training begins.

    Raises:
        UsageError: The model cannot generate images for one of them.
    """
    for prompt in prompts:
        modes.plan("txt2img", config, prompt=prompt)


def exported_weights(params: Params) -> Params:
    """Return the parameters rounded to float16, as in the exported model."""
    return tree_map(lambda x: np.asarray(x, np.float16).astype(np.float32), params)


# -- a grid of small images -----------------------------------------------------------------------


# in pixels: height of the title, width of the labels, distance between images
TITLE = 30
LABEL = 150
GAP = 6
SMALLEST = 128  # smaller images are enlarged by an integer factor, pixel by pixel
# characters in a line of a label; height of the line and of its letters in pixels
LETTERS = 19
LINE = 17
FONT = 14


class LabelledRow(NamedTuple):
    """Images of one size, and a label."""

    label: str
    images: Sequence[Image.Image]


def enlargement(image: Image.Image) -> int:
    """Return the integer factor by which an image is enlarged."""
    return max(1, SMALLEST // image.width)


def grid(title: str, rows: Sequence[LabelledRow]) -> Image.Image:
    """Return an image of rows of images of one size, each with its label on the left."""
    first = rows[0].images[0]
    scale = enlargement(first)
    width = first.width * scale
    height = first.height * scale
    columns = max(len(row.images) for row in rows)
    size = LABEL + columns * (width + GAP), TITLE + len(rows) * (height + GAP)
    sheet = Image.new("RGB", size, "#e8e8e8")
    font = ImageFont.load_default(FONT)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, TITLE // 2), title, "black", font, anchor="lm")
    for i, row in enumerate(rows):
        y = TITLE + i * (height + GAP)
        lines = textwrap.wrap(row.label, LETTERS)[: max(1, height // LINE)]
        pen.multiline_text((GAP, y), "\n".join(lines), "black", font, spacing=LINE - FONT)
        for j, image in enumerate(row.images):
            large = image.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(large, (LABEL + j * (width + GAP), y))
    return sheet
