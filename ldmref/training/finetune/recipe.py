"""The recipe of a fine-tuning.

    base = "sd15.safetensors"       any model of `ldmref.load`; relative to the working folder
    base_config = ""                of a single file: a preset, or a folder with the configuration
    method = "lora", "textual_inversion", "full" (every parameter of the denoiser) or "distill" (a
                                    flow map with the base as its teacher)
    [data]                          source = a folder of images   size = 512
    [lora]                          rank = 8    alpha: the rank     targets = ["attention"]
    [textual_inversion]             word = "<toy>"  initial = "toy" vectors = 1
    [full]                          text_encoders = true: they are trained with the denoiser
    [distill]                       trajectories = 4000   steps = 20    cfg_scale and sampler
    [diffusion.objective]           [diffusion.optimizer]           [diffusion.budget]
    [checkpoint]                    seconds = 30                    steps = 0
    [progress]                      seconds = 60    prompts = []    count = 4

The key `base` distinguishes it from the recipe of a whole training. The model is referred to, not
copied; a resumed training must have a base with the same digest. Some defaults depend on method and
base (`defaults.py`) and replace those of the dataclasses here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ldmref.datasets.config import DataConfig
from ldmref.declare import Names, Range
from ldmref.io.checkpoint import read_model_config
from ldmref.models.config import ModelConfig
from ldmref.training.recipes.schema import (
    Budget,
    CheckpointConfig,
    DiffusionObjective,
    DiffusionStage,
    OptimizerConfig,
    ProgressConfig,
)

# targets of a LoRA: of the denoiser, as its family says (`LoraRules.targets`), and of CLIP
TARGETS = ("attention", "feed_forward", "projections", "convolutions", "text")
DENOISING = DiffusionStage(
    DiffusionObjective(caption_dropout=0.0, timestep_power=1.0),
    OptimizerConfig(batch_size=4, learning_rate=1e-4, warmup=20, ema_decay=0.0),
    Budget(1000),
)


@dataclass(frozen=True)
class LoraConfig:
    """The table `[lora]`: W + (alpha / rank) up @ down, for the layers in `targets`."""

    rank: Annotated[int, Range(1, 1024)] = 8
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 8.0
    targets: Annotated[tuple[str, ...], Names(TARGETS)] = ("attention",)


@dataclass(frozen=True)
class TextualInversionConfig:
    """The table `[textual_inversion]`: a new word of `vectors` vectors, initialised from a word."""

    word: str = "<new>"
    initial: str = "thing"
    vectors: Annotated[int, Range(1, 64)] = 1


@dataclass(frozen=True)
class FullConfig:
    """The table `[full]`: whether the text encoders are trained with the denoiser, or kept."""

    text_encoders: bool = True


@dataclass(frozen=True)
class DistillConfig:
    """The table `[distill]`: the runs of the teacher that a flow map learns, and its own steps.

    Args:
        trajectories: The number of guided runs of the teacher that are stored.
        steps: The number of steps of each, a multiple of 4.
        cfg_scale: Their guidance scale, which becomes a part of the map.
        sampler: Their sampler, without fresh noise.
        schedule: The spacing of their levels, and of the map's: of few steps that begin at the
            same level as many.
        default_steps: The number of steps by which the map generates unless asked otherwise.
        own_states: The share of the later halves and quarters, and of other steps that begin one to
            three times their length after the first level, whose start is not the stored state but
            the one that the student itself reaches there in steps of this length.
        initial: A flow map of the same base with which the student begins: a name, file or folder
            of `ldmref.load`. "": the base.
    """

    trajectories: Annotated[int, Range(1, 10_000_000)] = 4000
    steps: Annotated[int, Range(4, 1000)] = 20
    cfg_scale: Annotated[float, Range(0, 1000)] = 1.0
    sampler: str = "ddim"
    schedule: str = "trailing"
    default_steps: Annotated[int, Range(1, 1000)] = 4
    own_states: Annotated[float, Range(0, 1)] = 0.0
    initial: str = ""


@dataclass(frozen=True)
class FineTuneRecipe:
    """The recipe of a fine-tuning; some defaults depend on method and base.

    Args:
        base: The model to fine-tune: any name, file or folder of `ldmref.load`.
        base_config: The configuration of a single file, as `config` of `ldmref.load`. "": the
            family is recognised.
        method: `lora`, `textual_inversion`, `full` for every parameter of the denoiser, or
            `distill` for a flow map.
        seed: Seed of new weights, noise and the order of images.
        device: Device on which PyTorch trains, such as "cpu" or "cuda:0".
        dtype: Floating-point type of activations: `float32`, `bfloat16` or `auto`.
        data: The images.
        lora: Rank, alpha and layers of a LoRA.
        textual_inversion: The new word.
        full: Whether `full` trains the text encoders too.
        distill: The teacher's runs, of a flow map.
        diffusion: Objective, optimizer and budget.
        checkpoint: Intervals between checkpoints.
        progress: Preview images of the running training.

    >>> from ldmref.training import read_recipe
    >>> recipe = read_recipe(None, {"base": "emoji", "method": "lora", "lora": {"rank": 4}})
    >>> type(recipe).__name__, recipe.lora.alpha
    ('FineTuneRecipe', 4.0)
    """

    base: str = "emoji"
    base_config: str = ""
    method: Literal["lora", "textual_inversion", "full", "distill"] = "lora"
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"  # of activations
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = LoraConfig()
    textual_inversion: TextualInversionConfig = TextualInversionConfig()
    full: FullConfig = FullConfig()
    distill: DistillConfig = DistillConfig()
    diffusion: DiffusionStage = field(default_factory=lambda: DENOISING)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    progress: ProgressConfig = field(default_factory=ProgressConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return nested tables, the inverse of `recipe_from_dict`."""
        return dataclasses.asdict(self)

    def read_base_config(self) -> ModelConfig:
        """Return the configuration of the base, without reading its weights.

        Raises:
            InputError, UsageError, KeyMismatchError: As for `read_model_config`.
        """
        return read_model_config(self.base, self.base_config or None)
