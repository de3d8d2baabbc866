"""mlx-examples 7ddca42: the transformer of Flux.1 [dev], in MLX.

Error found: the norms of queries and keys have MLX's own eps, 1e-5, instead of 1e-6.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from flux.flux.flux import FluxPipeline
from flux.flux.model import Flux, FluxParams
from judged import KitInputs, distance, judge
from loading import load_sanitized

import ldmref

kit = KitInputs("flux-dev")
config = kit.config("transformer")
net = Flux(
    FluxParams(
        in_channels=config["in_channels"], vec_in_dim=config["pooled_projection_dim"],
        context_in_dim=config["joint_attention_dim"], mlp_ratio=4.0,
        hidden_size=config["num_attention_heads"] * config["attention_head_dim"],
        num_heads=config["num_attention_heads"], depth=config["num_layers"],
        depth_single_blocks=config["num_single_layers"], axes_dim=config["axes_dims_rope"],
        theta=10000, qkv_bias=True, guidance_embed=True,
    )
)  # fmt: skip
load_sanitized(net, kit.original("transformer"))
pipeline: Any = FluxPipeline.__new__(FluxPipeline)  # without published weights


def rename(path: str) -> str | None:
    """Return the makers' name of a layer; None: a sequence whose last layer has one."""
    return None if path.endswith("adaLN_modulation") else path.replace(".layers.", ".")


errors = {}
with ldmref.recording(net, call="transformer", names=rename) as run:
    for call in kit.calls("transformer"):
        x, expected = kit.call(call)
        x = {role: mx.array(value.astype(np.float32)) for role, value in x.items()}
        tokens, places = pipeline._prepare_latent_images(x["sample"].transpose(0, 2, 3, 1))
        text = x["encoder_hidden_states"]
        y = net(
            img=tokens, img_ids=places, txt=text, txt_ids=mx.zeros((*text.shape[:2], 3), mx.int32),
            timesteps=x["timestep"] / 1000.0, y=x["pooled_projections"], guidance=x["guidance"],
        )  # fmt: skip
        n, c, h, w = expected.shape
        right = expected.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)
        errors[call] = distance(y, right.reshape(y.shape))
judge("Flux.1 dev transformer", run.trace, kit, errors)
