"""mflux 0.24.0: the transformer of FLUX.2 [klein], in MLX.

Error found: the norms of queries and keys have MLX's own eps, 1e-5, instead of 1e-6.
"""

import mlx.core as mx
import numpy as np
from judged import KitInputs, distance, judge
from loading import load_weights
from mflux.models.flux2.model.flux2_text_encoder.prompt_encoder import Flux2PromptEncoder
from mflux.models.flux2.model.flux2_transformer.transformer import Flux2Transformer
from mflux.models.flux2.weights.flux2_weight_mapping import Flux2WeightMapping as Mapping

import ldmref

kit = KitInputs("flux2-klein-4b")
config = kit.config("transformer")
sizes = (
    "in_channels num_layers num_single_layers attention_head_dim num_attention_heads mlp_ratio "
    "rope_theta joint_attention_dim timestep_guidance_channels axes_dims_rope guidance_embeds"
)
net = Flux2Transformer(patch_size=1, **{name: config[name] for name in sizes.split()})
load_weights(net, kit.weights("transformer"), Mapping.get_transformer_mapping())


def rename(path):
    """Return diffusers' name of a layer; None: mflux's activation has another place there."""
    if path.startswith("pos_embed") or path.endswith(("ff.act", "ff_context.act")):
        return None
    joint = path.startswith("transformer_blocks") and path.endswith("attn.to_out")
    return path.replace("embed.linear", "embed.timestep_embedder.linear") + ".0" * joint


errors = {}
with ldmref.recording(net, call="transformer", names=rename) as run:
    for call in ("transformer.000", "transformer.002"):
        x, expected = kit.call(call)
        rows, columns = x["sample"].shape[2:]
        cells = np.indices((rows, columns)).reshape(2, -1)
        zeros = np.zeros_like(cells[0])
        ids = mx.array(np.stack([zeros, *cells, zeros], axis=1).astype(np.int32))
        for i in range(len(expected)):
            tokens = x["sample"][i].reshape(config["in_channels"], -1).T[None].astype(np.float32)
            text = mx.array(x["encoder_hidden_states"][i : i + 1].astype(np.float32))
            time = mx.array(x["timestep"][i : i + 1].astype(np.float32))
            y = net(mx.array(tokens), text, time, ids, Flux2PromptEncoder.prepare_text_ids(text))
            errors[f"{call} {i}"] = distance(y[0].T, expected[i].reshape(y.shape[2], -1))
judge("FLUX.2 klein transformer", run.trace, kit, errors)
