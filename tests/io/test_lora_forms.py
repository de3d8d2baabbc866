"""LoHa, LoKr, DoRA and differences: the formulas' laws, makers' layers, and programs' names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import ldmref
from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UnsafeFileError
from ldmref.io.adapters import formulas
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_changes import find_families, lora_changes
from ldmref.io.adapters.lora_file import Lora, layer_config, matches, open_loras, read_loras
from ldmref.io.adapters.lora_keys import lora_names, unwrapped
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.support.deferred import DeferredArray

EPS = np.finfo(np.float64).eps
RANK = 2
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**16)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# -- formulas -------------------------------------------------------------------------------------


@given(o=sizes, i=sizes, p=sizes, q=sizes, seed=seeds)
def test_a_tucker_kernel_is_three_convolutions(o, i, p, q, seed):
    """1 x 1, then 3 x 3, then 1 x 1."""
    ops = get_backend("numpy", dtype="float64")
    core, rows, columns = normal(seed, p, q, 3, 3), normal(seed + 1, o, p), normal(seed + 2, q, i)
    x = normal(seed + 3, 1, i, 5, 5)
    inner = ops.conv2d(ops.conv2d(x, columns[:, :, None, None]), core, padding=1)
    want = ops.conv2d(inner, rows[:, :, None, None])
    got = ops.conv2d(x, formulas.tucker_kernel(core, rows, columns), padding=1)
    magnitude = 9 * p * q * i * 4**4  # of a sum of products of four normal numbers
    assert np.abs(got - want).max() <= 8 * EPS * magnitude * max(1, np.abs(want).max())


@given(o=sizes, n=sizes, r=sizes, s=sizes, seed=seeds)
def test_loha_is_a_product_of_rank_r_s(o, n, r, s, seed):
    """Of the row-wise and column-wise Kronecker products (Khatri-Rao) of the factors."""
    a, b, c, d = (
        normal(seed + k, *shape) for k, shape in enumerate(((o, r), (r, n), (o, s), (s, n)))
    )
    up = np.einsum("or,os->ors", a, c).reshape(o, r * s)
    down = np.einsum("rn,sn->rsn", b, d).reshape(r * s, n)
    bound = 8 * EPS * r * s * (np.abs(up) @ np.abs(down))
    assert np.all(np.abs(formulas.hadamard_change((a, b), (c, d)) - up @ down) <= bound)


@given(a=sizes, b=sizes, c=sizes, d=sizes, seed=seeds)
def test_lokr_is_numpys_kronecker_product(a, b, c, d, seed):
    small, large = normal(seed, a, c), normal(seed + 1, b, d)
    assert np.array_equal(formulas.kronecker_change(small, large), np.kron(small, large))
    kernel = normal(seed + 2, b, d, 3, 3)
    got = formulas.kronecker_change(small, kernel)
    want = [np.kron(small, kernel[:, :, y, x]) for y in range(3) for x in range(3)]
    assert np.array_equal(got.reshape(a * b, c * d, 9), np.stack(want, axis=2))


@given(seed=seeds, columns=st.booleans(), size=st.sampled_from([(), (3, 3)]))
def test_dora_sets_lengths_and_keeps_directions(seed, columns, size):
    v = normal(seed, 3, 5, *size)
    m = np.abs(normal(seed + 1, v.shape[columns])) + 0.1
    got = formulas.decomposed_weight(v, m, formulas.squared_norms(v, columns), columns)
    lengths = np.sqrt(formulas.squared_norms(got, columns))
    assert np.all(np.abs(lengths - m) <= 64 * EPS * m)
    ratio = got / v
    spread = np.ptp(np.moveaxis(ratio, int(columns), 0).reshape(len(m), -1), axis=1)
    assert np.all(spread <= 64 * EPS * np.abs(ratio).max())


def test_a_row_of_zeros_stays_zero():
    v = np.asarray([[0.0, 0.0], [3.0, 4.0]])
    got = formulas.decomposed_weight(v, np.asarray([2.0, 10.0]), formulas.squared_norms(v))
    assert np.array_equal(got, [[0.0, 0.0], [6.0, 8.0]])


# -- layers of the models' makers, which hold several of ours -------------------------------------


def table_of(config):
    """Return the family's key table, without a prefix."""
    tables = [layout.table(config) for layout in family_of(config).files]
    return next(t for t in tables if not any(e.name.startswith("model.") for e in t.values()))


def loha(shape, seed):
    """Return the tensors of a LoHa by ending, and its change of weight 1."""
    rest = int(np.prod(shape[1:]))
    a, b, c, d = (
        0.3 * normal(seed + k, *size)
        for k, size in enumerate(((shape[0], RANK), (RANK, rest), (shape[0], RANK), (RANK, rest)))
    )
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": 3.0}
    return parts, 1.5 * (a @ b * (c @ d)).reshape(shape)


def lokr(shape, seed):
    a = next(n for n in (4, 2, 1) if shape[0] % n == 0)
    c = next(n for n in (2, 1) if shape[1] % n == 0)
    small = 0.3 * normal(seed, a, c)
    up = normal(seed + 1, shape[0] // a, RANK)
    down = normal(seed + 2, RANK, int(np.prod(shape[1:])) // c)
    parts = {"lokr_w1": small, "lokr_w2_a": up, "lokr_w2_b": down, "alpha": 1.0}
    large = (up @ down).reshape(shape[0] // a, shape[1] // c, *shape[2:])
    return parts, 0.5 * formulas.kronecker_change(small, large)


def lora(shape, seed):
    up, down = normal(seed, shape[0], RANK), normal(seed + 1, RANK, *shape[1:])
    product = (up @ down.reshape(RANK, -1)).reshape(shape)
    ones = (1,) * (len(shape) - 2)
    return {"lora_up.weight": up.reshape(*up.shape, *ones), "lora_down.weight": down}, product


def difference(shape, seed):
    return {"diff": normal(seed, *shape)}, normal(seed, *shape)


def rows(parts, shape, seed):
    lengths = np.abs(normal(seed, shape[0])) + 0.5
    axes = (1,) * (len(shape) - 1)
    return parts | {"dora_scale": lengths.reshape(-1, *axes)}, lengths, False


def columns(parts, shape, seed):
    lengths = np.abs(normal(seed, shape[1])) + 0.5
    axes = (1,) * (len(shape) - 2)
    return parts | {"dora_scale": lengths.reshape(1, -1, *axes)}, lengths, True


FORMS = {"LoHa": loha, "LoKr": lokr, "LoRA": lora, "difference": difference}
DIRECTIONS = {"": None, "rows": rows, "columns": columns}
NAMES = {
    "kohya": lambda layer: "lora_unet_" + layer.replace(".", "_"),
    "ComfyUI": lambda layer: "diffusion_model." + layer,
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["flux-tiny", "sd3-tiny"])
def test_a_change_of_the_makers_layers(name, form, direction):
    """The stored layer by its definition, whatever of ours it holds, is read as ours."""
    if form == "difference" and direction:
        pytest.skip("a difference has no lengths")
    config = preset(name)
    flat = {
        n: x + 0.1 * normal(3, *x.shape) for n, x in flatten(init(model_spec(config), 3)).items()
    }
    prefix = config.denoiser.network + "."
    own = {n.removeprefix(prefix): x for n, x in flat.items() if n.startswith(prefix)}
    stored = to_compvis(own, table_of(config))
    name_of = NAMES["kohya" if form == "LoHa" else "ComfyUI"]
    tensors = {}
    weight = 0.7
    for seed, (layer, shape) in enumerate(list_stored_shapes(table_of(config)).items()):
        if not layer.endswith(".weight") or len(shape) not in (2, 4):
            continue
        parts, change = FORMS[form](shape, 10 * seed)
        base = stored[layer]
        changed = base + change
        if direction:
            parts, lengths, across = DIRECTIONS[direction](parts, shape, seed)
            squared = formulas.squared_norms(changed, across)
            changed = formulas.decomposed_weight(changed, lengths, squared, across)
        stored[layer] = (1 - weight) * base + weight * changed
        path = name_of(layer.removesuffix(".weight"))
        tensors |= {f"{path}.{role}": np.asarray(x) for role, x in parts.items()}
    want = to_native(stored, table_of(config))
    lazy = {n: DeferredArray(lambda x=x: x, x.shape, x.dtype) for n, x in flat.items()}
    for base in (flat, lazy):
        got = apply_loras(config, base, [Lora("style", tensors, weight)])
        for key, x in flat.items():
            expected = want[key.removeprefix(prefix)] if key.startswith(prefix) else x
            bound = 1e-12 * max(1, np.abs(expected).max())
            assert np.abs(np.asarray(got[key]) - expected).max() <= bound, key


def test_weight_zero_is_nothing_and_two_follow_each_other():
    """Also with lengths, which a weight of 0 leaves alone; the second starts from the first."""
    config = preset("sd3-tiny")
    flat = {n: x.astype(np.float64) for n, x in flatten(init(model_spec(config), 3)).items()}
    tensor = "transformer.transformer_blocks.0.attn.to_out.0.weight"
    shape = flat[tensor].shape
    files = []
    for seed, form in ((0, loha), (1, lokr)):
        parts, change = form(shape, seed)
        parts, lengths, _ = rows(parts, shape, seed)
        path = tensor.removesuffix(".weight")
        files.append(
            ({f"{path}.{role}": np.asarray(x) for role, x in parts.items()}, change, lengths)
        )
    none = apply_loras(config, flat, [Lora("a", files[0][0], 0.0)])
    assert np.array_equal(none[tensor], flat[tensor])
    want = flat[tensor]
    for _, change, lengths in files:
        v = want + change
        want = formulas.decomposed_weight(v, lengths, formulas.squared_norms(v))
    got = apply_loras(config, flat, [Lora("a", files[0][0]), Lora("b", files[1][0])])[tensor]
    assert np.abs(got - want).max() <= 1e-13


# -- names of programs ----------------------------------------------------------------------------

CLIP = "text_model.encoder.layers.0.mlp.fc1"
TOKENS = "text_model.embeddings.token_embedding"
T5 = "encoder.block.0.layer.0.SelfAttention.q"
SPELLINGS = [  # preset, name of a tensor, ours
    ("flux-tiny", f"lora_te2_{T5.replace('.', '_')}.lora_up.weight", f"text_encoder_2.{T5}.weight"),
    ("flux-tiny", f"lora_te3_{T5.replace('.', '_')}.alpha", f"text_encoder_2.{T5}.weight"),
    ("sd3-tiny", f"lora_te3_{T5.replace('.', '_')}.alpha", f"text_encoder_3.{T5}.weight"),
    ("sd3-tiny", f"text_encoders.t5xxl.transformer.{T5}.lora_up.weight",
     f"text_encoder_3.{T5}.weight"),
    ("sd3-tiny", f"text_encoders.clip_g.transformer.{CLIP}.lora_down.weight",
     f"text_encoder_2.{CLIP}.weight"),
    ("tiny", f"text_encoders.clip_l.{CLIP}.lora_down.weight", f"text_encoder.{CLIP}.weight"),
    ("tiny", f"text_encoders.clip_l.transformer.{CLIP}.diff_b", f"text_encoder.{CLIP}.bias"),
    ("tiny", f"text_encoders.clip_l.transformer.{TOKENS}.lora_up.weight",
     f"text_encoder.{TOKENS}.weight"),
    ("tiny", "text_encoders.clip_l.transformer.text_model.final_layer_norm.diff",
     "text_encoder.text_model.final_layer_norm.weight"),
    ("tiny", f"clip_l.{CLIP}.lora_A.weight", f"text_encoder.{CLIP}.weight"),
    ("tiny", "diffusion_model.out.2.lora_up.weight", "unet.conv_out.weight"),
    ("tiny", "diffusion_model.out.2.diff_b", "unet.conv_out.bias"),
    ("tiny", "diffusion_model.out.0.diff", "unet.conv_norm_out.weight"),
    ("tiny", "lora_unet_conv_norm_out.w_norm", "unet.conv_norm_out.weight"),
    ("tiny", "lora_unet_conv_norm_out.b_norm", "unet.conv_norm_out.bias"),
    ("tiny", "lycoris_conv_out.lokr_w1", "unet.conv_out.weight"),
    ("tiny", "base_model.model.conv_out.lora_A.default.weight", "unet.conv_out.weight"),
    ("tiny", "unet.conv_out.lora_B.default_0.weight", "unet.conv_out.weight"),
    ("tiny", "unet.conv_out.lora_magnitude_vector.default.weight", "unet.conv_out.weight"),
    ("tiny", "unet.conv_out.magnitude", "unet.conv_out.weight"),
    ("tiny", "lora_unet_conv_out.magnitude", "unet.conv_out.weight"),
    ("tiny", "base_model.model.conv_out.hada_w1_a.default", "unet.conv_out.weight"),
    ("flux-tiny", "single_blocks.0.processor.proj_lora.up.weight",
     "transformer.single_transformer_blocks.0.proj_out.weight"),
    ("flux-tiny", "diffusion_model.double_blocks.1.processor.proj_lora2.down.weight",
     "transformer.transformer_blocks.1.attn.to_add_out.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spelling", "ours"), SPELLINGS)
def test_names_of_programs(name, spelling, ours):
    (target,) = lora_names(preset(name))[unwrapped(spelling)]
    assert target.tensor == ours


def test_xlabs_stacks_queries_keys_and_values():
    config = preset("flux-tiny")
    width = config.denoiser.width
    up, down = normal(0, 3 * width, RANK), normal(1, RANK, width)
    stacks = {
        "double_blocks.0.processor.qkv_lora2": "transformer_blocks.0.attn.add_{}_proj",
        "single_blocks.1.processor.qkv_lora": "single_transformer_blocks.1.attn.to_{}",
    }
    for stack, path in stacks.items():
        changes = lora_changes(
            config, Lora("x", {f"{stack}.down.weight": down, f"{stack}.up.weight": up})
        )
        assert len(changes) == 3
        for third, letter in enumerate("qkv"):
            change = changes[f"transformer.{path.format(letter)}.weight"]
            assert np.array_equal(change.parts["up"], up[third * width : (third + 1) * width])
            assert np.array_equal(change.parts["down"], down)


@pytest.mark.parametrize("spelling", ["magnitude", "lora_magnitude_vector"])
@pytest.mark.parametrize("name", ["tiny", "flux-tiny", "z-image-tiny", "sd3-tiny"])
def test_the_magnitude_of_ai_toolkit_is_that_of_peft(name, spelling):
    config = preset(name)
    network = config.denoiser.network
    shapes = flatten(model_spec(config)[network])
    path = next(k for k, x in shapes.items() if k.endswith("to_q.weight") and len(x) == 2)
    rows, columns = shapes[path]
    layer = f"{network}.{path.removesuffix('.weight')}"
    lengths = np.abs(normal(2, rows)) + 0.1
    file = {
        f"{layer}.lora_A.weight": normal(0, RANK, columns),
        f"{layer}.lora_B.weight": normal(1, rows, RANK),
        f"{layer}.{spelling}": lengths,
    }
    (change,) = lora_changes(config, Lora("x", file)).values()
    assert np.array_equal(change.magnitude, lengths) and not change.by_columns


JOINED = {  # of the same layer: the stack of the makers, and queries, keys and values of diffusers
    "z-image-tiny": ("layers.{}.attention.qkv", "layers.{}.attention.to_{}"),
    "flux-tiny": ("double_blocks.{}.img_attn.qkv", "transformer_blocks.{}.attn.to_{}"),
    "flux2-tiny": ("double_blocks.{}.img_attn.qkv", "transformer_blocks.{}.attn.to_{}"),
}


def make_layer(config, path):
    names = lora_names(config)
    first = f"diffusion_model.{path}.lora_A.weight"
    (target, *_) = names[unwrapped(first)]
    shape = flatten(model_spec(config))[target.tensor]
    rows, columns = target.entry.stored_shape if target.entry else shape
    return {
        first: normal(0, RANK, columns),
        f"diffusion_model.{path}.lora_B.weight": normal(1, rows, RANK),
    }


@pytest.mark.parametrize("stack_first", [True, False])
@pytest.mark.parametrize("name", JOINED)
def test_a_stack_and_its_parts_are_read_for_other_blocks_and_refused_for_one(name, stack_first):
    config = preset(name)
    stack, part = JOINED[name]
    files = [make_layer(config, stack.format(0))]
    files += [make_layer(config, part.format(1, letter)) for letter in "qkv"]
    mixed = {k: x for file in files for k, x in file.items()}
    assert len(lora_changes(config, Lora("x", mixed))) == 6
    twice = [make_layer(config, stack.format(0)), make_layer(config, part.format(0, "k"))]
    twice = twice if stack_first else twice[::-1]
    with pytest.raises(
        KeyMismatchError, match=r"to_k\.weight twice, as .*lora_A.* and as "
    ) as caught:
        lora_changes(config, Lora("x", {k: x for file in twice for k, x in file.items()}))
    assert "one of the two notations" in caught.value.hint


def test_comfyuis_text_projection_of_a_model_without_one_is_left_out():
    config = preset("tiny")
    path = f"text_encoders.clip_l.transformer.{CLIP}"
    parts = lora(flatten(model_spec(config))[f"text_encoder.{CLIP}.weight"], 0)[0]
    tensors = {f"{path}.{role}": x for role, x in parts.items()}
    unused = "text_encoders.clip_l.transformer.text_projection.lora_up.weight"
    (tensor,) = lora_changes(config, Lora("x", tensors | {unused: np.zeros((4, 2))}))
    assert tensor == f"text_encoder.{CLIP}.weight"


# -- PEFT's folders and configuration -------------------------------------------------------------


def peft_folder(folder, recorded, endings=("lora_A.weight", "lora_B.weight")):
    """Write a folder as `save_pretrained` does, for the U-Net of `tiny`."""
    folder.mkdir()
    down, up = normal(0, RANK, 32), normal(1, 16, RANK)
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    name = f"base_model.model.{path}."
    tensors = {name + end: x for end, x in zip(endings, (down, up), strict=True)}
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    (folder / "adapter_config.json").write_text(json.dumps(recorded))
    return f"unet.{path}.weight", up @ down


CONFIGS = {
    "alpha": ({"r": 2, "lora_alpha": 6}, 3.0),
    "rslora": ({"r": 2, "lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
    "pattern": ({"lora_alpha": 6, "alpha_pattern": {"attn2.to_k": 1}}, 0.5),
    "regular expression": ({"lora_alpha": 6, "alpha_pattern": {"down_blocks.*to_[kv]": 1}}, 0.5),
    "another layer": ({"lora_alpha": 6, "alpha_pattern": {"^to_k": 1, "attn1.to_k": 1}}, 3.0),
    "rank pattern": ({"r": 8, "rank_pattern": {"to_k": 2}, "lora_alpha": 6}, 3.0),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_folder_of_peft(tmp_path, case):
    recorded, factor = CONFIGS[case]
    tensor, product = peft_folder(tmp_path / "style", recorded)
    config = preset("tiny")
    flat = {n: np.zeros(shape) for n, shape in flatten(model_spec(config)).items()}
    (given,) = read_loras([(tmp_path / "style", 0.5)])
    assert (given.name, given.weight) == ("style", 0.5)
    got = apply_loras(config, flat, [given])[tensor]
    assert np.abs(got - 0.5 * factor * product).max() <= 1e-14


def test_a_folder_of_diffusers_or_of_neither(tmp_path):
    tensor = "unet.conv_out.lora_A.weight"
    (tmp_path / "a").mkdir()
    save_file({tensor: np.ones((1, 16))}, str(tmp_path / "a" / "pytorch_lora_weights.safetensors"))
    assert list(open_loras([tmp_path / "a"])[0].tensors) == [tensor]
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="folder without a LoRA"):
        open_loras([tmp_path / "b"])
    (tmp_path / "b" / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UnsafeFileError):
        open_loras([tmp_path / "b"])


def test_load_takes_the_folder(tmp_path):
    from ldmref.io.native import save_folder

    model = ldmref.random_model("tiny", backend="numpy")
    save_folder(tmp_path / "tiny", model.config, model.params, [model.tokenizer], np.float32)
    tensor, product = peft_folder(tmp_path / "style", {"r": 2, "lora_alpha": 2})
    changed = ldmref.load(tmp_path / "tiny", backend="numpy", lora=[tmp_path / "style"])
    difference = flatten(changed.params)[tensor] - flatten(model.params)[tensor]
    assert np.abs(difference - product).max() <= 1e-5


def test_peft_scales_whole_factors_of_lokr_by_the_recorded_rank(tmp_path):
    """LyCORIS leaves them alone, PEFT does not."""
    config = preset("tiny")
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    small, large = normal(0, 4, 4), normal(1, 4, 8)
    (tmp_path / "style").mkdir()
    tensors = {f"base_model.model.{path}.lokr_w1": small, f"base_model.model.{path}.lokr_w2": large}
    save_file(tensors, str(tmp_path / "style" / "adapter_model.safetensors"))
    recorded = {"peft_type": "LOKR", "r": 16, "alpha": 4, "rank_pattern": {}}
    (tmp_path / "style" / "adapter_config.json").write_text(json.dumps(recorded))
    flat = {n: np.zeros(shape) for n, shape in flatten(model_spec(config)).items()}
    got = apply_loras(config, flat, read_loras([tmp_path / "style"]))[f"unet.{path}.weight"]
    assert np.abs(got - np.kron(small, large) / 4).max() <= 1e-14
    lycoris = {name.replace("base_model.model", "unet"): x for name, x in tensors.items()}
    lycoris[f"unet.{path}.alpha"] = np.asarray(4.0)
    got = apply_loras(config, flat, [Lora("x", lycoris)])[f"unet.{path}.weight"]
    assert np.abs(got - np.kron(small, large)).max() <= 1e-14


def test_what_peft_records_and_cannot_be_followed():
    for recorded in (
        {"peft_type": "OFT"},
        {"alpha_pattern": [1]},
        {"lora_alpha": "x"},
        {"lora_alpha": 1, "alpha_pattern": {"(a*)*b": 1}},
        {"lora_alpha": 1, "alpha_pattern": {"(": 1}},
        {"lora_alpha": 1, "alpha_pattern": {"[ab]+" * 9: 1}},
    ):
        with pytest.raises(CorruptModelError):
            layer_config(recorded, "unet.conv_in.weight", "conv_in.lora_A.weight")
    assert not matches("conv", "conv_in") and matches("in", "x.in") and not matches("in", "conv_in")


# -- refusals -------------------------------------------------------------------------------------

LAYER = "lora_unet_conv_in"
OTHERS = {
    "OFT of PEFT": ("base_model.model.conv_in.oft_R.weight", "an OFT"),
    "OFT of LyCORIS": (f"{LAYER}.oft_blocks", "an OFT"),
    "BOFT of PEFT": ("base_model.model.conv_in.boft_R", "a BOFT"),
    "IA3 of LyCORIS": (f"{LAYER}.on_input", r"an \(IA\)3"),
    "IA3 of PEFT": ("base_model.model.conv_in.ia3_l", r"an \(IA\)3"),
    "IP-Adapter": ("image_proj.proj.weight", "an IP-Adapter"),
    "T2I-Adapter": ("body.0.block1.weight", "a T2I-Adapter"),
    "hypernetwork": ("768.0.linear.0.weight", "a hypernetwork"),
    "LLLite": ("lllite_unet_x.down.0.weight", "a ControlNet-LLLite"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_adapters_that_are_not_read_are_named(case):
    """Also with an alpha that would fit."""
    name, what = OTHERS[case]
    tensors = {name: np.ones((2, 2))}
    if name.startswith(LAYER):
        tensors[f"{LAYER}.alpha"] = np.ones(())
    with pytest.raises(KeyMismatchError, match=f"'style' is {what}.*not a LoRA"):
        lora_changes(preset("tiny"), Lora("style", tensors))


def test_a_glora_is_named():
    tensors = {f"{LAYER}.{part}.weight": np.ones((2, 2)) for part in ("a1", "a2", "b1", "b2")}
    with pytest.raises(KeyMismatchError, match="a GLoRA"):
        lora_changes(preset("tiny"), Lora("style", tensors | {f"{LAYER}.alpha": np.ones(())}))


def test_the_hint_names_another_family_only_if_it_fits_there():
    layer = "lora_unet_double_blocks_0_img_attn_proj"
    fits = {
        f"{layer}.lora_down.weight": np.ones((2, 3072)),
        f"{layer}.lora_up.weight": np.ones((3072, 2)),
    }
    assert "flux-dev" in find_families(Lora("x", fits))
    with pytest.raises(KeyMismatchError) as caught:
        lora_changes(preset("tiny"), Lora("x", fits))
    assert "flux-dev" in (caught.value.hint or "")
    with pytest.raises(KeyMismatchError) as caught:
        lora_changes(preset("tiny"), Lora("x", {n + ".more": x for n, x in fits.items()}))
    assert "family" not in (caught.value.hint or "")


BROKEN = {
    "half a LoHa": (["hada_w1_a", "hada_w1_b", "hada_w2_a"], "missing (hada_w2_b for"),
    "half a Tucker": (
        ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"],
        "hada_t2 for",
    ),
    "half a LoKr": (["lokr_w2"], "lokr_w1 for"),
    "lengths alone": (["dora_scale"], "down for"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_incomplete_layers_are_refused(case):
    roles, words = BROKEN[case]
    tensors = {f"{LAYER}.{role}": np.ones((2, 2)) for role in roles}
    with pytest.raises(KeyMismatchError) as caught:
        lora_changes(preset("tiny"), Lora("x", tensors))
    assert words in str(caught.value)
    assert "it is incomplete" in caught.value.hint and "family" not in caught.value.hint


def test_an_incomplete_file_is_not_compared_with_other_models(monkeypatch):
    """Listing the names of every preset takes a second."""
    monkeypatch.setattr("ldmref.io.adapters.lora_changes.find_families", None)
    test_incomplete_layers_are_refused("half a LoKr")


def test_factors_that_do_not_divide_the_layer_are_refused():
    tensors = {f"{LAYER}.lokr_w1": np.ones((3, 1)), f"{LAYER}.lokr_w2": np.ones((5, 4, 3, 3))}
    with pytest.raises(KeyMismatchError, match=r"lokr_w1 is \(3, 1\), not \(16, 4\)"):
        lora_changes(preset("tiny"), Lora("x", tensors))
