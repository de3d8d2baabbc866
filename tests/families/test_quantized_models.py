"""Quantised single files as models: they generate what their numbers generate as float32."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from gguf_files import write_model
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UsageError
from ldmref.families.flux.files import original_table
from ldmref.families.sd3.files import original_table as sd3_table
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.compvis.unet_file import PREFIX, list_stored
from ldmref.io.key_table import list_stored_shapes, to_compvis
from ldmref.io.quantized.float8 import E4M3FN
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.writer import TensorSource, write_tensors
from ldmref.models import preset
from ldmref.models.params import flatten
from ldmref.support.deferred import DeferredArray

pytest.importorskip("diffusers")
pytest.importorskip("gguf")
from float8_files import save_float8
from flux_networks import make_pipeline
from small_models import save_flow
from small_pipelines import pipeline

NF4 = np.float32(
    [-1, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1]
)


def generate(model):
    size = {"width": 16, "height": 16}
    return modes.txt2img(model, "a cat", seed=1, steps=2, **size).images[0]


def save_nf4(path, tensors):
    """Write matrices as bitsandbytes does; return the numbers that they stand for."""
    stored, want = {}, {}
    for name, x in tensors.items():
        if x.ndim != 2 or x.size % 64:
            stored[name] = want[name] = x
            continue
        blocks = x.reshape(-1, 64)
        absmax = np.abs(blocks).max(1)
        codes = np.abs((blocks / absmax[:, None])[..., None] - NF4).argmin(-1).astype(np.uint8)
        state = {"shape": x.shape, "blocksize": 64, "quant_type": "nf4", "dtype": "float32"}
        stored |= {
            name: (codes.reshape(-1, 2)[:, :1] << 4 | codes.reshape(-1, 2)[:, 1:]),
            f"{name}.absmax": absmax,
            f"{name}.quant_map": NF4,
            f"{name}.quant_state.bitsandbytes__nf4": np.frombuffer(
                json.dumps(state).encode(), np.uint8
            ),
        }
        want[name] = (NF4[codes] * absmax[:, None]).reshape(x.shape)
    save_file(stored, str(path))
    return want


def save_gguf(kind, architecture):
    return lambda path, tensors: write_model(path, tensors, kind, architecture)


SAVED = {
    "q8_0.gguf": save_gguf("Q8_0", "sd1"),
    "q5_1.gguf": save_gguf("Q5_1", "flux"),  # not what it says
    "float8.safetensors": save_float8,
    "nf4.safetensors": save_nf4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd1") / "model"
    pipeline("sd1").save_pretrained(path)
    return path


def stored_unet(folder, prefix=""):
    """The U-Net of a folder under CompVis' names."""
    model = ldmref.load(folder)
    flat = {name: np.asarray(x) for name, x in flatten(model.params["unet"]).items()}
    return to_compvis(flat, list_stored(model.config, prefix))


@pytest.mark.parametrize("name", SAVED)
def test_the_unet_of_stable_diffusion(name, folder, tmp_path):
    prefix = PREFIX if name.startswith("float8") else ""
    want = SAVED[name](tmp_path / name, stored_unet(folder, prefix))
    save_file(want, str(tmp_path / "plain.safetensors"))
    plain, model = (ldmref.load(tmp_path / x, config=folder) for x in ("plain.safetensors", name))
    for key, x in flatten(plain.params["unet"]).items():
        assert np.array_equal(flatten(model.params["unet"])[key], x), key
    assert generate(model) == generate(plain) != generate(ldmref.load(folder))


@pytest.mark.parametrize("name", SAVED)
def test_the_transformer_of_flux(name, tmp_path):
    made = make_pipeline(True)
    made.save_pretrained(tmp_path / "model")
    config = ldmref.load(tmp_path / "model").config
    theirs = {key: x.numpy() for key, x in made.transformer.state_dict().items()}
    want = SAVED[name](tmp_path / name, to_compvis(theirs, original_table(config)))
    save_file(want, str(tmp_path / "plain.safetensors"))
    plain, model = (
        ldmref.load(tmp_path / x, config=tmp_path / "model") for x in ("plain.safetensors", name)
    )
    assert generate(model) == generate(plain)


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
@pytest.mark.parametrize("kind", ["q8_0.gguf", "nf4.safetensors"])
def test_a_transformer_with_the_other_networks_of_a_folder_of_ldmref(name, kind, tmp_path):
    """Its tokenizers and configuration as well, as from a folder of diffusers."""
    table = {"sd3-tiny": sd3_table, "flux-tiny": original_table}[name]
    folder = save_flow(tmp_path / "model", name)
    whole = ldmref.load(folder)
    weights = {key: np.asarray(x) for key, x in flatten(whole.params["transformer"]).items()}
    want = SAVED[kind](tmp_path / kind, to_compvis(weights, table(whole.config)))
    save_file(want, str(tmp_path / "plain.safetensors"))
    plain, model = (
        ldmref.load(tmp_path / file, config=folder) for file in ("plain.safetensors", kind)
    )
    assert generate(model) == generate(plain)
    ids = [found.tokenizer.encode(["a cat"])[0].tolist() for found in (model, whole)]
    assert ids[0] == ids[1]


def test_a_folder_of_diffusers_in_nf4(tmp_path):
    made = make_pipeline(False)
    theirs = {key: x.numpy() for key, x in made.transformer.state_dict().items()}
    images = []
    for name in ("plain", "nf4"):
        made.save_pretrained(tmp_path / name)
        weights = tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors"
        want = save_nf4(weights, theirs)
        if name == "plain":
            save_file(want, str(weights))
        images.append(generate(ldmref.load(tmp_path / name)))
    assert images[0] == images[1]


def test_a_folder_in_bfloat16_is_expanded_when_it_is_used(tmp_path, monkeypatch):
    """So that a network of blocks holds one block of it at a time."""
    torch = pytest.importorskip("torch")
    make_pipeline(True).to(torch.bfloat16).save_pretrained(tmp_path)
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.load(tmp_path)
    assert set(model.params.releasable) == set(model.params)
    image = generate(model)
    needs = model.estimate_memory(16, 16)
    model.max_memory = needs.peak_streamed(model.params.releasable)
    assert generate(model) == image and model.params._streamed


def test_a_whole_single_file_in_float8(folder, tmp_path):
    """Plain e4m3fn, of all networks; a file of the U-Net alone lacks the others."""
    model = ldmref.load(folder)
    flat = {name: np.asarray(x) for name, x in flatten(model.params).items()}
    whole = to_compvis(flat, compvis_table(model.config))
    codes = {
        name: np.abs(E4M3FN[:127][:, None] - np.abs(x).reshape(1, -1)).argmin(0).reshape(x.shape)
        for name, x in whole.items()
    }
    signed = {
        k: x.astype(np.uint8) | (whole[k] < 0).astype(np.uint8) << 7 for k, x in codes.items()
    }
    sources = {k: TensorSource("F8_E4M3", x.shape, lambda x=x: x) for k, x in signed.items()}
    write_tensors(tmp_path / "a.safetensors", sources)
    save_file({k: E4M3FN[x] for k, x in signed.items()}, str(tmp_path / "b.safetensors"))
    found, want = (
        ldmref.load(tmp_path / x, config=folder) for x in ("a.safetensors", "b.safetensors")
    )
    assert generate(found) == generate(want)


@pytest.mark.parametrize("name", ["q8_0.gguf", "float8.safetensors"])
def test_a_lora_of_a_quantised_transformer(name, tmp_path, monkeypatch):
    """It is merged into each matrix when that is expanded, so the network can be released."""
    made = make_pipeline(True)
    made.save_pretrained(tmp_path / "model")
    config = ldmref.load(tmp_path / "model").config
    theirs = {key: x.numpy() for key, x in made.transformer.state_dict().items()}
    want = SAVED[name](tmp_path / name, to_compvis(theirs, original_table(config)))
    save_file(want, str(tmp_path / "plain.safetensors"))
    draw = np.random.default_rng(0).standard_normal
    layers = {"double_blocks.1.img_attn.qkv": (72, 24), "single_blocks.0.linear1": (168, 24)}
    change = {}
    for layer, (rows, columns) in layers.items():
        change |= {f"{layer}.lora_A.weight": draw((2, columns)).astype(np.float32)}
        change |= {f"{layer}.lora_B.weight": draw((rows, 2)).astype(np.float32)}
    save_file(change, str(tmp_path / "lora.safetensors"))
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    plain, model, without = (
        ldmref.load(tmp_path / file, config=tmp_path / "model", lora=lora)
        for file, lora in (
            ("plain.safetensors", [tmp_path / "lora.safetensors"]),
            (name, [tmp_path / "lora.safetensors"]),
            (name, ()),
        )
    )
    image = generate(model)
    assert image == generate(plain) != generate(without)
    assert "transformer" in model.params.releasable
    model.params.release("transformer")
    assert generate(pickle.loads(pickle.dumps(model))) == generate(model) == image


# -- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def deferred(folder, tmp_path, monkeypatch):
    """A model that is not brought to the backend when it is loaded."""
    save_gguf("Q8_0", "sd1")(tmp_path / "a.gguf", stored_unet(folder))
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    return ldmref.load(tmp_path / "a.gguf", config=folder)


def test_a_network_is_expanded_when_it_is_used(deferred):
    assert "unet" in deferred.params.releasable
    image = generate(deferred)
    deferred.params.release("unet")
    assert generate(deferred) == image
    again = pickle.loads(pickle.dumps(deferred))
    assert generate(again) == image and len(pickle.dumps(deferred)) < 10**6


def test_a_pickled_model_needs_its_file(deferred, tmp_path):
    pickled = pickle.dumps(deferred)
    (tmp_path / "a.gguf").write_bytes((tmp_path / "a.gguf").read_bytes() + b"\0")
    with pytest.raises(CorruptModelError, match="has changed since the model was pickled"):
        pickle.loads(pickled)


def test_one_tensor_at_a_time_is_expanded(tmp_path, monkeypatch):
    """Queries, keys and values of one stack are expanded together, and nothing stays."""
    made = make_pipeline(False)
    made.save_pretrained(tmp_path / "model")
    config = ldmref.load(tmp_path / "model").config
    theirs = {key: x.numpy() for key, x in made.transformer.state_dict().items()}
    table = original_table(config)
    write_model(tmp_path / "a.gguf", to_compvis(theirs, table), "Q8_0")
    file = open_model_file(tmp_path / "a.gguf")
    read = []
    monkeypatch.setattr(type(file._file), "__getitem__", counted(read, type(file._file)))
    parts = [
        table[f"single_transformer_blocks.0.{name}.weight"].read(
            file["single_blocks.0.linear1.weight"]
        )
        for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ]
    assert all(isinstance(part, DeferredArray) for part in parts) and not read
    assert [len(np.array(part)) for part in parts] == [24, 24, 24, 96]
    assert read == ["single_blocks.0.linear1.weight"]


def counted(read, kind):
    original = kind.__getitem__

    def getitem(self, name):
        read.append(name)
        return original(self, name)

    return getitem


def test_deferred_arrays():
    x = DeferredArray(lambda: np.arange(6, dtype=np.float32).reshape(2, 3), (2, 3))
    assert (x.ndim, x.size, x.nbytes, len(x)) == (2, 6, 24, 2)
    assert x.astype(np.float64).dtype == np.float64 and np.isfinite(x).all()
    assert np.array(x).flags.writeable
    turned = x.then(np.transpose, (3, 2))
    assert turned.shape == np.asarray(turned).shape == (3, 2)


# -- what is refused, and what is said ------------------------------------------------------------


def test_a_denoiser_alone_lacks_networks(folder, tmp_path):
    save_gguf("Q8_0", "sd1")(tmp_path / "a.gguf", stored_unet(folder))
    with pytest.raises(KeyMismatchError, match="looks like the U-Net of Stable Diffusion, and dif"):
        ldmref.load(tmp_path / "a.gguf")
    with pytest.raises(UsageError, match="holds the denoiser alone, without text_encoder"):
        words = folder / "tokenizer"
        ldmref.load(tmp_path / "a.gguf", config=write_config(folder, tmp_path), tokenizer=words)
    with pytest.raises(UsageError, match="holds the denoiser alone, without text_encoder"):
        ldmref.load(tmp_path / "a.gguf", config=tmp_path / "native")  # no vocabulary either


def write_config(folder, tmp_path):
    """Write the configuration of a folder of diffusers without its weights."""
    config = ldmref.load(folder).config
    (tmp_path / "native").mkdir()
    text = json.dumps({"schema": 1} | config.to_dict())
    (tmp_path / "native" / "config.json").write_text(text)
    return tmp_path / "native"


def test_nonfinite_weights_are_refused(folder, tmp_path):
    tensors = stored_unet(folder)
    tensors["out.2.bias"][0] = np.nan
    save_gguf("Q8_0", "sd1")(tmp_path / "a.gguf", tensors)
    with pytest.raises(CorruptModelError, match=r"1 tensors hold NaN .*unet.conv_out.bias"):
        ldmref.load(tmp_path / "a.gguf", config=folder)


def test_the_command_line(folder, tmp_path, capsys):
    save_gguf("Q8_0", "sd1")(tmp_path / "a.gguf", stored_unet(folder))
    source = [str(tmp_path / "a.gguf"), "--model-config", str(folder)]
    size = ["--seed", "1", "--steps", "2", "--width", "16", "--height", "16"]
    out = ["-o", str(tmp_path / "out.png")]
    assert main(["txt2img", "-m", *source, "-p", "a cat", *size, *out]) == 0
    assert main(["info", str(tmp_path / "a.gguf"), "--tensors"]) == 0
    assert "Q8_0" in capsys.readouterr().out
    assert main(["convert", source[0], str(tmp_path / "native"), *source[1:]]) == 0
    models = ldmref.load(source[0], config=folder), ldmref.load(tmp_path / "native")
    assert generate(models[0]) == generate(models[1])


def test_info_describes_single_files_of_transformers(tmp_path, capsys):
    for name, table in (("flux-tiny", original_table), ("sd3-tiny", sd3_table)):
        shapes = list_stored_shapes(table(preset(name)))
        tensors = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
        write_model(tmp_path / f"{name}.gguf", tensors, "Q8_0", "wan")
        assert main(["info", str(tmp_path / f"{name}.gguf")]) == 0
        printed = capsys.readouterr().out
        assert "transformer: " in printed and "not found" not in printed


def test_other_formats_are_refused_in_one_line(tmp_path):
    save_file(
        {
            "transformer_blocks.0.qkv_proj.qweight": np.zeros((2, 2), np.int8),
            "transformer_blocks.0.qkv_proj.wscales": np.zeros(2, np.float32),
        },
        str(tmp_path / "svdq.safetensors"),
    )
    with pytest.raises(InputError, match=r"svdq\.safetensors holds .* as SVDQuant's") as caught:
        ldmref.load(tmp_path / "svdq.safetensors")
    assert caught.value.code == "E-QUANTIZED"
