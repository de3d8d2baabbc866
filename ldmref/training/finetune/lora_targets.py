"""The layers of a model that a LoRA changes: of its denoiser, as the family says, and of CLIP."""

from __future__ import annotations

from collections.abc import Sequence

from ldmref.io.adapters.lora_keys import lora_names
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.training.finetune.recipe import TARGETS
from ldmref.training.recipes.schema import recipe_error

TEXT_LAYERS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")


def list_targets(config: ModelConfig) -> list[str]:
    """Return the `TARGETS` that a model has.

    >>> from ldmref.models import preset
    >>> list_targets(preset("sd3-medium"))
    ['attention', 'feed_forward', 'projections', 'text']
    """
    own = family_of(config).lora.targets
    return [name for name in TARGETS if name in own or (name == "text" and config.text_encoders)]


def check_targets(config: ModelConfig, targets: Sequence[str]) -> None:
    """Refuse targets that a model does not have.

    Raises:
        UsageError: It has none of that name.
    """
    allowed = list_targets(config)
    for name in targets:
        if name not in allowed:
            raise recipe_error(
                f"lora.targets: {config.name!r} has no {name!r}",
                hint=f"it has {', '.join(allowed)}",
            )


def lora_layers(config: ModelConfig, targets: Sequence[str]) -> list[str]:
    """Return the names of the tensors that a LoRA with these `TARGETS` changes."""
    own = family_of(config).lora.targets
    denoiser = tuple(end for name in own if name in targets for end in own[name])
    text = TEXT_LAYERS if "text" in targets else ()

    def is_target(name: str) -> bool:
        network, _, path = name.removesuffix(".weight").partition(".")
        return path.endswith(denoiser if network == config.denoiser.network else text)

    return [name for name in lora_names(config).list_tensors() if is_target(name)]
