"""The examples do what they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from ldmref.samplers import SAMPLERS

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_two_backends():
    pytest.importorskip("torch")
    assert load("two_backends")["main"]() <= 1


def test_own_sampler(monkeypatch, capsys):
    example = load("own_sampler")
    assert abs(example["measured_order"]() - 2) < 0.2
    monkeypatch.setitem(SAMPLERS, "geometric_midpoint", None)  # removed again after the test
    example["main"]()
    assert "with geometric_midpoint" in capsys.readouterr().out


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
