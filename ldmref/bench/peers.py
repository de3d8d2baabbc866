"""The peers: diffusers' and transformers' networks with ldmref's weights.

torch, diffusers and transformers are imported when a row needs them (`libraries.need`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ldmref.bench import onnx
from ldmref.bench.libraries import need
from ldmref.bench.rows import Row
from ldmref.bench.works import CFG, PARTS, Inputs, Side, pixels
from ldmref.models.config import AutoencoderConfig, ModelConfig, TextConfig, UNetConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten


def theirs(row: Row, model: LatentDiffusion, inputs: Inputs) -> Side:
    """The row's work by its peer, with the weights of `model`.

    Raises:
        BackendUnavailable: the peer is not installed.
    """
    if row.peer == "onnx":
        call = onnx.unet_call(row, network("unet", model), inputs)
        return Side(row.peer_title, call, lambda y: y)
    torch = need("torch")
    kind = getattr(torch, row.dtype)

    def tensor(x: np.ndarray) -> Any:
        y = torch.from_numpy(x).to(row.device)
        y = y.to(kind) if y.is_floating_point() else y
        return y.contiguous(memory_format=memory) if y.ndim == 4 else y

    channels_last = row.peer == "channels_last"
    memory = torch.channels_last if channels_last else torch.contiguous_format
    made = {part: network(part, model).to(row.device) for part in PARTS[row.work]}
    for part, module in made.items():
        if row.dtype != "float32":
            made[part] = module.to(kind)
        if channels_last and part != "text_encoder":
            made[part] = made[part].to(memory_format=memory)
        if row.peer == "compiled":
            made[part].compile()
    latents, context, t = tensor(inputs.latents), tensor(inputs.context), tensor(inputs.t).float()
    ids = tensor(inputs.ids)
    if row.work == "picture":
        call = pipeline(row, model.config, made, latents, ids)
    else:
        scale = model.config.vae.scaling_factor
        call = {
            "unet": lambda: made["unet"](latents, t, context).sample,
            "vae": lambda: made["vae"].decode(latents / scale).sample,
            "text": lambda: made["text_encoder"](ids[1:]).last_hidden_state,
        }[row.work]

    def without_gradients() -> Any:
        with torch.inference_mode():
            return call()

    def wait() -> None:
        if row.device == "cuda":
            torch.cuda.synchronize()

    host = pixels if row.work == "picture" else lambda y: y.float().cpu().numpy()
    return Side(row.peer_title, without_gradients, host, wait)


def network(part: str, model: LatentDiffusion) -> Any:
    """A network of diffusers or transformers; on the cpu it shares the weights' memory."""
    torch, config = need("torch"), model.config
    if part == "text_encoder":
        transformers = need("transformers")
        made = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**text_arguments(config.text_encoder))
        )
    else:
        diffusers = need("diffusers")
        with torch.device("meta"):  # no numbers are drawn that would be thrown away
            made = (
                diffusers.UNet2DConditionModel(**unet_arguments(config.unet))
                if part == "unet"
                else diffusers.AutoencoderKL(**vae_arguments(config.vae))
            )
    known, prefix = made.state_dict(), "text_model."
    cut = part == "text_encoder" and not any(name.startswith(prefix) for name in known)
    weights = {
        name.removeprefix(prefix) if cut else name: torch.from_numpy(
            np.require(model.backend.to_numpy(leaf), np.float32, ["C", "W"])
        )
        for name, leaf in flatten(model.params[part]).items()
    }
    made.load_state_dict(weights, strict=True, assign=True)
    return made.eval().requires_grad_(False)


def pipeline(row: Row, config: ModelConfig, made: dict, latents: Any, ids: Any) -> Any:
    """A call that draws one picture with `StableDiffusionPipeline` and DDIM."""
    diffusers, torch = need("diffusers"), need("torch")
    scheduler = config.scheduler
    pipe = diffusers.StableDiffusionPipeline(
        **made,
        tokenizer=None,
        scheduler=diffusers.DDIMScheduler(
            beta_schedule=scheduler.beta_schedule,
            beta_start=scheduler.beta_start,
            beta_end=scheduler.beta_end,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=scheduler.steps_offset,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)

    def draw() -> list:
        states = torch.cat([made["text_encoder"](one).last_hidden_state for one in ids[:, None]])
        return pipe(
            prompt_embeds=states[1:], negative_prompt_embeds=states[:1], latents=latents,
            num_inference_steps=row.steps, guidance_scale=CFG, height=row.size, width=row.size,
        ).images  # fmt: skip

    return draw


def unet_arguments(config: UNetConfig) -> dict[str, Any]:
    """Ours as arguments of `UNet2DConditionModel`; its `attention_head_dim` counts heads."""
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention_levels]
    extra: dict[str, Any] = {}
    if config.class_embed_type:
        extra["class_embed_type"] = config.class_embed_type
        extra["projection_class_embeddings_input_dim"] = config.cross_attention_dim
    return extra | dict(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        attention_head_dim=config.num_heads,
        transformer_layers_per_block=config.transformer_layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        use_linear_projection=config.use_linear_projection,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
    )


def vae_arguments(config: AutoencoderConfig) -> dict[str, Any]:
    """Ours as arguments of `AutoencoderKL`."""
    levels = len(config.block_out_channels)
    return dict(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=config.mid_block_add_attention,
        scaling_factor=config.scaling_factor,
    )


def text_arguments(config: TextConfig) -> dict[str, Any]:
    """Ours as arguments of `CLIPTextConfig`."""
    return dict(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        bos_token_id=0,
        eos_token_id=config.vocab_size - 1,
        pad_token_id=config.vocab_size - 1,
    )
