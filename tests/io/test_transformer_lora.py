"""LoRA of transformers: names of the models' makers against the definition in their own layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldmref.errors import CorruptModelError, KeyMismatchError
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_changes import lora_changes
from ldmref.io.adapters.lora_file import Lora, read_loras
from ldmref.io.adapters.lora_keys import lora_file_name, lora_names
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.support.deferred import DeferredArray

RANK = 3
TINY = ["flux-tiny", "sd3-tiny"]
NORM = "transformer.transformer_blocks.0.attn.norm_added_q.weight"
FUSED = {
    "flux-tiny": "double_blocks.0.img_attn.qkv",
    "sd3-tiny": "joint_blocks.0.x_block.attn.qkv",
}
QUERY = "transformer.transformer_blocks.0.attn.to_q"


@pytest.fixture(params=TINY)
def config(request):
    return preset(request.param)


@pytest.fixture
def flat(config):
    tensors = flatten(init(model_spec(config), 3))
    rng = np.random.default_rng(0)
    return {name: x + 0.1 * rng.standard_normal(x.shape) for name, x in tensors.items()}


def table_of(config):
    """Return the family's key table, without a prefix."""
    tables = [layout.table(config) for layout in family_of(config).files]
    return next(t for t in tables if not any(e.name.startswith("model.") for e in t.values()))


def layers_of(config):
    """Yield the layers of the makers' layout and the shape of their matrix or kernel."""
    for name, shape in list_stored_shapes(table_of(config)).items():
        if name.endswith(".weight") and len(shape) in (2, 4):
            yield name.removesuffix(".weight"), shape


def thin(shape, seed):
    """Random `down` and `up` of a layer, whose rows differ."""
    draw = np.random.default_rng(seed).standard_normal
    return draw((RANK, *shape[1:])), draw((shape[0], RANK, *(1,) * (len(shape) - 2)))


NOTATIONS = {
    "kohya": (lambda layer: "lora_unet_" + layer.replace(".", "_"), ".lora_down.weight",
              ".lora_up.weight"),
    "original": (lambda layer: layer, ".lora_A.weight", ".lora_B.weight"),
    "ComfyUI": (lambda layer: "diffusion_model." + layer, ".lora_A.weight", ".lora_B.weight"),
    "older ComfyUI": (lambda layer: "diffusion_model." + layer, ".lora_down.weight",
                      ".lora_up.weight"),
    "PEFT": (lambda layer: "base_model.model." + layer, ".lora_A.weight", ".lora_B.weight"),
    "whole file": (lambda layer: "model.diffusion_model." + layer, ".lora_A.weight",
                   ".lora_B.weight"),
}  # fmt: skip


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_change_of_the_makers_layers(config, flat, notation, alpha):
    """The stored matrix W + 0.7 alpha / r B A, whatever of ours it holds, is read as ours."""
    name_of, down_end, up_end = NOTATIONS[notation]
    prefix = config.denoiser.network + "."
    own = {n.removeprefix(prefix): x for n, x in flat.items() if n.startswith(prefix)}
    stored = to_compvis(own, table_of(config))
    tensors = {}
    for seed, (layer, shape) in enumerate(layers_of(config)):
        down, up = thin(shape, seed)
        tensors |= {name_of(layer) + down_end: down, name_of(layer) + up_end: up}
        if alpha:
            tensors[name_of(layer) + ".alpha"] = np.asarray(alpha)
        product = np.tensordot(up.reshape(-1, RANK), down, 1).reshape(shape)
        stored[f"{layer}.weight"] = (
            stored[f"{layer}.weight"] + 0.7 * (alpha or RANK) / RANK * product
        )
    want = to_native(stored, table_of(config))
    got = apply_loras(config, flat, [Lora("style", tensors, 0.7)])
    changed = 0
    for name, x in flat.items():
        expected = want[name.removeprefix(prefix)] if name.startswith(prefix) else x
        assert np.abs(got[name] - expected).max() <= 1e-12, name
        changed += not np.array_equal(got[name], x)
    assert changed == sum(
        name.startswith(prefix) and name.endswith(".weight") and x.ndim in (2, 4)
        for name, x in flat.items()
    )


def test_only_up_is_swapped_in_the_last_layer(config):
    """shift and scale there, scale and shift here: `down` has no halves to exchange."""
    shape = flatten(model_spec(config))["transformer.norm_out.linear.weight"]
    down, up = thin(shape, 0)
    layer = "final_layer.adaLN_modulation.1"
    tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    (change,) = lora_changes(config, Lora("style", tensors)).values()
    assert np.array_equal(change.parts["down"], down)
    assert np.array_equal(change.parts["up"], np.concatenate([up[shape[1] :], up[: shape[1]]]))


def test_biases_and_norms_of_black_forest_labs_files(config, flat):
    """A norm replaces ours; a change of a bias is scaled as that of its layer."""
    layer = FUSED[config.name]
    entry = table_of(config)["transformer_blocks.0.attn.to_q.weight"]
    down, up = thin(entry.stored_shape, 0)
    offset = np.random.default_rng(1).standard_normal(entry.stored_shape[0])
    norm = table_of(config)[NORM.removeprefix("transformer.")].name
    tensors = {
        f"{layer}.lora_A.weight": down,
        f"{layer}.lora_B.weight": up,
        f"{layer}.alpha": np.ones(1),
        f"{layer}.lora_B.bias": offset,
        norm: np.arange(flat[NORM].size) / 7,
    }
    width = len(offset) // 3
    for weight in (1.0, 0.5, 0.0):
        got = apply_loras(config, flat, [Lora("control", tensors, weight)])
        for third, name in enumerate(("to_q", "to_k", "to_v")):
            bias = f"transformer.transformer_blocks.0.attn.{name}.bias"
            part = offset[third * width : (third + 1) * width]
            assert np.allclose(got[bias], flat[bias] + weight / RANK * part, rtol=1e-14)
        want = (1 - weight) * flat[NORM] + weight * tensors[norm]
        assert np.allclose(got[NORM], want, rtol=1e-14)
        assert np.array_equal(got[NORM], want if weight else flat[NORM])


def test_every_layer_has_names(config):
    table = lora_names(config)
    comfyui = ("text_encoders.", "clip_", "t5")  # the only names of tables of embeddings
    others = [targets for name, targets in table.items() if not name.startswith(comfyui)]
    downs = {t.tensor for targets in others for t in targets if t.role == "down"}
    shapes = flatten(model_spec(config))
    embeddings = ("embedding.weight", "shared.weight", "relative_attention_bias.weight")
    assert downs == {
        name
        for name, shape in shapes.items()
        if len(shape) in (2, 4) and not name.startswith("vae.") and not name.endswith(embeddings)
    }
    for tensor in downs:
        layer = tensor.removesuffix(".weight")
        for name in (f"{layer}.lora_A.weight", lora_file_name(config, tensor, "down")):
            assert [target[:2] for target in table[name]] == [(tensor, "down")]


def test_text_encoders_have_kohyas_numbers():
    """T5 is the third for kohya, also in Flux.1, where it is the second."""
    clip, t5 = "text_model_encoder_layers_0_mlp_fc1", "encoder_block_0_layer_0_SelfAttention_q"
    numbers = {"flux-tiny": {1: clip, 3: t5}, "sd3-tiny": {1: clip, 2: clip, 3: t5}}
    for name, encoders in numbers.items():
        table = lora_names(preset(name))
        found = [table[f"lora_te{n}_{path}.alpha"][0].tensor for n, path in encoders.items()]
        parts = [tensor.partition(".")[0] for tensor in found]
        assert parts == ["text_encoder", "text_encoder_2", "text_encoder_3"][: len(parts)]
        assert f"lora_te{4}_{t5}.alpha" not in table


def test_alpha_beside_a_file_of_peft(config, flat, tmp_path):
    """Its patterns name the layers of the file."""
    layer = FUSED[config.name]
    entry = table_of(config)["transformer_blocks.0.attn.to_q.weight"]
    down, up = thin(entry.stored_shape, 0)
    tensors = {f"base_model.model.{layer}.lora_{k}.weight": x for k, x in (("A", down), ("B", up))}
    save_file(tensors, str(tmp_path / "adapter_model.safetensors"))
    recorded = {"lora_alpha": 8, "alpha_pattern": {"attn.qkv": 6, "img_attn.qkv": 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(recorded))
    got = apply_loras(config, flat, read_loras([tmp_path / "adapter_model.safetensors"]))
    want = flat[f"{QUERY}.weight"] + 6 / RANK * up[: len(up) // 3] @ down
    assert np.abs(got[f"{QUERY}.weight"] - want).max() < 1e-12


def test_a_deferred_matrix_is_changed_when_it_is_used(config, flat):
    reads = []
    name = f"{QUERY}.weight"

    def read():
        reads.append(name)
        return flat[name]

    down, up = thin(flat[name].shape, 0)
    tensors = {f"{QUERY}.lora_A.weight": down, f"{QUERY}.lora_B.weight": up}
    lazy = flat | {name: DeferredArray(read, flat[name].shape, np.float64)}
    got = apply_loras(config, lazy, [Lora("style", tensors), Lora("other", tensors, 0.5)])[name]
    assert isinstance(got, DeferredArray) and not reads
    assert np.allclose(got, flat[name] + 1.5 * up @ down, rtol=1e-13) and len(reads) == 1
    huge = tensors | {f"{QUERY}.lora_B.weight": 1e9 * up, f"{QUERY}.alpha": np.asarray(1e308)}
    bad = apply_loras(config, lazy, [Lora("style", huge)])[name]
    with pytest.raises(CorruptModelError, match="the LoRA 'style' with weight 1 makes"):
        np.asarray(bad)


# -- what is refused ------------------------------------------------------------------------------


def broken(config, breaking):
    """Return the message for a file of a fused layer that was broken."""
    layer = FUSED[config.name]
    entry = table_of(config)["transformer_blocks.0.attn.to_q.weight"]
    down, up = thin(entry.stored_shape, 0)
    tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    breaking(tensors, layer)
    with pytest.raises(KeyMismatchError) as caught:
        lora_changes(config, Lora("style", tensors))
    assert "\n" not in str(caught.value) and caught.value.code == "E-KEYS"
    return str(caught.value)


def test_files_that_do_not_fit_are_refused(config):
    def cut(tensors, layer):
        tensors[f"{layer}.lora_B.weight"] = tensors[f"{layer}.lora_B.weight"][:-1]

    def add(name, *shape):
        return lambda tensors, layer: tensors.update({name.format(layer): np.ones(shape)})

    assert "misshapen" in broken(config, cut)
    assert "up for" in broken(config, lambda tensors, layer: tensors.pop(f"{layer}.lora_B.weight"))
    width = config.denoiser.width
    assert "to_q.weight twice" in broken(config, add(f"{QUERY}.lora_A.weight", RANK, width))
    assert "1 unexpected" in broken(config, add("double_blocks.99.img_mod.lin.lora_A.weight", 1, 1))
    assert "dora_scale is" in broken(config, add("{}.dora_scale", 2, width))
    assert "misshapen" in broken(config, add("{}.lora_B.bias", width))
    other = next(name for name in FUSED.values() if name != FUSED[config.name])
    assert "1 unexpected" in broken(config, add(f"{other}.lora_A.weight", RANK, width))


def test_an_offset_needs_its_layer(config):
    layer = FUSED[config.name]
    rows = 3 * config.denoiser.width
    with pytest.raises(KeyMismatchError, match="down for"):
        lora_changes(config, Lora("style", {f"{layer}.lora_B.bias": np.ones(rows)}))


@pytest.mark.parametrize("other", ["sd15", "sdxl", "flux-dev", "sd35-medium"])
def test_a_lora_of_another_family_is_refused(config, other):
    made_for = preset(other)
    shapes = flatten(model_spec(made_for))
    tensor = next(n for n in shapes if n.startswith(made_for.denoiser.network) and ".to_q." in n)
    down, up = thin(shapes[tensor], 0)
    names = [lora_file_name(made_for, tensor, role) for role in ("down", "up")]
    lora = Lora("style", dict(zip(names, (down, up), strict=True)))
    assert lora_changes(made_for, lora)
    with pytest.raises(KeyMismatchError, match="does not fit") as caught:
        lora_changes(config, lora)
    assert "\n" not in str(caught.value)
