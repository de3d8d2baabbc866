"""The schema of a recipe: every setting of a training.

    stages = ["autoencoder", ...]   seed = 0      device = "cpu"    dtype = "float32"
    [data]                          source = the name of a data set, or a folder
    [model]                         preset = "emoji", and any field of its configuration
    [features.optimizer]            [features.budget]
    [autoencoder.objective]         [autoencoder.optimizer]         [autoencoder.budget]
    [diffusion.objective]           [diffusion.optimizer]           [diffusion.budget]
    [classifier.network]            [classifier.objective]          and so on
    [checkpoint]                    seconds = 30                    steps = 0
    [progress]                      seconds = 60    prompts = []    count = 4

Every key is optional. The dataclasses below declare each key with its type, range and default;
`[data]` is in `ldmref.datasets.config`, `[autoencoder.objective]` in `autoencoder/objective.py`.
`file.py` reads and writes recipes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ldmref.datasets.config import EMOJI, DataConfig
from ldmref.declare import Length, Names, Range
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.presets import preset
from ldmref.training.autoencoder.objective import AutoencoderObjective
from ldmref.training.recipes.types import Count, NonNegativeInt, Rate, Share, Weight

CLASSIFIER_GROUPS = 8  # of the classifier's group norms
STAGES = ("autoencoder", "diffusion", "classifier")


def recipe_error(message: str, code: str = "E-RECIPE", hint: str = "") -> UsageError:
    """Return the error of a recipe that cannot be followed."""
    return UsageError(f"recipe: {message}", code=code, hint=hint)


Stages = Annotated[tuple[str, ...], Names(STAGES, prefix=True)]


@dataclass(frozen=True)
class OptimizerConfig:
    """Hyperparameters of one stage.

    A batch is computed in `accumulation` equal parts, whose gradients are added: the update is the
    same and needs less memory. Several processes share a batch (`distributed.py`); with `shard`
    they also share parameters and optimizer state.

    With `muon_rate` above 0, Muon trains matrices and kernels at that learning rate (orthogonalised
    momentum; Jordan et al. 2024, scaled as in Liu et al. 2025, arXiv:2502.16982). AdamW trains the
    other parameters at `learning_rate`, including token embeddings and the first and last layers of
    autoencoder and denoiser. With a `muon_rate` of 0, AdamW trains everything.

    The learning rates rise linearly over `warmup` steps, and fall to 0 as half a cosine over the
    last share `cooldown` of all steps. With a cooldown of 1 the fall begins after the warm-up
    (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5). Below 1 it begins after a constant phase
    (Hägele et al. 2024, arXiv:2405.18392), during which the budget can be raised without changing
    any step so far.

    PyTorch and latent diffusion use betas of (0.9, 0.999); 0.99 forgets the steep gradients of the
    first steps sooner.

    Args:
        batch_size: The number of examples of a step.
        accumulation: The number of parts that are computed one after the other.
        learning_rate: AdamW's, at its highest.
        muon_rate: Muon's, at its highest; 0: AdamW trains everything.
        warmup: The number of steps in which the rates rise.
        cooldown: The share of all steps in which they fall, in [0, 1].
        weight_decay: That of both optimizers, as a share of the learning rate.
        betas: Decays of AdamW's two moving averages, in [0, 1).
        eps: The number added to AdamW's denominator.
        muon_momentum: Muon's, in [0, 1).
        clip_norm: The largest norm of a gradient; a larger one is scaled to it.
        ema_decay: Decay of the moving average of the parameters, in [0, 1).
        shard: Whether several processes share parameters and the optimizers' state.
    """

    batch_size: Annotated[int, Range(1, 1_000_000)] = 64
    accumulation: Count = 1
    learning_rate: Rate = 1e-3
    muon_rate: Share = 0.0
    warmup: NonNegativeInt = 200  # steps
    cooldown: Share = 1.0
    weight_decay: Share = 0.01
    betas: Annotated[tuple[float, ...], Range(0, 0.999999), Length(2, 2)] = (0.9, 0.99)
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    muon_momentum: Annotated[float, Range(0, 0.999999)] = 0.95
    clip_norm: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    ema_decay: Annotated[float, Range(0, 0.999999)] = 0.999
    shard: bool = False


@dataclass(frozen=True)
class Budget:
    """The number of training steps; the learning rate reaches 0 at the last one."""

    steps: Count


@dataclass(frozen=True)
class FeaturesStage:
    """The network for the perceptual term, which learns which words are in an image's captions."""

    optimizer: OptimizerConfig = OptimizerConfig(warmup=50)
    budget: Budget = Budget(400)


@dataclass(frozen=True)
class DiffusionObjective:
    """The denoiser's loss and condition. Its target is the scheduler's `prediction_type`.

    Args:
        loss: "simple", L_simple; "min_snr", its squared errors weighted by the SNR up to
            `snr_gamma`; "bound", the variational bound; "hybrid", L_simple plus `bound_weight`
            times the bound, whose gradient reaches the learned variance only.
        condition: "text", the captions; "class", the classes of the images (`classes.py`); "none".
        caption_dropout: Probability of the empty prompt or the null class.
        timestep_power: The density of u = t / T is power * u^(power - 1). Above 1 it favours noisy
            timesteps; with 1, "simple" is the L_simple of Ho et al. 2020, eq. 14.
        timestep_sampling: "stratified", one timestep from each n-th of that density, which lowers
            the variance of the loss; "independent", as in algorithm 1 of Ho et al.
        flow_times: The density of the flow times of a model with `prediction_type` "flow", before
            the scheduler's shift: "logit_normal", with `logit_mean` and `logit_std`; "uniform";
            "mode", with `mode_scale`; "cosmap".
        flow_weight: The weight of the squared error of the velocity at the shifted flow time:
            "none", "cosmap", or "sigma_sqrt", which counts times below 1 / T as that.
    """

    loss: Literal["simple", "min_snr", "bound", "hybrid"] = "simple"
    snr_gamma: Annotated[float, Range(0, 1e6, above=True)] = 5.0
    bound_weight: Weight = 1e-3
    condition: Literal["text", "class", "none"] = "text"
    caption_dropout: Share = 0.1
    timestep_power: Annotated[float, Range(0, 100, above=True)] = 1.5
    timestep_sampling: Literal["stratified", "independent"] = "stratified"
    flow_times: Literal["logit_normal", "uniform", "mode", "cosmap"] = "logit_normal"
    logit_mean: Annotated[float, Range(-20, 20)] = 0.0
    logit_std: Annotated[float, Range(0, 20, above=True)] = 1.0
    mode_scale: Annotated[float, Range(-1, 1.75)] = 1.29
    flow_weight: Literal["none", "cosmap", "sigma_sqrt"] = "none"


@dataclass(frozen=True)
class AutoencoderStage:
    """The table `[autoencoder]`; `source` is one that is taken as it is, and not trained."""

    source: str = ""
    objective: AutoencoderObjective = field(default_factory=AutoencoderObjective)
    optimizer: OptimizerConfig = OptimizerConfig(
        batch_size=32, learning_rate=1.2e-3, warmup=100, ema_decay=0.995
    )
    budget: Budget = Budget(4900)


@dataclass(frozen=True)
class DiffusionStage:
    """The table `[diffusion]`: the denoiser."""

    objective: DiffusionObjective = DiffusionObjective()
    optimizer: OptimizerConfig = OptimizerConfig(warmup=300, ema_decay=0.998, muon_rate=2e-3)
    budget: Budget = Budget(10_000)


@dataclass(frozen=True)
class ClassifierNetwork:
    """Half a U-Net: `width` channels at the latents' size, doubled at each lower level."""

    width: Annotated[int, Range(8, 4096)] = 32
    levels: Annotated[int, Range(1, 6)] = 2
    layers: Annotated[int, Range(1, 8)] = 1  # residual blocks per level


@dataclass(frozen=True)
class ClassifierObjective:
    """The cross-entropy of the class given noisy latents; `timestep_power` as for the denoiser."""

    timestep_power: Annotated[float, Range(0, 100, above=True)] = 1.0


@dataclass(frozen=True)
class ClassifierStage:
    """The table `[classifier]`: a classifier of noisy latents."""

    network: ClassifierNetwork = ClassifierNetwork()
    objective: ClassifierObjective = ClassifierObjective()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, warmup=100, weight_decay=0.05)
    budget: Budget = Budget(3000)


@dataclass(frozen=True)
class CheckpointConfig:
    """Intervals between checkpoints, in seconds and in steps; 0: not by time, not by step."""

    seconds: Annotated[float, Range(0, 86400)] = 30.0
    steps: NonNegativeInt = 0


@dataclass(frozen=True)
class ProgressConfig:
    """The preview images of a running training.

    They are made at the end of a stage and during it every `seconds`, but take at most 3 % of the
    time; 0: never. Each of `prompts`, or of some captions without any, is sampled `count` times.
    """

    seconds: Annotated[float, Range(0, 86400)] = 60.0
    prompts: Annotated[tuple[str, ...], Length(0, 16)] = ()
    count: Annotated[int, Range(1, 16)] = 4


@dataclass(frozen=True)
class Recipe:
    """A complete training. `read_recipe` makes `data.size` and `model` agree about the size.

    Args:
        stages: The stages to train, the first ones of "autoencoder", "diffusion" and "classifier".
            The first alone ends with an autoencoder, and the training may be continued with more.
        seed: Seed of weights, noise and the order of images.
        device: Device on which PyTorch trains, such as "cpu" or "cuda:0".
        dtype: Floating-point type of activations: `float32`, `bfloat16` or `auto`.
        compile: Whether the networks of the denoiser's training are compiled, which takes a minute
            at the first step.
        data: The images.
        model: The configuration of the model.
        features: Training of the network for the perceptual term.
        autoencoder: Training of the autoencoder.
        diffusion: Training of the denoiser.
        classifier: Training of a classifier of noisy latents.
        checkpoint: Intervals between checkpoints.
        progress: Preview images of the running training.

    >>> from ldmref.training import read_recipe
    >>> recipe = read_recipe("tiny", {"diffusion": {"budget": {"steps": 100}}})
    >>> recipe.stages, recipe.diffusion.budget.steps
    (('autoencoder', 'diffusion'), 100)
    """

    stages: Stages = STAGES[:2]
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"  # of activations
    compile: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=lambda: preset(EMOJI))
    features: FeaturesStage = FeaturesStage()
    autoencoder: AutoencoderStage = AutoencoderStage()
    diffusion: DiffusionStage = DiffusionStage()
    classifier: ClassifierStage = ClassifierStage()
    checkpoint: CheckpointConfig = CheckpointConfig()
    progress: ProgressConfig = ProgressConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return nested tables, the inverse of `recipe_from_dict`."""
        return dataclasses.asdict(self) | {"model": self.model.to_dict()}
