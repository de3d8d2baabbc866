"""The recipe whose data are a known density: what the denoiser learns is compared with it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("torch")

import ldmref
from ldmref.datasets import DataConfig, load_dataset
from ldmref.errors import Cancelled, LdmrefError
from ldmref.testing import three_modes
from ldmref.training import read_recipe, train
from ldmref.training.checkpoint import read_checkpoint

TIMES = (0.2, 0.4, 0.6, 0.8)


def short(steps):
    return read_recipe("mixture", {"diffusion": {"budget": {"steps": steps}}})


def velocity(mixture, x, s):
    """Return E[eps - x0 | x_s] at points (n, d), from the exact denoiser at sigma = s / (1 - s)."""
    return (x - mixture.denoise(x / (1 - s), s / (1 - s))) / s


def test_the_latents_of_the_data_set_have_the_density_of_the_mixture():
    data = load_dataset(DataConfig("mixture", size=8))
    p = three_modes()
    assert np.allclose(data.moments[:, 0, :, 0, 0], p.means, rtol=1e-7)
    assert np.allclose(np.exp(data.moments[:, 1, :, 0, 0]), p.stds[:, None] ** 2, rtol=1e-6)
    assert np.array_equal(data.weights, p.weights)


def test_the_exact_velocity_is_the_mean_of_velocities_near_a_point():
    """The oracle of this file against Monte Carlo, within five standard errors."""
    p = three_modes()
    rng = np.random.default_rng(0)
    x0, eps = p.sample(400_000, rng), rng.standard_normal((400_000, 2))
    point, s = np.array([[0.3, 0.2]]), 0.5
    x = (1 - s) * x0 + s * eps
    near = np.linalg.norm(x - point, axis=1) < 0.08
    found = (eps - x0)[near]
    error = found.std(axis=0) / np.sqrt(near.sum())
    assert near.sum() > 1000
    assert np.all(np.abs(found.mean(axis=0) - velocity(p, point, s)[0]) < 5 * error)


def test_the_learned_velocity_is_that_of_the_mixture(tmp_path):
    folder = train(short(300), tmp_path)
    model = ldmref.load(folder, backend="numpy", dtype="float64")
    p = three_modes().scaled(model.config.vae.scaling_factor)
    rng = np.random.default_rng(0)
    for s in TIMES:
        x = (1 - s) * p.sample(2000, rng) + s * rng.standard_normal((2000, 2))
        exact = velocity(p, x, s)
        learned = model.unet(x[..., None, None], np.full(len(x), 1000 * s), None)[..., 0, 0]
        assert np.mean((learned - exact) ** 2) < 0.05 * np.mean(exact**2), s
        assert np.mean((learned + exact) ** 2) > np.mean(exact**2), s  # not that of another sign


def test_it_resumes_bit_for_bit(tmp_path):
    train(short(4), tmp_path / "once")
    cancel = threading.Event()

    def stop(progress):
        if (progress.stage, progress.step) == ("diffusion", 2):
            cancel.set()

    with pytest.raises(Cancelled):
        train(short(4), tmp_path / "twice", on_progress=stop, cancel=cancel)
    train(short(4), tmp_path / "twice")
    once, twice = (
        read_checkpoint(tmp_path / name / "diffusion.safetensors")[1] for name in ("once", "twice")
    )
    for name in once:
        if not name.startswith("progress"):
            assert twice[name].tobytes() == once[name].tobytes(), name


def test_a_model_of_other_latents_is_refused(tmp_path):
    settings = {"data": {"size": 16}, "diffusion": {"budget": {"steps": 1}}}
    with pytest.raises(LdmrefError, match=r"latents of shape \(2, 1, 1\), the model \(2, 2, 2\)"):
        train(read_recipe("mixture", settings), tmp_path)
