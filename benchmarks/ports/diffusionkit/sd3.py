"""DiffusionKit 498e5db: the transformer of Stable Diffusion 3, in MLX.

Errors found: keys have no bias, and both MLPs have the exact GELU instead of its tanh
approximation.
"""

import mlx.core as mx
from building import Transformer, judge_port
from diffusionkit.mlx.config import MMDiTConfig
from diffusionkit.mlx.mmdit import MMDiT
from diffusionkit.mlx.model_io import mmdit_state_dict_adjustments
from judged import KitInputs

kit = KitInputs("sd3-medium")
config = kit.config("transformer")
net = MMDiT(
    MMDiTConfig(
        num_heads=config["num_attention_heads"], depth_multimodal=config["num_layers"],
        vae_latent_dim=config["in_channels"], patch_size=config["patch_size"],
        hidden_size_override=config["num_attention_heads"] * config["attention_head_dim"],
        max_latent_resolution=config["pos_embed_max_size"],
        pooled_text_embed_dim=config["pooled_projection_dim"],
        token_level_text_embed_dim=config["joint_attention_dim"],
        dtype=mx.float32, float16_dtype=mx.float32, low_memory_mode=False,
    )
)  # fmt: skip
arrays = {name: mx.array(x) for name, x in kit.original("transformer").items()}
weights = mmdit_state_dict_adjustments(arrays, prefix="model.diffusion_model.")
judge_port("Stable Diffusion 3 transformer", kit, Transformer(net, weights))
