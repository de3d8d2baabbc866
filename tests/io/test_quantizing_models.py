"""`quantize_model`: which tensors, which names, the file, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref.errors import CorruptModelError, OutputError, UsageError
from ldmref.io import embedded, quantizing
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.quantized.ggml import GGML_TYPES, WRITABLE
from ldmref.io.quantizing import (
    TYPES,
    QuantizationRule,
    bits_of_type,
    count_bits,
    find_stored_names,
    list_types,
    plan_quantization,
    quantize_in_memory,
    quantize_model,
    round_to_type,
    select_denoiser,
)
from ldmref.io.tensors.gguf import GGUFFile
from ldmref.models.networks import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import preset

EMBEDDED = ("conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight")


@pytest.fixture(scope="module")
def emoji():
    return open_checkpoint("emoji")


@pytest.fixture(scope="module")
def denoiser(emoji):
    return select_denoiser(emoji)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q2_K", "BF16", "MXFP4"])
def test_a_file_holds_what_is_made_in_memory(name, emoji, denoiser, tmp_path):
    path = tmp_path / "emoji.gguf"
    written = quantize_model(emoji, name, path)
    assert written.path == path and [p.name for p in tmp_path.iterdir()] == ["emoji.gguf"]
    read = select_denoiser(open_checkpoint(path, "emoji"))
    made = quantize_in_memory(emoji.config, denoiser, QuantizationRule(name))
    assert read.keys() == denoiser.keys()
    for key, tensor in read.items():
        assert np.array_equal(np.asarray(tensor), made.get(key, denoiser[key])), key
    counted = sum(count for count, _, _ in written.types.values())
    assert counted == len(GGUFFile(path)) == len(denoiser)
    numbers = {kind: numbers for kind, (_, numbers, _) in written.types.items()}
    assert sum(numbers.values()) == sum(x.size for x in denoiser.values())
    bits = count_bits(emoji.config, denoiser, QuantizationRule(name))
    assert written.bits == pytest.approx(bits, rel=1e-12)


def test_other_programs_read_the_file(emoji, denoiser, tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "emoji.gguf"
    quantize_model(emoji, "Q5_K", path)
    reader = gguf.GGUFReader(path)
    made = quantize_in_memory(emoji.config, denoiser, QuantizationRule("Q5_K"))
    for tensor in reader.tensors:
        want = made.get(tensor.name, denoiser[tensor.name])
        got = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
        assert np.array_equal(got, np.asarray(want).reshape(-1)), tensor.name
    fields = reader.fields
    assert fields["general.name"].contents() == "emoji-128"
    original = fields["comfy.gguf.orig_shape.mid_block.resnets.0.conv1.weight"].contents()
    assert list(original) == [160, 160, 3, 3]


@pytest.mark.parametrize("name", embedded.EMBEDDED)
def test_the_quantised_model_generates_with_the_networks_of_the_whole_one(name, tmp_path):
    path = tmp_path / "emoji.gguf"
    quantize_model(open_checkpoint(name), "Q8_0", path)
    arguments = {"prompt": "a red heart", "seed": 1, "steps": 4}
    whole = ldmref.modes.txt2img(ldmref.load(name), **arguments).images[0]
    other = ldmref.modes.txt2img(ldmref.load(path, config=name), **arguments).images[0]
    change = np.abs(np.asarray(whole, float) - np.asarray(other, float)).mean()
    assert 0 < change < 2


def test_vectors_small_tensors_and_edges_stay_whole(emoji, denoiser):
    plan = plan_quantization(emoji.config, denoiser, QuantizationRule("Q4_0"))
    for name, tensor in plan.items():
        inside = any(part.isdigit() for part in name.split("."))
        small = len(tensor.shape) < 2 or np.prod(tensor.shape) <= 1024
        assert (tensor.type == "Q4_0") == (inside and not small), name
        assert tensor.type in ("Q4_0", "F16")  # the embedded model's own type
    edges = plan_quantization(emoji.config, denoiser, QuantizationRule("Q4_0", edges=True))
    assert {n for n in plan if plan[n].type != edges[n].type} >= set(EMBEDDED)


def test_small_matrices_stay_whole():
    config = preset("tiny")
    shapes = flatten(model_spec(config)["unet"])
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    plan = plan_quantization(config, tensors, QuantizationRule("BF16", edges=True))
    small = {name for name, x in plan.items() if len(x.shape) > 1 and np.prod(x.shape) <= 1024}
    assert small and {plan[name].type for name in small} == {"F32"}
    assert {x.type for name, x in plan.items() if len(x.shape) > 1 and name not in small} == {
        "BF16"
    }


def test_options_keep_tensors_whole(emoji, denoiser):
    def quantised(**options):
        plan = plan_quantization(emoji.config, denoiser, QuantizationRule("Q4_K", **options))
        return {name for name, tensor in plan.items() if tensor.type == "Q4_K"}

    every = quantised()
    assert every - quantised(keep=("attn",)) == {name for name in every if "attn" in name}
    own = quantised(join_rows=False)
    assert own and own < every and all(denoiser[name].shape[-1] % 256 == 0 for name in own)


@pytest.mark.parametrize(
    ("name", "kept", "taken"),
    [
        ("sd15", "input_blocks.0.0.weight", "middle_block.0.in_layers.2.weight"),
        ("sdxl", "label_emb.0.0.weight", "output_blocks.0.0.in_layers.2.weight"),
        ("sd3-medium", "x_embedder.proj.weight", "joint_blocks.0.x_block.attn.qkv.weight"),
        ("z-image", "x_embedder.weight", "layers.0.attention.qkv.weight"),
        ("flux2-klein-4b", "img_in.weight", "double_blocks.0.img_attn.qkv.weight"),
    ],
)
def test_families_have_the_names_of_their_own_files(name, kept, taken):
    config = preset(name)
    shapes = flatten(model_spec(config)[config.denoiser.network])
    tensors = {key: np.broadcast_to(np.float16(0), shape) for key, shape in shapes.items()}
    plan = plan_quantization(config, tensors, QuantizationRule("BF16"))
    assert plan[kept].type == "F16" and plan[taken].type == "BF16"
    members = [key for tensor in plan.values() for key in tensor.entries]
    assert sorted(members) == sorted(shapes) == sorted(find_stored_names(config))


def test_parts_of_a_stacked_tensor_are_quantised_together(monkeypatch):
    """Queries, keys and values are one tensor of the file: its blocks may span two of them."""
    monkeypatch.setattr(quantizing, "SMALL", 0)
    config = preset("sd3-tiny")
    shapes = flatten(model_spec(config)[config.denoiser.network])
    stream = np.random.default_rng(0)
    tensors = {key: stream.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    rule = QuantizationRule("NF4")
    made = quantize_in_memory(config, tensors, rule)
    names = [f"transformer_blocks.0.attn.to_{letter}.weight" for letter in "qkv"]
    want = round_to_type(np.concatenate([tensors[name] for name in names]), "NF4")
    assert np.array_equal(np.concatenate([made[name] for name in names]), want)


def test_whole_tensors_keep_every_bit(tmp_path):
    tiny = ldmref.random_model("tiny", seed=3)
    folder = tmp_path / "tiny"
    ldmref.io.save_folder(folder, tiny.config, tiny.params, [tiny.tokenizer], np.float32)
    quantize_model(folder, "Q8_0", tmp_path / "tiny.gguf")
    file = GGUFFile(tmp_path / "tiny.gguf")
    assert set(file.kinds.values()) == {"Q8_0", "F32"}
    read = open_checkpoint(tmp_path / "tiny.gguf", folder)
    flat = flatten(tiny.params["unet"])
    assert np.array_equal(np.asarray(read.tensors["unet.conv_in.weight"]), flat["conv_in.weight"])


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "name", "code", "word"),
    [
        ("Q9_K", "a.gguf", "E-QUANTIZED", "unknown type 'Q9_K'; known are F16, Q4_0"),
        ("Q4_K_M", "a.gguf", "E-QUANTIZED", "unknown type"),
        ("IQ4_XS", "a.gguf", "E-QUANTIZED", "unknown type"),
        ("FP8", "a.gguf", "E-QUANTIZED", "FP8 cannot be written"),
        ("Q4_K", "a.safetensors", "E-FORMAT", "does not end in .gguf"),
    ],
)
def test_refusals_come_before_anything_is_opened(type, name, code, word, tmp_path):
    with pytest.raises(UsageError, match=word.replace(".", r"\.")) as caught:
        quantize_model(tmp_path / "no such model", type, tmp_path / name)
    assert caught.value.code == code and caught.value.hint and "\n" not in str(caught.value)


def test_an_existing_file_is_kept(emoji, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError) as caught:
        quantize_model("no such model", "Q8_0", path)
    assert caught.value.code == "E-EXISTS" and path.read_bytes() == b"mine"


@pytest.mark.parametrize(("number", "word"), [(np.nan, "not finite"), (1e6, r"up to 1e\+06")])
def test_numbers_that_a_type_cannot_hold_leave_no_file(number, word, tmp_path):
    tiny = ldmref.random_model("tiny")
    flat = flatten(tiny.params)
    name = "unet.mid_block.resnets.0.conv1.weight"
    array = np.array(flat[name])
    array[0, 0, 0, 0] = number
    tree = ldmref.models.unflatten(flat | {name: array})
    folder = tmp_path / "tiny"
    ldmref.io.save_folder(folder, tiny.config, tree, [tiny.tokenizer], np.float32)
    with pytest.raises(CorruptModelError, match=word) as caught:
        quantize_model(folder, "Q4_0", tmp_path / "a.gguf")
    assert "middle_block.0.in_layers.2.weight" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_every_type_has_its_bits_and_is_listed():
    assert {*TYPES} == {*WRITABLE} - {"F32"} and list_types()[-2:] == ("FP8", "NF4")
    for name in TYPES:
        kind = GGML_TYPES[WRITABLE[name]]
        assert bits_of_type(name) == 8 * kind.nbytes / kind.values
    # a byte for each number; half of one, and a float32 for 64 of them
    assert (bits_of_type("FP8"), bits_of_type("NF4")) == (8.0, 4.5)
