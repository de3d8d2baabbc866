"""LoRAs and learned words that requests name: the numbers of `load(lora=)`, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.apps.server.engine import Engine
from ldmref.errors import InputError, UsageError
from ldmref.io import read_embeddings, read_loras, with_loras
from ldmref.io.adapters.lora_keys import lora_file_name
from ldmref.io.images.metadata import read_parameters
from ldmref.io.native import save_folder
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.support.server_settings import ServerSettings

ASKED = {"prompt": "a red cat", "steps": 2, "seed": 5}


def write_lora(path, config, seed):
    """Write a random LoRA of all queries of the denoiser, of rank 2."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for name, shape in flatten(model_spec(config)).items():
        if name.startswith("unet.") and name.endswith("to_q.weight"):
            down, up = draw.standard_normal((2, shape[1])), draw.standard_normal((shape[0], 2))
            tensors[lora_file_name(config, name, "down")] = down.astype(np.float32)
            tensors[lora_file_name(config, name, "up")] = up.astype(np.float32)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny):
    """Return the folder of a model, of two LoRAs and one for another model, and of a word."""
    base = tmp_path_factory.mktemp("adapters")
    for name in ("model", "loras", "words"):
        (base / name).mkdir()
    save_folder(base / "model", tiny.config, tiny.params, [tiny.tokenizer], np.float32)
    write_lora(base / "loras" / "warm.safetensors", tiny.config, 1)
    write_lora(base / "loras" / "cold.safetensors", tiny.config, 2)
    wrong = {"unet.nothing.lora_A.weight": np.zeros((1, 1), np.float32)}
    save_file(wrong, base / "loras" / "wrong.safetensors")
    width = tiny.config.text_encoders[0].hidden_size
    vectors = np.random.default_rng(3).standard_normal((2, width)).astype(np.float32)
    save_file({"<toy>": vectors}, base / "words" / "toy.safetensors")
    return base


@pytest.fixture
def adapted(folders, tiny, serve):
    """Return a server that has them."""
    folder = {
        "lora_folder": str(folders / "loras"),
        "embedding_folder": str(folders / "words"),
    }
    return serve({"tiny": tiny}, **folder)


def generate(server, **keys):
    answer = server.client.post("/v1/generate", json={"parameters": ASKED, **keys})
    assert answer.status_code == 200, answer.text
    return answer.content


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_merged_loras_are_those_of_load(folders, tiny):
    files = [(folders / "loras" / "warm.safetensors", 0.5), folders / "loras" / "cold.safetensors"]
    loaded = ldmref.load(folders / "model", lora=files, backend="numpy")
    base = ldmref.load(folders / "model", backend="numpy")
    merged = with_loras(base, read_loras(files))
    expected, found = (
        {name: m.backend.to_numpy(x) for name, x in flatten(m.params).items()}
        for m in (loaded, merged)
    )
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert merged.modifications == loaded.modifications
    assert base.modifications == {}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_sum_is_rounded_once(folders, tmp_path, dtype):
    """Of a float32 file whose networks are read when they are used, as in `load`."""
    pytest.importorskip("torch")
    start = ldmref.random_model("tiny", backend="numpy")
    save_folder(tmp_path / "exact", start.config, start.params, [start.tokenizer], np.float32)
    lora = folders / "loras" / "warm.safetensors"
    options = {"backend": "torch", "dtype": dtype, "max_memory": "1GB"}
    loaded = ldmref.load(tmp_path / "exact", lora=[lora], **options)
    base = ldmref.load(tmp_path / "exact", **options)
    merged = with_loras(base, read_loras([lora]))
    changed = 0
    for network in loaded.params:
        expected, found, plain = (flatten(m.params[network]) for m in (loaded, merged, base))
        assert all((expected[name] == found[name]).all() for name in expected)
        changed += sum(not (found[name] == plain[name]).all() for name in found)
    assert changed


def test_a_request_applies_loras_by_name(adapted, folders, tiny):
    asked = [{"name": "warm", "weight": 0.5}, {"name": "cold"}]
    found = generate(adapted, loras=asked)
    files = [(folders / "loras" / "warm.safetensors", 0.5), folders / "loras" / "cold.safetensors"]
    model = with_loras(tiny, read_loras(files))
    expected = modes.txt2img(model, **ASKED)
    assert np.array_equal(pixels(found), np.asarray(expected[0]))
    recorded = read_parameters(io.BytesIO(found))["ldmref"]["model"]["loras"]
    assert [(lora["name"], lora["weight"]) for lora in recorded] == [("warm", 0.5), ("cold", 1.0)]
    plain = generate(adapted)
    assert np.array_equal(pixels(plain), np.asarray(modes.txt2img(tiny, **ASKED)[0]))
    assert not np.array_equal(pixels(plain), pixels(found))
    assert "loras" not in read_parameters(io.BytesIO(plain))["ldmref"]["model"]


def test_a_request_uses_learned_words(adapted, folders, tiny):
    parameters = ASKED | {"prompt": "a <toy>"}
    found = generate(adapted, parameters=parameters, embeddings=["<toy>"])
    model = tiny.with_embeddings(read_embeddings(folders / "words" / "toy.safetensors"))
    assert np.array_equal(pixels(found), np.asarray(modes.txt2img(model, **parameters)[0]))
    assert [*read_parameters(io.BytesIO(found))["ldmref"]["model"]["embeddings"]] == ["<toy>"]


def test_the_job_and_the_capabilities_name_them(adapted):
    [model] = adapted.client.get("/v1/capabilities").json()["models"]
    assert model["loras"] == ["cold", "warm"]
    assert model["embeddings"] == [{"word": "<toy>", "file": "toy.safetensors"}]
    body = {"parameters": ASKED, "loras": ["warm"]}
    job = adapted.finish(adapted.client.post("/v1/jobs", json=body).json()["id"])
    assert job["state"] == "done"
    assert job["request"]["loras"] == [{"name": "warm", "weight": 1.0}]
    [line] = adapted.engine.adapters.warnings
    assert line.startswith("wrong.safetensors is left out: the LoRA 'wrong' does not fit 'tiny'")


def test_grids_and_records_apply_them_too(adapted, folders, tiny):
    body = {"kind": "record", "parameters": ASKED, "loras": ["warm"]}
    job = adapted.finish(adapted.client.post("/v1/jobs", json=body).json()["id"])
    assert pixels(adapted.client.get(job["images"][0]["url"]).content).tolist() == (
        pixels(generate(adapted, loras=["warm"])).tolist()
    )


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"loras": ["wam"]}, "no LoRA 'wam' for the model 'tiny'"),
        ({"loras": ["../loras/warm"]}, "no LoRA"),
        ({"loras": ["wrong"]}, "no LoRA"),
        ({"loras": "warm"}, "must be a list"),
        ({"loras": [3]}, "a name, or name and weight"),
        ({"loras": [{"name": "warm", "path": "/etc"}]}, "a name, or name and weight"),
        ({"loras": ["warm", "warm"]}, "named twice"),
        ({"loras": ["warm"] * 21}, "at most 20"),
        ({"embeddings": ["toy"]}, "no embedding 'toy'"),
        ({"embeddings": [{}]}, "no embedding"),
    ],
)
def test_what_is_refused(adapted, keys, part):
    answer = adapted.client.post("/v1/jobs", json={"parameters": ASKED, **keys})
    assert answer.status_code == 422
    assert part in answer.json()["error"]["message"]


@pytest.mark.parametrize("weight", [101, -1e300, True, "1", None, [1]])
def test_a_weight_is_refused_in_the_words_of_load(adapted, folders, weight):
    with pytest.raises(UsageError) as refused:
        read_loras([(folders / "loras" / "warm.safetensors", weight)])
    body = {"parameters": ASKED, "loras": [{"name": "warm", "weight": weight}]}
    answer = adapted.client.post("/v1/jobs", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["code"] == refused.value.code == "E-LORA-WEIGHT"
    assert (error["message"], error["hint"]) == (str(refused.value), refused.value.hint)


def test_a_folder_that_is_not_there_is_named(tiny):
    with pytest.raises(InputError, match="--lora-folder must be a folder"):
        Engine({"tiny": tiny}, ServerSettings(lora_folder="/nowhere"))
