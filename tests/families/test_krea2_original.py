"""Krea 2 against the numbers that the program of its makers prints, and its single files.

`KREA` are from mmdit.py and sampling.py of krea-ai/krea-2: first and last number of the result, and
its root mean square. The program ran in float64, without its casts to float32, with the weights of
`draw_weights` under the names of `original_table`. A plain softmax replaced cuDNN's attention; rows
of padding, whose keys are all hidden there, read all of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.families.krea2.config import Krea2Config, broken_rules, transformer_of
from ldmref.families.krea2.files import BLOCKS, ENDS, original_table, recognise
from ldmref.families.krea2.network import transformer, transformer_spec
from ldmref.families.transformer_files import PREFIX, find_entry
from ldmref.io.key_table import list_stored_shapes, to_compvis
from ldmref.models import preset
from ldmref.models.params import flatten, unflatten

# the makers' program derives the widths of feed-forward layers, and has two blocks of each kind
TINY = dict(
    in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=256, timestep_embed_dim=32, text_hidden_dim=24,
    num_text_layers=3, text_num_attention_heads=3, text_num_key_value_heads=3,
    text_intermediate_size=128, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
KREA = (0.37987283775328123, -2.4785234624563386, 2.432594349226021)


def draw_weights(spec):
    """Return weights whose layers all matter, float64."""
    rng = np.random.Generator(np.random.Philox(7))
    return {k: 0.2 * rng.standard_normal(x) for k, x in sorted(flatten(spec).items())}


def draw_inputs(config):
    """Return latents, times, hidden states of two texts and their mask, with padding inside."""
    rng = np.random.Generator(np.random.Philox(8))
    x = rng.standard_normal((2, config.in_channels, 8, 12))
    context = rng.standard_normal((2, 9, config.context_dim))
    mask = np.ones((2, 9), np.int64)
    mask[1, 3:7] = 0
    return x, np.array([700.0, 20.0]), context, mask


def test_the_network_prints_the_numbers_of_the_makers():
    config = Krea2Config(**TINY)
    params = unflatten(draw_weights(transformer_spec(config)))
    got = transformer(get_backend("numpy", dtype="float64"), params, config, *draw_inputs(config))
    numbers = got.flat[0], got.flat[-1], np.sqrt(np.mean(got**2))
    np.testing.assert_allclose(numbers, KREA, rtol=1e-10)


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("name", ["krea-2", "krea-2-tiny"])
def test_files_are_recognised_by_their_shapes(name, prefix):
    config = preset(name)
    shapes = list_stored_shapes(original_table(config, prefix))
    assert recognise(shapes, prefix) == config
    assert recognise(shapes, "another.") is None
    assert recognise(shapes | {f"{prefix}first.weight": (1,)}, prefix) is None


def test_files_of_other_sizes():
    raw = preset("krea-2")
    other = replace(raw, denoiser=replace(raw.denoiser, num_layers=8))
    found = recognise(list_stored_shapes(original_table(other)))
    assert found == replace(other, name="krea2")
    narrow = replace(raw.denoiser, attention_head_dim=64, axes_dims_rope=(16, 24, 24))
    assert recognise(list_stored_shapes(original_table(replace(raw, denoiser=narrow)))) is None


def test_published_sizes():
    """12,820,073,036 parameters in 430 tensors, of which the makers store tables of blocks flat."""
    config = preset("krea-2")
    spec = flatten(transformer_spec(transformer_of(config)))
    assert sum(np.prod(shape) for shape in spec.values()) == 12_820_073_036
    table = original_table(config)
    assert len(spec) == len({entry.name for entry in table.values()}) == 430
    stored = list_stored_shapes(table)
    assert stored["blocks.27.mod.lin"] == (6 * 6144,)
    assert stored["last.modulation.lin"] == (2, 6144)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes_dims_rope": (3, 5, 4)}, "axes_dims_rope must be even"),
        ({"num_key_value_heads": 3}, "must divide num_attention_heads"),
        ({"text_num_attention_heads": 3}, "must divide text_hidden_dim"),
        ({"timestep_embed_dim": 15}, "must be even"),
        ({"out_channels": 5}, "must equal in_channels"),
        ({"text_hidden_dim": 24}, "must be hidden_size"),
        ({"num_text_layers": 2}, "must be the number of hidden_layers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes, message):
    config = preset("krea-2-tiny")
    assert not [*broken_rules(config)]
    wrong = replace(config, denoiser=replace(config.denoiser, **changes))
    assert any(message in text for text in broken_rules(wrong))


# -- against diffusers ----------------------------------------------------------------------------

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from diffusers.loaders.lora_conversion_utils import (  # noqa: E402
    _convert_non_diffusers_krea2_lora_to_diffusers,
)
from diffusers.loaders.single_file_utils import (  # noqa: E402
    convert_krea2_transformer_checkpoint_to_diffusers,
)
from float8_files import save_float8  # noqa: E402
from krea2_pipelines import make_pipeline  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("tokenizer"))


def stored_of(pipe, folder, prefix=""):
    """Return the tensors of the transformer under the makers' names."""
    table = original_table(ldmref.load(folder).config, prefix)
    theirs = {name: x.numpy() for name, x in pipe.transformer.state_dict().items()}
    return to_compvis(theirs, table)


def draw_image(model, **more):
    return modes.txt2img(model, "a cat", **{"seed": 1, "steps": 1} | SIZE | more).images[0]


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_table_is_that_of_diffusers(pipe, folder, prefix):
    stored = {name: torch.tensor(x) for name, x in stored_of(pipe, folder, prefix).items()}
    converted = convert_krea2_transformer_checkpoint_to_diffusers(stored)
    theirs = pipe.transformer.state_dict()
    assert converted.keys() == theirs.keys()
    assert all(torch.equal(converted[name], x) for name, x in theirs.items())


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_file_with_the_other_networks_of_a_folder(pipe, folder, tmp_path, prefix):
    save_file(stored_of(pipe, folder, prefix), str(tmp_path / "krea2.safetensors"))
    model = ldmref.load(tmp_path / "krea2.safetensors", config=folder)
    assert draw_image(model) == draw_image(ldmref.load(folder))


def save_gguf(path, tensors):
    """Write a GGUF file as ComfyUI's converter names it; return the numbers that it stands for."""
    pytest.importorskip("gguf")
    from gguf_files import write_model

    return write_model(path, tensors, "Q8_0", "krea2")


@pytest.mark.parametrize("save", [save_gguf, save_float8])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_quantised_file_with_the_other_networks_of_a_folder(pipe, folder, tmp_path, save, prefix):
    """Its numbers are exact, and so its image is that of a file that holds them unquantised."""
    file = tmp_path / ("krea2.gguf" if save is save_gguf else "krea2_fp8_scaled.safetensors")
    stored = stored_of(pipe, folder, prefix)
    want = save(file, stored)
    assert not np.array_equal(want[f"{prefix}first.weight"], stored[f"{prefix}first.weight"])
    save_file(want, str(tmp_path / "plain.safetensors"))
    model = ldmref.load(file, config=folder)
    plain = ldmref.load(tmp_path / "plain.safetensors", config=folder)
    found, expected = (flatten(dict(x.params["transformer"])) for x in (model, plain))
    assert all(np.array_equal(found[name], x) for name, x in expected.items())
    assert draw_image(model) == draw_image(plain)


@pytest.mark.parametrize("save", [save_gguf, save_float8])
def test_a_command_draws_with_a_quantised_file(pipe, folder, tmp_path, save, capsys):
    file = tmp_path / ("krea2.gguf" if save is save_gguf else "krea2_fp8_scaled.safetensors")
    save(file, stored_of(pipe, folder))
    out = tmp_path / "cat.png"
    asked = ["--steps", "1", "--seed", "1", "--width", "24", "--height", "16", "-o", str(out)]
    of_folder = ["--model-config", str(folder)]
    assert main(["txt2img", "-m", str(file), *of_folder, "-p", "a cat", *asked]) == 0
    with Image.open(out) as image:
        want = draw_image(ldmref.load(file, config=folder))
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(want))
    assert main(["info", str(file)]) == 0
    assert "Krea 2" in capsys.readouterr().out


def random_lora(folder, name_of, form):
    """Return a LoRA of rank 2 for all layers of blocks, under names of a program."""
    config = ldmref.load(folder).config
    shapes = flatten(transformer_spec(transformer_of(config)))
    rng = np.random.default_rng(3)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith(".weight") and len(shape) == 2:
            layer = name_of(name.removesuffix(".weight"))
            pair = rng.standard_normal((2, shape[1])), rng.standard_normal((shape[0], 2))
            for ending, x in zip(form, pair, strict=True):
                tensors[layer + ending] = (0.3 * x).astype(np.float32)
    return tensors


PEFT, KOHYA = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")


def original_name(layer):
    return find_entry(f"{layer}.weight", (), ENDS, BLOCKS).name.removesuffix(".weight")


PROGRAMS = {
    "diffusers": (lambda layer: f"transformer.{layer}", PEFT),
    "PEFT": (lambda layer: f"base_model.model.{layer}", PEFT),
    "ai-toolkit": (lambda layer: f"diffusion_model.{original_name(layer)}", PEFT),
    "ai-toolkit, PEFT": (lambda layer: f"base_model.model.{original_name(layer)}", PEFT),
    "kohya": (lambda layer: "lora_unet_" + original_name(layer).replace(".", "_"), KOHYA),
    "kohya, diffusers": (lambda layer: "lora_unet_" + layer.replace(".", "_"), KOHYA),
}


@pytest.mark.parametrize("program", [*PROGRAMS])
def test_a_lora_of_every_program_changes_every_layer(folder, tmp_path, program):
    """By the same change, which is that of diffusers' conversion."""
    name_of, form = PROGRAMS[program]
    file = tmp_path / "lora.safetensors"
    save_file(random_lora(folder, name_of, form), str(file))
    changed = flatten(dict(ldmref.load(folder, lora=[file]).params["transformer"]))
    before = flatten(dict(ldmref.load(folder).params["transformer"]))
    pairs = random_lora(folder, str, PEFT)
    if program.startswith("ai-toolkit"):
        tensors = random_lora(folder, name_of, form)
        theirs = _convert_non_diffusers_krea2_lora_to_diffusers(tensors)
        assert {f"transformer.{name}" for name in pairs} == theirs.keys()
    for name, x in before.items():
        layer = name.removesuffix(".weight")
        if layer + PEFT[0] in pairs:
            want = x + pairs[layer + PEFT[1]] @ pairs[layer + PEFT[0]]
            np.testing.assert_allclose(changed[name], want, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(changed[name], x)
