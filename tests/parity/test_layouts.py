"""`ldmref convert` between diffusers, CompVis and native layouts, for every family."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoint_folders import load_diffusers

import ldmref
from ldmref.apps.cli.main import main
from ldmref.io.checkpoint import open_checkpoint
from ldmref.prompts.tokenizer import PromptOptions

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """diffusers -> one file -> a folder of ours."""
    base = tmp_path_factory.mktemp("layouts")
    assert main(["convert", str(folder), str(base / "one.safetensors")]) == 0
    told = ["--model-config", str(folder)]
    assert main(["convert", str(base / "one.safetensors"), str(base / "native"), *told]) == 0
    return base


def test_the_numbers_are_the_same(made, folder):
    config, flat, _ = load_diffusers(folder)
    for path in (made / "one.safetensors", made / "native"):
        config_of = folder if path.is_file() else None  # a folder has its own
        checkpoint = open_checkpoint(path, config_of)
        found, got = checkpoint.config, checkpoint.tensors
        assert found == config
        assert got.keys() == flat.keys()
        assert all(np.array_equal(got[name], flat[name]) for name in flat)


def test_prompts_are_read_the_same(made, folder):
    """The tokenizers, of which SDXL has two, with other padding."""
    found = []
    for path in (folder, made / "native"):
        model = ldmref.load(path, backend="numpy")
        encoded = model.encode_prompts(["a red cat", ""], 0, PromptOptions())
        found.append((encoded.states, encoded.pooled))
        found[-1] = [part for part in found[-1] if part is not None]
    assert len(found[0]) in (1, 2)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
