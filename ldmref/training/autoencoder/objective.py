"""The recipe's table `[autoencoder.objective]`: the loss of a first stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Range
from ldmref.models.config import AutoencoderConfig
from ldmref.training.recipes.types import NonNegativeInt, Share, Weight


@dataclass(frozen=True)
class AutoencoderObjective:
    """The loss of a first stage: a weighted sum of terms. Terms of weight 0 are not computed.

    The formulas are in `training/autoencoder/terms.py`. Latents are sampled from q(z|x) if
    `kl_weight` or `elbo_weight` is above 0, quantized if the model has a codebook, and otherwise
    exact.

    Args:
        absolute_weight: Mean |x' - x|.
        edge_weight: Mean |difference of x' - difference of x| between neighbouring pixels.
        square_weight: Mean (x' - x)^2.
        kl_weight: KL(q || N(0, 1)) per latent.
        elbo_weight: Negative evidence lower bound in nats per image.
        beta: Weight of the divergence within that bound.
        variance: Variance of its Gaussian likelihood, the initial one with `learn_variance`.
        l1_weight: |z| / rms(z).
        sparsity_weight: KL(rho || mean activation) per channel, with rho = `activation`.
        codebook_weight: Codebook loss, plus `commitment` times the commitment loss.
        codebook_decay: Above 0, the codebook is a moving average, and its loss is left out.
        revive_below: Codes used less than this share of the mean are replaced by encoder outputs.
        perceptual_weight: Distance of features of a network that is trained before (`[features]`).
        adversarial_weight: Patch discriminator, from step `adversarial_start` on, relative to the
            gradient of the reconstruction.
        corruption: Corruption of the encoder's input, of size `corruption_amount`: the standard
            deviation (images are in [-1, 1]), or the share of masked values.
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
    revive_below: Share = 0.05
    perceptual_weight: Weight = 0.0
    adversarial_weight: Weight = 0.0
    adversarial_start: NonNegativeInt = 0
    adversarial_loss: Literal["hinge", "log"] = "hinge"
    corruption: Literal["none", "gaussian", "masking"] = "none"
    corruption_amount: Share = 0.5

    @property
    def sampled(self) -> bool:
        """Whether latents are sampled from a Gaussian."""
        return self.kl_weight > 0 or self.elbo_weight > 0

    def separable(self, config: AutoencoderConfig) -> bool:
        """Return whether the loss of a batch is the mean of the losses of its images."""
        across_images = self.l1_weight, self.sparsity_weight, self.adversarial_weight
        return not config.codebook_size and not any(across_images)

    def problem(self, config: AutoencoderConfig) -> str:
        """Return which settings contradict each other or the network; "" if none do."""
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
