"""Learned words within a LoRA file."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref.errors import CorruptModelError
from ldmref.io import read_embeddings, read_loras, with_loras
from ldmref.io.adapters.bundled_words import bundled_words
from ldmref.io.adapters.lora_file import Lora
from ldmref.models.params import flatten
from ldmref.models.presets import preset

LAYER = {
    "unet.conv_out.lora_A.weight": np.ones((1, 16, 3, 3), np.float32),
    "unet.conv_out.lora_B.weight": np.ones((4, 1, 1, 1), np.float32),
}
VECTORS = np.arange(64, dtype=np.float32).reshape(2, 32) / 64


@pytest.mark.parametrize("part", ["emb_params", "clip_l", "string_to_param.*"])
def test_a_model_with_the_file_knows_the_word(tmp_path, part):
    from ldmref.io.native import save_folder

    model = ldmref.random_model("tiny", backend="numpy")
    save_folder(tmp_path / "tiny", model.config, model.params, [model.tokenizer], np.float32)
    save_file(LAYER | {f"bundle_emb.<toy>.{part}": VECTORS}, str(tmp_path / "a.safetensors"))
    save_file({"<toy>": VECTORS}, str(tmp_path / "word.safetensors"))
    want = model.with_embeddings(read_embeddings(tmp_path / "word.safetensors"))
    loaded = ldmref.load(tmp_path / "tiny", backend="numpy", lora=[tmp_path / "a.safetensors"])
    for got in (loaded, with_loras(model, read_loras([tmp_path / "a.safetensors"]))):
        states = (m.encode_text(["a red <toy>"]) for m in (got, want))
        assert np.array_equal(*states)
        assert [*got.modifications["embeddings"]] == ["<toy>"] and got.modifications["loras"]
        difference = (flatten(m.params)["unet.conv_out.weight"] for m in (got, model))
        assert np.allclose(next(difference) - next(difference), 1, atol=1e-6)


def test_words_of_two_text_encoders():
    both = {f"bundle_emb.toy.{part}": np.ones((1, 8)) for part in ("clip_l", "clip_g")}
    words, warnings = bundled_words(preset("sdxl"), [Lora("a", both)])
    assert [(w.word, w.encoder) for w in words] == [("toy", "clip_l"), ("toy", "clip_g")]
    assert not warnings


@pytest.mark.parametrize(("name", "parts"), [
    ("flux-tiny", ["clip_l", "t5"]), ("tiny", ["clip_l", "clip_l_out"]), ("tiny", ["clip_g"]),
    ("sdxl", ["clip_l"]),
])  # fmt: skip
def test_words_that_the_model_cannot_use_are_named(name, parts):
    tensors = {f"bundle_emb.toy.{part}": np.ones((1, 8)) for part in parts}
    words, (warning,) = bundled_words(preset(name), [Lora("a", tensors)])
    assert not words and "'toy'" in warning and "'a'" in warning


def test_damaged_vectors_are_refused():
    tensors = {"bundle_emb.toy.clip_l": np.full((1, 8), np.nan)}
    with pytest.raises(CorruptModelError):
        bundled_words(preset("tiny"), [Lora("a", tensors)])


@pytest.mark.parametrize("part", ["clip_l", "emb_params", "string_to_param.*"])
def test_a_file_of_one_unnamed_tensor_has_its_own_name_as_its_word(tmp_path, part):
    save_file({part: VECTORS}, str(tmp_path / "toy.safetensors"))
    (embedding,) = read_embeddings(tmp_path / "toy.safetensors")
    assert (embedding.word, embedding.encoder) == ("toy", "")
    assert np.array_equal(embedding.vectors, VECTORS)
