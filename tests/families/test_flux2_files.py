"""The makers' single files of FLUX.2, quantised ones and LoRA files, against diffusers'."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from checkpoint_folders import load_diffusers

import ldmref
from ldmref import modes
from ldmref.errors import KeyMismatchError
from ldmref.families.autoencoders.flux2 import FLUX2_AUTOENCODER, original_autoencoder_table
from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux2.files import list_other_networks, original_table, recognise
from ldmref.families.transformer_files import PREFIX
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.io.quantized.float8 import E4M3FN
from ldmref.io.tensors.writer import TensorSource, write_tensors
from ldmref.models import ModelConfig, preset
from ldmref.models.params import flatten
from ldmref.ports.autoencoders import describe_flux2

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers import AutoencoderKLFlux2
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from flux2_pipelines import SMALL, make_pipeline, make_transformer
from gguf_files import write_model
from qwen3_networks import write_vocabulary
from safetensors.numpy import save_file

SIZE = {"width": 24, "height": 16}
RANK = 3


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def model(folder):
    return ldmref.load(folder)


def generate(model):
    options = {"seed": 1, "steps": 2, "max_sequence_length": 48, **SIZE}
    return modes.txt2img(model, "a cat", **options).images[0]


def flat_network(model, network):
    """Return the parameters of a network, as files hold them."""
    flat = flatten(model.params[network])
    return {name: np.ascontiguousarray(x, np.float32) for name, x in flat.items()}


# -- the makers' files ----------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [True, False])
def test_the_table_is_that_of_diffusers_in_both_directions(guided):
    """With the guidance scale, too, as in [dev]."""
    config = Flux2Config(out_channels=16, **SMALL | {"guidance_embeds": guided})
    table = original_table(ModelConfig(denoiser=config))
    state = make_transformer(guidance_embeds=guided).state_dict()
    theirs = {name: x.numpy() for name, x in state.items()}
    stored = to_compvis(theirs, table)
    converted = convert_flux2_transformer_checkpoint_to_diffusers(
        {name: torch.tensor(x) for name, x in stored.items()}
    )
    assert converted.keys() == theirs.keys()
    assert all(np.array_equal(converted[name].numpy(), x) for name, x in theirs.items())
    back = to_native(stored, table)
    assert all(np.array_equal(back[name], x) for name, x in theirs.items())


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("name", ["flux2-klein-4b", "flux2-klein-9b", "flux2-tiny"])
def test_files_are_recognised_by_their_shapes(name, prefix):
    config = preset(name)
    shapes = list_stored_shapes(original_table(config, prefix))
    assert recognise(shapes, prefix) == config
    assert recognise(shapes, "another.") is None
    assert recognise(shapes | {f"{prefix}img_in.weight": (1,)}, prefix) is None
    guided = {f"{prefix}guidance_in.in_layer.weight": (3072, 256)}
    assert recognise(shapes | guided, prefix) is None


def test_files_of_flux1_are_not_flux2s():
    from ldmref.families.flux.files import original_table as first_table
    from ldmref.families.flux.files import recognise as recognise_first

    assert recognise(list_stored_shapes(first_table(preset("flux-dev")))) is None
    assert recognise_first(list_stored_shapes(original_table(preset("flux2-klein-4b")))) is None


def test_a_file_with_the_other_networks_of_a_folder(model, folder, tmp_path):
    """And with the makers' autoencoder, whose convolutions of z are within encoder and decoder."""
    stored = to_compvis(flat_network(model, "transformer"), original_table(model.config))
    save_file(stored, str(tmp_path / "flux-2-klein.safetensors"))
    table = original_autoencoder_table(model.config.vae)
    vae = to_compvis(flat_network(model, "vae"), table)
    assert {"encoder.quant_conv.weight", "decoder.post_quant_conv.bias", "bn.running_var"} <= {*vae}
    vae["bn.num_batches_tracked"] = np.zeros((), np.int64)
    save_file(vae, str(tmp_path / "ae.safetensors"))
    want = generate(model)
    for other in (None, tmp_path / "ae.safetensors"):
        found = ldmref.load(tmp_path / "flux-2-klein.safetensors", config=folder, vae=other)
        assert generate(found) == want and found.config.vae == model.config.vae
    stored.pop("single_blocks.0.linear1.weight")
    save_file(stored, str(tmp_path / "short.safetensors"))
    with pytest.raises(KeyMismatchError, match=r"1 missing \(single_blocks.0.linear1.weight"):
        ldmref.load(tmp_path / "short.safetensors", config=folder)


@pytest.fixture(scope="module")
def small_decoder(model, tmp_path_factory):
    """Return diffusers' autoencoder with a narrower decoder, as FLUX.2-small-decoder, and files."""
    folder = tmp_path_factory.mktemp("small")
    made = describe_flux2(replace(model.config.vae, decoder_block_out_channels=(4, 8)))
    settings = made.settings | {
        name: getattr(made.like, name)
        for name in ("block_out_channels", "layers_per_block", "norm_num_groups")
    }
    torch.manual_seed(0)
    theirs = AutoencoderKLFlux2(**settings).eval()
    theirs.bn.running_mean.normal_()
    theirs.bn.running_var.uniform_(0.5, 2.0)
    theirs.save_pretrained(folder / "vae")
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    own = {name: x for name, x in state.items() if "num_batches" not in name}
    table = original_autoencoder_table(made.like)
    shaped = {name: np.ascontiguousarray(own[name]) for name in table}
    save_file(to_compvis(shaped, table), str(folder / "full_encoder_small_decoder.safetensors"))
    save_file(state, str(folder / "diffusers.safetensors"))
    stored = to_compvis(shaped, table)
    decoder = {k: x for k, x in stored.items() if k.startswith(("decoder.", "bn."))}
    save_file(decoder, str(folder / "decoder.safetensors"))
    bare = {k.removeprefix("decoder."): x for k, x in decoder.items() if not k.startswith("bn.")}
    save_file(bare, str(folder / "small_decoder.safetensors"))
    return theirs, folder


@pytest.mark.parametrize(
    "name", ["vae", "full_encoder_small_decoder.safetensors", "diffusers.safetensors"]
)
def test_a_narrower_decoder_is_that_of_diffusers(model, folder, small_decoder, name):
    theirs, files = small_decoder
    found = ldmref.load(folder, vae=files / name)
    assert found.config.vae.decoder_block_out_channels == (4, 8)
    assert found.config.vae.block_out_channels == model.config.vae.block_out_channels
    channels = model.config.vae.latent_channels // 4
    z = np.random.default_rng(0).normal(size=(1, channels, 4, 6)).astype(np.float32)
    with torch.no_grad():
        want = theirs.decode(torch.tensor(z)).sample.numpy()
    kind = FLUX2_AUTOENCODER
    got = kind.decode(found.backend, found.params.vae, found.config.vae, found.backend.asarray(z))
    assert np.abs(found.backend.to_numpy(got) - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", ["decoder.safetensors", "small_decoder.safetensors"])
def test_a_decoder_alone_is_said_to_be_one(folder, small_decoder, name):
    with pytest.raises(KeyMismatchError, match="the decoder of an autoencoder, without its enc"):
        ldmref.load(folder, vae=small_decoder[1] / name)


def test_a_checkpoint_of_comfyui_holds_all_networks(model, folder, tmp_path):
    stored = to_compvis(flat_network(model, "transformer"), original_table(model.config, PREFIX))
    for network, table in list_other_networks(model.config).items():
        stored |= to_compvis(flat_network(model, network), table)
    for name in [name for name in stored if name.endswith("_norm.scale")]:
        stored[f"{name.removesuffix('scale')}weight"] = stored.pop(name)
    assert "text_encoders.qwen3_4b.transformer.model.layers.0.mlp.up_proj.weight" in stored
    save_file(stored, str(tmp_path / "all.safetensors"))
    (tmp_path / "config.json").write_text((folder / "model_index.json").read_text())
    found = ldmref.load(tmp_path / "all.safetensors", config=folder)
    assert generate(found) == generate(model)


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_a_gguf_file_has_the_makers_names(model, folder, tmp_path, kind):
    pytest.importorskip("gguf")
    table = original_table(model.config)
    stored = to_compvis(flat_network(model, "transformer"), table)
    want = to_native(write_model(tmp_path / "klein.gguf", stored, kind), table)
    found = ldmref.load(tmp_path / "klein.gguf", config=folder)
    got = flat_network(found, "transformer")
    assert all(np.array_equal(got[name], x) for name, x in want.items())
    different = np.abs(np.asarray(generate(found)).astype(int) - np.asarray(generate(model)))
    assert different.max() < 64


def test_a_float8_file_with_scales(model, folder, tmp_path):
    """ComfyUI's: codes of each matrix, and the number by which it is multiplied."""
    table = original_table(model.config)
    stored = to_compvis(flat_network(model, "transformer"), table)
    tensors, numbers = {"scaled_fp8": ("F8_E4M3", np.zeros(0, np.uint8))}, dict(stored)
    for name, x in stored.items():
        tensors[name] = "F32", x
        if x.ndim == 2 and "blocks" in name:
            scale = np.float32(np.abs(x).max() / 448)
            codes = np.abs(E4M3FN[:127][:, None] - np.abs(x / scale).reshape(1, -1)).argmin(0)
            codes = codes.reshape(x.shape).astype(np.uint8) | (x < 0).astype(np.uint8) << 7
            tensors[name] = "F8_E4M3", codes
            tensors[name.replace(".weight", ".scale_weight")] = "F32", scale.reshape(1)
            numbers[name] = E4M3FN[codes] * scale
    path = tmp_path / "klein_fp8.safetensors"
    write_tensors(
        path, {n: TensorSource(k, x.shape, lambda x=x: x) for n, (k, x) in tensors.items()}
    )
    got = flat_network(ldmref.load(path, config=folder), "transformer")
    want = to_native(numbers, table)
    assert all(np.array_equal(got[name], x) for name, x in want.items())
    assert any(not np.array_equal(numbers[name], x) for name, x in stored.items())


# -- LoRA -----------------------------------------------------------------------------------------

NOT_OF_KOHYA = ("modulation", "adaLN")  # layers that diffusers does not read in kohya's files


def layers_of(config, names):
    """Return the shapes of the layers of a notation, by path, without the makers' last scale.

    diffusers does not exchange the halves of that one's change, as it does those of its weights.
    """
    table = original_table(config)
    if names == "makers":
        shapes = list_stored_shapes(table)
    else:
        shapes = {name: entry.shape for name, entry in table.items()}
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if len(shape) == 2 and "final_layer.adaLN" not in name
    }


def lora_tensors(config, form):
    """Return the tensors of a LoRA file of a program, in float32."""
    names = "ours" if form == "diffusers" else "makers"
    generator = np.random.default_rng(0)
    tensors = {}
    for path, (rows, columns) in layers_of(config, names).items():
        if form == "kohya" and any(word in path for word in NOT_OF_KOHYA):
            continue
        down, up = (
            0.3 * generator.standard_normal(shape).astype(np.float32)
            for shape in ((RANK, columns), (rows, RANK))
        )
        if form == "kohya":
            root = "lora_unet_" + path.replace(".", "_")
            ends = ".lora_down.weight", ".lora_up.weight"
            tensors[f"{root}.alpha"] = np.array(2.0, np.float32)
        else:
            prefixes = {"diffusers": "transformer.", "PEFT": "base_model.model."}
            root = prefixes.get(form, "diffusion_model.") + path
            ends = ".lora_A.weight", ".lora_B.weight"
        tensors |= {root + ends[0]: down, root + ends[1]: up}
    return tensors


@pytest.mark.parametrize("form", ["diffusers", "PEFT", "ai-toolkit", "kohya"])
def test_merged_lora_weights_are_those_of_diffusers(folder, tmp_path, form, skip):
    """Of every layer that the file changes; a layer of the makers may be several of ours."""
    if find_spec("peft") is None:
        skip("peft", "needed for diffusers' own merging, is not installed")
    config, flat, _ = load_diffusers(folder)
    tensors = lora_tensors(config, form)
    save_file(tensors, str(tmp_path / "a.safetensors"), {"format": "pt"})
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 0.7)]))
    pipe = make_pipeline(folder / "tokenizer")
    pipe.transformer.load_state_dict(
        {
            name.removeprefix("transformer."): torch.tensor(np.array(x))
            for name, x in flat.items()
            if name.startswith("transformer.")
        }
    )
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    pipe.fuse_lora(components=["transformer"], lora_scale=0.7)
    pipe.unload_lora_weights()
    changed = 0
    for name, x in pipe.transformer.state_dict().items():
        want, mine = x.numpy(), ours[f"transformer.{name}"]
        assert np.abs(mine - want).max() <= 1e-5 * max(1.0, np.abs(want).max()), name
        changed += not np.array_equal(mine, flat[f"transformer.{name}"])
    matrices = sum(x.ndim == 2 for x in pipe.transformer.state_dict().values())
    left_out = {"diffusers": 0, "kohya": 4}.get(form, 1)
    assert changed == matrices - left_out


def test_the_halves_of_the_last_scale_are_exchanged_in_a_lora_too(folder, tmp_path):
    """As in the weights; diffusers 0.42.1 leaves them."""
    config, flat, _ = load_diffusers(folder)
    name = "transformer.norm_out.linear.weight"
    rows, columns = flat[name].shape
    generator = np.random.default_rng(0)
    down, up = generator.standard_normal((1, columns)), generator.standard_normal((rows, 1))
    path = "diffusion_model.final_layer.adaLN_modulation.1.lora_"
    tensors = {f"{path}A.weight": down.astype("f4"), f"{path}B.weight": up.astype("f4")}
    save_file(tensors, str(tmp_path / "a.safetensors"))
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 1.0)]))
    change = np.roll(up @ down, rows // 2, axis=0)
    np.testing.assert_allclose(ours[name] - flat[name], change, atol=1e-5)


def test_a_lora_of_ldmref_trains_the_transformer(folder, tmp_path):
    """Its file has the names of diffusers."""
    from PIL import Image
    from safetensors.numpy import load_file

    from ldmref.training.finetune.finetuning_run import fine_tune
    from ldmref.training.recipes.file import recipe_from_dict

    (tmp_path / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "images" / f"{colour}.png")
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 2}}
    tables = {"base": str(folder), "data": {"source": str(tmp_path / "images"), "size": 16}}
    file = fine_tune(recipe_from_dict(tables | {"diffusion": stage}), tmp_path / "out")
    names = {*load_file(file)}
    assert "transformer.single_transformer_blocks.1.attn.to_qkv_mlp_proj.lora_A.weight" in names
    assert "transformer.transformer_blocks.0.attn.to_out.0.lora_B.weight" in names
    assert np.isfinite(np.asarray(generate(ldmref.load(folder, lora=file)))).all()
