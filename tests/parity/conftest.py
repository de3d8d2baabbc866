"""Small random checkpoints, made by diffusers and transformers."""

from __future__ import annotations

import pytest
from checkpoint_folders import load_diffusers

from ldmref.backends import get_backend
from ldmref.models.params import tree_map, unflatten

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from scheduled_folder import opened, scheduled  # noqa: E402, F401
from small_pipelines import pipeline  # noqa: E402

FAMILIES = ("sd1", "sd1-inpainting", "sd2", "sdxl")


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def theirs(family):
    """diffusers' pipeline."""
    return pipeline(family)


@pytest.fixture(scope="session")
def folder(theirs, family, tmp_path_factory):
    """Return the folder that diffusers saves."""
    path = tmp_path_factory.mktemp("diffusers") / family
    theirs.save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="session", params=["numpy", "torch"])
def ops(request):
    """Return the backends in float64."""
    return get_backend(request.param, dtype="float64")


@pytest.fixture(scope="module")
def ours(folder, ops):
    """Configuration and parameters of the folder, on a backend."""
    config, flat, compute_sha256 = load_diffusers(folder)
    assert len(compute_sha256()) == 64
    return config, tree_map(ops.asarray, unflatten(flat))
