"""Z-Image and Qwen-Image 2.1: rules, files, presets, counts of operations, and declarations."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.cases.golden_families import golden_models_of
from ldmref.errors import CorruptModelError
from ldmref.families import qwen_image_21, z_image
from ldmref.families.autoencoders.qwen_image_21_config import QwenImage21AutoencoderConfig
from ldmref.families.autoencoders.qwen_image_21_config import shrink as shrink_vae
from ldmref.families.qwen3.presets import QWEN3_SIZES, shrink_qwen3
from ldmref.families.qwen_image_21 import config as qwen_config
from ldmref.families.qwen_image_21 import files as qwen_files
from ldmref.families.qwen_image_21 import presets as qwen_presets
from ldmref.families.qwen_image_21 import text as qwen_text
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.families.qwen_image_21.network import transformer_spec as qwen_spec
from ldmref.families.z_image import config as z_config
from ldmref.families.z_image import files as z_files
from ldmref.families.z_image import presets
from ldmref.families.z_image import text as z_text
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.network import transformer_spec as z_spec
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import preset
from ldmref.models.conditioning import CachedContext
from ldmref.models.config import Defaults
from ldmref.models.declared import BATCH
from ldmref.models.params import Params, flatten
from ldmref.models.transformer_layers import join_cells
from ldmref.ports.arguments import names_of
from ldmref.ports.port import find_port
from ldmref.samplers.config import SchedulerConfig
from ldmref.training.family_rules import training_rules_of

OPS = get_backend("numpy", dtype="float64")
Z, QWEN = preset("z-image-tiny"), preset("qwen-image-2.1-tiny")
FLOW = SchedulerConfig(prediction_type="flow", sampler="euler", spacing="flow", final_sigma="zero")


def change(config, part, **changes):
    """Return a model with other fields of one part."""
    return replace(config, **{part: replace(getattr(config, part), **changes)})


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("denoiser", {}, []),
        ("denoiser", {"axes_dims": (4, 4, 6)}, ["transformer.axes_dims"]),
        ("denoiser", {"axes_dims": (3, 5, 4)}, ["transformer.axes_dims"]),
        ("denoiser", {"n_heads": 5}, ["transformer.axes_dims"]),
        ("denoiser", {"out_channels": 5}, ["transformer.out_channels"]),
        ("denoiser", {"cap_feat_dim": 21}, ["transformer.cap_feat_dim"]),
        ("text_encoder", {"rope_theta": 5e6}, ["text_encoder.rope_theta"]),
    ],
)
def test_rules_of_z_image(part, changes, words):
    found = [*z_config.broken_rules(change(Z, part, **changes))]
    assert [rule.split()[0] for rule in found] == words
    if "axes_dims" in str(words):
        assert found[0].endswith("dim / n_heads")


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("denoiser", {}, []),
        ("denoiser", {"axes_dims_rope": (4, 4, 6)}, ["transformer.axes_dims_rope"]),
        ("denoiser", {"attention_head_dim": 14}, ["transformer.axes_dims_rope"]),
        ("denoiser", {"out_channels": 5}, ["transformer.out_channels"]),
        ("denoiser", {"context_in_dim": 21}, ["transformer.context_in_dim"]),
        ("text_encoder", {"use_attention_mask": False}, ["the"]),
        ("text_encoder", {"rope_theta": 1e6}, []),
    ],
)
def test_rules_of_qwen_image(part, changes, words):
    found = [*qwen_config.broken_rules(change(QWEN, part, **changes))]
    assert [rule.split()[0] for rule in found] == words


def test_sizes_of_transformers():
    assert [ZImageConfig(dim=dim).hidden_dim for dim in (3840, 24, 25)] == [10240, 64, 66]
    assert [ZImageConfig(dim=dim).time_dim for dim in (100, 256, 3840)] == [100, 256, 256]
    assert ZImageConfig().side_multiple == 2 and z_config.SEGMENT == 32
    config = QwenImage21Config(attention_head_dim=10, num_attention_heads=3)
    assert (config.width, config.side_multiple, config.token_side) == (30, 2, 1)


def test_shapes_of_z_image():
    config = ZImageConfig(
        in_channels=5, dim=300, n_layers=1, n_refiner_layers=1, n_heads=3, cap_feat_dim=7
    )
    norm = {
        f"{name}.weight": (300,)
        for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
    }
    block = norm | {
        f"attention.{name}.weight": (300, 300) for name in ("to_q", "to_k", "to_v", "to_out.0")
    }
    block |= {f"attention.norm_{name}.weight": (100,) for name in "qk"}
    block |= {"feed_forward.w1.weight": (800, 300), "feed_forward.w3.weight": (800, 300)}
    block |= {"feed_forward.w2.weight": (300, 800)}
    timed = {"adaLN_modulation.0.weight": (1200, 256), "adaLN_modulation.0.bias": (1200,)}
    want = {"x_pad_token": (1, 300), "cap_pad_token": (1, 300)}
    for row in ("noise_refiner", "context_refiner", "layers"):
        layers = block if row == "context_refiner" else block | timed
        want |= {f"{row}.0.{name}": shape for name, shape in layers.items()}
    linear = {
        "all_x_embedder.2-1": (300, 20),
        "all_final_layer.2-1.linear": (20, 300),
        "all_final_layer.2-1.adaLN_modulation.1": (300, 256),
        "t_embedder.mlp.0": (1024, 256),
        "t_embedder.mlp.2": (256, 1024),
        "cap_embedder.1": (300, 7),
    }
    for name, shape in linear.items():
        want |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    want["cap_embedder.0.weight"] = (7,)
    assert flatten(z_spec(config)) == want


def test_shapes_of_qwen_image():
    config = QwenImage21Config(
        in_channels=5, out_channels=6, num_layers=1, attention_head_dim=4, num_attention_heads=3,
        context_in_dim=7, mlp_ratio=2,
    )  # fmt: skip
    want = {
        "time_text_embed.timestep_embedder.linear_1": (12, 256),
        "time_text_embed.timestep_embedder.linear_2": (12, 12),
        "txt_in.text_norm": (7,),
        "txt_in.in_layer": (12, 7),
        "txt_in.out_layer": (12, 12),
        "img_in": (12, 5),
        "modulation.1": (48, 12),
        "norm_out.linear": (12, 12),
        "proj_out": (6, 12),
    }
    block = {f"attn.{name}": (12, 12) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    block |= {"attn.norm_q": (4,), "attn.norm_k": (4,), "img_mlp.proj": (24, 12)}
    block |= {"img_mlp.gate_layer": (24, 12), "img_mlp.out": (12, 24)}
    want |= {f"transformer_blocks.0.{name}": shape for name, shape in block.items()}
    found = flatten(qwen_spec(config))
    assert found == {f"{name}.weight": shape for name, shape in want.items()}


# -- files ----------------------------------------------------------------------------------------


def test_configurations_of_z_image_are_read():
    assert z_files.convert_transformer_config({}) == ZImageConfig()
    plain = {
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        "qk_norm": True,
        "siglip_feat_dim": None,
        "n_kv_heads": 30,
    }
    assert z_files.convert_transformer_config(plain) == ZImageConfig()
    found = z_files.convert_transformer_config({"n_heads": 7, "n_kv_heads": 7, "in_channels": 4})
    assert found == ZImageConfig(n_heads=7, in_channels=4, out_channels=4)
    for wrong in (
        {"n_kv_heads": 29},
        {"n_heads": 7, "n_kv_heads": 30},
        {"all_patch_size": [1]},
        {"all_f_patch_size": [2]},
        {"qk_norm": False},
        {"siglip_feat_dim": 3},
    ):
        with pytest.raises(CorruptModelError, match=[*wrong][-1]):
            z_files.convert_transformer_config(wrong)


def test_pipelines_of_both():
    assert [*z_image.Z_IMAGE.folders] == [
        "ZImagePipeline",
        "ZImageImg2ImgPipeline",
        "ZImageInpaintPipeline",
    ]
    assert find_port("z-image").modules == ("ZImageTransformer2DModel",)
    assert z_files.read_folder.keywords["defaults"] == Defaults(50, 6.0)
    assert [*qwen_image_21.QWEN_IMAGE_21.folders] == ["QwenImage21Pipeline"]
    port = find_port("qwen-image-2.1")
    assert port.modules == ("QwenImage21Transformer2DModel",)
    assert port.unpack is join_cells


def test_configurations_of_qwen_image_are_read():
    convert = qwen_files.convert_transformer_config
    assert convert({"patch_size": 1, "causal_condition": True}) == QwenImage21Config()
    assert convert({"num_layers": 3, "in_channels": 4}) == QwenImage21Config(
        num_layers=3, in_channels=4, out_channels=4
    )
    for name, value in (("patch_size", 2), ("causal_condition", False)):
        with pytest.raises(CorruptModelError, match=name):
            convert({name: value})


@pytest.mark.parametrize(
    ("index", "times", "steps"),
    [({}, (), 40), ({"sample_sigmas": None}, (), 40), ({"sample_sigmas": [1, 0.5]}, (1, 0.5), 2)],
)
def test_folders_of_qwen_image_have_the_times_of_their_index(tmp_path, index, times, steps):
    contents = {
        "transformer/config.json": {"sample_size": 6},
        "vae/config.json": {"_class_name": "AutoencoderKLQwenImage21"},
        "text_encoder/config.json": {"text_config": {"hidden_size": 20}},
        "scheduler/scheduler_config.json": {"shift": 2.5},
    }
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(data))
    index = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]} | index
    found = qwen_files.read_folder(tmp_path, index)
    assert found.scheduler.flow_times == times and found.scheduler.shift == 2.5
    assert found.defaults == Defaults(steps, 1.0, width=96, height=96)
    assert found.denoiser == QwenImage21Config(sample_size=6)
    assert found.vae == QwenImage21AutoencoderConfig()
    text = found.text_encoder
    assert text.hidden_size == 20 and text.hidden_layers == (-1,) and not text.final_norm


def shapes_of_qwen(prefix="", **changes):
    """Return the shapes in a file of a transformer with other fields."""
    config = change(preset("qwen-image-2.1"), "denoiser", **changes)
    return list_stored_shapes(qwen_files.list_tensors(config, prefix))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_files_of_qwen_image_say_their_sizes(prefix):
    base = preset("qwen-image-2.1")
    assert qwen_files.recognise(shapes_of_qwen(prefix), prefix) == base
    changes = {
        "in_channels": 5,
        "out_channels": 6,
        "num_layers": 3,
        "num_attention_heads": 7,
        "context_in_dim": 9,
        "mlp_ratio": 2,
    }
    for name, value in changes.items():
        found = qwen_files.recognise(shapes_of_qwen(prefix, **{name: value}), prefix)
        want = change(base, "denoiser", **{name: value})
        assert found == replace(want, name="qwen-image")
        assert isinstance(found.denoiser.num_attention_heads, int)
    head = {"attention_head_dim": 64, "axes_dims_rope": (8, 28, 28)}
    assert qwen_files.recognise(shapes_of_qwen(prefix, **head), prefix) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("img_in.weight", (4096,)),
        ("transformer_blocks.0.attn.norm_q.weight", (128, 1)),
        ("transformer_blocks.0.attn.norm_q.weight", (0,)),
        ("txt_in.text_norm.weight", ()),
        ("proj_out.weight", ()),
        ("transformer_blocks.0.img_mlp.gate_layer.weight", ()),
    ],
)
def test_damaged_files_of_qwen_image_are_others(name, shape):
    shapes = shapes_of_qwen()
    assert qwen_files.recognise(shapes | {name: shape}) is None
    del shapes[name]
    assert qwen_files.recognise(shapes) is None


def test_small_numbers_of_heads_are_one_at_least():
    shapes = shapes_of_qwen()
    shapes["transformer_blocks.0.attn.norm_q.weight"] = (128,)
    shapes["img_in.weight"] = (100, 64)
    found = qwen_files.recognise(shapes)
    assert found.denoiser.num_attention_heads == 1
    assert found.denoiser.mlp_ratio == 4096 * 3 // 100
    shapes["img_in.weight"] = (100_000, 64)
    assert qwen_files.recognise(shapes).denoiser.mlp_ratio == 1


COMFYUI = {  # Comfy-Org/ComfyUI, comfy/utils.py, z_image_to_diffusers
    "all_x_embedder.2-1.weight": "x_embedder.weight",
    "all_final_layer.2-1.linear.bias": "final_layer.linear.bias",
    "layers.0.attention.to_q.weight": "layers.0.attention.qkv.weight",
    "layers.1.attention.to_k.weight": "layers.1.attention.qkv.weight",
    "noise_refiner.0.attention.to_v.weight": "noise_refiner.0.attention.qkv.weight",
    "layers.1.attention.to_out.0.weight": "layers.1.attention.out.weight",
    "context_refiner.0.attention.norm_q.weight": "context_refiner.0.attention.q_norm.weight",
    "layers.0.attention.norm_k.weight": "layers.0.attention.k_norm.weight",
    "layers.0.feed_forward.w1.weight": "layers.0.feed_forward.w1.weight",
    "cap_pad_token": "cap_pad_token",
}


def test_names_of_comfyui():
    table = z_files.comfyui_table(Z, "p.")
    assert {name: table[name].name for name in COMFYUI} == {
        name: f"p.{stored}" for name, stored in COMFYUI.items()
    }
    thirds = [table[f"layers.0.attention.to_{part}.weight"].third for part in "qkv"]
    assert thirds == [0, 1, 2] and table["cap_pad_token"].third is None
    makers = z_files.makers_table(Z, "p.")
    assert all(entry.name == f"p.{name}" for name, entry in makers.items())
    assert makers.keys() == table.keys() == flatten(z_spec(Z.denoiser)).keys()


def test_files_of_z_image():
    layouts = z_files.SINGLE_FILES
    assert len(layouts) == 4
    for layout, comfyui in zip(layouts, (True, True, False, False), strict=True):
        shapes = list_stored_shapes(layout.table(Z))
        assert layout.recognise(shapes) == Z
        assert ("x_embedder" in " ".join(shapes)) and comfyui == any("qkv" in x for x in shapes)
        others = layout.others(Z)
        assert [*others] == ["vae", "text_encoder"]
        name = others["vae"]["decoder.conv_in.weight"].name
        assert name == "vae.decoder.conv_in.weight"
        name = others["text_encoder"]["norm.weight"].name
        assert name == "text_encoders.qwen3_4b.transformer.model.norm.weight"
        for ignored in (
            "norm_final.weight",
            "model.diffusion_model.norm_final.weight",
            "text_encoders.qwen3_4b.logit_scale",
            "text_encoders.qwen3_4b.transformer.lm_head.weight",
        ):
            assert re.fullmatch(layout.ignored, ignored)


@pytest.mark.parametrize("comfyui", [False, True])
def test_files_of_z_image_say_their_sizes(comfyui):
    turbo = preset("z-image-turbo")
    table = z_files.comfyui_table if comfyui else z_files.makers_table

    def recognise(**changes):
        shapes = list_stored_shapes(table(change(turbo, "denoiser", **changes)))
        return z_files.recognise(shapes, comfyui=comfyui)

    assert recognise() == turbo
    for changes in (
        {"in_channels": 5, "out_channels": 5},
        {"n_layers": 3},
        {"n_refiner_layers": 3},
        {"cap_feat_dim": 9},
        {"dim": 256, "n_heads": 2},
        {"dim": 128, "n_heads": 1},
    ):
        found = recognise(**changes)
        assert found == change(turbo, "denoiser", **changes)
        for name in ("in_channels", "out_channels", "n_heads"):
            assert isinstance(getattr(found.denoiser, name), int)
    assert recognise(n_heads=60, axes_dims=(16, 24, 24)) is None
    shapes = list_stored_shapes(table(turbo))
    assert z_files.recognise(shapes | {"x_pad_token": (3840, 1)}, comfyui=comfyui) is None
    assert z_files.recognise(shapes | {"x_pad_token": (3840,)}, comfyui=comfyui) == turbo
    norm = "q_norm" if comfyui else "norm_q"
    wide = shapes | {f"layers.0.attention.{norm}.weight": (5000,)}
    assert z_files.recognise(wide, comfyui=comfyui) is None


# -- presets --------------------------------------------------------------------------------------


def test_published_models_of_z_image():
    turbo, base = preset("z-image-turbo"), preset("z-image")
    assert [*presets.make_presets()] == ["z-image-tiny", "z-image-turbo", "z-image"]
    assert turbo.denoiser == base.denoiser == ZImageConfig()
    assert turbo.scheduler == replace(FLOW, shift=3.0)
    assert base.scheduler == replace(FLOW, shift=6.0)
    assert turbo.defaults == Defaults(8, 1.0, width=1024, height=1024)
    assert base.defaults == Defaults(50, 6.0, width=1024, height=1024)
    text = replace(
        QWEN3_SIZES["qwen3-4b"], max_position_embeddings=512, hidden_layers=(-2,), final_norm=False
    )
    assert turbo.text_encoder == base.text_encoder == text
    assert (turbo.vae.scaling_factor, turbo.vae.shift_factor) == (0.3611, 0.1159)
    assert turbo.vae.latent_channels == 16 and not turbo.vae.use_quant_conv


def test_a_small_z_image():
    base = preset("z-image")
    network = ZImageConfig(
        in_channels=4, out_channels=4, sample_size=8, dim=24, n_layers=2, n_refiner_layers=1,
        n_heads=2, cap_feat_dim=20, axes_dims=(4, 4, 4),
    )  # fmt: skip
    assert Z.denoiser == network and Z.name == "z-image-tiny"
    assert Z.text_encoder == shrink_qwen3(base.text_encoder, 64)
    assert Z.defaults == replace(base.defaults, steps=4, width=16, height=16)
    assert Z.scheduler == base.scheduler
    small = presets.shrink(preset("z-image-turbo"))
    assert small == replace(
        Z,
        name="z-image-turbo",
        scheduler=replace(FLOW, shift=3.0),
        defaults=replace(Z.defaults, cfg_scale=1.0),
    )


def test_published_models_of_qwen_image():
    base, turbo = preset("qwen-image-2.1"), preset("qwen-image-2.1-turbo")
    assert [*qwen_presets.make_presets()] == [
        "qwen-image-2.1-tiny",
        "qwen-image-2.1",
        "qwen-image-2.1-turbo",
    ]
    assert base.denoiser == QwenImage21Config() and base.vae == QwenImage21AutoencoderConfig()
    assert base.scheduler == replace(
        FLOW, dynamic_shift=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256,
        max_image_seq_len=8192, shift_terminal=0.02,
    )  # fmt: skip
    assert base.defaults == Defaults(40, 1.0, width=1024, height=1024)
    times = (1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568)
    assert turbo == replace(
        base,
        name="qwen-image-2.1-turbo",
        scheduler=replace(FLOW, flow_times=times),
        defaults=replace(base.defaults, steps=8),
    )
    assert base.text_encoder == replace(
        QWEN3_SIZES["qwen3-vl-8b"],
        max_position_embeddings=512,
        hidden_layers=(-1,),
        final_norm=False,
    )
    chat = qwen_text.CHAT
    assert chat.dropped == 14 and chat.prepare == ("blank",) and chat.cut == "prompt"
    assert chat.after == "<|im_end|>\n<|im_start|>assistant\n"


def test_states_that_are_read_and_their_length():
    text = replace(QWEN3_SIZES["qwen3-4b"], hidden_layers=(9,), max_position_embeddings=40)
    assert z_text.as_text_encoder(text) == replace(
        text, max_position_embeddings=512, hidden_layers=(-2,), final_norm=False
    )
    assert qwen_text.as_text_encoder(text) == replace(
        text, max_position_embeddings=512, hidden_layers=(-1,), final_norm=False
    )


def test_presets_are_made_anew():
    made = presets.make_presets()
    assert made == {name: preset(name) for name in made}
    made = qwen_presets.make_presets()
    assert made == {name: preset(name) for name in made}


def test_a_small_qwen_image():
    base = preset("qwen-image-2.1")
    network = QwenImage21Config(
        in_channels=4, out_channels=4, sample_size=8, num_layers=2, attention_head_dim=12,
        num_attention_heads=2, context_in_dim=20, axes_dims_rope=(4, 4, 4),
    )  # fmt: skip
    assert QWEN.denoiser == network and QWEN.name == "qwen-image-2.1-tiny"
    assert QWEN.text_encoder == shrink_qwen3(base.text_encoder, 160)
    assert QWEN.vae == shrink_vae(base.vae)
    assert qwen_presets.shrink(base) == replace(QWEN, name=base.name)
    assert QWEN.defaults == replace(base.defaults, steps=4, width=16, height=16)


# -- operations and memory ------------------------------------------------------------------------


def count_matrices(spec, rows):
    """Return two operations for each number of a matrix and row; `rows` are by beginnings."""
    total = 0
    for name, shape in flatten(spec).items():
        if len(shape) > 1:
            total += 2 * math.prod(shape) * rows(name)
    return total


@pytest.mark.parametrize(("width", "height", "image"), [(16, 32, 32), (40, 20, 64), (48, 64, 192)])
def test_operations_of_z_image(width, height, image):
    """Tokens of image and caption are filled up to segments of 32."""
    config = change(
        change(Z, "denoiser", n_layers=3, n_refiner_layers=2),
        "text_encoder",
        max_position_embeddings=40,
    )
    side = 2 * config.vae.factor
    assert -(-(width // side) * (height // side) // 32) * 32 == image
    assert z_image.count_tokens(config, width, height) == (image, 64)
    both = image + 64

    def rows(name):
        if "adaLN_modulation" in name or name.startswith("t_embedder"):
            return 1
        if "pad_token" in name:
            return 0
        if name.startswith(("all_x", "noise")):
            return image
        return 64 if name.startswith(("context", "cap")) else both

    attention = 4 * 24 * (2 * (image**2 + 64**2) + 3 * both**2)
    want = attention + count_matrices(z_spec(config.denoiser), rows)
    assert z_image.count_flops(config, width, height) == want
    assert z_image.count_activations(config, width, height) == both * (2 * 24 + 3 * 64)


def test_operations_of_qwen_image():
    config = change(
        change(QWEN, "denoiser", num_layers=3, mlp_ratio=2),
        "text_encoder",
        max_position_embeddings=40,
    )
    side = config.vae.factor
    width, height = 3 * side, 5 * side
    image, text, d = 15, 40 - 14, 24
    assert qwen_image_21.count_tokens(config, width, height) == (image, text)

    def rows(name):
        if name.startswith(("time", "modulation", "norm_out")):
            return 2
        if name.startswith("txt_in"):
            return text
        return image if name.startswith("img_in") else image + text

    attention = 4 * 3 * d * (text**2 + image * (image + text))
    want = attention + count_matrices(qwen_spec(config.denoiser), rows)
    assert qwen_image_21.count_flops(config, width, height) == want
    block = (image + text) * d * (2 + 3 * 2)
    assert qwen_image_21.count_activations(config, width, height) == block + 2 * 3 * text * d


# -- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("mask", [None, np.array([[1, 0, 1]])])
def test_z_image_is_turned_around(monkeypatch, cached, mask):
    """The makers' time is 0 for noise; their prediction runs from noise to image."""
    asked = []

    def predict(ops, p, config, x, t, context, mask):
        asked.append((config, t, context, mask))
        return x + 1.0

    monkeypatch.setattr(z_image, "transformer", predict)
    states = np.zeros((1, 3, 2))
    context = CachedContext(states) if cached else states
    x, t = np.ones((1, 2, 2, 2)), np.array([250])
    found = z_image.predict_velocity(OPS, Params({}), Z.denoiser, x, t, context, mask)
    assert np.array_equal(found, -(x + 1.0))
    ((config, time, got, seen),) = asked
    assert config is Z.denoiser and time.tolist() == [0.75] and got is states
    assert seen.tolist() == ([[1, 1, 1]] if mask is None else mask.tolist())


def test_networks_of_z_image():
    network = z_image.describe_networks(Z)[1]
    assert network.function is z_image.predict_velocity
    assert network.settings == {"config": Z.denoiser}
    assert [x.argument for x in network.inputs] == ["x", "t", "context", "mask"]
    assert network.inputs[0].shape[1] == 4 and network.inputs[2].shape[2] == 20
    assert names_of(network, network.inputs[2])[1:] == ("context", "cap_feats")
    assert flatten(network.spec()) == flatten(z_spec(Z.denoiser))
    attention = network.text_attention
    assert attention.layers == (".attention",) and attention.tokens == ("image", "text")
    assert attention.begin == "layers." and attention.multiple == 32
    assert network.description == "transformer of image and caption"


def test_networks_of_qwen_image():
    network = qwen_image_21.describe_networks(QWEN)[1]
    assert network.function is qwen_image_21.transformer
    assert [x.argument for x in network.inputs] == ["x", "t", "context", "mask"]
    assert network.inputs[0].shape[1] == 4 and network.inputs[2].shape[2] == 20
    assert names_of(network, network.inputs[0])[-1] == "hidden_states"
    (start,) = network.optional
    assert (start.argument, start.role, start.shape) == ("image_start", "image_start", (BATCH,))
    assert network.text_attention.layers == (".attn",)
    assert network.text_attention.tokens == ("text", "image")
    assert network.description == "transformer of text and image"
    found = qwen_image_21.start_behind(OPS, 3, 17)
    assert found["image_start"].tolist() == [17.0] * 3 and len(found) == 1


def test_training_and_text_of_both():
    of_z, of_qwen = z_image.Z_IMAGE, qwen_image_21.QWEN_IMAGE_21
    assert training_rules_of(of_z).zeros(Z) == (
        "adaLN_modulation.0.weight",
        "adaLN_modulation.1.weight",
        "2-1.linear.weight",
        "pad_token",
    )
    assert training_rules_of(of_z).ends == (
        "all_x_embedder.2-1.weight",
        "2-1.linear.weight",
        "pad_token",
    )
    assert training_rules_of(of_qwen).zeros(QWEN) == (
        "modulation.1.weight",
        "norm_out.linear.weight",
        "transformer.proj_out.weight",
    )
    assert training_rules_of(of_qwen).ends == (".img_in.weight", "transformer.proj_out.weight")
    assert of_z.text.multiple == 32 and of_qwen.text.multiple == 1
    assert of_qwen.text.together is qwen_image_21.start_behind
    for family, config in ((of_z, Z), (of_qwen, QWEN)):
        names = " ".join(flatten({"transformer": family.networks(config)[1].spec()}))
        for end in (*training_rules_of(family).zeros(config), *training_rules_of(family).ends):
            assert end in names
    runs = [
        (run.preset, run.sampler)
        for run in (*golden_models_of(of_z).runs, *golden_models_of(of_qwen).runs)
    ]
    assert runs == [
        (name, "euler")
        for name in ("z-image", "z-image-turbo", "qwen-image-2.1", "qwen-image-2.1-turbo")
    ]


def test_the_transformer_of_a_model():
    for transformer_of, config in (
        (z_config.transformer_of, Z),
        (qwen_config.transformer_of, QWEN),
    ):
        assert transformer_of(config) is config.denoiser
        with pytest.raises(AssertionError):
            transformer_of(SimpleNamespace(denoiser=None))
