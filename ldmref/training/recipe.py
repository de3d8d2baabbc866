"""A recipe: everything that a training is made from, as dataclasses and as a TOML file.

    seed = 0                        device = "cpu"                  dtype = "float32"
    [data]                          source = "emoji", or a folder   size = 64
    [model]                         preset = "emoji", and any field of its configuration
    [autoencoder.objective]         [autoencoder.optimizer]         [autoencoder.budget]
    [diffusion.objective]           [diffusion.optimizer]           [diffusion.budget]
    [checkpoint]                    seconds = 30                    steps = 0

Every key is optional; the dataclasses below are the schema, with defaults and limits.
`recipe_file.py` reads and writes it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from ldmref.models.config import ModelConfig
from ldmref.models.presets import preset

EMOJI = "emoji"  # a data source that is no folder, and the preset where a recipe names none
SCENES = "scenes"  # the other one
MAX_SIZE = 1024


class Limits(NamedTuple):
    """The range of a number, inclusive but for `above`."""

    low: float
    high: float
    above: bool = False  # the low end is excluded

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float)
        return number and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low} and at most {self.high}"
        return f"from {self.low} to {self.high}"


Fraction = Annotated[float, Limits(0, 1)]
Rate = Annotated[float, Limits(0, 1, above=True)]
Weight = Annotated[float, Limits(0, 1e6)]
Count = Annotated[int, Limits(1, 10**9)]
CountOrNone = Annotated[int, Limits(0, 10**9)]


@dataclass(frozen=True)
class DataConfig:
    """The pictures: `source` is "emoji", "scenes" or a folder; `size` in pixels, 0: the model's own.

    `pictures`: how many the scenes are.
    """

    source: str = EMOJI
    size: Annotated[int, Limits(0, MAX_SIZE)] = 0
    pictures: Annotated[int, Limits(5000, 10_000_000)] = 60_000


@dataclass(frozen=True)
class OptimizerConfig:
    """Hyperparameters of one stage.

    `muon_rate` above 0 trains the matrices and kernels between the first and the last layer with
    Muon (orthogonalised momentum; Jordan et al. 2024, scaled as in Liu et al. 2025,
    arXiv:2502.16982) at that learning rate, and all other parameters with AdamW at `learning_rate`;
    at 0, AdamW trains everything.
    """

    batch_size: Annotated[int, Limits(1, 1_000_000)] = 64
    learning_rate: Rate = 1e-3
    muon_rate: Fraction = 0.0
    warmup: CountOrNone = 200  # steps
    weight_decay: Fraction = 0.01
    clip_norm: Annotated[float, Limits(0, 1e6, above=True)] = 1.0
    ema_decay: Annotated[float, Limits(0, 0.999999)] = 0.999


@dataclass(frozen=True)
class Budget:
    """How long to train. It also sets the length of the learning rate's cosine."""

    steps: Count


@dataclass(frozen=True)
class AutoencoderObjective:
    """Weights of the terms that `autoencoder.py` adds to the absolute error."""

    kl_weight: Weight = 3e-4
    square_weight: Weight = 4.0


@dataclass(frozen=True)
class DiffusionObjective:
    """`caption_dropout`: probability of the empty prompt. `timestep_power`: u = t / T has density
    power * u^(power - 1), above 1 favours noisy timesteps. The target is the scheduler's
    `prediction_type`."""

    caption_dropout: Fraction = 0.1
    timestep_power: Annotated[float, Limits(0, 100, above=True)] = 1.5


@dataclass(frozen=True)
class AutoencoderStage:
    objective: AutoencoderObjective = AutoencoderObjective()
    optimizer: OptimizerConfig = OptimizerConfig(
        batch_size=32, learning_rate=1.2e-3, warmup=100, ema_decay=0.995
    )
    budget: Budget = Budget(4900)


@dataclass(frozen=True)
class DiffusionStage:
    objective: DiffusionObjective = DiffusionObjective()
    optimizer: OptimizerConfig = OptimizerConfig(warmup=300, ema_decay=0.998, muon_rate=2e-3)
    budget: Budget = Budget(10_000)


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save: every so many seconds and steps; 0: not by time, not by step."""

    seconds: Annotated[float, Limits(0, 86400)] = 30.0
    steps: CountOrNone = 0


@dataclass(frozen=True)
class Recipe:
    """A complete training. As read from a file, `data.size` and `model` agree about the size."""

    seed: Annotated[int, Limits(0, 2**63 - 1)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations
    data: DataConfig = DataConfig()
    model: ModelConfig = field(default_factory=lambda: preset(EMOJI))
    autoencoder: AutoencoderStage = AutoencoderStage()
    diffusion: DiffusionStage = DiffusionStage()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def to_dict(self) -> dict[str, Any]:
        """Nested tables, the inverse of `recipe_file.recipe_from_dict`."""
        return dataclasses.asdict(self) | {"model": self.model.to_dict()}
