"""What configuration files of diffusers' folders say of a model, from the smallest files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ldmref.errors import CorruptModelError, InputError
from ldmref.families.autoencoders.qwen_image_21_config import QwenImage21AutoencoderConfig
from ldmref.families.flux import files as flux
from ldmref.families.flux2 import files as flux2
from ldmref.families.flux2 import text as flux2_text
from ldmref.families.flux3 import files as flux3
from ldmref.families.krea2 import files as krea2
from ldmref.families.krea2.config import Krea2Config
from ldmref.families.qwen3.presets import QWEN3_SIZES
from ldmref.families.qwen_image_21 import files as qwen_files
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.families.sd3 import files as sd3
from ldmref.families.z_image import files as z_files
from ldmref.families.z_image.config import ZImageConfig
from ldmref.models import preset
from ldmref.models.config import Defaults

KL = {"_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "latent_channels": 4}
T5 = {"d_model": 20, "feed_forward_proj": "gated-gelu"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.5}
QWEN3 = {"hidden_size": 20, "num_hidden_layers": 8}
FLUX3_LAYERS = (4, 8, 12, 16, 20, 24, 28, 32)
CLIP = ["transformers", "CLIPTextModel"]
PROJECTED = ["transformers", "CLIPTextModelWithProjection"]
T5_CLASS = ["transformers", "T5EncoderModel"]
SCHEDULER = {"scheduler": ["diffusers", FLOW["_class_name"]]}


def write(folder, **files):
    """Write files of a folder; the key `vae` stands for vae/config.json."""
    for name, data in files.items():
        (folder / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name / file).write_text(json.dumps(data))
    return folder


# -- Flux.1 ---------------------------------------------------------------------------------------


def write_flux1(folder, **transformer):
    return write(
        folder,
        transformer={"in_channels": 16, "sample_size": 12} | transformer,
        vae=KL,
        text_encoder={"hidden_size": 16},
        text_encoder_2=T5,
        scheduler=FLOW,
    )


FLUX1 = SCHEDULER | {"text_encoder": CLIP, "text_encoder_2": T5_CLASS}
DEV, SCHNELL, FILL, CONTROL = (28, 3.5), (4, 1.0), (50, 30.0), (50, 10.0)


@pytest.mark.parametrize(
    ("kind", "guided", "usual", "concat"),
    [
        ("FluxPipeline", True, DEV, ""),
        ("FluxPipeline", False, SCHNELL, ""),
        ("FluxControlNetPipeline", True, DEV, ""),
        ("FluxFillPipeline", True, FILL, "folded_mask"),
        ("FluxControlPipeline", True, CONTROL, "control"),
        ("FluxControlImg2ImgPipeline", True, CONTROL, "control"),
        ("FluxControlInpaintPipeline", True, CONTROL, "control"),
    ],
)
def test_a_folder_of_flux1(tmp_path, kind, guided, usual, concat):
    write_flux1(tmp_path, guidance_embeds=guided)
    config = flux.read_folder(tmp_path, FLUX1 | {"_class_name": kind})
    assert config.defaults == Defaults(*usual, width=24, height=24)
    assert config.concat == concat
    net = config.denoiser
    assert (net.in_channels, net.out_channels, net.sample_size) == (4, 4, 12)
    assert net.guidance_embeds == guided and config.vae.latent_channels == 4
    clip, t5 = config.text_encoders
    assert (clip.hidden_size, clip.projection_dim, clip.skipped_layers) == (16, 0, 0)
    assert (t5.hidden_size, t5.max_position_embeddings) == (20, 512)
    scheduler = config.scheduler
    assert (scheduler.shift, scheduler.sampler, scheduler.spacing) == (2.5, "euler", "flow")


def test_the_index_of_a_folder_decides_over_the_files(tmp_path):
    write_flux1(tmp_path)
    index = FLUX1 | {"_class_name": "FluxPipeline"}
    heun = index | {"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]}
    assert flux.read_folder(tmp_path, heun).scheduler.sampler == "heun"
    projected = index | {"text_encoder": PROJECTED}
    with pytest.raises(CorruptModelError) as caught:
        flux.read_folder(tmp_path, projected)
    assert caught.value.code == "E-CONFIG" and "first" in str(caught.value)
    for second in (CLIP, None):
        with pytest.raises(CorruptModelError) as caught:
            flux.read_folder(tmp_path, index | {"text_encoder_2": second})
        assert caught.value.code == "E-CONFIG" and "second" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["transformer", "vae", "text_encoder", "text_encoder_2", "scheduler"]
)
def test_a_folder_of_flux1_has_every_file(tmp_path, name):
    write_flux1(tmp_path)
    [file] = (tmp_path / name).iterdir()
    file.unlink()
    with pytest.raises(InputError, match=file.name):
        flux.read_folder(tmp_path, FLUX1 | {"_class_name": "FluxPipeline"})


def test_transformers_of_flux1_count_four_cells_as_channels():
    found = flux.convert_transformer_config({"in_channels": 384, "out_channels": 64})
    assert (found.in_channels, found.out_channels) == (96, 16)
    assert flux.convert_transformer_config({}) == preset("flux-schnell").denoiser
    assert flux.convert_transformer_config({"patch_size": 1}).num_layers == 19
    for change in ({"patch_size": 2}, {"in_channels": 65}):
        with pytest.raises(CorruptModelError):
            flux.convert_transformer_config(change)


def test_a_lora_makes_a_model_that_reads_a_control_image():
    dev = preset("flux-dev")
    found = flux.with_control(dev)
    assert found == replace(
        dev,
        denoiser=replace(dev.denoiser, in_channels=32),
        concat="control",
        defaults=replace(dev.defaults, steps=50, cfg_scale=10.0),
    )
    assert (found.defaults.width, found.defaults.height) == (1024, 1024)


# -- Stable Diffusion 3 ---------------------------------------------------------------------------


def write_sd3(folder, **transformer):
    return write(
        folder,
        transformer={"num_layers": 2, "caption_projection_dim": 1152} | transformer,
        vae=KL,
        text_encoder={"hidden_size": 16, "projection_dim": 16},
        text_encoder_2={"hidden_size": 24, "projection_dim": 8},
        text_encoder_3=T5,
        scheduler=FLOW,
    )


SD3 = SCHEDULER | {
    "_class_name": "StableDiffusion3Pipeline",
    "text_encoder": PROJECTED,
    "text_encoder_2": PROJECTED,
    "text_encoder_3": T5_CLASS,
}


@pytest.mark.parametrize("t5", [False, True])
def test_a_folder_of_sd3(tmp_path, t5):
    write_sd3(tmp_path)
    index = SD3 if t5 else SD3 | {"text_encoder_3": [None, None]}
    config = sd3.read_folder(tmp_path, index)
    assert config.defaults == Defaults(28, 7.0, width=256, height=256)
    texts = config.text_encoders
    assert [text.hidden_size for text in texts] == [16, 24, 20][: 2 + t5]
    assert [text.projection_dim for text in texts] == [16, 8, 0][: 2 + t5]
    assert [text.skipped_layers for text in texts[:2]] == [1, 1] and not texts[0].final_norm
    assert config.scheduler.spacing == "flow_table" and config.scheduler.shift == 2.5
    if t5:
        assert texts[2].max_position_embeddings == 256
    heun = index | {"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]}
    assert sd3.read_folder(tmp_path, heun).scheduler.sampler == "heun"


@pytest.mark.parametrize(
    ("name", "word"), [("text_encoder", False), ("text_encoder_2", False), ("text_encoder_3", True)]
)
def test_a_folder_of_sd3_says_which_file_is_missing(tmp_path, name, word):
    write_sd3(tmp_path)
    (tmp_path / name / "config.json").unlink()
    with pytest.raises(InputError) as caught:
        sd3.read_folder(tmp_path, SD3)
    assert (("null" in caught.value.hint), name in str(caught.value)) == (word, True)


@pytest.mark.parametrize(
    ("data", "is_known"),
    [
        ({}, True),
        ({"caption_projection_dim": 1152}, True),
        ({"caption_projection_dim": 1536}, False),
        ({"num_attention_heads": 24}, False),
        ({"num_attention_heads": 24, "caption_projection_dim": 1536}, True),
    ],
)
def test_transformers_of_sd3_have_texts_of_their_width(data, is_known):
    if not is_known:
        with pytest.raises(CorruptModelError) as caught:
            sd3.convert_transformer_config(data)
        assert caught.value.code == "E-CONFIG"
        found = sd3.read_transformer(preset("sd3-medium").denoiser, data, text=False)
        assert found.num_attention_heads == 24
        return
    found = sd3.convert_transformer_config(data)
    assert found.num_layers == 18 and found.pos_embed_max_size == 96
    assert found.num_attention_heads == data.get("num_attention_heads", 18)


@pytest.mark.parametrize(
    ("given", "field", "found"),
    [
        ({"qk_norm": None}, "qk_norm", ""),
        ({"qk_norm": "rms_norm"}, "qk_norm", "rms_norm"),
        ({}, "qk_norm", ""),
        ({}, "joint_attention_dim", 4096),
        ({"joint_attention_dim": 30}, "joint_attention_dim", 30),
        ({"in_channels": 8}, "out_channels", 8),
    ],
)
def test_fields_of_a_transformer_of_sd3(given, field, found):
    assert getattr(sd3.convert_transformer_config(given), field) == found


def test_text_encoders_of_sd3_are_read_by_their_class():
    t5 = sd3.convert_encoder_config(T5, "T5EncoderModel")
    assert (t5.model_type, t5.max_position_embeddings) == ("t5", 256)
    for kind, width in (("CLIPTextModelWithProjection", 8), ("CLIPTextModel", 0)):
        clip = sd3.convert_encoder_config({"projection_dim": 8}, kind)
        assert (clip.projection_dim, clip.skipped_layers) == (width, 1)


# -- Qwen3 ----------------------------------------------------------------------------------------


FLUX2_VAE = {"_class_name": "AutoencoderKLFlux2", "block_out_channels": [32, 32]}


@pytest.mark.parametrize(
    ("distilled", "usual"),
    [(True, (4, 1.0)), (False, (50, 4.0)), (None, (50, 4.0)), (1, (50, 4.0))],
)
def test_a_folder_of_flux2(tmp_path, distilled, usual):
    transformer = {"in_channels": 16, "sample_size": 6, "num_layers": 3}
    text = QWEN3 | {"text_encoder_out_layers": [2, 4, 6]}
    write(tmp_path, transformer=transformer, vae=FLUX2_VAE, text_encoder=text, scheduler=FLOW)
    index = SCHEDULER | ({} if distilled is None else {"is_distilled": distilled})
    config = flux2.read_folder(tmp_path, index)
    assert config.defaults == Defaults(*usual, width=24, height=24)
    assert config.scheduler.shift_rule == "empirical" and config.scheduler.shift == 2.5
    net = config.denoiser
    assert (net.in_channels, net.out_channels, net.num_layers) == (16, 16, 3)
    assert (net.num_single_layers, net.num_attention_heads) == (48, 48)
    assert config.text_encoder.hidden_layers == (2, 4, 6)
    assert not config.text_encoder.final_norm


def test_transformers_of_flux2_have_tokens_of_one_cell():
    """And the sizes of [dev], where their file says none."""
    for data in ({"patch_size": 1}, {}):
        found = flux2.convert_transformer_config(data)
        sizes = found.num_layers, found.num_single_layers, found.num_attention_heads
        assert sizes == (8, 48, 48)
        assert found.joint_attention_dim == 15360 and found.guidance_embeds
    with pytest.raises(CorruptModelError):
        flux2.convert_transformer_config({"patch_size": 2})


@pytest.mark.parametrize(
    ("flow_map", "usual"), [(True, (16, 1.0)), (False, (50, 3.5)), (None, (50, 3.5))]
)
@pytest.mark.parametrize(
    ("layers", "said", "read"),
    [(31, [1, 2, 3], (1, 2, 3)), (32, None, FLUX3_LAYERS), (33, None, FLUX3_LAYERS)],
)
def test_a_folder_of_flux3(tmp_path, flow_map, usual, layers, said, read):
    """A text encoder with fewer than 32 layers says which are read."""
    transformer = {"in_channels": 16, "joint_attention_dim": 79, "cond_in_channels": 16}
    if flow_map is not None:
        transformer["flow_map"] = flow_map
    write(
        tmp_path,
        transformer=transformer,
        vae=FLUX2_VAE,
        text_encoder=QWEN3 | {"num_hidden_layers": layers, "text_encoder_out_layers": said},
    )
    config = flux3.read_folder(tmp_path, {})
    side = 4 * config.denoiser.sample_size
    assert config.defaults == Defaults(*usual, width=side, height=side)
    assert config.text_encoder.hidden_layers == read
    assert config.text_encoder.padding_position == 1
    assert config.denoiser.flow_map == (flow_map is True)
    assert config.scheduler == preset("flux3-klein").scheduler


@pytest.mark.parametrize(
    ("change", "is_known"),
    [
        ({}, True),
        ({"eps": 1e-6, "cond_in_channels": 128}, True),
        ({"eps": 1e-5}, False),
        ({"in_channels": 16, "cond_in_channels": 16}, True),
        ({"in_channels": 16, "cond_in_channels": 128}, False),
        ({"cond_in_channels": 16}, False),
    ],
)
def test_transformers_of_flux3_have_references_of_as_many_channels(change, is_known):
    if not is_known:
        with pytest.raises(CorruptModelError):
            flux3.convert_transformer_config(change)
        return
    found = flux3.convert_transformer_config(change)
    assert found.in_channels == found.out_channels == change.get("in_channels", 128)


@pytest.mark.parametrize("distilled", [None, False, True])
@pytest.mark.parametrize("layers", [None, [1, 3]])
def test_a_folder_of_krea2(tmp_path, distilled, layers):
    write(
        tmp_path,
        transformer={"in_channels": 16, "sample_size": 6, "num_layers": 3},
        vae={"_class_name": "AutoencoderKLQwenImage"},
        text_encoder=QWEN3,
        scheduler=FLOW,
    )
    index = SCHEDULER | {"patch_size": 2}
    if distilled is not None:
        index["is_distilled"] = distilled
    if layers is not None:
        index["text_encoder_select_layers"] = layers
    config = krea2.read_folder(tmp_path, index)
    usual = (8, 1.0) if distilled else (28, 5.5)
    assert config.defaults == Defaults(*usual, width=48, height=48)
    rule = config.scheduler.shift_rule, config.scheduler.max_shift
    assert rule == (("constant", 1.15) if distilled else ("linear", 1.15))
    text = config.text_encoder
    assert text.hidden_layers == (tuple(range(2, 36, 3)) if layers is None else (1, 3))
    assert text.padding_position == -1 and text.max_position_embeddings == 546
    assert (config.denoiser.in_channels, config.denoiser.num_layers) == (4, 3)
    with pytest.raises(CorruptModelError, match="patch_size"):
        krea2.read_folder(tmp_path, index | {"patch_size": 1})


def test_transformers_of_krea2_count_four_cells_as_channels():
    assert krea2.convert_transformer_config({"in_channels": 64}) == Krea2Config()
    assert krea2.convert_transformer_config({"in_channels": 8}).out_channels == 2


@pytest.mark.parametrize("layers", [27, 29, 36])
@pytest.mark.parametrize(("said", "read"), [((-1,), (9, 18, 27)), ((1, 2, 3), (1, 2, 3))])
def test_layers_of_the_text_that_flux2_reads(layers, said, read):
    """Of any depth the same as diffusers, unless the encoder's file says others."""
    text = replace(QWEN3_SIZES["qwen3-4b"], num_hidden_layers=layers, hidden_layers=said)
    made = flux2_text.as_text_encoder(text)
    assert made == replace(text, max_position_embeddings=512, hidden_layers=read, final_norm=False)


# -- Z-Image and Qwen-Image 2.1 ------------------------------------------------------------------


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
