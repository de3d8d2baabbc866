"""mflux 0.24.0: the transformer of Flux.1 [dev], in MLX.

Errors found: the image stream's MLP has the exact GELU instead of its tanh approximation
(joint_transformer_block.py, `FeedForward(activation_function=nn.gelu)`), and the norms of queries
and keys have MLX's own eps, 1e-5, instead of 1e-6.
"""

import inspect
import textwrap
from types import SimpleNamespace

import mflux.models.flux.model.flux_transformer.ada_layer_norm_zero as modulation
import mlx.core as mx
import numpy as np
from judged import KitInputs, distance, judge
from loading import load_weights
from mflux.models.flux.model.flux_transformer.transformer import Transformer
from mflux.models.flux.weights.flux_weight_mapping import FluxWeightMapping as Mapping

import ldmref

kit = KitInputs("flux-dev")
config = kit.config("transformer")
heads, head = config["num_attention_heads"], config["attention_head_dim"]
width = heads * head
norm = modulation.AdaLayerNormZero  # whose code has the published widths
code = inspect.getsource(norm.__call__)
for published, size in (("18432", 6 * width), ("9216", 3 * width), ("3072", width)):
    code = code.replace(published, str(size))
names = dict(vars(modulation))
exec(textwrap.dedent(code), names)
norm.__call__ = names["__call__"]
published = SimpleNamespace(
    x_embedder_input_dim=lambda: config["in_channels"], supports_guidance=True
)
net = Transformer(published, config["num_layers"], config["num_single_layers"])
load_weights(net, kit.weights("transformer"), Mapping.get_transformer_mapping())
for module in net.modules():
    if hasattr(module, "head_dimension"):
        module.head_dimension, module.num_heads = head, heads
for block in net.single_transformer_blocks:
    block.norm.dim = width
net.pos_embed.axes_dim, net.norm_out.embedding_dim = config["axes_dims_rope"], width
NAMES = {".linear1": ".net.0.proj", ".linear2": ".net.2", ".norm.norm": ".norm.layer_norm",
         "norm1.norm": "norm1.layer_norm", "norm1_context.norm": "norm1_context.layer_norm",
         "norm_out.norm": "norm_out.layer_norm"}  # fmt: skip


def rename(path):
    """Return diffusers' name of a layer; None: diffusers has none."""
    if path.endswith((".attn.to_out", "pos_embed")):
        return None
    for name, other in NAMES.items():
        path = path.replace(name, other)
    return path.removesuffix("norm2") + "layer_norm" if path.endswith(".norm2") else path


class TimedTransformer(Transformer):
    """The transformer, which reads time and guidance, (1,), instead of the pipeline's request."""

    def __call__(self, timestep, guidance, hidden_states, prompt_embeds, pooled_prompt_embeds):
        """Return the prediction for latents of six tokens."""
        asked = SimpleNamespace(
            scheduler=SimpleNamespace(sigmas=timestep / 1000.0), num_train_steps=1000,
            guidance=guidance, precision=mx.float32, height=32, width=48,
        )  # fmt: skip
        return super().__call__(0, asked, hidden_states, prompt_embeds, pooled_prompt_embeds)


net.__class__ = TimedTransformer
errors = {}
with ldmref.recording(net, call="transformer", names=rename) as run:
    for call in ("transformer.000", "transformer.001"):
        x, expected = kit.call(call)
        n, c, h, w = x["sample"].shape
        cut = x["sample"].reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)
        roles = ("encoder_hidden_states", "pooled_projections")
        tokens = cut.reshape(n, h * w // 4, 4 * c)
        arrays = (x["timestep"][:1], x["guidance"][:1], tokens, *(x[role] for role in roles))
        y = np.array(net(*(mx.array(array.astype(np.float32)) for array in arrays)))
        image = y.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 3, 1, 4, 2, 5)
        errors[call] = distance(image.reshape(n, c, h, w), expected)
judge("Flux.1 dev transformer", run.trace, kit, errors)
