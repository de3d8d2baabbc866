"""`ldmref evaluate` as a user runs it, on a model with random weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ldmref.io.classifier import save_classifier
from ldmref.models.classifier import ClassifierConfig, classifier_spec
from ldmref.models.params import init

SIZES = {"--images": 4, "--samples": 4, "--timesteps": 3, "--flow-images": 2, "--flow-steps": 2}


def quick(**changed):
    """Return the flags of a run of seconds; `samples=0` is --samples 0."""
    sizes = SIZES | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [word for pair in sizes.items() for word in pair]


QUICK = quick()


@pytest.fixture
def images(work):
    folder = work / "images"
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in ("ant", "bee", "cat", "dog", "elk"):
        image = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def figures(ran):
    assert ran.code == 0, ran.err
    return {
        title: {k: v["value"] for k, v in rows.items()}
        for title, rows in json.loads(ran.out).items()
    }


def test_the_bounds_are_the_sums_of_their_terms(ldm, model_folder, images):
    ran = ldm("evaluate", model_folder, "--data", images, *QUICK, "--json")
    likelihood = figures(ran)["Likelihood"]
    decoder = likelihood["decoder, E[-log p(x|z)]"]
    posterior = likelihood["posterior, E[log q(z|x)]"]
    chain = [value for name, value in likelihood.items() if name.startswith("diffusion: ")]
    assert len(chain) == 3
    total = likelihood["latent diffusion bound: decoder + posterior + diffusion"]
    assert total == pytest.approx(decoder + posterior + sum(chain))
    kl = likelihood["KL(q(z|x) || N(0, 1))"]
    assert likelihood["VAE bound: the two above"] == pytest.approx(decoder + kl) and kl > 0
    assert "VAE bound with the prior's variance fitted" in likelihood
    assert 5 < decoder < 9  # noise, badly reconstructed: about 8 bits
    again = ldm("evaluate", model_folder, "--data", images, *QUICK, "--json")
    assert again.out == ran.out
    assert "no distances" in ran.err


def test_with_a_classifier_there_are_distances(ldm, model_folder, images, work):
    folder = shutil.copytree(model_folder, work / "model")
    config = ClassifierConfig(4, (8, 16), 1, 8, ("a", "b"))
    save_classifier(folder, config, init(classifier_spec(config), 0))
    ran = ldm("evaluate", folder, "--data", images, *quick(flow_images=0))
    assert ran.code == 0, ran.err
    assert "neither FID nor KID" in ran.out and "Distances of samples, 4 images" in ran.out
    assert "among the 5 nearest" in ran.out and "flow" not in ran.out
    assert "95 % confidence" in ran.out and "+-" in ran.out


def test_without_samples_nothing_is_drawn(ldm, model_folder, images):
    ran = ldm("evaluate", model_folder, "--data", images, *quick(samples=0), "--json")
    assert set(figures(ran)) == {"Reconstruction", "Likelihood"}


@pytest.mark.parametrize(
    ("argv", "code"), [(["--data", "nowhere"], "E-DATA"), (["--images", 1], "E-USAGE")]
)
def test_mistakes(ldm, model_folder, argv, code):
    ran = ldm("evaluate", model_folder, *argv)
    assert ran.code != 0 and code in ran.err and not ran.out


def test_a_single_image_has_no_interval(ldm, model_folder, images):
    for file in sorted(images.iterdir())[1:]:
        file.unlink()
    ran = ldm("evaluate", model_folder, "--data", images)
    assert ran.code == 3 and "E-DATA" in ran.err and not ran.out


def test_models_that_draw_from_an_image_are_refused(ldm, enlarger, images):
    ran = ldm("evaluate", enlarger, "--data", images)
    assert ran.code == 2 and "E-MODE" in ran.err and not ran.out


def test_no_such_model(ldm, images):
    ran = ldm("evaluate", "nowhere/model", "--data", images)
    assert ran.code != 0 and not ran.out
