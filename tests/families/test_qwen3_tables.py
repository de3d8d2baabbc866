"""Qwen3: names in files, configurations that are read or refused, layers and siblings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.families.qwen3 import encoder, files, presets, siblings
from ldmref.families.qwen3.encoder import QWEN3, Qwen3Config
from ldmref.models import preset
from ldmref.models.config import Defaults
from ldmref.models.params import flatten
from ldmref.models.text_config import TextConfig
from ldmref.ports import qwen3 as ports
from ldmref.samplers.config import SchedulerConfig

OPS = get_backend("numpy", dtype="float64")
SMALL = Qwen3Config(
    vocab_size=11, hidden_size=6, intermediate_size=10, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8,
)  # fmt: skip


# -- names in files -------------------------------------------------------------------------------


OF_LLAMA = {  # llama.cpp's tensor names of Qwen3, gguf-py/gguf/constants.py
    "blk.7.attn_q": "layers.7.self_attn.q_proj",
    "blk.7.attn_k": "layers.7.self_attn.k_proj",
    "blk.7.attn_v": "layers.7.self_attn.v_proj",
    "blk.7.attn_output": "layers.7.self_attn.o_proj",
    "blk.7.attn_q_norm": "layers.7.self_attn.q_norm",
    "blk.7.attn_k_norm": "layers.7.self_attn.k_norm",
    "blk.7.attn_norm": "layers.7.input_layernorm",
    "blk.12.ffn_gate": "layers.12.mlp.gate_proj",
    "blk.12.ffn_up": "layers.12.mlp.up_proj",
    "blk.12.ffn_down": "layers.12.mlp.down_proj",
    "blk.12.ffn_norm": "layers.12.post_attention_layernorm",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
}


@pytest.mark.parametrize("name", OF_LLAMA)
def test_names_of_llama_cpp(name):
    assert QWEN3.rename(f"{name}.weight") == f"{OF_LLAMA[name]}.weight"


def test_every_parameter_has_a_name_in_llama_cpp():
    named = {name.replace(".7.", ".0.").replace(".12.", ".0.") for name in OF_LLAMA.values()}
    spec = encoder.qwen3_spec(replace(SMALL, num_hidden_layers=1))
    assert {f"{name}.weight" for name in named} - {"lm_head.weight"} == {*flatten(spec)}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model", ""),
        ("model.language_model", ""),
        ("language_model", ""),
        ("model.norm.weight", "norm.weight"),
        ("model.language_model.norm.weight", "norm.weight"),
        ("language_model.norm.weight", "norm.weight"),
        ("norm.weight", "norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
        ("blk.3.other.weight", "blk.3.other.weight"),
        ("model.blk.3.attn_q.weight", "blk.3.attn_q.weight"),
    ],
)
def test_other_names(name, ours):
    assert QWEN3.rename(name) == ours


# -- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "skip", "want"),
    [
        ((-1,), 0, [3]),
        ((-2,), 0, [2]),
        ((-4,), 0, [0]),
        ((0, 1, 3), 0, [0, 1, 3]),
        ((2, -1), 1, [1, 2]),
        ((2, -1), 2, [0, 1]),
    ],
)
def test_layers_are_counted_from_both_ends(layers, skip, want):
    assert encoder.find_layers(replace(SMALL, hidden_layers=layers), skip) == want
    if not skip:
        assert replace(SMALL, hidden_layers=layers).later_layers == 3 - max(want)


def test_layers_before_the_embeddings_are_refused():
    config = replace(SMALL, hidden_layers=(2, -1))
    with pytest.raises(UsageError, match="3, and 2 layers") as caught:
        encoder.find_layers(config, 3)
    assert caught.value.code == "E-CLIP-SKIP" and "0 to 2" in (caught.value.hint or "")


def test_positions_count_tokens_or_all():
    ids = np.zeros((2, 4), np.int64)
    mask = np.array([[0, 1, 0, 1], [1, 1, 1, 0]])
    every = encoder.find_positions(OPS, SMALL, ids, None)
    assert every.shape == (4, 1) and every.dtype == np.float64
    assert every[:, 0].tolist() == [0, 1, 2, 3]
    assert np.array_equal(encoder.find_positions(OPS, SMALL, ids, mask), every)
    fixed = replace(SMALL, padding_position=5)
    assert np.array_equal(encoder.find_positions(OPS, fixed, ids, None), every)
    found = encoder.find_positions(OPS, fixed, ids, mask)
    assert found[..., 0].tolist() == [[5, 0, 5, 1], [0, 1, 2, 5]] and found.shape == (2, 4, 1)
    first = encoder.find_positions(OPS, replace(SMALL, padding_position=0), ids, mask)
    assert first[..., 0].tolist() == [[0, 0, 0, 1], [0, 1, 2, 0]]
    before = encoder.find_positions(OPS, replace(SMALL, padding_position=-1), ids, mask)
    assert before[..., 0].tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]] and before.shape == (2, 4, 1)


# -- files of transformers ------------------------------------------------------------------------


def test_a_configuration_without_fields_has_those_of_transformers():
    found = files.convert_text_config({})
    assert found == Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=22016, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, head_dim=128, layer_norm_eps=1e-6,
        rope_theta=10000.0,
    )  # fmt: skip


def test_fields_of_a_configuration_are_read():
    data = {
        "vocab_size": 11, "hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 0.25,
        "rope_theta": 7, "hidden_act": "silu", "attention_bias": False,
        "use_sliding_window": False,
    }  # fmt: skip
    want = replace(SMALL, layer_norm_eps=0.25, rope_theta=7.0)
    assert files.convert_text_config(data) == want
    assert isinstance(files.convert_text_config(data).rope_theta, float)
    assert files.convert_text_config({"text_config": data, "hidden_size": 9}) == want
    rope = {"rope_type": "default", "rope_theta": 9}
    for key in ("rope_parameters", "rope_scaling"):
        assert files.convert_text_config({**data, key: rope}).rope_theta == 9.0
        assert files.convert_text_config({**data, key: None}).rope_theta == 7.0
    both = {"rope_parameters": rope, "rope_scaling": {"rope_theta": 3}}
    assert files.convert_text_config({**data, **both}).rope_theta == 9.0
    assert files.convert_text_config({**data, "rope_scaling": {"x": 1}}).rope_theta == 7.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("use_sliding_window", True),
        ("rope_parameters", {"rope_type": "yarn"}),
        ("rope_scaling", {"rope_type": "linear"}),
    ],
)
def test_other_text_encoders_are_refused(name, value):
    with pytest.raises(CorruptModelError, match="text encoder"):
        files.convert_text_config({name: value})


def write_folder(path, index_class="FlowMatchEulerDiscreteScheduler"):
    """Write the configurations of a folder of diffusers; return its model_index.json."""
    contents = {
        "transformer": {"sample_size": 6},
        "vae": {
            "_class_name": "AutoencoderKL",
            "latent_channels": 16,
            "block_out_channels": [32, 32, 32],
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
        },
        "text_encoder": {"hidden_size": 20},
    }
    for name, data in contents.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(data))
    (path / "scheduler").mkdir()
    scheduler = {"_class_name": index_class, "shift": 2.5}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return {"scheduler": ["diffusers", index_class]}


def test_a_folder_is_read_part_by_part(tmp_path):
    index = write_folder(tmp_path)
    denoiser = preset("z-image").denoiser
    read = []

    def convert(data):
        read.append(dict(data))
        return replace(denoiser, sample_size=data["sample_size"])

    def as_text_encoder(text):
        return replace(text, hidden_layers=(-2,))

    found = files.read_pipeline(tmp_path, index, convert, as_text_encoder, Defaults(7, 3.0))
    assert read == [{"sample_size": 6}]
    assert found.denoiser == replace(denoiser, sample_size=6)
    assert found.vae.block_out_channels == (32, 32, 32)
    assert found.text_encoder.hidden_size == 20 and found.text_encoder.hidden_layers == (-2,)
    assert found.scheduler.shift == 2.5 and found.scheduler.prediction_type == "flow"
    assert found.defaults == Defaults(7, 3.0, width=24, height=24)
    scheduler = SchedulerConfig(shift=9.0)
    other = files.read_model(tmp_path, convert, as_text_encoder, scheduler, Defaults(7, 3.0))
    assert other == replace(found, scheduler=scheduler)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "scheduler"])
def test_a_folder_without_a_file_is_refused(tmp_path, part):
    index = write_folder(tmp_path)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    denoiser = preset("z-image").denoiser
    (tmp_path / part / name).unlink()
    with pytest.raises(InputError, match=f"'{part}' has no file"):
        files.read_pipeline(tmp_path, index, lambda data: denoiser, lambda x: x, Defaults(7, 3.0))


# -- siblings -------------------------------------------------------------------------------------


PLAIN, VL = (presets.QWEN3_SIZES[name] for name in ("qwen3-4b", "qwen3-vl-4b"))
OTHER = replace(PLAIN, rope_theta=2e6)


@pytest.mark.parametrize(
    ("metadata", "names", "config", "words"),
    [
        ({}, (), PLAIN, ""),
        ({}, ("norm.weight",), VL, ""),
        ({}, ("visual.norm.weight",), PLAIN, "it is Qwen3-VL, and Qwen3 is"),
        ({}, ("norm.weight", "model.visual.x"), PLAIN, "it is Qwen3-VL, and Qwen3 is"),
        ({}, ("visual.norm.weight",), VL, ""),
        ({}, ("visual.norm.weight",), OTHER, ""),
        ({"general.architecture": "qwen3"}, (), PLAIN, ""),
        ({"general.architecture": "qwen3"}, (), VL, "it is Qwen3, and Qwen3-VL is"),
        ({"general.architecture": "qwen3"}, ("visual.x",), VL, ""),
        ({"general.architecture": "qwen3vl"}, (), PLAIN, "it is Qwen3-VL, and Qwen3 is"),
        ({"general.architecture": "qwen3vl"}, (), VL, ""),
        ({"general.architecture": "llama"}, (), PLAIN, ""),
        ({"general.architecture": "llama", "llama.rope.freq_base": 5e6}, (), PLAIN, "5e+06 (Qwe"),
        ({"general.architecture": "qwen3", "qwen3.rope.freq_base": 1e6}, (), PLAIN, ""),
        ({"general.architecture": "qwen3", "qwen3.rope.freq_base": 1000000.1}, (), PLAIN, ""),
        ({"general.architecture": "qwen3", "qwen3.rope.freq_base": 1000010}, (), PLAIN, "1e+06"),
        ({"general.architecture": "qwen3", "qwen3.rope.freq_base": 2e6}, (), PLAIN, "is 2e+06, "),
        ({"general.architecture": "qwen3", "qwen3.rope.freq_base": "2e6"}, (), PLAIN, ""),
        ({"general.architecture": "x", "qwen3.rope.freq_base": 2e6}, (), PLAIN, ""),
        ({"general.architecture": "qwen3"}, (), TextConfig(), ""),
        ({"general.architecture": "qwen3vl"}, (), TextConfig(), "Qwen3 is wanted"),
    ],
)
def test_what_a_file_says_against_a_configuration(metadata, names, config, words):
    found = siblings.find_sibling(names, metadata, config)
    assert words in found and bool(found) == bool(words)


def test_both_bases_are_named():
    metadata = {"general.architecture": "qwen3", "qwen3.rope.freq_base": 5e6}
    found = siblings.find_sibling((), metadata, PLAIN)
    assert "5e+06 (Qwen3-VL)" in found and "1e+06 is wanted" in found


def test_the_base_of_a_family_is_required():
    assert [*siblings.require_theta(PLAIN, 1e6)] == [] == [*siblings.require_theta(VL, 5e6)]
    assert [*siblings.require_theta(TextConfig(), 5e6)] == []
    (rule,) = siblings.require_theta(VL, 1e6)
    assert "1e+06 (Qwen3), not 5e+06 (Qwen3-VL)" in rule
    (rule,) = siblings.require_theta(OTHER, 5e6)
    assert "5e+06 (Qwen3-VL), not 2e+06" in rule and rule.count("(") == 1


# -- chats ----------------------------------------------------------------------------------------


def test_a_processor_of_texts_passes_options_on():
    def tokenize(text, **options):
        return [text, options]

    tokenize.apply_chat_template = lambda messages, **options: [messages, options]
    processor = ports.TextProcessor(tokenize)
    assert processor.tokenizer is tokenize
    assert processor(["a"], padding=True) == [["a"], {"padding": True}]
    messages = [{"role": "user"}]
    assert processor.apply_chat_template(messages, tokenize=False) == [
        messages,
        {"tokenize": False},
    ]
