"""What a stage has learned so far, as an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.backends.torch import TorchBackend
from ldmref.io.images.pil import to_images
from ldmref.models.config import AutoencoderConfig, ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, tree_map
from ldmref.modes.generate import CancelFlag
from ldmref.training.autoencoder.forward import forward, noise_of
from ldmref.training.data import Dataset
from ldmref.training.images import evenly_spaced, to_unit
from ldmref.training.monitor.grid import Row, grid
from ldmref.training.recipe import AutoencoderObjective, ProgressConfig
from ldmref.training.trainer import step_generator

IMAGES = 8
PROMPTS = 4
SEED = 0


class Preview(NamedTuple):
    """A file, and the image in it: `draw(params, title)`, of a stage's averaged parameters."""

    file: str
    draw: Callable[[Params, str], Image.Image]


def reconstructions(
    data: Dataset,
    config: AutoencoderConfig,
    objective: AutoencoderObjective,
    seed: int,
    ops: TorchBackend,
) -> Preview:
    """Originals above reconstructions, of images evenly spaced in the data set."""

    def draw(params: Params, title: str) -> Image.Image:
        tensors = tree_map(ops.asarray, params)
        with ops.inference():
            x = to_unit(data.images[evenly_spaced(len(data.images), IMAGES)], ops)
            f = forward(ops, tensors, config, objective, x, noise_of(seed, 0, ops))
        rows = [("original", f.x), ("input", f.corrupted), ("reconstruction", f.y)]
        if objective.corruption == "none":
            del rows[1]
        return grid(title, [Row(label, to_images(ops.to_numpy(x))) for label, x in rows])

    return Preview("reconstructions.png", draw)


def samples(
    model_of: Callable[[Params], LatentDiffusion],
    prompts: Sequence[str],
    count: int,
    size: int,
    cancel: CancelFlag | None,
) -> Preview:
    """A row for each prompt, drawn with the seeds 0, 1, ... as the model draws by default.

    `model_of` gets the parameters on the host.
    """

    def draw(params: Params, title: str) -> Image.Image:
        model = model_of(params)
        rows = []
        for prompt in prompts:
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
            rows.append(Row(prompt, result.images))
        return grid(title, rows)

    return Preview("samples.png", draw)


def sample_prompts(
    config: ModelConfig, progress: ProgressConfig, data: Dataset, seed: int
) -> tuple[str, ...]:
    """The recipe's prompts; without any, captions or classes of images evenly spaced in the data.

    Raises:
        UsageError: the model cannot draw a prompt of the recipe.
    """
    check_prompts(config, progress.prompts)
    if progress.prompts or config.text_encoder.model_type == "none":
        return progress.prompts or ("",)
    numbers = evenly_spaced(len(data.images), PROMPTS)
    rng = step_generator(seed, 0, "prompts")
    if config.text_encoder.model_type == "class":
        texts = [data.classes[i] for i in numbers]
    else:
        texts = [data.caption(int(i), rng) for i in numbers]
    return tuple(dict.fromkeys(texts))


def check_prompts(config: ModelConfig, prompts: Sequence[str]) -> None:
    """Refuse prompts before the training that is to draw them.

    Raises:
        UsageError: the model cannot draw one.
    """
    for prompt in prompts:
        modes.plan("txt2img", config, prompt=prompt)


def exported_weights(params: Params) -> Params:
    """The parameters as the exported model has them: rounded to float16."""
    return tree_map(lambda x: np.asarray(x, np.float16).astype(np.float32), params)
