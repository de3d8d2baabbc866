"""Configurations with hostile values: refused by the field's name, before anything is built."""

from __future__ import annotations

import dataclasses
import json

import pytest
from cheap import stays_cheap
from hypothesis import given
from hypothesis import strategies as st

import ldmref
from ldmref.declare import Range, get_fields
from ldmref.errors import CorruptModelError, InputError, LdmrefError
from ldmref.families.flux.controlnet import FluxControlConfig
from ldmref.families.sd3.controlnet import MMDiTControlConfig
from ldmref.io.adapters.autoencoder import CLASSES, read_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.diffusers import config as diffusers_config
from ldmref.io.diffusers import ldm
from ldmref.io.diffusers.folder import read_diffusers_config
from ldmref.models import validate
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.presets import PRESETS
from ldmref.models.validate import config_from_dict

SECTIONS = {
    n: f.kind for n, f in get_fields(ModelConfig).items() if dataclasses.is_dataclass(f.kind)
}
SECTIONS["unet"] = SECTIONS.pop("denoiser") and UNetConfig

HOSTILE = [
    None, True, "x", "", [], {}, -1, 0, 10**9, 10**30, 1e300, -1.5, float("nan"), float("inf"),
    [None], [10**9] * 4, [0], ["x"], [[1]], [1] * 5_000, "9" * 5_000, {"a": {"b": []}},
]  # fmt: skip
FIELDS = [
    (section, field.name) for section, cls in SECTIONS.items() for field in dataclasses.fields(cls)
]


def refused(function, *arguments):
    """Return whether a configuration is refused; outcomes except that and success raise."""
    try:
        with stays_cheap():  # it is refused before it is built
            function(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return True
    return False


@pytest.mark.parametrize("section,name", FIELDS)
def test_every_field_of_a_configuration(section, name):
    sdxl = PRESETS["sdxl"]
    data = dataclasses.replace(sdxl, text_encoder_3=sdxl.text_encoder).to_dict()
    for value in HOSTILE:
        refused(config_from_dict, data | {section: data[section] | {name: value}})
    missing = refused(config_from_dict, data | {section: None})
    assert missing == (section != "text_encoder_3")  # the third one is optional


@pytest.mark.parametrize("cls", {ModelConfig, *SECTIONS.values()}, ids=lambda cls: cls.__name__)
def test_every_number_has_a_range(cls):
    for f in get_fields(cls).values():
        assert {f.kind, f.element}.isdisjoint({int, float}) or f.get(Range), f.name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_within_the_ranges(name):
    validate.check_config(PRESETS[name])


@pytest.mark.parametrize(
    "section,name,value",
    [
        ("unet", "layers_per_block", 10**9),
        ("vae", "layers_per_block", 10**9),
        ("text_encoder", "num_hidden_layers", 10**9),
        ("unet", "block_out_channels", [10**9] * 4),
        ("text_encoder", "vocab_size", 10**12),
        ("unet", "in_channels", -4),
        ("unet", "sample_size", 0),
        ("vae", "latent_channels", 10**9),
        ("defaults", "width", 10**9),
        ("defaults", "steps", 0),
        ("scheduler", "num_train_timesteps", 0),
        ("scheduler", "num_train_timesteps", 10**12),
        ("scheduler", "beta_start", float("nan")),
        ("scheduler", "beta_start", 0.5),
        ("unet", "transformer_layers_per_block", [10**9] * 4),
        ("unet", "norm_num_groups", 0),
        ("vae", "scaling_factor", 0.0),
        ("unet", "num_heads", [0] * 4),
    ],
)
def test_numbers_out_of_reason_name_their_field(section, name, value):
    data = PRESETS["sd15"].to_dict()
    data[section] = data[section] | {name: value}
    with pytest.raises(CorruptModelError) as caught:
        config_from_dict(data)
    assert caught.value.code == "E-CONFIG" and name.partition("_")[0] in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(data=JSON, section=st.sampled_from(FIELDS))
def test_any_json_in_any_field(data, section):
    values = PRESETS["tiny"].to_dict()
    values[section[0]] = values.get(section[0], {}) | {section[1]: data}
    refused(config_from_dict, values)


# -- ldmref's own folders -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,code",
    [
        ("[" * 5000 + "]" * 5000, "E-CONFIG"),
        ('{"a":' * 900 + "1" + "}" * 900, "E-CONFIG"),
        ('{"schema": 2}', "E-SCHEMA"),
        ('{"schema": true}', "E-SCHEMA"),
        ('{"schema": [1]}', "E-SCHEMA"),
        ('{"schema": 1, "sha256": 5}', "E-CONFIG"),
        ('{"schema": 1, "unet": null}', "E-CONFIG"),
        ('{"schema": 1, "schema": 1}', "E-CONFIG"),
        ("null", "E-CONFIG"),
        ('{"x": 1}', "E-CONFIG"),
        ('{"schema": 1, "unet": {"auto_map": "evil.Model"}}', "E-CONFIG"),
    ],
    ids=lambda text: text[:40],
)
def test_damaged_config_json(tmp_path, text, code):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(LdmrefError) as caught:
        ldmref.load(tmp_path, backend="numpy")
    assert caught.value.code == code and len(str(caught.value)) < 300


# -- diffusers ------------------------------------------------------------------------------------

PLAIN = {
    "unet": {},
    "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
    "text_encoder": {"hidden_size": 1280, "num_attention_heads": 20},
    "scheduler": {"_class_name": "DDIMScheduler"},
}
INDEX = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
SCHEDULER_FIELDS = """
    num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type
    timestep_spacing steps_offset clip_sample clip_sample_range set_alpha_to_one thresholding
    dynamic_thresholding_ratio sample_max_value rescale_betas_zero_snr _class_name
""".split()
DIFFUSERS_FIELDS = [
    *(("unet", name) for name in (*diffusers_config.UNET_DEFAULTS, *diffusers_config.UNET_PLAIN,
                                  "sample_size")),
    *(("vae", name) for name in (*diffusers_config.VAE_DEFAULTS, *diffusers_config.VAE_PLAIN,
                                 "down_block_types", "up_block_types", "_class_name")),
    *(("text_encoder", name) for name in diffusers_config.TEXT_DEFAULTS),
    *(("scheduler", name) for name in SCHEDULER_FIELDS),
]  # fmt: skip


def write_folder(folder, configs, index=INDEX):
    (folder / "model_index.json").write_text(json.dumps(index))
    for part, config in configs.items():
        (folder / part).mkdir(exist_ok=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config))
    return folder


def test_the_plain_folder_is_read(tmp_path):
    assert read_diffusers_config(write_folder(tmp_path, PLAIN)).unet.in_channels == 4


@pytest.mark.parametrize("part,name", DIFFUSERS_FIELDS)
def test_every_field_of_a_diffusers_configuration(tmp_path, part, name):
    write_folder(tmp_path, PLAIN)
    for value in HOSTILE:
        write_folder(tmp_path, {part: PLAIN[part] | {name: value}})
        refused(read_diffusers_config, tmp_path)


@pytest.mark.parametrize("name", [*ldm.UNET2D_DEFAULTS, "sample_size"])
def test_every_field_of_an_unconditional_model(tmp_path, name):
    index = {"_class_name": "LDMPipeline"}
    configs = {"vqvae": PLAIN["vae"] | {"_class_name": "VQModel"}, "scheduler": PLAIN["scheduler"]}
    write_folder(tmp_path, configs, index)
    for value in HOSTILE:
        write_folder(tmp_path, {"unet": {name: value}}, index)
        refused(read_diffusers_config, tmp_path)


@pytest.mark.parametrize("name", ["down_block_types", "block_out_channels"])
@pytest.mark.parametrize("value", [None, 5, [], "x"])
def test_null_where_a_list_belongs_names_the_field(tmp_path, name, value):
    with pytest.raises(CorruptModelError, match=name) as caught:
        read_diffusers_config(write_folder(tmp_path, PLAIN | {"unet": {name: value}}))
    assert caught.value.code == "E-CONFIG"


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "name",
    [
        *diffusers_config.VAE_DEFAULTS,
        "num_vq_embeddings",
        "encoder_block_out_channels",
        "num_decoder_blocks",
        "down_block_types",
    ],
)
def test_every_field_of_an_autoencoder(tmp_path, kind, name):
    for value in HOSTILE:
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind, name: value}))
        assert refused(read_vae, tmp_path)  # it holds no weights either


@pytest.mark.parametrize(
    "name",
    [
        "block_out_channels",
        "layers_per_block",
        "conditioning_channels",
        "in_channels",
        "conditioning_embedding_out_channels",
        "attention_head_dim",
        "down_block_types",
    ],
)
def test_every_field_of_a_controlnet(tmp_path, name):
    for value in HOSTILE:
        data = {"_class_name": "ControlNetModel", name: value}
        (tmp_path / "config.json").write_text(json.dumps(data))
        assert refused(open_controlnet, tmp_path)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "SD3ControlNetModel",
            [*get_fields(MMDiTControlConfig), "caption_projection_dim"],
        ),
        ("FluxControlNetModel", [*get_fields(FluxControlConfig), "patch_size"]),
    ],
)
def test_every_field_of_a_transformers_controlnet(tmp_path, kind, names):
    for name in names:
        for value in HOSTILE:
            (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind, name: value}))
            assert refused(open_controlnet, tmp_path)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "model_file", "custom_pipeline"])
def test_references_to_code_are_not_followed(tmp_path, key):
    import sys

    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    configs = PLAIN | {part: PLAIN[part] | {key: "evil.Model"} for part in PLAIN}
    before = set(sys.modules)
    refused(read_diffusers_config, write_folder(tmp_path, configs, INDEX | {key: "evil.Model"}))
    assert "evil" not in set(sys.modules) - before
