"""Text encoders of other depths: the layers that diffusers reads are read, or it is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.errors import LdmrefError
from ldmref.models.family import list_families
from ldmref.models.presets import preset
from ldmref.models.validate import check_config

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from flux2_pipelines import make_pipeline
from qwen3_networks import make_encoder, write_vocabulary

PROMPT = "a red cat on a table"
SEVERAL = [  # published models that read more than one layer
    name
    for family in list_families()
    for name, config in family.presets.items()
    if len(getattr(config.text_encoder, "hidden_layers", ())) > 1 and "tiny" not in name
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("tokenizer"))


def save(vocabulary, folder, depth):
    """Write a pipeline of FLUX.2 whose text encoder has so many layers and says nothing else."""
    pipe = make_pipeline(vocabulary)
    pipe.register_modules(text_encoder=make_encoder(num_hidden_layers=depth))
    pipe.save_pretrained(folder)
    return pipe


@pytest.mark.parametrize("depth", [28, 29, 36])
def test_flux2_reads_the_layers_of_diffusers(vocabulary, tmp_path, depth):
    pipe = save(vocabulary, tmp_path / "model", depth)
    with torch.no_grad():
        want = pipe.encode_prompt(PROMPT, max_sequence_length=32)[0].numpy()
    model = ldmref.load(tmp_path / "model").with_text_length(32)
    found = model.backend.to_numpy(model.encode_text(PROMPT))
    assert model.config.text_encoder.hidden_layers == (9, 18, 27)
    assert np.abs(found - want).max() < 1e-4 * np.abs(want).max()


def test_a_text_encoder_without_the_layers_is_refused(vocabulary, tmp_path):
    save(vocabulary, tmp_path / "model", 26)
    with pytest.raises(LdmrefError, match="hidden_layers must be from -27 to 26, the layers that"):
        ldmref.load(tmp_path / "model")


@pytest.mark.parametrize("name", SEVERAL)
def test_fewer_layers_than_are_read_are_refused(name):
    """Of every published model that reads several; of its last one only a normed state is known."""
    config = preset(name)
    deepest = max(config.text_encoder.hidden_layers)

    def check(depth):
        check_config(replace(config, text_encoder=replace(config.text_encoder, **depth)))

    for depth in (deepest + 1, deepest + 5):
        check({"num_hidden_layers": depth})
    with pytest.raises(LdmrefError, match=f"hidden_layers must be below {deepest}"):
        check({"num_hidden_layers": deepest})
    with pytest.raises(LdmrefError, match="the layers that there are"):
        check({"num_hidden_layers": deepest - 1})
