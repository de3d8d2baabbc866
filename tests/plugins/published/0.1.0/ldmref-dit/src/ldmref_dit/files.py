"""The files of DiT: diffusers' folders, and the original's transformer alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families import (
    AutoencoderConfig,
    Defaults,
    KeyEntry,
    ModelConfig,
    SchedulerConfig,
    SingleFile,
    TextConfig,
    convert_autoencoder_config,
    convert_scheduler_config,
    get_class,
    list_entries,
    read_denoiser,
    read_json,
    reads_sizes,
    stack_layers,
)
from ldmref_dit.config import DiTConfig
from ldmref_dit.network import transformer_spec

PLAIN: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "norm_type": ("ada_norm_zero",),
    "dropout": (0.0,),
    "upcast_attention": (False, None),
}
ORIGINAL_SCHEDULER = SchedulerConfig(
    beta_schedule="linear", beta_start=0.0001, beta_end=0.02, variance_type="learned_range",
    sampler="ddpm",
)  # fmt: skip


def configure(
    transformer: DiTConfig,
    scheduler: SchedulerConfig,
    vae: AutoencoderConfig | None = None,
    names: tuple[str, ...] = (),
    name: str = "dit",
) -> ModelConfig:
    """Return the configuration of a model.

    Args:
        transformer: The transformer.
        scheduler: The forward process, and the sampler's defaults.
        vae: The autoencoder. None: Stable Diffusion's.
        names: The names of all classes, or none.
        name: The name of the model.
    """
    vae = vae or AutoencoderConfig()
    labels = transformer.num_classes + 1
    text = TextConfig(
        model_type="label",
        vocab_size=labels,
        num_hidden_layers=1,
        max_position_embeddings=1,
        class_names=names,
    )
    side = transformer.sample_size * vae.factor
    return ModelConfig(
        name,
        transformer,
        vae,
        text,
        scheduler=scheduler,
        defaults=Defaults(50, 4.0, width=side, height=side),
    )


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers' `DiTPipeline`.

    diffusers' transformer differs from the original in two numbers that no file holds: its
    frequencies of the time end at 1/10000, and a norm of each block has another epsilon.
    """
    data = read_json(folder / "transformer" / "config.json")
    classes = {"num_classes": data.get("num_embeds_ada_norm", 1000)}
    transformer = read_denoiser(DiTConfig(norm_eps=1e-5, freq_shift=1), {**data, **classes}, PLAIN)
    scheduler = convert_scheduler_config(
        read_json(folder / "scheduler" / "scheduler_config.json"), get_class(index, "scheduler")
    )
    z = transformer.in_channels
    learned = transformer.out_channels == 2 * z
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    if learned:
        scheduler = replace(scheduler, variance_type="learned_range")
    return configure(transformer, scheduler, vae, read_class_names(index, transformer.num_classes))


def read_class_names(index: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """Return a name for each class, the first of `id2label`; () if names are missing or equal."""
    labels = index.get("id2label")
    if not isinstance(labels, Mapping):
        return ()
    names = tuple(str(labels.get(str(i), "")).partition(",")[0].strip() for i in range(classes))
    return names if all(names) and len({*names}) == classes else ()


# -- the original's files, such as DiT-XL-2-256x256.pt --------------------------------------------

BLOCK = {
    **stack_layers("attn.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
SHARED = {
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}
ENDS = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}


def original_table(config: ModelConfig) -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter; all blocks share the embeddings."""
    transformer = config.denoiser
    assert isinstance(transformer, DiTConfig)
    shared = {
        f"transformer_blocks.{number}.{ours}": theirs
        for number in range(transformer.num_layers)
        for ours, theirs in SHARED.items()
    }
    blocks = {"transformer_blocks": ("blocks", BLOCK)}
    return list_entries(transformer_spec(transformer), ENDS | shared, blocks)


@reads_sizes
def recognise(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file."""
    d, z, patch, _ = shapes["x_embedder.proj.weight"]
    rows, _ = shapes["y_embedder.embedding_table.weight"]
    tokens = shapes["pos_embed"][1]
    outputs = shapes["final_layer.linear.weight"][0]
    numbers = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
    side = round(tokens**0.5)
    head = 72 if d == 1152 else 64  # DiT-XL, and DiT-S, -B and -L
    transformer = DiTConfig(
        in_channels=z,
        out_channels=outputs // patch**2,
        sample_size=side * patch,
        patch_size=patch,
        num_layers=len(numbers),
        num_attention_heads=max(d // head, 1),
        attention_head_dim=min(d, head),
        num_classes=rows - 1,
    )
    return configure(transformer, ORIGINAL_SCHEDULER)


ORIGINAL = SingleFile("DiT's transformer", recognise, original_table, r"pos_embed")
