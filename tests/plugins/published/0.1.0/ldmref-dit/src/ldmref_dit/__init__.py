"""DiT for ldmref: class-conditional images by a transformer of latent patches.

Peebles and Xie 2023, arXiv:2212.09748. ldmref finds `DIT` through the entry point
`ldmref.families` and knows from it how to load, sample, trace, compare and export the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ldmref.families import (
    AutoencoderConfig,
    Backend,
    CallSize,
    Conditioning,
    DeclaredNetwork,
    Defaults,
    EncodedText,
    Family,
    GoldenModels,
    GoldenRun,
    ModelConfig,
    NetworkInput,
    NetworkOutput,
    PipelineCalls,
    Steerable,
    TextPath,
    Tokens,
    TrainingRules,
    Work,
    describe_autoencoder,
)
from ldmref_dit.config import DiTConfig, broken_rules
from ldmref_dit.files import ORIGINAL, ORIGINAL_SCHEDULER, configure, read_folder
from ldmref_dit.network import transformer, transformer_spec

# adaLN-Zero: every block begins as the identity, and the output as zero (section 3.2)
ZEROS = ("norm1.linear.weight", "proj_out_1.weight", "proj_out_2.weight")
ENDS = ("pos_embed.proj.weight", "proj_out_2.weight", "embedding_table.weight")

__all__ = ["DIT", "DiTConfig", "transformer", "transformer_spec"]


def describe_networks(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model: the transformer and the autoencoder."""
    denoiser = config.denoiser
    assert isinstance(denoiser, DiTConfig)
    batch, height, width = CallSize("batch"), CallSize("height"), CallSize("width")
    inputs = (
        NetworkInput(
            "x",
            "sample",
            (batch, denoiser.in_channels, height, width),
            also=("input", "0", "x", "hidden_states"),
        ),
        NetworkInput("t", "timestep", (CallSize("timesteps"),), "timesteps", also=("1", "t")),
        NetworkInput(
            "labels",
            "class_labels",
            (batch,),
            "labels",
            also=("2", "y"),
            below=denoiser.num_classes + 1,
        ),
    )
    network = DeclaredNetwork(
        "transformer",
        "transformer",
        "diffusion transformer",
        transformer,
        lambda: transformer_spec(denoiser),
        {"config": denoiser},
        inputs,
        (NetworkOutput("", "out_sample"),),
        "transformer",
        numbered=True,
        steerable=Steerable("transformer_blocks"),
    )
    return [network, *describe_autoencoder(config.vae)]


def encode_labels(
    ops: Backend,
    configs: Sequence[Any],
    tokens: Sequence[Tokens],
    compile_network: Callable,
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Return the numbers of the classes, (n, 1), in place of hidden states."""
    ids = tokens[0].ids
    return EncodedText(ops.asarray(ids[:, 0, :1]), None, tokens[0])


def condition_on_labels(
    ops: Backend, config: ModelConfig, states: Any, pooled: Any, size: tuple[int, int]
) -> Conditioning:
    """Return the conditioning on the classes of `encode_labels`."""
    return Conditioning(None, more={"labels": states[:, 0]})


def count_flops(config: ModelConfig, width: int, height: int) -> int:
    """Count the operations of one evaluation for one image of `width` x `height` pixels."""
    denoiser = config.denoiser
    assert isinstance(denoiser, DiTConfig)
    d = denoiser.width
    tokens = count_tokens(config, width, height)
    block = 2 * (4 * d * d + 8 * d * d) * tokens + 4 * tokens * tokens * d
    ends = 2 * tokens * d * denoiser.patch_size**2 * (denoiser.in_channels + denoiser.out_channels)
    embeddings = 2 * (256 * d + d * d + 6 * d * d)
    return denoiser.num_layers * (block + embeddings) + ends


def count_activations(config: ModelConfig, width: int, height: int) -> int:
    """Count the numbers that a block holds at once: tokens, their norm, and the wide MLP twice."""
    denoiser = config.denoiser
    assert isinstance(denoiser, DiTConfig)
    return count_tokens(config, width, height) * denoiser.width * 10


def count_tokens(config: ModelConfig, width: int, height: int) -> int:
    """Return the number of patches of an image of `width` x `height` pixels."""
    side = config.size_multiple
    return (width // side) * (height // side)


def shrink(config: ModelConfig) -> ModelConfig:
    """Return a small version of a model, for golden cases."""
    denoiser = config.denoiser
    assert isinstance(denoiser, DiTConfig)
    small = replace(
        denoiser,
        sample_size=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_classes=5,
    )
    vae = AutoencoderConfig(
        block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0
    )
    found = configure(small, config.scheduler, vae, name=config.name)
    return replace(found, defaults=Defaults(4, 4.0, width=16, height=16))


def with_classes(config: ModelConfig, names: tuple[str, ...]) -> ModelConfig:
    """Return a configuration for classes of these names."""
    denoiser = config.denoiser
    assert isinstance(denoiser, DiTConfig)
    text = replace(config.text_encoder, vocab_size=len(names) + 1, class_names=names)
    denoiser = replace(denoiser, num_classes=len(names))
    return replace(config, denoiser=denoiser, text_encoder=text)


def make_presets() -> dict[str, ModelConfig]:
    """Return the published sizes, and one for tests."""
    sizes = {  # table 1: layers, heads, width of a head
        "s": (12, 6, 64),
        "b": (12, 12, 64),
        "l": (24, 16, 64),
        "xl": (28, 16, 72),
    }
    found = {}
    for size, (layers, heads, width) in sizes.items():
        for pixels in (256, 512):
            name = f"dit-{size}-2-{pixels}"
            network = DiTConfig(
                sample_size=pixels // 8,
                num_layers=layers,
                num_attention_heads=heads,
                attention_head_dim=width,
            )
            found[name] = configure(network, ORIGINAL_SCHEDULER, name=name)
    return {"dit-tiny": replace(shrink(found["dit-s-2-256"]), name="dit-tiny")} | found


GOLDEN_RUNS = (GoldenRun("dit-s-2-256", "ddim", params={"prompt": "3", "negative_prompt": ""}),)
DIT = Family(
    "dit",
    DiTConfig,
    describe_networks,
    Work(count_flops, count_activations),
    "DiT: a transformer for the classes of ImageNet",
    broken_rules,
    text=TextPath(encode_labels, condition_on_labels),
    presets=make_presets(),
    files=(ORIGINAL,),
    diffusers=PipelineCalls({"DiTPipeline": read_folder}, halves=("cond", "uncond")),
    training=TrainingRules(zeros=lambda config: ZEROS, ends=ENDS, with_classes=with_classes),
    golden=GoldenModels(shrink, GOLDEN_RUNS),
)
"""The family of DiT."""
