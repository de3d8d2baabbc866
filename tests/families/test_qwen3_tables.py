"""Qwen3's configurations, names in files, siblings and chats, by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.families.qwen3 import encoder, files, presets, prompts, siblings
from ldmref.families.qwen3.encoder import QWEN3, Qwen3Config
from ldmref.models import preset
from ldmref.models.config import Defaults
from ldmref.models.params import flatten, unflatten
from ldmref.models.text_config import TextConfig
from ldmref.ports import qwen3 as ports
from ldmref.prompts.prompt_template import PromptTemplate
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


def test_shapes_of_a_small_model():
    block = {
        "self_attn.q_proj": (32, 6), "self_attn.k_proj": (16, 6), "self_attn.v_proj": (16, 6),
        "self_attn.o_proj": (6, 32), "self_attn.q_norm": (8,), "self_attn.k_norm": (8,),
        "mlp.gate_proj": (10, 6), "mlp.up_proj": (10, 6), "mlp.down_proj": (6, 10),
        "input_layernorm": (6,), "post_attention_layernorm": (6,),
    }  # fmt: skip
    want = {"embed_tokens.weight": (11, 6), "norm.weight": (6,)}
    for i in range(3):
        want |= {f"layers.{i}.{name}.weight": shape for name, shape in block.items()}
    assert flatten(encoder.qwen3_spec(SMALL)) == want


# -- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"num_key_value_heads": 3}, ["num_key_value_heads"]),
        ({"num_key_value_heads": 4}, []),
        ({"head_dim": 2}, []),
        ({"head_dim": 0}, ["head_dim"]),
        ({"head_dim": 1}, ["head_dim"]),
        ({"head_dim": 7}, ["head_dim"]),
        ({"hidden_layers": (3, -4, 0)}, []),
        ({"hidden_layers": (4,)}, ["hidden_layers"]),
        ({"hidden_layers": (-5,)}, ["hidden_layers"]),
        ({"hidden_layers": (1, 4)}, ["hidden_layers"]),
        (
            {"head_dim": 3, "num_key_value_heads": 3, "hidden_layers": (9,)},
            ["num_key_value_heads", "head_dim", "hidden_layers"],
        ),
    ],
)
def test_fields_that_do_not_fit(changes, words):
    found = [*encoder.broken_rules(replace(SMALL, **changes))]
    assert len(found) == len(words)
    assert all(rule.startswith(word) for rule, word in zip(found, words, strict=True))


def test_the_rule_names_the_layers_that_there_are():
    (rule,) = encoder.broken_rules(replace(SMALL, hidden_layers=(9,)))
    assert rule == "hidden_layers must be from -4 to 3, the layers that there are"


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


# -- the network ----------------------------------------------------------------------------------


def rms(x, weight, eps=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def turn_halves(x, positions, theta):
    """Turn pairs of channels that are half a head apart; x: (n, heads, l, d)."""
    half = x.shape[-1] // 2
    angles = positions[:, None, :, None] * theta ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    parts = first * np.cos(angles) - second * np.sin(angles)
    return np.concatenate([parts, second * np.cos(angles) + first * np.sin(angles)], axis=-1)


def hidden_states(flat, config, ids, mask, positions):
    """Return the hidden states of all layers, the embeddings first."""
    n, length = ids.shape
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    x = flat["embed_tokens.weight"][ids]
    found = [x]
    hidden = (np.arange(length)[:, None] < np.arange(length)) | (mask == 0)[:, None, None, :]
    for i in range(config.num_hidden_layers):
        p = {
            name.removeprefix(f"layers.{i}.").removesuffix(".weight"): value
            for name, value in flat.items()
        }
        h = rms(x, p["input_layernorm"])
        q, k, v = (
            (h @ p[f"self_attn.{name}_proj"].T).reshape(n, length, count, -1).swapaxes(1, 2)
            for name, count in (("q", heads), ("k", shared), ("v", shared))
        )
        q, k = rms(q, p["self_attn.q_norm"]), rms(k, p["self_attn.k_norm"])
        q, k = (turn_halves(part, positions, config.rope_theta) for part in (q, k))
        k, v = (np.repeat(part, heads // shared, axis=1) for part in (k, v))
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
        weights = np.exp(np.where(hidden, -np.inf, scores))
        mixed = weights / weights.sum(-1, keepdims=True) @ v
        x = x + mixed.swapaxes(1, 2).reshape(n, length, -1) @ p["self_attn.o_proj"].T
        h = rms(x, p["post_attention_layernorm"])
        gate = h @ p["mlp.gate_proj"].T
        h = gate / (1.0 + np.exp(-gate)) * (h @ p["mlp.up_proj"].T)
        x = x + h @ p["mlp.down_proj"].T
        found.append(x)
    return found


@pytest.mark.parametrize("layers", [(-1,), (1,), (0, 3, 2), (-2, 1)])
@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("counted", [None, -1])
def test_hidden_states_by_hand(layers, final_norm, counted):
    config = replace(
        SMALL,
        hidden_layers=layers,
        final_norm=final_norm,
        padding_position=counted,
        rope_theta=50.0,
    )
    generator = np.random.default_rng(0)
    flat = {
        name: generator.standard_normal(shape)
        for name, shape in flatten(encoder.qwen3_spec(config)).items()
    }
    ids = generator.integers(0, 11, (2, 5))
    mask = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 0, 0]])
    positions = np.tile(np.arange(5.0), (2, 1))
    if counted:
        positions = mask.cumsum(axis=1) - 1.0
    states = hidden_states(flat, config, ids, mask, positions)
    parts = [states[i] for i in encoder.find_layers(config)]
    if final_norm:
        parts = [rms(part, flat["norm.weight"]) for part in parts]
    found = encoder.qwen3(OPS, unflatten(flat), config, ids, mask=mask)
    np.testing.assert_allclose(found, np.concatenate(parts, axis=2), rtol=1e-8, atol=1e-9)


def test_functions_without_parameters_are_called_by_name(monkeypatch):
    """Traces show them under these names."""
    ops = get_backend("numpy", dtype="float64")
    called = []
    call = ops.call_function

    def record(name, function, *args, **options):
        called.append(name)
        return call(name, function, *args, **options)

    monkeypatch.setattr(ops, "call_function", record)
    shapes = flatten(encoder.qwen3_spec(replace(SMALL, num_hidden_layers=1)))
    p = unflatten({name: np.ones(shape) for name, shape in shapes.items()})
    encoder.qwen3(ops, p, replace(SMALL, num_hidden_layers=1), np.zeros((1, 2), np.int64))
    assert called == ["rms_norm"] * 3 + ["rotate"] * 2 + ["rms_norm"] * 2


# -- classes of transformers ----------------------------------------------------------------------


def test_the_class_of_transformers_has_all_sizes():
    made = ports.describe_qwen3(replace(SMALL, layer_norm_eps=0.25, rope_theta=7.0))
    assert made.path == "transformers:Qwen3ForCausalLM"
    assert made.settings == {
        "vocab_size": 11, "hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 0.25,
        "rope_parameters": {"rope_type": "default", "rope_theta": 7.0},
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    }  # fmt: skip


@pytest.mark.parametrize(("head", "parts"), [(8, [2, 1, 1]), (128, [22, 21, 21]), (6, [1, 1, 1])])
def test_the_class_that_sees_images_is_the_smallest(head, parts):
    made = ports.describe_qwen3_vl(replace(SMALL, head_dim=head), "Qwen3VLModel")
    assert made.path == "transformers:Qwen3VLModel"
    assert made.settings["text_config"]["rope_parameters"] == {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": parts,
    }
    found = made.settings["text_config"]["rope_parameters"]["mrope_section"]
    assert sum(parts) == head // 2 and all(isinstance(part, int) for part in found)
    assert made.settings["vision_config"] == {
        "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "out_hidden_size": 6,
    }  # fmt: skip


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


def test_the_class_of_the_scheduler_is_that_of_the_index(tmp_path, monkeypatch):
    index = write_folder(tmp_path)
    asked = []
    monkeypatch.setattr(files, "convert_scheduler_config", lambda *given: asked.append(given))
    files.read_scheduler(tmp_path, index)
    ((data, kind),) = asked
    assert data["shift"] == 2.5 and kind == "FlowMatchEulerDiscreteScheduler"


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


def test_published_sizes_of_siblings():
    small, large = presets.QWEN3_SIZES["qwen3-0.6b"], presets.QWEN3_SIZES["qwen3-8b"]
    assert [*presets.QWEN3_SIZES] == [
        "qwen3-0.6b",
        "qwen3-4b",
        "qwen3-8b",
        "qwen3-vl-4b",
        "qwen3-vl-8b",
    ]
    found = [
        (x.hidden_size, x.intermediate_size, x.num_hidden_layers, x.num_attention_heads)
        for x in (small, PLAIN, large)
    ]
    assert found == [(1024, 3072, 28, 16), (2560, 9728, 36, 32), (4096, 12288, 36, 32)]
    assert {(x.num_key_value_heads, x.head_dim) for x in presets.QWEN3_SIZES.values()} == {(8, 128)}
    assert presets.QWEN3_SIZES["qwen3-vl-8b"] == replace(large, rope_theta=5e6)
    assert replace(PLAIN, rope_theta=5e6) == VL and PLAIN.rope_theta == 1e6 == small.rope_theta


def test_a_published_model_reads_its_last_state():
    fields = {
        "model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 512,
        "layer_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_layers": (-1,), "final_norm": True,
        "use_attention_mask": True, "padding_position": None,
    }  # fmt: skip
    for config in (Qwen3Config(), PLAIN):
        assert {name: getattr(config, name) for name in fields} == fields


def test_a_small_version_for_golden_cases():
    text = replace(VL, hidden_layers=(-2,), final_norm=False)
    want = replace(
        text, vocab_size=512, hidden_size=20, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=6, max_position_embeddings=17,
    )  # fmt: skip
    assert presets.shrink_qwen3(text, 17) == want
    assert presets.shrink_qwen3(text, 17, layers=8) == replace(want, num_hidden_layers=8)


# -- chats ----------------------------------------------------------------------------------------


def test_texts_around_a_prompt():
    assert prompts.CHAT.before == "<|im_start|>user\n"
    assert prompts.CHAT.after == "<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.CHAT.cut == "end" and prompts.CHAT.dropped == 0
    start = "<|im_start|>system\nSay.<|im_end|>\n<|im_start|>user\n"
    assert prompts.with_system("Say.") == start


def test_the_way_from_prompts_to_states():
    template = PromptTemplate("a", "b")
    config = preset("z-image")
    path = prompts.read_chat(template, multiple=3)
    assert path.multiple == 3 and path.templates(config) == {"text_encoder": template}
    longer = path.with_length(config, 40)
    text = replace(config.text_encoder, max_position_embeddings=40)
    assert longer == replace(config, text_encoder=text)
    assert prompts.with_length(config, 40, 5).text_encoder.max_position_embeddings == 45
    assert prompts.read_chat(template, templates=dict).templates is dict


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


@pytest.mark.parametrize(
    ("changes", "width", "words"),
    [
        ({}, "", ""),
        ({}, "cap_feat_dim", ""),
        ({"hidden_layers": (1, 2)}, "", ""),
        ({"hidden_layers": (1, 2)}, "cap_feat_dim", "transformer.cap_feat_dim"),
        ({"hidden_size": 30}, "cap_feat_dim", "transformer.cap_feat_dim"),
        ({"hidden_size": 10, "hidden_layers": (1, 2)}, "cap_feat_dim", ""),
    ],
)
def test_states_must_fit_the_transformer(changes, width, words):
    config = preset("z-image-tiny")
    text = replace(config.text_encoder, **changes)
    found = [*prompts.broken_text_rules(replace(config, text_encoder=text), width)]
    assert len(found) == bool(words) and all(words in rule for rule in found)


def test_the_text_encoder_must_be_one_qwen3():
    config = preset("z-image-tiny")
    for wrong in (
        replace(config, text_encoder_2=config.text_encoder),
        replace(config, text_encoder=TextConfig()),
    ):
        (rule,) = prompts.broken_text_rules(wrong, "cap_feat_dim")
        assert "Qwen3" in rule
