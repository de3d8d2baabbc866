"""Classifier guidance of a loaded model."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the gradient is PyTorch's")

import ldmref  # noqa: E402
from ldmref.backends import get_backend  # noqa: E402
from ldmref.errors import LdmrefError  # noqa: E402
from ldmref.io.classifier import save_classifier  # noqa: E402
from ldmref.models.classifier import ClassifierConfig, classifier_spec  # noqa: E402
from ldmref.models.params import init  # noqa: E402
from ldmref.modes.classifier import LatentClassifier, classifier_denoiser  # noqa: E402
from ldmref.samplers import FLOW, VE  # noqa: E402
from ldmref.testing.mixture import Mixture, three_modes  # noqa: E402

CONFIG = ClassifierConfig(4, (8, 16), 1, 8, ("cat", "dog"))


@pytest.fixture
def folder(tmp_path):
    save_classifier(tmp_path, CONFIG, init(classifier_spec(CONFIG), 0))
    return tmp_path


def test_the_gradient_is_that_of_the_log_probability(folder):
    """A central difference along a random direction, in float64; also within inference mode."""
    model = ldmref.random_model("tiny", backend="torch", dtype="float64")
    guide = LatentClassifier.load(folder, model)
    sigma = 0.7
    x, v = torch.as_tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 8, 8)))
    with model.backend.inference():
        gradient = guide.gradient(x, sigma, 1)
    ends = [guide.log_probabilities(x + h * v, sigma)[:, 1].detach() for h in (1e-5, -1e-5)]
    slope = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close((gradient * v).sum((1, 2, 3)), slope, rtol=1e-6, atol=1e-9)
    assert gradient.abs().max() > 0
    total = guide.log_probabilities(x, sigma).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_guidance_moves_x0_by_sigma_squared_times_the_gradient(folder):
    model = ldmref.random_model("tiny", backend="torch", dtype="float64")
    guide = LatentClassifier.load(folder, model)
    sigma = 1.3
    free = ldmref.denoiser(model, "", cfg_scale=0.0)
    x = torch.as_tensor(np.random.default_rng(0).standard_normal((2, 4, 8, 8)))
    x0 = free(x, sigma)
    for scale in (0.0, 2.0):
        guided = classifier_denoiser(free, guide, guide.label("dog"), scale)(x, sigma)
        torch.testing.assert_close(guided, x0 + scale * sigma**2 * guide.gradient(x, sigma, 1))


class MixtureClassifier:
    """The exact classifier of the components of a mixture, of x0 + sigma eps."""

    def __init__(self, problem):
        self.problem = problem

    def gradient(self, x, sigma, label):
        slopes = self.problem.posterior_gradient(x, sigma)[:, label]
        return slopes / self.problem.posterior(x, sigma)[:, label, None]


@pytest.mark.parametrize("path", [VE, FLOW], ids=["ve", "flow"])
@pytest.mark.parametrize("level", [0.2, 0.8])
def test_the_exact_classifier_gives_the_denoiser_of_its_class(path, level):
    """Bayes' rule, on both paths: p(x) p(y | x) is the density of one component."""
    problem = three_modes()
    one = Mixture(np.ones(1), problem.means[1:2], problem.stds[1:2])

    def denoise(x, sigma):
        return problem.denoise(x / path.alpha(sigma), path.ratio(sigma))

    x = np.random.default_rng(0).standard_normal((6, 2))
    guided = classifier_denoiser(denoise, MixtureClassifier(problem), 1, 1.0, path)
    want = one.denoise(x / path.alpha(level), path.ratio(level))
    np.testing.assert_allclose(guided(x, level), want, rtol=1e-9)


def test_pure_noise_has_no_class():
    guide = MixtureClassifier(three_modes())
    guided = classifier_denoiser(lambda x, s: 0.5 * x, guide, 0, 3.0, FLOW)
    assert guided(np.ones((2, 2)), 1.0).tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize("name", ["numpy", "onnx"])
def test_other_libraries_have_no_gradient(name):
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    ops = get_backend(name)
    with pytest.raises(LdmrefError) as caught:
        ops.gradient(ops.xp.sum, ops.asarray(np.ones(3)))
    assert caught.value.code == "E-GRAD" and name in str(caught.value)


def test_mistakes(folder, tmp_path):
    model = ldmref.random_model("tiny", backend="torch")
    with pytest.raises(LdmrefError) as caught:
        LatentClassifier.load(folder, model).label("dig")
    assert caught.value.code == "E-CLASS" and "'dog'" in caught.value.hint
    with pytest.raises(LdmrefError) as caught:
        LatentClassifier.load(folder, ldmref.random_model("tiny", backend="numpy"))
    assert caught.value.code == "E-BACKEND"
    with pytest.raises(LdmrefError) as caught:
        LatentClassifier.load(tmp_path / "nowhere", model)
    assert caught.value.code == "E-CLASSIFIER"
