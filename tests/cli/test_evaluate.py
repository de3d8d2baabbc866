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

SIZES = {"--pictures": 4, "--samples": 4, "--timesteps": 3, "--flow-pictures": 2, "--flow-steps": 2}


def quick(**changed):
    """The flags of a run of seconds; `samples=0` is --samples 0."""
    sizes = SIZES | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [word for pair in sizes.items() for word in pair]


QUICK = quick()


@pytest.fixture
def pictures(work):
    folder, rng = work / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for name in ("ant", "bee", "cat", "dog", "elk"):
        image = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def figures(ran):
    assert ran.code == 0, ran.err
    return {title: {k: v["value"] for k, v in rows.items()}
            for title, rows in json.loads(ran.out).items()}  # fmt: skip


def test_the_bounds_are_the_sums_of_their_terms(ldm, model_folder, pictures):
    ran = ldm("evaluate", model_folder, "--data", pictures, *QUICK, "--json")
    likelihood = figures(ran)["Likelihood"]
    decoder, posterior = (
        likelihood["decoder, E[-log p(x|z)]"],
        likelihood["posterior, E[log q(z|x)]"],
    )
    chain = [value for name, value in likelihood.items() if name.startswith("diffusion: ")]
    assert len(chain) == 3
    total = likelihood["latent diffusion bound: decoder + posterior + diffusion"]
    assert total == pytest.approx(decoder + posterior + sum(chain))
    kl = likelihood["KL(q(z|x) || N(0, 1))"]
    assert likelihood["VAE bound: the two above"] == pytest.approx(decoder + kl) and kl > 0
    assert "VAE bound with the prior's variance fitted" in likelihood
    assert 5 < decoder < 9  # noise, badly reconstructed: about 8 bits
    again = ldm("evaluate", model_folder, "--data", pictures, *QUICK, "--json")
    assert again.out == ran.out
    assert "no distances" in ran.err


def test_with_a_classifier_there_are_distances(ldm, model_folder, pictures, work):
    folder = shutil.copytree(model_folder, work / "model")
    config = ClassifierConfig(4, (8, 16), 1, 8, ("a", "b"))
    save_classifier(folder, config, init(classifier_spec(config), 0))
    ran = ldm("evaluate", folder, "--data", pictures, *quick(flow_pictures=0))
    assert ran.code == 0, ran.err
    assert "neither FID nor KID" in ran.out and "Distances of samples, 4 images" in ran.out
    assert "among the 5 nearest" in ran.out and "flow" not in ran.out
    assert "95 % confidence" in ran.out and "+-" in ran.out


def test_without_samples_nothing_is_drawn(ldm, model_folder, pictures):
    ran = ldm("evaluate", model_folder, "--data", pictures, *quick(samples=0), "--json")
    assert set(figures(ran)) == {"Reconstruction", "Likelihood"}


@pytest.mark.parametrize(
    ("argv", "code"), [(["--data", "nowhere"], "E-DATA"), (["--pictures", 1], "E-USAGE")]
)
def test_mistakes(ldm, model_folder, argv, code):
    ran = ldm("evaluate", model_folder, *argv)
    assert ran.code != 0 and code in ran.err and not ran.out


def test_a_single_picture_has_no_interval(ldm, model_folder, pictures):
    for file in sorted(pictures.iterdir())[1:]:
        file.unlink()
    ran = ldm("evaluate", model_folder, "--data", pictures)
    assert ran.code == 3 and "E-DATA" in ran.err and not ran.out


def test_models_that_draw_from_a_picture_are_refused(ldm, enlarger, pictures):
    ran = ldm("evaluate", enlarger, "--data", pictures)
    assert ran.code == 2 and "E-MODE" in ran.err and not ran.out


def test_no_such_model(ldm, pictures):
    ran = ldm("evaluate", "nowhere/model", "--data", pictures)
    assert ran.code != 0 and not ran.out
