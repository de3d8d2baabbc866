"""The autoencoder's posterior: its log-variance is clipped at both ends, and nowhere else."""

import numpy as np
import pytest

import ldmref
from ldmref.models.autoencoder import encode
from ldmref.models.params import Params

RAW = [-100.0, -31.0, -30.0, -29.0, -1.0, 0.0, 19.0, 20.0, 21.0, 100.0]


@pytest.fixture(scope="module")
def moments():
    """`moments(raw)`: mean and log-variance of an encoder whose last layer gives `raw`."""
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64", seed=0)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16))
    vae = model.params["vae"]
    z = model.config.vae.latent_channels

    def encode_with(raw):
        weight, bias = (np.array(vae["quant_conv"][name]) for name in ("weight", "bias"))
        weight[z:] = 0.0
        bias[z:] = raw
        params = Params({**vae, "quant_conv": Params({"weight": weight, "bias": bias})})
        return encode(model.backend, params, model.config.vae, image)

    return encode_with


@pytest.mark.parametrize("raw", RAW)
def test_log_variance_is_clipped_to_minus_30_and_20(moments, raw):
    mean, logvar = moments(raw)
    assert (logvar == min(max(raw, -30.0), 20.0)).all() and logvar.shape == mean.shape
    np.testing.assert_array_equal(mean, moments(0.0)[0])


@pytest.mark.parametrize("raw", RAW)
def test_the_limits_are_those_of_diffusers(moments, raw):
    autoencoder = pytest.importorskip("diffusers.models.autoencoders.vae")
    torch = pytest.importorskip("torch")
    parameters = torch.tensor([0.0, raw], dtype=torch.float64).reshape(1, 2, 1, 1)
    theirs = autoencoder.DiagonalGaussianDistribution(parameters).logvar
    assert moments(raw)[1].flat[0] == float(theirs)
