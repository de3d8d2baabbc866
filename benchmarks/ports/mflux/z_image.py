"""mflux 0.24.0: the transformer and the text encoder of Z-Image, in MLX.

Error found: the norms of queries and keys of the text encoder have MLX's own eps, 1e-5, instead of
1e-6 (text_encoder/attention.py).
"""

import mlx.core as mx
import numpy as np
from judged import KitInputs, distance, judge
from loading import load_weights
from mflux.models.z_image.model.z_image_text_encoder.text_encoder import TextEncoder
from mflux.models.z_image.model.z_image_transformer.transformer import ZImageTransformer
from mflux.models.z_image.weights.z_image_weight_mapping import ZImageWeightMapping as Mapping

import ldmref

kit = KitInputs("z-image")
config, text = kit.config("transformer"), kit.config("text_encoder")
sizes = "in_channels dim n_layers n_refiner_layers n_heads norm_eps cap_feat_dim rope_theta"
fields = {name: config[name] for name in (*sizes.split(), "t_scale", "axes_dims")}
net = ZImageTransformer(**fields)
layers = {"num_layers": max(config["n_layers"], text["num_hidden_layers"])}
load_weights(net, kit.weights("transformer"), Mapping.get_transformer_mapping(), **layers)
names = {
    "t_embedder.linear1": "t_embedder.mlp.0", "t_embedder.linear2": "t_embedder.mlp.2",
    "all_final_layer.2-1.adaLN_modulation.0": "all_final_layer.2-1.adaLN_modulation.1",
    "all_final_layer.2-1.norm": "all_final_layer.2-1.layer_norm",
}  # fmt: skip
errors = {}
with ldmref.recording(net, call="transformer", names=lambda path: names.get(path, path)) as run:
    for call in ("transformer.000", "transformer.002"):
        x, expected = kit.call(call)
        for row, mask in enumerate(x["encoder_attention_mask"] > 0):
            image = mx.array(x["sample"][row].astype(np.float32))[:, None]
            time = mx.array(float(1.0 - np.float32(x["timestep"][row]) / 1000.0))
            caption = mx.array(x["encoder_hidden_states"][row][mask].astype(np.float32))
            y = net(image, timestep=time, sigmas=None, cap_feats=caption)
            errors[f"{call} {row}"] = distance(y, expected[row][:, None])
judge("Z-Image transformer", run.trace, kit, errors)

sizes = "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads"
fields = {name: text[name] for name in (*sizes.split(), "intermediate_size", "head_dim")}
fields |= {"rms_norm_eps": text["rms_norm_eps"]}
encoder = TextEncoder(rope_theta=text["rope_parameters"]["rope_theta"], **fields)
load_weights(encoder, kit.weights("text_encoder"), Mapping.get_text_encoder_mapping(), **layers)
errors = {}
with ldmref.recording(encoder, call="text_encoder", names=lambda path: path) as run:
    for call in ("text_encoder", "text_encoder~1"):
        x, expected = kit.call(call)
        mask = x["attention_mask"][0] > 0
        y = np.array(encoder(mx.array(x["input_ids"]), mx.array(x["attention_mask"])))
        errors[call] = distance(y[:, mask], expected[:, mask])
judge("Z-Image text encoder", run.trace, kit, errors)
