"""LoRA: names, the merge against its definition as a second branch, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref.backends import get_backend
from ldmref.errors import (
    CorruptModelError,
    InputError,
    KeyMismatchError,
    UnsafeFileError,
    UsageError,
)
from ldmref.io.adapters.lora import apply_loras, merge, with_loras
from ldmref.io.adapters.lora_changes import Change, lora_changes
from ldmref.io.adapters.lora_file import Lora, read_loras
from ldmref.io.adapters.lora_keys import LoraTarget, lora_names
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import PRESETS

TINY = PRESETS["tiny"]
QUERY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
CONV = "unet.down_blocks.0.resnets.0.conv1.weight"
PROJ = "unet.down_blocks.0.attentions.0.proj_in.weight"
TEXT = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj.weight"
KOHYA = {
    QUERY: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    CONV: "lora_unet_down_blocks_0_resnets_0_conv1",
    PROJ: "lora_unet_down_blocks_0_attentions_0_proj_in",
    TEXT: "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
}


COMFYUI = ("text_encoders.", "clip_")  # the only names of tables of embeddings


@pytest.fixture(scope="module")
def flat():
    return flatten(init(model_spec(TINY), 3))


def change(shape, rank=2, seed=0):
    """Random `down` and `up` for a tensor of that shape."""
    draw = np.random.default_rng(seed).standard_normal
    down = draw((rank, *shape[1:])).astype(np.float32)
    up = draw((shape[0], rank, *(1,) * (len(shape) - 2))).astype(np.float32)
    return down, up


def kohya(flat, names=KOHYA, alpha=None, rank=2):
    """Return tensors in kohya's names."""
    tensors = {}
    for seed, (ours, name) in enumerate(names.items()):
        down, up = change(flat[ours].shape, rank, seed)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = np.asarray(alpha, np.float32)
    return tensors


@pytest.mark.parametrize("name", PRESETS)
def test_every_matrix_and_convolution_has_names_of_its_own(name):
    config = PRESETS[name]
    table = lora_names(config)
    shapes = flatten(model_spec(config))
    want = {
        tensor
        for tensor, shape in shapes.items()
        if len(shape) in (2, 4)
        and not tensor.startswith(("vae.", "cond_stage."))
        and not any(part in tensor for part in ("embedding.w", ".embed_"))
    }
    ours = {name: found for name, found in table.items() if not name.startswith(COMFYUI)}
    changed = [target for targets in ours.values() for target in targets]
    assert {target.tensor for target in changed if target.role == "down"} == want
    for tensor in want:
        part, inner = tensor.removesuffix(".weight").split(".", 1)
        start = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}[part]
        path = inner.replace(".", "_")
        assert table[f"lora_{start}_{path}.lora_up.weight"] == (LoraTarget(tensor, "up"),)
        assert table[f"lora_{start}_{path}.alpha"] == (LoraTarget(tensor, "alpha"),)
        assert table[f"{part}.{inner}.lora_A.weight"] == (LoraTarget(tensor, "down"),)


@pytest.mark.parametrize("preset", ["sd15", "sd2-base", "sdxl"])
def test_names_never_stand_for_two_layers(preset):
    assert all(len(targets) == 1 for targets in lora_names(PRESETS[preset]).values())


SDXL = {
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
    ),
    "lora_unet_input_blocks_3_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_input_blocks_0_0": "unet.conv_in",
    "lora_unet_input_blocks_8_0_in_layers_2": "unet.down_blocks.2.resnets.1.conv1",
    "lora_unet_middle_block_1_proj_in": "unet.mid_block.attentions.0.proj_in",
    "lora_unet_middle_block_2_emb_layers_1": "unet.mid_block.resnets.1.time_emb_proj",
    "lora_unet_output_blocks_0_1_proj_out": "unet.up_blocks.0.attentions.0.proj_out",
    "lora_unet_output_blocks_2_2_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_5_0_skip_connection": "unet.up_blocks.1.resnets.2.conv_shortcut",
    "lora_unet_output_blocks_8_0_out_layers_3": "unet.up_blocks.2.resnets.2.conv2",
    "lora_unet_time_embed_2": "unet.time_embedding.linear_2",
    "lora_unet_label_emb_0_0": "unet.add_embedding.linear_1",
    "lora_unet_out_2": "unet.conv_out",
    "lora_te1_text_model_encoder_layers_11_mlp_fc2": (
        "text_encoder.text_model.encoder.layers.11.mlp.fc2"
    ),
    "lora_te2_text_projection": "text_encoder_2.text_projection",
}


def test_names_of_sdxl():
    table = lora_names(PRESETS["sdxl"])
    got = {name: table[f"{name}.lora_down.weight"][0].tensor for name in SDXL}
    assert got == {name: f"{ours}.weight" for name, ours in SDXL.items()}


OLD = {
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight":
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight":
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight":
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_k_lora.down.weight":
        "text_encoder.text_model.encoder.layers.0.self_attn.k_proj.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_v_lora.down.weight":
        "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.weight",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight":
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight",
    "text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight":
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight",
    "unet.conv_in.lora.down.weight": "unet.conv_in.weight",
}  # fmt: skip


def test_names_of_older_diffusers():
    table = lora_names(PRESETS["sd15"])
    want = {name: (LoraTarget(tensor, "down"),) for name, tensor in OLD.items()}
    assert {name: table[name] for name in OLD} == want


@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("name", [QUERY, CONV, PROJ])
def test_merged_is_the_layer_and_a_second_branch(flat, name, alpha):
    """x W + weight * alpha / rank * up(down(x)), computed as the two-branch network it was."""
    ops = get_backend("numpy", dtype="float64")
    w = flat[name].astype(np.float64)
    down, up = (a.astype(np.float64) for a in change(w.shape))
    change_of = Change("LoRA", {"down": down, "up": up}, 1.0 if alpha is None else alpha / 2)
    merged = merge(w, change_of, 0.8)
    factor = 0.8 * (1.0 if alpha is None else alpha / 2)
    draw = np.random.default_rng(1).standard_normal
    if w.ndim == 2:
        x = draw((5, w.shape[1]))
        got = x @ merged.T
        want = x @ w.T + factor * (x @ down.T) @ up.T
    else:
        x = draw((1, w.shape[1], 6, 6))
        pad = w.shape[2] // 2
        branch = ops.conv2d(ops.conv2d(x, down, padding=pad), up)
        got = ops.conv2d(x, merged, padding=pad)
        want = ops.conv2d(x, w, padding=pad) + factor * branch
    assert np.abs(got - want).max() < 1e-12 * np.abs(want).max()


def test_only_named_tensors_change_and_the_given_ones_do_not(flat):
    before = {name: tensor.copy() for name, tensor in flat.items()}
    merged = apply_loras(TINY, flat, [Lora("a", kohya(flat), 0.5)])
    assert {n for n in flat if not np.array_equal(flat[n], merged[n])} == set(KOHYA)
    assert all(np.array_equal(before[name], flat[name]) for name in flat)
    assert merged.keys() == flat.keys()


def test_two_loras_add_up_and_zero_is_nothing(flat):
    first = kohya(flat)
    second = kohya(flat, {QUERY: KOHYA[QUERY]}, alpha=3.0, rank=4)
    both = apply_loras(TINY, flat, [Lora("a", first, 1.0), Lora("b", second, -0.5)])
    down, up = change(flat[QUERY].shape)
    down2, up2 = change(flat[QUERY].shape, 4)
    want = flat[QUERY] + up @ down - 0.5 * 3 / 4 * (up2 @ down2)
    assert np.allclose(both[QUERY], want, atol=1e-5)
    none = apply_loras(TINY, flat, [Lora("a", first, 0.0)])
    assert all(np.array_equal(none[name], flat[name]) for name in flat)


def test_short_weights_are_merged_in_float32(flat):
    short = {name: tensor.astype(np.float16) for name, tensor in flat.items()}
    merged = apply_loras(TINY, short, [Lora("a", kohya(flat), 1e-3)])
    assert merged[QUERY].dtype == np.float32 and merged["unet.conv_in.weight"].dtype == np.float16
    down, up = change(flat[QUERY].shape)
    want = short[QUERY].astype(np.float64) + 1e-3 * up.astype(np.float64) @ down
    assert np.abs(merged[QUERY] - want).max() < 1e-7


def test_a_matrix_may_lie_as_a_1x1_convolution(flat):
    files = kohya(flat, {PROJ: KOHYA[PROJ]}), kohya(flat, {QUERY: KOHYA[QUERY]})
    bare = {n: t.reshape(t.shape[:2]) for n, t in files[0].items()}
    spread = {n: t.reshape(*t.shape, 1, 1) for n, t in files[1].items()}
    for one, other, name in ((files[0], bare, PROJ), (files[1], spread, QUERY)):
        a = apply_loras(TINY, flat, [Lora("a", one)])
        assert np.array_equal(a[name], apply_loras(TINY, flat, [Lora("a", other)])[name])


def drop(name):
    return lambda f: f.pop(name)


def put(name, shape):
    return lambda f: f.update({name: np.ones(shape, np.float32)})


Q = KOHYA[QUERY]
MISFITS = {
    "unknown name": (put("lora_unet_strange.alpha", ()), "1 unexpected (lora_unet_strange.alpha)"),
    "LoHa as well": (put(f"{Q}.hada_w1_a", (2, 2)), f"2 unexpected ({Q}.lora_down.weight"),
    "lengths": (put(f"{Q}.dora_scale", (2, 2)), f"{Q}.dora_scale is (2, 2), not (16, 1)"),
    "Tucker": (
        put(f"{KOHYA[CONV]}.lora_mid.weight", (2, 2, 3, 3)),
        "lora_down.weight is (2, 16, 3, 3), not (2, 16)",
    ),
    "core": (put(f"{KOHYA[CONV]}.lora_mid.weight", (2, 3, 3, 3)), "is (2, 3, 3, 3), not (2, 2"),
    "no up": (drop(f"{Q}.lora_up.weight"), f"1 missing (up for {Q}.lora_down.weight)"),
    "no down": (drop(f"{Q}.lora_down.weight"), f"1 missing (down for {Q}.lora_up.weight)"),
    "other width": (
        put(f"{Q}.lora_down.weight", (2, 9)),
        f"1 misshapen ({Q}.lora_down.weight is (2, 9), not (2, 16))",
    ),
    "other height": (put(f"{Q}.lora_up.weight", (9, 2)), "is (9, 2), not (16, 2)"),
    "other rank": (put(f"{Q}.lora_up.weight", (16, 3)), "is (16, 3), not (16, 2)"),
    "no rank": (put(f"{Q}.lora_down.weight", (0, 16)), "misshapen"),
    "no shape": (put(f"{Q}.lora_down.weight", ()), "misshapen"),
    "alpha per row": (put(f"{Q}.alpha", (2,)), f"{Q}.alpha is (2,), not ()"),
    "other kernel": (
        put(f"{KOHYA[CONV]}.lora_down.weight", (2, 16, 5, 5)),
        "is (2, 16, 5, 5), not (2, 16, 3, 3)",
    ),
    "twice": (
        put(
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", (2, 16)
        ),
        "attn1.to_q.weight twice, as lora_unet_down_blocks",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_with_a_list(flat, case):
    breaking, word = MISFITS[case]
    tensors = kohya(flat)
    breaking(tensors)
    with pytest.raises(KeyMismatchError, match=re.escape(word)) as error:
        apply_loras(TINY, flat, [Lora("style", tensors)])
    assert "'style' does not fit 'tiny'" in str(error.value) and error.value.exit_code == 3


WHOLE = {
    "a model of ldmref": ({"unet.conv_in.weight": (4, 4), "vae.encoder.bias": (4,)}, "whole model"),
    "a checkpoint of CompVis": (
        {"model.diffusion_model.out.0.weight": (4,), "cond_stage_model.x.bias": (4,)},
        "whole model",
    ),
    "an autoencoder": ({"encoder.conv_in.weight": (4, 4)}, "an autoencoder, not a LoRA"),
    "a word": ({"emb_params": (1, 4)}, "a textual inversion, not a LoRA"),
    "an OFT": ({"lora_unet_conv_in.oft_blocks": (4, 4)}, "an OFT or BOFT, rotations of weights"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_file_of_weights_instead_of_changes_is_named(flat, case):
    shapes, words = WHOLE[case]
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(KeyMismatchError, match=words) as caught:
        apply_loras(TINY, flat, [Lora("style", tensors)])
    assert "'style' is" in str(caught.value) and caught.value.hint
    if words == "whole model":
        assert "-m" in caught.value.hint


def test_other_families_are_refused(flat):
    """The names may be the same; the widths are not."""
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": np.ones((4, 768), np.float32),
        f"{name}.lora_up.weight": np.ones((640, 4), np.float32),
    }
    assert lora_changes(PRESETS["sd15"], Lora("sd1", tensors))
    for other in ("sd2-base", "sdxl"):
        with pytest.raises(KeyMismatchError, match=r"is \(4, 768\), not \(4, (1024|2048)\)"):
            lora_changes(PRESETS[other], Lora("sd1", tensors))


def test_damaged_files_are_refused(flat, tmp_path):
    tensors = kohya(flat)
    tensors[f"{Q}.lora_up.weight"][0, 0] = np.nan
    with pytest.raises(CorruptModelError, match="NaN or infinity"):
        apply_loras(TINY, flat, [Lora("a", tensors)])
    with pytest.raises(CorruptModelError, match="holds no tensors"):
        apply_loras(TINY, flat, [Lora("a", {})])
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(UnsafeFileError):
        read_loras([tmp_path / "a.safetensors"])
    with pytest.raises(InputError):
        read_loras([tmp_path / "gone.safetensors"])
    for weight in (float("nan"), float("inf"), "1", None, True, 1e300, -100.001):
        with pytest.raises(UsageError, match="number from -100 to 100"):
            read_loras([(tmp_path / "a.safetensors", weight)])


ADAPTERS = {
    "alpha": ({"unet.lora_alpha": 4, "unet.r": 2}, {QUERY: 2.0, CONV: 2.0, TEXT: 1.0}),
    "pattern": (
        {"unet.lora_alpha": 4, "unet.alpha_pattern": {"resnets.0.conv1": 1, "attn1.to": 9}},
        {QUERY: 2.0, CONV: 0.5, TEXT: 1.0},
    ),
    "rslora": (
        {"text_encoder.lora_alpha": 3, "text_encoder.use_rslora": True},
        {QUERY: 1.0, CONV: 1.0, TEXT: 3 / 2**0.5},
    ),
    "one network": ({"lora_alpha": 1}, {QUERY: 0.5, CONV: 0.5, TEXT: 0.5}),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_alpha_that_peft_records_in_the_metadata(flat, tmp_path, case):
    adapter, factors = ADAPTERS[case]
    tensors = {}
    for ours in factors:
        down, up = change(flat[ours].shape)
        path = ours.removesuffix(".weight")
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    path = tmp_path / "a.safetensors"
    save_file(tensors, str(path), {"lora_adapter_metadata": json.dumps(adapter)})
    merged = apply_loras(TINY, flat, read_loras([path]))
    for ours, factor in factors.items():
        down, up = change(flat[ours].shape)
        delta = (up.reshape(len(up), 2) @ down.reshape(2, -1)).reshape(flat[ours].shape)
        assert np.allclose(merged[ours], flat[ours] + factor * delta, atol=1e-5), ours


def test_adapter_metadata_that_cannot_be_followed(flat, tmp_path):
    down, up = change(flat["unet.conv_in.weight"].shape)
    tensors = {"unet.conv_in.lora_A.weight": down, "unet.conv_in.lora_B.weight": up}
    for text in ("{", "[]", '{"unet.lora_alpha": "x"}', '{"unet.use_dora": true}'):
        save_file(tensors, str(tmp_path / "a.safetensors"), {"lora_adapter_metadata": text})
        with pytest.raises(CorruptModelError):
            apply_loras(TINY, flat, read_loras([tmp_path / "a.safetensors"]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a model folder of `tiny` in float32 and two LoRAs for it."""
    from ldmref.io.native import save_folder

    model = ldmref.random_model("tiny", backend="numpy")
    folder = tmp_path_factory.mktemp("lora")
    save_folder(folder / "tiny", model.config, model.params, [model.tokenizer], np.float32)
    save_file(kohya(flatten(model.params)), str(folder / "style.safetensors"))
    return folder


def peft(flat, alone=True):
    """Return a file of PEFT's own, for the U-Net or the text encoder alone."""
    tensors = {}
    for seed, ours in enumerate(KOHYA):
        part, _, layer = ours.removesuffix(".weight").partition(".")
        if (part == "unet") is alone:
            down, up = change(flat[ours].shape, 2, seed)
            name = f"base_model.model.{layer}"
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return tensors


@pytest.mark.parametrize("alone", [True, False])
def test_files_of_peft(flat, tmp_path, alone):
    """The result is the same as without its wrapper; alpha is in adapter_config.json."""
    tensors = peft(flat, alone)
    path = tmp_path / "adapter_model.safetensors"
    assert tensors
    save_file(tensors, str(path))
    part = "unet." if alone else "text_encoder."
    plain = {name.replace("base_model.model.", part): t for name, t in tensors.items()}
    for told, alpha in (({}, None), ({"lora_alpha": 8, "r": 2}, 8.0)):
        if told:
            (tmp_path / "adapter_config.json").write_text(json.dumps(told))
        got = apply_loras(TINY, flat, read_loras([path]))
        scaled = {
            n: t * (1 if alpha is None or "lora_B" not in n else alpha / 2)
            for n, t in plain.items()
        }
        want = apply_loras(TINY, flat, [Lora("plain", scaled)])
        assert all(np.allclose(got[name], want[name], atol=1e-6) for name in flat)
        assert any(not np.array_equal(got[name], flat[name]) for name in flat)


def test_load_merges_and_records(saved):
    path = saved / "style.safetensors"
    plain = ldmref.load(saved / "tiny", backend="numpy")
    model = ldmref.load(saved / "tiny", backend="numpy", lora=[(path, 0.8)])
    base = flatten(plain.params)
    want = apply_loras(TINY, base, read_loras([(path, 0.8)]))
    assert all(np.array_equal(want[name], tensor) for name, tensor in flatten(model.params).items())
    assert not np.array_equal(
        model.params.unet.conv_in.weight + 1, plain.params.unet.conv_in.weight
    )
    from ldmref import modes

    result = modes.txt2img(model, "red heart", seed=0, steps=2)
    (record,) = result.params["model"]["loras"]
    assert record["name"] == "style" and record["weight"] == 0.8 and len(record["sha256"]) == 64
    assert "loras" not in modes.txt2img(plain, "red heart", seed=0, steps=2).params["model"]
    bare = ldmref.load(saved / "tiny", backend="numpy", lora=str(path))
    assert bare.modifications["loras"][0]["weight"] == 1.0


def test_a_loaded_model_takes_what_load_would_have_merged(saved):
    path = saved / "style.safetensors"
    plain = ldmref.load(saved / "tiny", backend="numpy")
    want = flatten(ldmref.load(saved / "tiny", backend="numpy", lora=[path]).params)
    before = {name: x.copy() for name, x in flatten(plain.params).items()}
    got = flatten(with_loras(plain, read_loras([path])).params)
    assert got.keys() == want.keys()
    assert all(np.array_equal(want[name], x) for name, x in got.items())
    assert any(not np.array_equal(before[name], x) for name, x in got.items())
    assert all(np.array_equal(before[name], x) for name, x in flatten(plain.params).items())
