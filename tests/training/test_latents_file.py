"""Latents are encoded once and kept on disk, until anything that they depend on changes."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.datasets import summarize  # noqa: E402
from ldmref.datasets.base import Augmentation  # noqa: E402
from ldmref.datasets.config import DataSummary  # noqa: E402
from ldmref.datasets.folder import FolderDataset  # noqa: E402
from ldmref.errors import Cancelled  # noqa: E402
from ldmref.models.autoencoder import autoencoder_spec  # noqa: E402
from ldmref.models.params import init, tree_map  # noqa: E402
from ldmref.models.presets import preset  # noqa: E402
from ldmref.training.batches import image_batch  # noqa: E402
from ldmref.training.diffusion import latents as latents_file  # noqa: E402
from ldmref.training.diffusion.latents import stored_latents  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402


@pytest.fixture
def stored(images, tmp_path, monkeypatch):
    """`stored(seed=..., ...)`: the latents of three images, and how many were encoded."""
    ops = TorchBackend()
    config = preset("tiny").vae
    data = FolderDataset(images, 16)
    calls = []
    encoded = latents_file._encoded
    monkeypatch.setattr(
        latents_file, "_encoded", lambda *args: (calls.append(1), encoded(*args))[1]
    )

    def stored(seed=0, summary=None, cancel=None, **changes):
        changed = replace(config, **changes)
        params = tree_map(ops.asarray, init(autoencoder_spec(changed), seed))
        calls.clear()
        summary = summary or summarize(data)
        latents = stored_latents(tmp_path, data, summary, params, changed, ops, cancel)
        return latents, len(calls)

    return stored


def test_latents_are_encoded_once(stored, tmp_path):
    first, encoded = stored()
    assert encoded == 1 and first.mean.shape == (3, 4, 8, 8) and first.mean.dtype == np.float16
    second, encoded = stored()
    assert encoded == 0
    assert np.array_equal(first.mean, second.mean) and np.array_equal(first.logvar, second.logvar)
    assert first.scaling_factor == second.scaling_factor
    assert len(list(tmp_path.glob("latents-*.npy"))) == 1


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"summary": DataSummary(3, "0")}, {"norm_eps": 1e-3}]
)
def test_anything_they_depend_on_encodes_them_again(stored, tmp_path, change):
    stored()
    _, encoded = stored(**change)
    assert encoded == 1 and len(list(tmp_path.glob("latents-*.npy"))) == 1


def test_the_scaling_factor_does_not_matter(stored):
    stored()
    assert stored(scaling_factor=3.0)[1] == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_encoded_again(stored, tmp_path, content):
    first, _ = stored()
    (file,) = tmp_path.glob("latents-*.npy")
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-100] if content is None else content)
    again, encoded = stored()
    assert encoded == 1 and np.array_equal(first.mean, again.mean)


def test_cancelled_encoding_leaves_nothing(stored, tmp_path):
    event = Event()
    event.set()
    with pytest.raises(Cancelled):
        stored(cancel=event)
    assert not list(tmp_path.glob("*latents*"))


def test_a_training_keeps_and_reuses_them(recipe, tmp_path, monkeypatch):
    train(recipe(), tmp_path / "run")
    (file,) = (tmp_path / "run").glob("latents-*.npy")
    monkeypatch.setattr(latents_file, "_encoded", None)
    train(recipe(), tmp_path / "run")
    assert file.exists()


def test_crops_and_flips(images):
    data = FolderDataset(images, 16)
    ops = TorchBackend()
    data.images = np.arange(3 * 3 * 16 * 16, dtype=np.uint16).reshape(3, 3, 16, 16)
    data.augmentation = Augmentation(flips=False, crop=8)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(20):
        batch, x = image_batch(data, rng, 4, ops)
        assert x.shape == (4, 3, 8, 8)
        numbers = np.rint((x.numpy() + 1) * 127.5).astype(int)
        for i, crop in zip(batch, numbers, strict=True):
            y, x0 = np.argwhere(data.images[i, 0] == crop[0, 0, 0])[0]
            assert np.array_equal(data.images[i, :, y : y + 8, x0 : x0 + 8], crop)
            corners.add((int(y), int(x0)))
    assert len(corners) > 30 and max(corners)[0] == 8
    data.augmentation = Augmentation(flips=True)
    mirrored = [image_batch(data, rng, 1, ops) for _ in range(20)]
    first = [x[0, 0, 0, 0] < x[0, 0, 0, -1] for _, x in mirrored]
    assert {bool(f) for f in first} == {True, False}
