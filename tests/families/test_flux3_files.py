"""Single files and LoRA of FLUX.3: the makers' names, against diffusers' conversion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError
from ldmref.families.flux3.files import convert_transformer_config, original_table, recognise
from ldmref.families.transformer_files import PREFIX
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.models import preset
from ldmref.models.params import flatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_flux3_lora_to_diffusers
from diffusers.loaders.single_file_utils import convert_flux3_transformer_checkpoint_to_diffusers
from flux3_pipelines import make_pipeline, save_pipeline
from qwen3_networks import write_vocabulary
from safetensors.numpy import save_file

SIZE = {"width": 24, "height": 16}
RANK = 2


@pytest.fixture(scope="module", params=[False, True], ids=["base", "distilled"])
def made(request, tmp_path_factory):
    """(the folder of a small pipeline, its model)."""
    pipe = make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")), request.param)
    folder = save_pipeline(pipe, tmp_path_factory.mktemp("flux3"))
    return folder, ldmref.load(folder)


def flat_network(model):
    flat = flatten(model.params["transformer"])
    return {name: np.ascontiguousarray(x, np.float32) for name, x in flat.items()}


def generate(model):
    return modes.txt2img(model, "a cat", seed=1, steps=2, cfg_scale=1.0, **SIZE).images[0]


def test_the_table_is_that_of_diffusers_in_both_directions(made):
    """With the halves of the last layer exchanged, and without heads of the training."""
    _, model = made
    want = flat_network(model)
    stored = to_compvis(want, original_table(model.config))
    theirs = {name: torch.tensor(x) for name, x in stored.items()}
    theirs["repa_projectors.0.weight"] = torch.ones(2)
    converted = convert_flux3_transformer_checkpoint_to_diffusers(theirs)
    assert converted.keys() == want.keys()
    assert all(np.array_equal(converted[name].numpy(), x) for name, x in want.items())
    back = to_native(stored, original_table(model.config))
    assert all(np.array_equal(back[name], x) for name, x in want.items())


def test_names_of_the_published_files():
    shapes = list_stored_shapes(original_table(preset("flux3-klein"), PREFIX))
    assert len(shapes) == 359
    assert shapes[f"{PREFIX}ref_time_in.out_layer.weight"] == (3072, 3072)
    assert shapes[f"{PREFIX}content_mode_blocks.image_cond.4.mlp_in.weight"] == (18432, 3072)
    assert shapes[f"{PREFIX}single_blocks.27.norm.key_norm.scale"] == (128,)
    assert shapes[f"{PREFIX}early_stream_modulations.txt.lin.weight"] == (9216, 3072)
    assert shapes[f"{PREFIX}final_layer.image.adaLN_modulation.1.weight"] == (6144, 3072)
    assert shapes[f"{PREFIX}txt_in.weight"] == (3072, 20480)


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("name", ["flux3-klein", "flux3-klein-base", "flux3-tiny"])
def test_files_are_recognised_by_their_shapes(prefix, name):
    config = preset(name)
    shapes = list_stored_shapes(original_table(config, prefix))
    assert recognise(shapes, prefix) == config
    assert recognise(shapes, "another.") is None


def test_files_of_other_sizes():
    klein = preset("flux3-klein")
    other = replace(klein, denoiser=replace(klein.denoiser, num_single_layers=8))
    found = recognise(list_stored_shapes(original_table(other)))
    assert found is not None and found.denoiser == other.denoiser and found.name == "flux3"
    narrow = replace(
        klein.denoiser, attention_head_dim=64, num_attention_heads=48, axes_dims_rope=(16,) * 4
    )
    assert recognise(list_stored_shapes(original_table(replace(klein, denoiser=narrow)))) is None


def test_the_transformer_beside_a_folder(made, tmp_path):
    folder, model = made
    stored = to_compvis(flat_network(model), original_table(model.config, PREFIX))
    stored[f"{PREFIX}repa_projectors.0.weight"] = np.ones(3, np.float32)
    save_file(stored, tmp_path / "flux3.safetensors")
    found = ldmref.load(tmp_path / "flux3.safetensors", config=folder)
    assert generate(found) == generate(model)


@pytest.mark.parametrize("names", ["diffusers", "makers", "kohya"])
def test_lora_files(made, tmp_path, names):
    """Of all layers of blocks, in the names of diffusers, of the makers, and of kohya."""
    _, model = made
    flat = flat_network(model)
    layers = [name for name, x in flat.items() if "blocks" in name and x.ndim == 2]
    table = original_table(model.config)
    draw = np.random.default_rng(0).standard_normal
    tensors, want = {}, {}
    ends = ("lora_down", "lora_up") if names == "kohya" else ("lora_A", "lora_B")
    for name in layers:
        down, up = draw((RANK, flat[name].shape[1])), draw((flat[name].shape[0], RANK))
        want[name] = flat[name] + 0.5 * up @ down
        layer = table[name].name.removesuffix(".weight")
        stored = {
            "diffusers": "transformer." + name.removesuffix(".weight"),
            "makers": "diffusion_model." + layer,
            "kohya": "lora_unet_" + layer.replace(".", "_"),
        }[names]
        tensors |= {f"{stored}.{end}.weight": x for end, x in zip(ends, (down, up), strict=True)}
    if names == "makers":
        theirs = _convert_non_diffusers_flux3_lora_to_diffusers(dict(tensors))
        assert {name.removeprefix("transformer.") for name in theirs} == {
            name.replace(".weight", f".{end}.weight") for name in layers for end in ends
        }
    save_file(tensors, str(tmp_path / "a.safetensors"))
    params = {f"transformer.{name}": x.astype(np.float64) for name, x in flat.items()}
    ours = apply_loras(model.config, params, read_loras([(tmp_path / "a.safetensors", 0.5)]))
    for name, x in want.items():
        assert np.abs(ours[f"transformer.{name}"] - x).max() < 1e-10 * max(1.0, np.abs(x).max())


@pytest.mark.parametrize("change", [{"eps": 1e-5}, {"cond_in_channels": 64}])
def test_other_transformers_are_refused(change):
    with pytest.raises(CorruptModelError):
        convert_transformer_config(change)
