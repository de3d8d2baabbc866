"""Parameter trees, configurations, and model folders on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import ldmref
from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, LdmrefError, UsageError
from ldmref.io.key_report import compare
from ldmref.io.native import save_folder
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.model import model_spec
from ldmref.models.params import Params, count, flatten, init, tree_map, unflatten
from ldmref.models.presets import PRESETS, preset
from ldmref.models.validate import config_from_dict

names = st.lists(st.sampled_from("abc0"), min_size=1, max_size=3).map(".".join)


@given(st.dictionaries(names, st.integers(), max_size=6))
def test_flatten_inverts_unflatten(flat):
    prefixes = {".".join(n.split(".")[:i]) for n in flat for i in range(1, n.count(".") + 1)}
    flat = {n: v for n, v in flat.items() if n not in prefixes}
    assert flatten(unflatten(flat)) == flat


def test_params_read_as_attributes():
    p = unflatten({"a.0.weight": 1, "a.1.weight": 2})
    assert p.a["1"].weight == 2 and [x.weight for x in p.a.items_in_order()] == [1, 2]
    with pytest.raises(AttributeError, match="no parameter 'b'"):
        _ = p.b
    assert isinstance(tree_map(lambda x: -x, p), Params)


def test_known_sizes_of_stable_diffusion():
    """859,520,964 and 83,653,863 and 123,060,480: the published counts of SD 1.5's parts."""
    spec = model_spec(preset("sd15"))
    assert {k: count(v) for k, v in spec.items()} == {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
    }


def test_init_is_seeded_and_each_tensor_has_a_stream_of_its_own():
    a = init({"x": {"weight": (3, 4)}, "y": {"weight": (2, 2)}})
    b = init({"y": {"weight": (2, 2)}})
    assert (a.y.weight == b.y.weight).all()
    assert (init({"y": {"weight": (2, 2)}}, 1).y.weight != b.y.weight).any()
    assert abs(init({"w": {"weight": (400, 100)}}).w.weight).max() <= 0.1


@pytest.mark.parametrize(
    "change,word",
    [
        (lambda f: f.pop("a.weight"), "missing"),
        (lambda f: f.update({"z": (1,)}), "unexpected"),
        (lambda f: f.update({"a.weight": (3, 2)}), "misshapen"),
    ],
)
def test_report_lists_what_does_not_fit(change, word):
    want = {"a.weight": (2, 3), "a.bias": (2,)}
    have = dict(want)
    compare(have, want).require("file")
    change(have)
    with pytest.raises(KeyMismatchError, match=f"file: 1 {word}"):
        compare(have, want).require("file")
    assert not compare(have, want).fits and compare(have, want).problems == 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_json(name):
    config = preset(name)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_preset():
    with pytest.raises(UsageError):
        ldmref.random_model("sd51")


@pytest.mark.parametrize(
    "path,value",
    [
        (("unet", "block_out_channels"), []),
        (("unet", "block_out_channels"), [16, 30]),
        (("unet", "block_out_channels"), "16"),
        (("unet", "block_out_channels"), [10**9, 10**9]),
        (("unet", "num_heads"), [3, 3]),
        (("unet", "cross_attention_dim"), 33),
        (("unet", "out_channels"), 5),
        (("unet", "surprise"), 1),
        (("vae", "scaling_factor"), -1.0),
        (("vae", "scaling_factor"), 10**400),
        (("vae", "norm_num_groups"), 0),
        (("scheduler", "num_train_timesteps"), 0),
        (("scheduler", "num_train_timesteps"), 10**12),
        (("scheduler", "beta_start"), float("nan")),
        (("scheduler", "beta_end"), 0.0001),
        (("scheduler", "prediction_type"), "epsilon"),
        (("text_encoder", "hidden_act"), "__import__"),
        (("auto_map",), {"AutoModel": "evil.py"}),
    ],
)
def test_hostile_configurations_are_refused(path, value):
    data = preset("tiny").to_dict()
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(CorruptModelError) as caught:
        config_from_dict(data)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "section,changes,message",
    [
        ("", {"concat": "mask"}, "unknown concat 'mask'"),
        ("", {"concat": "masked_image"}, "unet.in_channels must be 9 with"),
        ("", {"concat": "low_resolution"}, "unet.in_channels must be 7 with"),
        ("", {"concat": "segmentation"}, "unet.in_channels must exceed 4 with"),
        ("", {"segmentation_classes": 3}, "segmentation_classes must be"),
        (
            "",
            {"text_encoder_2": {"model_type": "class"}},
            "text encoders of the kinds class and clip do not come together",
        ),
        ("unet", {"in_channels": 5}, "unet.in_channels must be 4 or 9 with"),
        ("unet", {"out_channels": 5}, "unet.out_channels"),
        ("unet", {"attention": "self"}, "cross-attention needs a text encoder"),
        ("unet", {"attention_levels": [True]}, "unet.attention_levels needs"),
        ("unet", {"num_heads": [1]}, "unet.num_heads needs"),
        ("unet", {"num_heads": [1, 5]}, "unet.num_heads must divide"),
        (
            "unet",
            {"num_heads": [1, 0]},
            "unet.num_heads.1. must be a whole number from 1 to 65536, not 0",
        ),
        ("unet", {"transformer_layers_per_block": [1]}, "layers_per_block needs"),
        (
            "unet",
            {"transformer_layers_per_block": [1, 101]},
            "must be a whole number from 1 to 100, not 101",
        ),
        ("unet", {"norm_num_groups": 3}, "norm_num_groups must divide"),
        ("unet", {"addition_embed_type": "text_time"}, "pooled text and six sizes"),
        ("vae", {"norm_num_groups": 3}, "norm_num_groups must divide"),
        ("vae", {"attention_levels": [True]}, "vae.attention_levels needs"),
        ("text_encoder", {"num_attention_heads": 3}, "num_attention_heads must divide"),
        ("text_encoder", {"head_dim": 8}, "head_dim"),
        ("text_encoder", {"skipped_layers": 2}, "skipped_layers"),
        ("text_encoder", {"model_type": "bert"}, "unknown text_encoder.model_type 'bert'"),
        ("scheduler", {"beta_start": 0.5}, "0 < beta_start <= beta_end"),
        ("scheduler", {"trained_betas": [0.1]}, "scheduler.trained_betas"),
        (
            "scheduler",
            {"sigma_max": 0.5},
            "scheduler.sigma_max must be a number of at least 1, not 0.5",
        ),
    ],
)
def test_a_refusal_names_the_broken_rule(section, changes, message):
    data = preset("tiny").to_dict()
    (data[section] if section else data).update(changes)
    with pytest.raises(CorruptModelError, match=f"bad model configuration: .*{message}"):
        config_from_dict(data)


@pytest.fixture
def folder(tmp_path, tiny_folder):
    import shutil

    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    model = ldmref.random_model("tiny", backend="numpy")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, model.config, model.params, [model.tokenizer], np.float32)
    return folder


def test_a_saved_model_loads_as_it_was(folder):
    model = ldmref.random_model("tiny", backend="numpy")
    again = ldmref.load(folder, backend="numpy")
    assert again.config == model.config and len(again.sha256) == 64
    for name, leaf in flatten(model.params).items():
        assert (flatten(again.params)[name] == leaf).all()


def test_saving_over_a_model_replaces_it_whole(folder):
    model = ldmref.load(folder, backend="numpy")
    save_folder(folder, model.config, model.params, [model.tokenizer])
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def damage(name, content):
    def apply(folder):
        (folder / name).write_bytes(content)

    return apply


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def poison(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["unet.conv_in.bias"][0] = np.nan
    save_file(tensors, folder / "model.safetensors")


def drop(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["unet.conv_in.bias"]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "spoil,code",
    [
        (lambda f: (f / "config.json").unlink(), "E-MODEL"),
        (damage("config.json", b"{}"), "E-CONFIG"),
        (damage("config.json", b"[" * 100_000), "E-CONFIG"),
        (damage("config.json", b'{"schema": 99}'), "E-SCHEMA"),
        (damage("tokenizer.json", b"?"), "E-TOKENIZER"),
        (damage("model.safetensors", b""), "E-SAFETENSORS"),
        (damage("model.safetensors", b"\x80\x02}q\x00."), "E-PICKLE"),
        (damage("model.safetensors", b"PK\x03\x04rest"), "E-PICKLE"),
        (damage("model.safetensors", b"version https://git-lfs"), "E-LFS"),
        (damage("model.safetensors", b"<!DOCTYPE html><html>"), "E-SAFETENSORS"),
        (damage("model.safetensors", b"\xff" * 64), "E-SAFETENSORS"),
        (truncate, "E-SAFETENSORS"),
        (poison, "E-NONFINITE"),
        (drop, "E-KEYS"),
    ],
)
def test_damaged_model_folders_are_refused_in_one_line(folder, spoil, code):
    spoil(folder)
    with pytest.raises(LdmrefError) as caught:
        ldmref.load(folder, backend="numpy")
    assert caught.value.code == code and caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "a.ckpt", __file__])
def test_what_is_no_model_is_refused(name):
    with pytest.raises(InputError):
        ldmref.load(name)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    """One safetensors file in 256 begins with the byte that begins a pickle."""
    path = tmp_path / "model.safetensors"
    for padding in range(300):
        save_file({"a": np.ones(3, np.float32)}, str(path), metadata={"x": "y" * padding})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert (TensorFile(path)["a"] == 1).all()


def test_heads_need_not_divide_a_level_without_attention():
    """As in the tests of diffusers; the mid block has the heads of the last level."""
    data = preset("emoji-128").to_dict()  # attention in the levels 1 and 2
    for level, allowed in ((0, True), (1, False), (2, False)):
        heads = [3, 4, 5]
        heads[level] = 7
        changed = {**data, "unet": {**data["unet"], "num_heads": heads}}
        if allowed:
            assert config_from_dict(changed).unet.num_heads == (7, 4, 5)
        else:
            with pytest.raises(CorruptModelError, match="num_heads must divide the channels of a"):
                config_from_dict(changed)
    last = {**data["unet"], "num_heads": [3, 4, 7], "attention_levels": [False, True, False]}
    with pytest.raises(CorruptModelError, match="num_heads must divide"):
        config_from_dict({**data, "unet": last})
