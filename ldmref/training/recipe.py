"""A recipe: everything that a training is made from, as dataclasses and as a TOML file.

    stages = ["autoencoder", ...]   seed = 0      device = "cpu"    dtype = "float32"
    [data]                          source = "emoji", "scenes", or a folder
    [model]                         preset = "emoji", and any field of its configuration
    [features.optimizer]            [features.budget]
    [autoencoder.objective]         [autoencoder.optimizer]         [autoencoder.budget]
    [diffusion.objective]           [diffusion.optimizer]           [diffusion.budget]
    [classifier.network]            [classifier.objective]          and so on
    [checkpoint]                    seconds = 30                    steps = 0
    [progress]                      seconds = 60    prompts = []    count = 4

Every key is optional; the dataclasses below are the schema, with defaults and limits.
`recipe_file.py` reads and writes it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ldmref.declare import Formerly, Length, Names, Range
from ldmref.errors import UsageError
from ldmref.models.config import AutoencoderConfig, ModelConfig
from ldmref.models.presets import preset

EMOJI = "emoji"  # a data source that is no folder, and the preset where a recipe names none
SCENES = "scenes"  # the other one
MAX_SIZE = 1024
CLASSIFIER_GROUPS = 8  # of the norms of the classifier
STAGES = ("autoencoder", "diffusion", "classifier")


def recipe_error(message: str, code: str = "E-RECIPE", hint: str = "") -> UsageError:
    """A recipe that cannot be followed."""
    return UsageError(f"recipe: {message}", code=code, hint=hint)


Fraction = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, above=True)]
Weight = Annotated[float, Range(0, 1e6)]
Count = Annotated[int, Range(1, 10**9)]
CountOrNone = Annotated[int, Range(0, 10**9)]
Stages = Annotated[tuple[str, ...], Names(STAGES, prefix=True)]


@dataclass(frozen=True)
class DataConfig:
    """The images: `source` is "emoji", "scenes" or a folder; `size` in pixels, 0: the model's.

    `images`: the number of scenes, emoji included. The autoencoder sees a batch mirrored half of
    the time with `flips`, and random squares of `crop` pixels of it; 0: whole images.
    """

    source: str = EMOJI
    size: Annotated[int, Range(0, MAX_SIZE)] = 0
    images: Annotated[int, Range(5000, 10_000_000), Formerly("pictures")] = 60_000
    flips: bool = True
    crop: Annotated[int, Range(0, MAX_SIZE)] = 0
    # images that no stage trains on; the denoiser's loss on them is in metrics.jsonl
    held_out: Annotated[int, Range(0, 100_000)] = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """Hyperparameters of one stage.

    A batch is computed in `accumulation` equal parts, whose gradients are added: the same update in
    less memory. Several processes share it (`distributed.py`), and with `shard` parameters and
    optimizer state, too.

    `muon_rate` above 0 trains matrices and kernels, but for the tables of words and the first and
    last convolutions of autoencoder and U-Net, with Muon (orthogonalised momentum; Jordan et al.
    2024, scaled as in Liu et al. 2025, arXiv:2502.16982) at that learning rate, and all other
    parameters with AdamW at `learning_rate`; at 0, AdamW trains everything.

    The learning rates rise linearly over `warmup` steps, and fall to 0 as half a cosine over the
    last share `cooldown` of all steps: with 1 from the end of the warm-up (Loshchilov and Hutter
    2017, arXiv:1608.03983, eq. 5), below 1 after a constant phase (Hägele et al. 2024,
    arXiv:2405.18392), during which the budget can be raised without changing any step so far.

    `betas` and `eps` are AdamW's, `muon_momentum` is Muon's. PyTorch and latent diffusion use
    betas of (0.9, 0.999); 0.99 forgets the steep gradients of the first steps sooner.
    """

    batch_size: Annotated[int, Range(1, 1_000_000)] = 64
    accumulation: Count = 1
    learning_rate: Rate = 1e-3
    muon_rate: Fraction = 0.0
    warmup: CountOrNone = 200  # steps
    cooldown: Fraction = 1.0
    weight_decay: Fraction = 0.01
    betas: Annotated[tuple[float, ...], Range(0, 0.999999), Length(2, 2)] = (0.9, 0.99)
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    muon_momentum: Annotated[float, Range(0, 0.999999)] = 0.95
    clip_norm: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    ema_decay: Annotated[float, Range(0, 0.999999)] = 0.999
    shard: bool = False


@dataclass(frozen=True)
class Budget:
    """How long to train. The cool-down of the learning rates ends with it."""

    steps: Count


@dataclass(frozen=True)
class AutoencoderObjective:
    """The loss of a first stage: a sum of weighted terms, those of weight 0 left out.

    The formulas are in `training/autoencoder/terms.py`. Latents are sampled from q(z|x) if
    `kl_weight` or `elbo_weight` is above 0, quantized if the model has a codebook, and else exact.

    `absolute_weight`, `edge_weight`, `square_weight`: |x' - x|, the same of differences between
    neighbouring pixels, and (x' - x)^2, as means. `kl_weight`: KL(q || N(0, 1)) per latent.
    `elbo_weight`: the negative evidence bound in nats per image, with weight `beta` of the
    divergence in it and a Gaussian likelihood of this `variance`, which `learn_variance` trains.
    `l1_weight`: |z| / rms(z). `sparsity_weight`: KL(rho || mean activation) per channel, with
    rho `activation`. `codebook_weight`: of the codebook and, times `commitment`, the commitment
    loss. `codebook_decay` above 0: the codebook is a moving average, and only commitment is left.
    `revive_below`: codes used less than this share of the mean are replaced by encoder outputs.
    `perceptual_weight`: distance of the features of a network trained before (`[features]`).
    `adversarial_weight`: of a patch discriminator from `adversarial_start` on, relative to the
    gradient of the reconstruction. `corruption`: of the encoder's input, with this
    `corruption_amount` (standard deviation, images being in [-1, 1]; or the share of masked
    numbers).
    """

    absolute_weight: Weight = 1.0
    edge_weight: Weight = 1.0
    square_weight: Weight = 4.0
    kl_weight: Weight = 3e-4
    elbo_weight: Weight = 0.0
    beta: Weight = 1.0
    variance: Annotated[float, Range(0, 1e6, above=True)] = 1.0
    learn_variance: bool = False
    l1_weight: Weight = 0.0
    sparsity_weight: Weight = 0.0
    activation: Annotated[float, Range(1e-6, 0.5)] = 0.05
    codebook_weight: Weight = 1.0
    commitment: Weight = 0.25
    codebook_decay: Annotated[float, Range(0, 0.999999)] = 0.0
    revive_below: Fraction = 0.05
    perceptual_weight: Weight = 0.0
    adversarial_weight: Weight = 0.0
    adversarial_start: CountOrNone = 0
    adversarial_loss: Literal["hinge", "log"] = "hinge"
    corruption: Literal["none", "gaussian", "masking"] = "none"
    corruption_amount: Fraction = 0.5

    @property
    def sampled(self) -> bool:
        """Whether latents are sampled from a Gaussian."""
        return self.kl_weight > 0 or self.elbo_weight > 0

    def separable(self, config: AutoencoderConfig) -> bool:
        """Whether the loss of a batch is the mean of those of its images."""
        of_batch = self.l1_weight, self.sparsity_weight, self.adversarial_weight
        return not config.codebook_size and not any(of_batch)

    def problem(self, config: AutoencoderConfig) -> str:
        """What does not fit together, or does not fit the network; "" if all does."""
        weights = self.absolute_weight, self.edge_weight, self.square_weight, self.elbo_weight
        if not any(weights):
            return "nothing compares images: absolute_, edge_, square_ and elbo_weight are 0"
        if self.kl_weight and self.elbo_weight:
            return "kl_weight must be 0 with elbo_weight, which contains the divergence"
        if self.learn_variance and not self.elbo_weight:
            return "learn_variance needs elbo_weight: no other term has a variance"
        penalties = self.l1_weight or self.sparsity_weight
        if config.codebook_size and (self.sampled or penalties):
            return "kl_, elbo_, l1_ and sparsity_weight must be 0 for a model with a codebook"
        if bool(config.latent_activation) != bool(self.sparsity_weight):
            return "sparsity_weight and model.vae.latent_activation need each other"
        if self.sampled and penalties:
            return "l1_ and sparsity_weight are for exact latents: kl_ and elbo_weight must be 0"
        return ""


@dataclass(frozen=True)
class FeaturesStage:
    """The network for the perceptual term, which learns to read the words of the captions."""

    optimizer: OptimizerConfig = OptimizerConfig(warmup=50)
    budget: Budget = Budget(400)


@dataclass(frozen=True)
class DiffusionObjective:
    """What the denoiser learns to predict, and from what. The target is the scheduler's
    `prediction_type`.

    `loss`: "simple", L_simple; "min_snr", its squared errors weighted by the SNR up to `snr_gamma`;
    "bound", the variational bound; "hybrid", L_simple plus `bound_weight` times the bound, which
    trains a learned variance only. `condition`: "text", captions; "class", see `classes.py`;
    "none". `caption_dropout`: probability of the empty prompt or the null class. `timestep_power`:
    u = t / T has density power * u^(power - 1), above 1 favours noisy timesteps; "simple" is the
    L_simple of Ho et al. 2020, eq. 14, with a power of 1. `timestep_sampling`: "stratified", one
    timestep from each n-th of that density, which lowers the variance of the loss; "independent",
    as in their algorithm 1."""

    loss: Literal["simple", "min_snr", "bound", "hybrid"] = "simple"
    snr_gamma: Annotated[float, Range(0, 1e6, above=True)] = 5.0
    bound_weight: Weight = 1e-3
    condition: Literal["text", "class", "none"] = "text"
    caption_dropout: Fraction = 0.1
    timestep_power: Annotated[float, Range(0, 100, above=True)] = 1.5
    timestep_sampling: Literal["stratified", "independent"] = "stratified"


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
class ClassifierNetwork:
    """Half a U-Net: `width` channels at the latents' size, twice as many at each level below."""

    width: Annotated[int, Range(8, 4096)] = 32
    levels: Annotated[int, Range(1, 6)] = 2
    layers: Annotated[int, Range(1, 8)] = 1  # residual blocks per level


@dataclass(frozen=True)
class ClassifierObjective:
    """The cross-entropy of the class given noisy latents; `timestep_power` as of the denoiser."""

    timestep_power: Annotated[float, Range(0, 100, above=True)] = 1.0


@dataclass(frozen=True)
class ClassifierStage:
    network: ClassifierNetwork = ClassifierNetwork()
    objective: ClassifierObjective = ClassifierObjective()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, warmup=100, weight_decay=0.05)
    budget: Budget = Budget(3000)


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save: every so many seconds and steps; 0: not by time, not by step."""

    seconds: Annotated[float, Range(0, 86400)] = 30.0
    steps: CountOrNone = 0


@dataclass(frozen=True)
class ProgressConfig:
    """The images of a running training: at most every so many seconds, 3 % of the time, and at
    the end of a stage; 0: none. `prompts` are drawn `count` times; without any, captions are."""

    seconds: Annotated[float, Range(0, 86400)] = 60.0
    prompts: Annotated[tuple[str, ...], Length(0, 16)] = ()
    count: Annotated[int, Range(1, 16)] = 4


@dataclass(frozen=True)
class Recipe:
    """A complete training. As read from a file, `data.size` and `model` agree about the size.

    `stages`: those to train; the first alone ends with an autoencoder, and may be continued.
    """

    stages: Stages = STAGES[:2]
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"  # of activations
    data: DataConfig = DataConfig()
    model: ModelConfig = field(default_factory=lambda: preset(EMOJI))
    features: FeaturesStage = FeaturesStage()
    autoencoder: AutoencoderStage = AutoencoderStage()
    diffusion: DiffusionStage = DiffusionStage()
    classifier: ClassifierStage = ClassifierStage()
    checkpoint: CheckpointConfig = CheckpointConfig()
    progress: ProgressConfig = ProgressConfig()

    def to_dict(self) -> dict[str, Any]:
        """Nested tables, the inverse of `recipe_file.recipe_from_dict`."""
        return dataclasses.asdict(self) | {"model": self.model.to_dict()}
