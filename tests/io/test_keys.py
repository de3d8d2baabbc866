"""Names of tensors: CompVis' constructors as the oracle, stacked tensors, reports, recognition."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UnsafeFileError
from ldmref.io.adapters import lora_keys
from ldmref.io.adapters.lora_keys import LoraTarget, lora_names, unwrapped
from ldmref.io.checkpoint import read_model_config
from ldmref.io.compvis.keys import compvis_table, controlnet_table
from ldmref.io.compvis.whole_file import make_scale_tensor
from ldmref.io.embedded import embedded_folder
from ldmref.io.identify import get_foreign_class, identify_tensors, refuse_foreign
from ldmref.io.key_report import KeyReport, compare
from ldmref.io.key_table import (
    KeyEntry,
    find_first_fit,
    fit,
    key_table,
    list_stored_shapes,
    to_compvis,
)
from ldmref.io.key_table import to_native as native
from ldmref.io.locate import find_model
from ldmref.io.single_file import find_named_config, recognise_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import PRESETS

# -- CompVis --------------------------------------------------------------------------------------


def both(*modules):
    return {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


def unet_names(c):
    """Return the names that openaimodel.UNetModel builds, in the order of its constructor."""

    def resnet(path, skip):
        inner = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
        return both(*(f"{path}.{x}" for x in inner + ["skip_connection"] * skip))

    def attention(path, depth):
        if c.attention == "self":
            return both(f"{path}.norm", f"{path}.qkv", f"{path}.proj_out")
        names = both(f"{path}.norm", f"{path}.proj_in", f"{path}.proj_out")
        for block in (f"{path}.transformer_blocks.{d}" for d in range(depth)):
            parts = ["attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]
            names |= both(*(f"{block}.{x}" for x in [*parts, "norm1", "norm2", "norm3"]))
            names |= {f"{block}.attn{i}.to_{x}.weight" for i in (1, 2) for x in "qkv"}
        return names

    names = both("input_blocks.0.0", "time_embed.0", "time_embed.2")
    index = 1
    width = None
    levels = list(
        zip(c.block_out_channels, c.attention_levels, c.transformer_layers_per_block, strict=True)
    )
    width = c.block_out_channels[0]
    for level, (channels, attends, depth) in enumerate(levels):
        for _ in range(c.layers_per_block):
            names |= resnet(f"input_blocks.{index}.0", width != channels)
            names |= attention(f"input_blocks.{index}.1", depth) if attends else set()
            width = channels
            index = index + 1
        if level < len(levels) - 1:
            names |= both(f"input_blocks.{index}.0.op")
            index += 1
    names |= resnet("middle_block.0", False) | resnet("middle_block.2", False)
    names |= attention("middle_block.1", levels[-1][2])
    index = 0
    for level, (_, attends, depth) in reversed(list(enumerate(levels))):
        for j in range(c.layers_per_block + 1):
            names |= resnet(f"output_blocks.{index}.0", True)
            names |= attention(f"output_blocks.{index}.1", depth) if attends else set()
            if level and j == c.layers_per_block:
                names |= both(f"output_blocks.{index}.{1 + attends}.conv")
            index += 1
    embedding = ("label_emb.0.0", "label_emb.0.2") if c.addition_embed_type else ()
    return names | both("out.0", "out.2", *embedding)


def autoencoder_names(c):
    """Return the names that model.Encoder and model.Decoder build."""

    def resnet(path, skip):
        return both(
            *(f"{path}.{x}" for x in ["norm1", "conv1", "norm2", "conv2"] + ["nin_shortcut"] * skip)
        )

    names = both("quant_conv", "post_quant_conv")
    width = c.block_out_channels[0]
    for half in ("encoder", "decoder"):
        names |= both(*(f"{half}.{x}" for x in ("conv_in", "norm_out", "conv_out")))
        names |= resnet(f"{half}.mid.block_1", False) | resnet(f"{half}.mid.block_2", False)
        names |= both(*(f"{half}.mid.attn_1.{x}" for x in ("norm", "q", "k", "v", "proj_out")))
    last = len(c.block_out_channels) - 1
    for level, channels in enumerate(c.block_out_channels):
        for j in range(c.layers_per_block):
            names |= resnet(f"encoder.down.{level}.block.{j}", width != channels)
            width = channels
        names |= both(f"encoder.down.{level}.downsample.conv") if level < last else set()
    for level, channels in reversed(list(enumerate(c.block_out_channels))):
        for j in range(c.layers_per_block + 1):
            names |= resnet(f"decoder.up.{level}.block.{j}", width != channels)
            width = channels
        names |= both(f"decoder.up.{level}.upsample.conv") if level else set()
    return names


def open_clip_names(c):
    names = {"positional_embedding", "token_embedding.weight"} | both("ln_final")
    for layer in (f"transformer.resblocks.{i}" for i in range(c.num_hidden_layers)):
        inner = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        names |= both(*(f"{layer}.{x}" for x in inner))
        names |= {f"{layer}.attn.in_proj_weight", f"{layer}.attn.in_proj_bias"}
    return names | ({"text_projection"} if c.projection_dim else set())


def clip_names(c):
    names = {f"embeddings.{x}_embedding.weight" for x in ("token", "position")}
    for layer in (f"encoder.layers.{i}" for i in range(c.num_hidden_layers)):
        inner = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
        inner += [f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")]
        names |= both(*(f"{layer}.{x}" for x in inner))
    return {f"text_model.{x}" for x in names | both("final_layer_norm")}


def ldmbert_names(c):
    names = {"token_emb.weight", "pos_emb.emb.weight"} | both("norm")
    for i in range(c.num_hidden_layers):
        attention, forward = (f"attn_layers.layers.{2 * i + j}" for j in range(2))
        names |= both(f"{attention}.0", f"{attention}.1.to_out", f"{forward}.0")
        names |= both(f"{forward}.1.net.0.0", f"{forward}.1.net.2")
        names |= {f"{attention}.1.to_{x}.weight" for x in "qkv"}
    return names


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("sd15", {"cond_stage_model.transformer.": clip_names}),
        ("sd2-base", {"cond_stage_model.model.": open_clip_names}),
        (
            "sdxl",
            {
                "conditioner.embedders.0.transformer.": clip_names,
                "conditioner.embedders.1.model.": open_clip_names,
            },
        ),
        ("ldm-text2img-large", {"cond_stage_model.transformer.": ldmbert_names}),
        ("ldm-unconditional", {}),
    ],
)
def test_the_names_are_those_that_compvis_builds(name, texts):
    config = PRESETS[name]
    got = {entry.name for entry in compvis_table(config).values()}
    want = {f"model.diffusion_model.{x}" for x in unet_names(config.unet)}
    for (prefix, names), text in zip(texts.items(), config.text_encoders, strict=True):
        want |= {prefix + x for x in names(text)}
    if not config.vae.codebook_size:
        want |= {f"first_stage_model.{x}" for x in autoencoder_names(config.vae)}
    else:
        got = {x for x in got if not x.startswith("first_stage_model.")}
    assert got == want


def test_the_names_of_a_controlnet_are_those_that_cldm_builds():
    config = ControlNetConfig(UNetConfig())
    names = {entry.name for entry in controlnet_table(config).values()}
    whole = unet_names(config.unet)
    kept = {x for x in whole if x.startswith(("input_blocks", "middle_block", "time_embed"))}
    kept |= both(*(f"input_hint_block.{i}" for i in range(0, 16, 2)), "middle_block_out.0")
    assert names == kept | both(*(f"zero_convs.{i}.0" for i in range(12)))


def test_stacked_tensors_lie_as_the_makers_of_the_file_stack_them():
    """OpenCLIP: all queries, keys, values; QKVAttentionLegacy: those of one head, then the next."""
    rows = np.arange(4, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    q, k, v = (rows + first for first in (10, 20, 30))
    flat = {"q": q, "k": k, "v": v}
    for heads, rows in (
        (1, [10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33]),
        (2, [10, 11, 20, 21, 30, 31, 12, 13, 22, 23, 32, 33]),
    ):
        table = {n: KeyEntry("qkv", (4, 2), i, heads=heads) for i, n in enumerate("qkv")}
        for order in ("qkv", "vkq"):
            stored = to_compvis(flat, {n: table[n] for n in order})
            assert stored["qkv"][:, 0].tolist() == rows and stored["qkv"].shape == (12, 2)
        assert list_stored_shapes(table) == {"qkv": (12, 2)}
        back = native(stored, table)
        assert all((back[n] == flat[n]).all() for n in flat)


@pytest.mark.parametrize(
    ("form", "stored"),
    [
        ("", (2, 3)),
        ("transposed", (3, 2)),
        ("matrix", (2, 3)),
        ("conv1d", (2, 3, 1)),
        ("conv", (2, 3, 1, 1)),
    ],
)
def test_forms_of_a_matrix(form, stored):
    w = np.arange(6.0).reshape(2, 3)
    table = {"w": KeyEntry("theirs", (2, 3), form=form)}
    file = to_compvis({"w": w}, table)
    assert file["theirs"].shape == stored and file["theirs"].flags.c_contiguous
    got = native(file, table)["w"]
    assert (got == w).all() and got.flags.c_contiguous
    alike = {"matrix", "conv1d", "conv"}
    for other in ((2, 3), (3, 2), (2, 3, 1), (2, 3, 1, 1)):
        assert fit({"theirs": other}, table).fits == (
            other == stored or (form in alike and other[:2] == (2, 3))
        )
    assert not fit({"theirs": (3, 2, 1)}, table).fits


@pytest.mark.parametrize("frames", [1, 3])
def test_the_last_frame_of_a_causal_kernel_is_a_kernel_of_images(frames):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 2, frames, 3, 5))
    table = {"w": KeyEntry("theirs", (4, 2, 3, 5), frames=frames)}
    assert list_stored_shapes(table) == {"theirs": kernel.shape}
    assert fit({"theirs": kernel.shape}, table).fits
    assert not fit({"theirs": (4, 2, 3, 5)}, table).fits
    got = native({"theirs": kernel}, table)["w"]
    assert (got == kernel[:, :, -1]).all() and got.flags.c_contiguous
    stored = to_compvis({"w": got}, table)["theirs"]
    assert (stored[:, :, -1] == got).all() and not stored[:, :, :-1].any()
    assert stored.shape == kernel.shape and stored.dtype == kernel.dtype


def test_a_kernel_with_frames_names_no_layer_of_a_lora(monkeypatch):
    """A LoRA of the file's layer has another shape than ours."""
    table = {"a.weight": KeyEntry("x.weight", (4, 2, 3, 3), frames=3)}
    table["b.weight"] = KeyEntry("y.weight", (4, 2, 3, 3))
    family = SimpleNamespace(files=[SimpleNamespace(table=lambda config: table)])
    monkeypatch.setattr(lora_keys, "family_of", lambda config: family)
    assert [*lora_keys._original_entries(PRESETS["sd15"])] == ["b.weight"]


def test_the_longest_block_counts_and_what_is_in_none_is_an_error():
    shapes = {"a.b.w": (1,), "a.b.c.w": (2,), "a.d.x.w": (3,), "a.e": (4,)}
    table = key_table(shapes, {"a": "A", "a.b": "B", "a.b.c": "C"}, {"d.x": "y", "e": "E"})
    assert {n: e.name for n, e in table.items()} == {
        "a.b.w": "B.w",
        "a.b.c.w": "C.w",
        "a.d.x.w": "A.y.w",
        "a.e": "A.E",
    }
    assert {n: e.shape for n, e in table.items()} == shapes
    assert key_table({"w": (1,)}, {"": ""})["w"].name == "w"
    with pytest.raises(KeyError):
        key_table({"z.w": (1,)}, {"a": "A"})


# -- reports --------------------------------------------------------------------------------------


def test_a_report_lists_the_first_three_of_each_kind():
    have = {"a": (1,), "b": (2,), "x0": (1,), "x1": (1,), "x2": (1,), "x3": (1,), "i": (1,)}
    report = compare(have, {"a": (1,), "b": (3,), "m1": (1,), "m2": (1,), "m3": (1,)}, {"i", "j"})
    assert (report.used, report.ignored) == (["a"], ["i"])
    assert (report.problems, report.shared, report.likeness) == (8, 2, (2, -8))
    assert report.summary() == (
        "3 missing (m1; m2; m3), 4 unexpected (x0; x1; x2; ...), 1 misshapen (b is (2,), not (3,))"
    )
    with pytest.raises(KeyMismatchError, match="what: 3 missing"):
        report.require("what")
    assert KeyReport(used=["a"]).fits and KeyReport().likeness == (0, 0)
    KeyReport().require("what")


def test_the_first_candidate_that_fits_is_taken_and_else_the_nearest_is_named():
    def table(*names):
        return {n: KeyEntry(n, (1,)) for n in names}

    shapes = {"a": (1,), "b": (1,)}
    candidates = [(0, table("a")), (1, table("a", "b")), (2, table("b", "a"))]
    assert find_first_fit(shapes, candidates, "x")[0] == 1
    with pytest.raises(KeyMismatchError, match="1 missing") as caught:
        find_first_fit(shapes, [(0, table("c", "d")), (1, table("a", "b", "c"))], "x", "the hint")
    assert caught.value.hint == "the hint"


# -- recognition ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["transformer_blocks.0.attn.add_k_proj.weight"], "a transformer of diffusers"),
        (["model.transformer_blocks.11.attn.add_k_proj.bias"], "a transformer of diffusers"),
        (["depth_model.x", "model.diffusion_model.out.2.weight"], "a model for depth"),
        (["low_scale_model.x"], "a model for depth"),
        (["noise_augmentor.y"], "a model for depth"),
        (["embedder.model.visual.proj"], "a model for depth"),
        (["x.lokr_w1", "y"], "a LoKr"),
        (["x.dora_scale"], "a DoRA"),
        (["x.hada_w1_b"], "a LoHa"),
        (["clip_l"], "a textual inversion"),
        (["y.lora.down.weight"], "a LoRA"),
        (["y.lora_A.default.weight"], "a LoRA"),
        (["unet.conv_in.weight", "vae.x", "text_encoder_2.y"], "the weights of a folder"),
        (["text_model.x", "logit_scale"], "a CLIP text encoder"),
        (["text_projection.weight"], "a CLIP text encoder"),
        (["state_dict.encoder.x", "state_dict.loss.y"], "an autoencoder"),
        (["up_blocks.0.x", "time_embedding.y", "conv_norm_out.z", "mid_block.u"], "a U-Net"),
    ],
)
def test_other_files_are_recognised_by_their_names(names, what):
    kind, hint = identify_tensors(names)
    assert kind.startswith(what) and hint
    with pytest.raises(KeyMismatchError, match=what) as caught:
        refuse_foreign("file", names)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "names",
    [
        ["emb_params", "x"],
        ["clip_l", "x"],
        ["x.hada_w1_ay"],
        ["unet.x", "other"],
        ["encoder.x", "y"],
        ["text_model.x", "y"],
        ["conv_in.x", "strange.y"],
        ["the_double_blocks.0.img_attn.x"],
    ],
)
def test_what_may_be_a_model_is_not_refused(names):
    assert identify_tensors(names) is None
    refuse_foreign("file", names)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"_class_name": "UNet"}, "UNet"),
        ({"architectures": ["CLIP", "B"]}, "CLIP"),
        ({}, ""),
        ({"_class_name": "A", "architectures": ["B"]}, "A"),
        ({"architectures": []}, ""),
        ({"architectures": "CLIP"}, ""),
        ({"_class_name": "x" * 99}, "x" * 80),
    ],
)
def test_the_class_of_a_foreign_configuration(data, kind):
    assert get_foreign_class(data) == kind


LORA_NAMES = {  # as in published files
    "lora_unet_mid_block_attentions_0_proj_in.alpha": "alpha",
    "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": "down",
    "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": "up",
    "unet.mid_block.attentions.0.proj_in.lora_A.weight": "down",
    "unet.mid_block.attentions.0.proj_in.lora_B.weight": "up",
    "unet.mid_block.attentions.0.proj_in.alpha": "alpha",
    "mid_block.attentions.0.proj_in.lora_B.weight": "up",
    "unet.mid_block.attentions.0.proj_in.lora.down.weight": "down",
    "unet.mid_block.attentions.0.proj_in.lora.up.weight": "up",
    "unet.mid_block.attentions.0.proj_in.lora_linear_layer.down.weight": "down",
    "unet.mid_block.attentions.0.proj_in.lora_linear_layer.up.weight": "up",
}


def test_notations_of_lora():
    table = lora_names(PRESETS["sd15"])
    for name, role in LORA_NAMES.items():
        want = LoraTarget("unet.mid_block.attentions.0.proj_in.weight", role)
        assert table[name] == (want,), name
    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1."
    text = "text_encoder.text_model.encoder.layers.3.self_attn."
    for ours, old in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out.0", "to_out")):
        got = table[f"{attention}processor.{old}_lora.up.weight"]
        assert got == (LoraTarget(f"{attention}{ours}.weight", "up"),)
    for kind in ("q", "k", "v", "out"):
        ours = f"{kind}_proj"
        old = f"to_{kind}"
        want = LoraTarget(f"{text}{ours}.weight", "down")
        assert table[f"{text}{old}_lora.down.weight"] == (want,)
    for start in ("lora_te_", "lora_te1_"):
        name = f"{start}text_model_encoder_layers_3_mlp_fc1.lora_up.weight"
        assert table[name][0].tensor == "text_encoder.text_model.encoder.layers.3.mlp.fc1.weight"
    assert "text_model.encoder.layers.3.mlp.fc1.lora_A.weight" in table  # the network left out
    assert unwrapped("base_model.model.a.base_model.model.b") == "a.base_model.model.b"


# -- files and folders ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    config = PRESETS["tiny"]
    return to_compvis(flatten(init(model_spec(config), 1)), compvis_table(config))


@pytest.mark.parametrize(
    ("scale", "accepted"),
    [
        (0.5, True),
        (np.float32(0.13025), True),
        ([0.5], True),
        (0.0, False),
        (-1.0, False),
        (np.inf, False),
        (np.nan, False),
        ([0.5, 0.5], False),
        ([], False),
    ],
)
def test_the_scaling_factor_of_a_file_is_one_positive_number(tmp_path, whole, scale, accepted):
    tensors = whole | {"scale_factor": np.asarray(scale)}
    path = tmp_path / "a.safetensors"
    write_tensors(path, {n: source(t) for n, t in tensors.items()})
    if not accepted:
        with pytest.raises(CorruptModelError) as caught:
            recognise_file(TensorFile(path), PRESETS["tiny"])
        assert caught.value.code == "E-CONFIG"
        return
    config = recognise_file(TensorFile(path), PRESETS["tiny"]).config
    assert config.vae.scaling_factor == float(np.asarray(scale).item())
    sd15 = PRESETS["sd15"]
    assert make_scale_tensor(sd15) == {}
    other = dataclasses.replace(sd15, vae=dataclasses.replace(sd15.vae, scaling_factor=0.5))
    assert make_scale_tensor(other)["scale_factor"] == 0.5


def test_a_configuration_is_asked_for_only_where_none_was_given(tmp_path, whole):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {n: source(t) for n, t in whole.items()} | {"odd": source(np.ones(1))})
    for config, asked in ((None, True), (PRESETS["tiny"], False)):
        with pytest.raises(KeyMismatchError) as caught:
            recognise_file(TensorFile(path), config)
        assert ("config=" in caught.value.hint) is asked
        assert ("'tiny'" in str(caught.value)) is not asked


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".pkl", ".CKPT"])
def test_a_pickle_is_named_by_its_ending_and_told_what_to_do(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(UnsafeFileError) as caught:
        find_model(path)
    assert caught.value.code == "E-PICKLE" and "model.safetensors" in caught.value.hint
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(InputError) as caught:
        find_model(tmp_path / "folder.pt")
    assert caught.value.code == "E-MODEL"


def test_configurations_by_name_by_folder_and_by_file(tmp_path):
    assert find_named_config("sd15")[0] is PRESETS["sd15"]
    settings = {"schema": 1} | PRESETS["tiny"].to_dict()
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "other.json").write_text(json.dumps(settings))
    for place in (tmp_path, tmp_path / "config.json", str(tmp_path / "other.json")):
        assert find_named_config(place)[0] == PRESETS["tiny"]
    for wrong in ("sd16", tmp_path / "no", tmp_path / "no.json"):
        with pytest.raises(InputError) as caught:
            find_named_config(wrong)
        assert caught.value.code == "E-CONFIG"


def test_a_vocabulary_may_fill_the_encoder_and_not_more():
    folder = embedded_folder("emoji")
    text = read_model_config(folder).text_encoder
    file = folder / "tokenizer.json"
    largest = max(tokenizer_for(text, file).tokenizer.get_vocab().values())
    assert tokenizer_for(dataclasses.replace(text, vocab_size=largest + 1), file).length
    with pytest.raises(CorruptModelError) as caught:
        tokenizer_for(dataclasses.replace(text, vocab_size=largest), file)
    assert caught.value.code == "E-TOKENIZER"
