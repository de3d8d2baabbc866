"""The original's single files of Stable Diffusion 3, against diffusers' conversion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import KeyMismatchError, UsageError
from ldmref.families.sd3.files import PREFIX, original_table, recognise
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.io.single_file import require_autoencoder, require_text_encoders
from ldmref.models import ModelConfig, preset
from ldmref.models.config import TEXT_ENCODERS

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from diffusers.loaders.single_file_utils import (  # noqa: E402
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.numpy import save_file  # noqa: E402
from sd3_networks import KINDS, config_of, make_pipeline, make_transformer  # noqa: E402


def in_both(kind):
    """(the table, diffusers' tensors, the same under the original's names)."""
    table = original_table(ModelConfig(denoiser=config_of(kind)))
    theirs = {name: x.numpy() for name, x in make_transformer(kind).state_dict().items()}
    return table, theirs, to_compvis(theirs, table)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_that_of_diffusers_in_both_directions(kind):
    table, theirs, stored = in_both(kind)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(
        {name: torch.tensor(x) for name, x in stored.items()}
    )
    assert converted.keys() == theirs.keys()
    assert all(np.array_equal(converted[name].numpy(), x) for name, x in theirs.items())
    back = to_native(stored, table)
    assert all(np.array_equal(back[name], x) for name, x in theirs.items())


@pytest.mark.parametrize("name", ["sd3-medium", "sd35-medium", "sd35-large", "sd3-tiny"])
def test_files_are_recognised_by_their_shapes(name):
    config = preset(name)
    shapes = list_stored_shapes(original_table(config))
    assert f"{PREFIX}joint_blocks.0.context_block.attn.qkv.weight" in shapes
    found = recognise(shapes)
    assert found.denoiser == replace(config.denoiser, sample_size=found.denoiser.sample_size)
    assert found.name in (name, "sd3")
    assert recognise({"model.diffusion_model.out.2.bias": (4,)}) is None
    assert recognise(shapes | {f"{PREFIX}pos_embed": ()}) is None


def test_a_file_with_the_other_networks_of_a_folder(tmp_path):
    pipe = make_pipeline("3.5 medium")
    pipe.save_pretrained(tmp_path / "model")
    want = ldmref.load(tmp_path / "model")
    _, _, stored = in_both("3.5 medium")
    for prefix in (PREFIX, ""):
        file = tmp_path / f"original{len(prefix)}.safetensors"
        named = {prefix + name.removeprefix(PREFIX): x for name, x in stored.items()}
        save_file(named, str(file))
        model = ldmref.load(file, config=tmp_path / "model")
        images = [modes.txt2img(m, "a cat", seed=1, steps=1).images[0] for m in (want, model)]
        assert images[0] == images[1]
    named.pop("joint_blocks.0.x_block.attn.ln_q.weight")
    save_file(named, str(tmp_path / "short.safetensors"))
    with pytest.raises(KeyMismatchError, match=r"1 missing \(joint_blocks.0.x_block.attn.ln_q"):
        ldmref.load(tmp_path / "short.safetensors", config=tmp_path / "model")


def test_a_file_alone_lacks_networks():
    config = preset("sd3-tiny")
    alone = {"transformer.proj_out.bias": np.zeros(16)}
    with pytest.raises(UsageError, match=r"without text_encoder .*text_encoder_3 .*vae"):
        require_text_encoders("a.safetensors", alone, config)
    texts = {f"{name}.weight": np.zeros(1) for name in TEXT_ENCODERS}
    with pytest.raises(UsageError, match="safetensors is without an autoencoder"):
        require_autoencoder("a.safetensors", alone | texts, config)
    require_text_encoders("a.safetensors", alone | texts, config)
    require_autoencoder("a.safetensors", alone | texts | {"vae.weight": np.zeros(1)}, config)
