"""The configurations of diffusers and transformers, read field by field.

Every field is either understood or must have the value that means "nothing special"; anything else
is refused, because ignoring it would draw another picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.errors import CorruptModelError
from ldmref.models.config import AutoencoderConfig, SchedulerConfig, TextConfig, UNetConfig

# Fields that change the network when they have another value than these.
UNET_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",), "center_input_sample": (False,), "flip_sin_to_cos": (True,),
    "freq_shift": (0,), "mid_block_scale_factor": (1,), "downsample_padding": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",), "only_cross_attention": (False,),
    "dual_cross_attention": (False,), "class_embed_type": (None,), "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",), "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0, 1), "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,), "time_embedding_act_fn": (None,), "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "attention_type": ("default",), "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False), "cross_attention_norm": (None,),
    "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "num_attention_heads": (None,),
    "reverse_transformer_layers_per_block": (None,), "dropout": (0.0, 0),
}  # fmt: skip
VAE_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",), "use_quant_conv": (True,), "use_post_quant_conv": (True,),
    "shift_factor": (None, 0, 0.0), "latents_mean": (None,),
    "latents_std": (None,),
}  # fmt: skip


def require_plain(data: Mapping[str, Any], plain: Mapping[str, tuple], where: str) -> None:
    """Refuse a configuration in which a field of `plain` has another value than those listed."""
    for name, values in plain.items():
        if name in data and data[name] not in values:
            raise CorruptModelError(
                f"{where} has {name} = {data[name]!r}, which is not supported",
                code="E-CONFIG",
                hint=f"supported: {', '.join(map(str, values))}",
            )


def _per_level(value: Any, levels: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * levels


def unet_config(data: Mapping[str, Any]) -> UNetConfig:
    """A `UNet2DConditionModel`'s config.json.

    Its `attention_head_dim` is the number of heads, whatever the name says.
    """
    require_plain(data, UNET_PLAIN, "the U-Net's configuration")
    channels = tuple(data["block_out_channels"])
    levels = len(channels)
    kinds, up = list(data["down_block_types"]), list(data["up_block_types"])
    known = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    mirrored = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    if not set(kinds) <= set(known) or up != mirrored:
        raise CorruptModelError(
            f"the U-Net's configuration has blocks {kinds} and {up}, which are not supported",
            code="E-CONFIG",
        )
    layers = data.get("layers_per_block", 2)
    if not isinstance(layers, int):
        raise CorruptModelError("the U-Net's layers_per_block must be one number", code="E-CONFIG")
    return UNetConfig(
        in_channels=data["in_channels"],
        out_channels=data["out_channels"],
        sample_size=data.get("sample_size") or 64,
        block_out_channels=channels,
        layers_per_block=layers,
        attention_levels=tuple(known[kind] for kind in kinds),
        num_heads=_per_level(data.get("attention_head_dim", 8), levels),
        transformer_layers_per_block=_per_level(
            data.get("transformer_layers_per_block", 1), levels
        ),
        cross_attention_dim=data["cross_attention_dim"],
        addition_embed_type=data.get("addition_embed_type") or "",
        addition_time_embed_dim=data.get("addition_time_embed_dim") or 256,
        projection_class_embeddings_input_dim=data.get("projection_class_embeddings_input_dim")
        or 2816,
        use_linear_projection=data.get("use_linear_projection", False),
        norm_num_groups=data.get("norm_num_groups", 32),
        norm_eps=float(data.get("norm_eps", 1e-5)),
    )


def autoencoder_config(data: Mapping[str, Any]) -> AutoencoderConfig:
    """An `AutoencoderKL`'s or a `VQModel`'s config.json."""
    plain, codebook = VAE_PLAIN, 0
    if data.get("_class_name") == "VQModel":
        codebook, latents = data.get("num_vq_embeddings", 256), data["latent_channels"]
        plain = VAE_PLAIN | {"norm_type": ("group",), "lookup_from_codebook": (False,)}
        plain |= {"vq_embed_dim": (None, latents)}
    require_plain(data, plain, "the autoencoder's configuration")
    return AutoencoderConfig(
        codebook_size=codebook,
        attention_levels=_autoencoder_attention(data),
        mid_block_add_attention=data.get("mid_block_add_attention", True),
        in_channels=data.get("in_channels", 3),
        out_channels=data.get("out_channels", 3),
        latent_channels=data["latent_channels"],
        block_out_channels=tuple(data["block_out_channels"]),
        layers_per_block=data["layers_per_block"],
        norm_num_groups=data.get("norm_num_groups", 32),
        scaling_factor=float(data.get("scaling_factor", 0.18215)),
    )


def _autoencoder_attention(data: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which levels have attention; () where none has."""
    levels = len(data["block_out_channels"])
    known = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
    down = data.get("down_block_types") or ["DownEncoderBlock2D"] * levels
    up = data.get("up_block_types") or ["UpDecoderBlock2D"] * levels
    mirrored = [k.replace("Down", "Up").replace("Encoder", "Decoder") for k in reversed(down)]
    if not set(down) <= set(known) or list(up) != mirrored:
        raise CorruptModelError(
            f"the autoencoder has blocks {down} and {up}, which are not supported", code="E-CONFIG"
        )
    attends = tuple(known[kind] for kind in down)
    return attends if any(attends) else ()


def text_config(data: Mapping[str, Any], xl: bool = False) -> TextConfig:
    """A CLIP text encoder's config.json; SDXL takes its penultimate layer without the last norm."""
    projected = "CLIPTextModelWithProjection" in (data.get("architectures") or [])
    return TextConfig(
        vocab_size=data["vocab_size"],
        hidden_size=data["hidden_size"],
        intermediate_size=data["intermediate_size"],
        num_hidden_layers=data["num_hidden_layers"],
        num_attention_heads=data["num_attention_heads"],
        max_position_embeddings=data["max_position_embeddings"],
        hidden_act=data.get("hidden_act", "quick_gelu"),
        layer_norm_eps=float(data.get("layer_norm_eps", 1e-5)),
        projection_dim=data.get("projection_dim", 512) if projected else 0,
        eos_token_id=data.get("eos_token_id", 49407),
        skipped_layers=1 if xl else 0,
        final_norm=not xl,
    )


# -- schedulers -----------------------------------------------------------------------------------

SAMPLER_OF = {
    "DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler", "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun", "LMSDiscreteScheduler": "lms_euler",
    "UniPCMultistepScheduler": "unipc", "DPMSolverMultistepScheduler": "",
}  # fmt: skip
SOLVERS = {  # of DPMSolverMultistepScheduler, by algorithm, order and kind of the second order
    ("dpmsolver++", 1, "midpoint"): "ddim", ("dpmsolver++", 2, "midpoint"): "dpmpp_2m",
    ("dpmsolver++", 2, "heun"): "dpmpp_2m_heun", ("dpmsolver++", 3, "midpoint"): "dpmpp_3m",
    ("sde-dpmsolver++", 2, "midpoint"): "dpmpp_2m_sde",
    ("sde-dpmsolver++", 2, "heun"): "dpmpp_2m_sde_heun",
}  # fmt: skip
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
CONTINUOUS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential",
              "use_beta_sigmas": "beta_sigma"}  # fmt: skip
SCHEDULER_PLAIN: dict[str, tuple[Any, ...]] = {
    "clip_sample": (False,), "thresholding": (False,), "trained_betas": (None,),
    "variance_type": (None, "fixed_small"), "use_flow_sigmas": (False,),
    "use_lu_lambdas": (False,), "interpolation_type": ("linear",), "timestep_type": ("discrete",),
    "skip_prk_steps": (True,), "predict_x0": (True,), "solver_type": ("midpoint", "heun", "bh2"),
    "disable_corrector": ([],), "euler_at_final": (False,), "rescale_sigmas": (None,),
    "solver_p": (None,),
}  # fmt: skip
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {  # where they differ from class to class
    "DDIMScheduler": {"clip_sample": True, "set_alpha_to_one": True},
    "DDPMScheduler": {"clip_sample": True},
    "PNDMScheduler": {"skip_prk_steps": False, "set_alpha_to_one": False},
    "DPMSolverMultistepScheduler": {"timestep_spacing": "linspace"},
    "UniPCMultistepScheduler": {"timestep_spacing": "linspace"},
    "EulerDiscreteScheduler": {"timestep_spacing": "linspace"},
    "EulerAncestralDiscreteScheduler": {"timestep_spacing": "linspace"},
    "HeunDiscreteScheduler": {"timestep_spacing": "linspace"},
    "LMSDiscreteScheduler": {"timestep_spacing": "linspace"},
}


def scheduler_config(data: Mapping[str, Any]) -> SchedulerConfig:
    """A scheduler_config.json: the forward process, and the sampler and grid of the class."""
    kind = str(data.get("_class_name"))
    if kind not in SAMPLER_OF:
        raise CorruptModelError(
            f"the scheduler is a {kind}, which is not supported",
            code="E-SCHEDULER",
            hint="supported: " + ", ".join(SAMPLER_OF),
        )
    data = CLASS_DEFAULTS.get(kind, {}) | dict(data)
    require_plain(data, SCHEDULER_PLAIN, "the scheduler's configuration")
    for field, known in (("beta_schedule", SCHEDULES), ("prediction_type", PREDICTIONS)):
        if data.get(field, next(iter(known))) not in known:
            raise CorruptModelError(
                f"the scheduler's configuration has {field} = {data[field]!r}",
                code="E-CONFIG",
                hint=f"supported: {', '.join(known)}",
            )
    spacing = data.get("timestep_spacing", "leading")
    chosen = [name for flag, name in CONTINUOUS.items() if data.get(flag)]
    return SchedulerConfig(
        num_train_timesteps=data.get("num_train_timesteps", 1000),
        beta_schedule=SCHEDULES[data.get("beta_schedule", "linear")],
        beta_start=float(data.get("beta_start", 1e-4)),
        beta_end=float(data.get("beta_end", 0.02)),
        prediction_type=PREDICTIONS[data.get("prediction_type", "epsilon")],
        sampler=_sampler(kind, data),
        spacing=chosen[0] if chosen else spacing,
        timestep_spacing=spacing,
        final_sigma=data.get("final_sigmas_type", "zero"),
        final_alpha="zero" if data.get("set_alpha_to_one", True) else "sigma_min",
        steps_offset=data.get("steps_offset", 0),
        convention="diffusers",
        rescale_betas_zero_snr=bool(data.get("rescale_betas_zero_snr", False)),
        sigma_max=1e5,  # the whole table
    )


def _sampler(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "UniPCMultistepScheduler":
        order = data.get("solver_order", 2)
        names = {2: "unipc", 3: "unipc_3"}
        if order not in names:
            raise CorruptModelError(f"UniPC of order {order} is not supported", code="E-CONFIG")
        return names[order]
    if kind != "DPMSolverMultistepScheduler":
        return SAMPLER_OF[kind]
    solver = (
        data.get("algorithm_type", "dpmsolver++"),
        data.get("solver_order", 2),
        data.get("solver_type", "midpoint"),
    )
    if solver not in SOLVERS:
        raise CorruptModelError(
            f"DPM-Solver with {' '.join(map(str, solver))} is not supported",
            code="E-CONFIG",
            hint="supported: " + ", ".join(" ".join(map(str, s)) for s in SOLVERS),
        )
    return SOLVERS[solver]
