"""What a training of DiT treats in another way, by the entry point `ldmref.training`."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families import ModelConfig
from ldmref.training import TrainingRules
from ldmref_dit.config import DiTConfig

# adaLN-Zero: every block begins as the identity, and the output as zero (section 3.2)
ZEROS = ("norm1.linear.weight", "proj_out_1.weight", "proj_out_2.weight")
ENDS = ("pos_embed.proj.weight", "proj_out_2.weight", "embedding_table.weight")


def with_classes(config: ModelConfig, names: tuple[str, ...]) -> ModelConfig:
    """Return a configuration for classes of these names."""
    denoiser = config.denoiser
    assert isinstance(denoiser, DiTConfig)
    text = replace(config.text_encoder, vocab_size=len(names) + 1, class_names=names)
    denoiser = replace(denoiser, num_classes=len(names))
    return replace(config, denoiser=denoiser, text_encoder=text)


RULES = TrainingRules(zeros=lambda config: ZEROS, ends=ENDS, with_classes=with_classes)
