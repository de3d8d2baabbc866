"""DiffusionKit 498e5db: the transformer of Flux.1 [schnell], in MLX.

Errors found: keys have no bias, and all MLPs have the exact GELU instead of its tanh approximation.
"""

import mlx.core as mx
from building import Transformer, judge_port
from diffusionkit.mlx.config import MMDiTConfig, PositionalEncoding
from diffusionkit.mlx.mmdit import MMDiT
from diffusionkit.mlx.model_io import flux_state_dict_adjustments
from judged import KitInputs

kit = KitInputs("flux-schnell")
config = kit.config("transformer")
width = config["num_attention_heads"] * config["attention_head_dim"]
net = MMDiT(
    MMDiTConfig(
        num_heads=config["num_attention_heads"], depth_multimodal=config["num_layers"],
        depth_unified=config["num_single_layers"], parallel_mlp_for_unified_blocks=True,
        vae_latent_dim=config["in_channels"] // 4, hidden_size_override=width,
        patchify_via_reshape=True, use_qk_norm=True,
        pos_embed_type=PositionalEncoding.PreSDPARope, rope_axes_dim=config["axes_dims_rope"],
        pooled_text_embed_dim=config["pooled_projection_dim"],
        token_level_text_embed_dim=config["joint_attention_dim"],
        dtype=mx.float32, float16_dtype=mx.float32, low_memory_mode=False,
    )
)  # fmt: skip
arrays = {name: mx.array(x) for name, x in kit.original("transformer").items()}
judge_port(
    "Flux.1 schnell transformer",
    kit,
    Transformer(net, flux_state_dict_adjustments(arrays, hidden_size=width)),
)
