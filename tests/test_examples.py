"""The examples do what they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmref.samplers import SAMPLERS

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_two_backends():
    pytest.importorskip("torch")
    assert load("two_backends")["main"]() <= 1


def test_own_sampler(monkeypatch, capsys):
    example = load("own_sampler")
    assert abs(example["measure_order"]() - 2) < 0.2
    monkeypatch.setitem(SAMPLERS, "geometric_midpoint", None)  # removed again after the test
    example["main"]()
    assert "with geometric_midpoint" in capsys.readouterr().out


def test_own_guidance(capsys):
    example = load("own_guidance")
    assert 0.0 < example["largest_effect"](0.01) < 0.1 * example["largest_effect"](1.0)
    example["main"]()
    assert "with {'name': 'fading', 'knee': 2.0}" in capsys.readouterr().out


def test_own_backend():
    calls = load("own_backend")["main"]()
    assert calls["conv2d"] > 4 and calls["linear"] > 4


def test_linear_autoencoder():
    """The subspace of any points with distinct variances, to 1e-3."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 12)) * 0.6 ** np.arange(12) + 3.0
    first, *_, last = load("linear_autoencoder")["train_linear"](x, 3, 800)
    assert last.distance < 1e-3 and last.loss <= first.loss


def test_guidance_by_gradient(tmp_path, monkeypatch):
    """A red heart becomes a blue one, and stays a heart: white around it as before."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    example = load("guidance_by_gradient")
    plain, guided = example["main"](steps=8)
    assert plain > 1.5 and guided < 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guided.png", "plain.png"]
    images = [np.asarray(Image.open(f"{name}.png"), float) for name in ("plain", "guided")]
    corners = [image[[4, 4, -4, -4], [4, -4, 4, -4]] for image in images]
    assert min(corner.min() for corner in corners) > 200
    ideal = lambda x, sigma: x / (1 + sigma**2)  # noqa: E731
    shifted = example["add_gradient_guidance"](
        ideal, ideal, lambda x0: -0.5 * (x0 - 3.0).square().sum(1)
    )
    x = torch.tensor([[0.4, -1.0]])
    sigma = 0.7
    # Gaussian data: J = 1 / (1 + sigma^2), by hand
    want = x / (1 + sigma**2) + sigma**2 * (3.0 - x / (1 + sigma**2)) / (1 + sigma**2)
    torch.testing.assert_close(shifted(x, sigma), want)
