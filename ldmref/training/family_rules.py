"""The parameters of families that a training treats in another way: ldmref's, and packages'.

A package declares them with an entry point that names `TrainingRules` and is called as the family:

    [project.entry-points."ldmref.training"]
    dit = "ldmref_dit.training:RULES"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ldmref.families.flux3.network import IMAGE, REFERENCES, TEXT
from ldmref.families.sd3.config import transformer_of
from ldmref.families.sd3.network import make_positions
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.family import Family
from ldmref.support.plugins import find_optional

GROUP = "ldmref.training"
BUILT_IN = {
    "latent-diffusion": f"{__name__}:LATENT_DIFFUSION_RULES",
    "sd3": f"{__name__}:SD3_RULES",
    "flux": f"{__name__}:FLUX_RULES",
    "z-image": f"{__name__}:Z_IMAGE_RULES",
    "flux2": f"{__name__}:FLUX2_RULES",
    "flux3": f"{__name__}:FLUX3_RULES",
    "krea2": f"{__name__}:KREA2_RULES",
    "qwen-image-2.1": f"{__name__}:QWEN_IMAGE_21_RULES",
}


def name_classes(config: ModelConfig, names: tuple[str, ...]) -> ModelConfig:
    """Return a class-conditional configuration for classes of these names, and the null class."""
    text = replace(config.text_encoder, vocab_size=len(names) + 1, class_names=names)
    return replace(config, text_encoder=text)


@dataclass(frozen=True)
class TrainingRules:
    """The parameters of a family's denoiser that a training treats in a special way.

    Attributes:
        zeros: Returns how the names of the parameters end that begin at zero.
        fixed: Returns the parameters that are computed and not trained, by name, with functions of
            their values: a table of positions.
        ends: How the names of the first and last layers and of tables end, which Muon does not
            train.
        with_classes: Returns a configuration for the classes of a data set, by their names.

    >>> from ldmref.models.family import find_family
    >>> training_rules_of(find_family("sd3")).ends
    ('.pos_embed.proj.weight', 'transformer.proj_out.weight')
    """

    zeros: Callable[[ModelConfig], tuple[str, ...]] = lambda config: ()
    fixed: Callable[[ModelConfig], Mapping[str, Callable[[], Array]]] = lambda config: {}
    ends: tuple[str, ...] = ()
    with_classes: Callable[[ModelConfig, tuple[str, ...]], ModelConfig] = name_classes


def training_rules_of(family: Family) -> TrainingRules:
    """Return the rules of a family's trainings; the defaults if nothing declares others.

    Raises:
        UsageError: Its plug-in cannot be used.
    """
    former = getattr(family, "training", None)  # a declaration of an earlier version
    found = former or find_optional(GROUP, BUILT_IN, family.name, TrainingRules)
    return found or TrainingRules()


LAST_LAYERS = ("conv2.weight", "proj_out.weight", "conv_out.weight")  # of residual branches
LAST_OF_ATTENTION = "to_out.0.weight"  # also of residual branches, without cross-attention


def list_zeros(config: ModelConfig) -> tuple[str, ...]:
    """Return the endings of the last layers of residual branches, which begin at zero."""
    return LAST_LAYERS if config.text_encoders else (*LAST_LAYERS, LAST_OF_ATTENTION)


LATENT_DIFFUSION_RULES = TrainingRules(zeros=list_zeros)
POSITIONS = "transformer.pos_embed.pos_embed"  # sines and cosines, which no program trains
# adaLN-Zero: every block begins as the identity, and the output as zero
SD3_ZEROS = (
    "norm1.linear.weight",
    "norm1_context.linear.weight",
    "norm_out.linear.weight",
    "proj_out.weight",
)
SD3_RULES = TrainingRules(
    zeros=lambda config: SD3_ZEROS,
    fixed=lambda config: {POSITIONS: partial(make_positions, transformer_of(config))},
    ends=(".pos_embed.proj.weight", "transformer.proj_out.weight"),
)
# adaLN-Zero: every block begins as the identity
FLUX_ZEROS = (
    "norm1.linear.weight",
    "norm1_context.linear.weight",
    ".norm.linear.weight",
    "norm_out.linear.weight",
)
FLUX_RULES = TrainingRules(
    zeros=lambda config: FLUX_ZEROS,
    ends=(".x_embedder.weight", "transformer.proj_out.weight"),
)
# every block begins as the identity, and the output as zero; so do learned padding tokens
Z_IMAGE_ZEROS = (
    "adaLN_modulation.0.weight",
    "adaLN_modulation.1.weight",
    "2-1.linear.weight",
    "pad_token",
)
Z_IMAGE_RULES = TrainingRules(
    zeros=lambda config: Z_IMAGE_ZEROS,
    ends=("all_x_embedder.2-1.weight", "2-1.linear.weight", "pad_token"),
)
# every block begins as the identity, and the output as zero
FLUX2_ZEROS = (
    "_modulation_img.linear.weight",
    "_modulation_txt.linear.weight",
    "single_stream_modulation.linear.weight",
    "norm_out.linear.weight",
)
FLUX2_RULES = TrainingRules(
    zeros=lambda config: FLUX2_ZEROS,
    ends=(".x_embedder.weight", ".context_embedder.weight", "transformer.proj_out.weight"),
)
MODULATIONS = tuple(
    f"_stream_modulations.{mode}.linear.weight" for mode in (IMAGE, REFERENCES, TEXT)
)
# every block begins as the identity, and the output as zero
FLUX3_ZEROS = (*MODULATIONS, "norm_out.linear.weight", "proj_out.weight")
FLUX3_RULES = TrainingRules(
    zeros=lambda config: FLUX3_ZEROS,
    ends=(
        ".x_embedders.image.weight",
        ".x_embedders.image_cond.weight",
        "transformer.proj_out.weight",
    ),
)
# the weights of norms are differences from 1; the output and the blocks' gates begin as 0
KREA2_ZEROS = (
    ".norm.weight",
    ".norm1.weight",
    ".norm2.weight",
    ".norm_q.weight",
    ".norm_k.weight",
    "scale_shift_table",
    "time_mod_proj.weight",
    "final_layer.linear.weight",
)
KREA2_RULES = TrainingRules(
    zeros=lambda config: KREA2_ZEROS,
    ends=("img_in.weight", "final_layer.linear.weight", "scale_shift_table"),
)
# every block begins as the identity, and the output as zero
QWEN_IMAGE_21_ZEROS = (
    "modulation.1.weight",
    "norm_out.linear.weight",
    "transformer.proj_out.weight",
)
QWEN_IMAGE_21_RULES = TrainingRules(
    zeros=lambda config: QWEN_IMAGE_21_ZEROS,
    ends=(".img_in.weight", "transformer.proj_out.weight"),
)
