"""What chapter 3 says about memorising, measured by the code on its page with fewer steps."""

import re

import numpy as np
import pytest
from course_pages import COURSE

PAGE = (COURSE / "03-the-vae.md").read_text("utf-8")


@pytest.fixture(scope="module")
def results():
    """Return {(images, kind): (training error, error of new images, disturbed codes)}."""
    (code,) = (c for c in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if "spots(n" in c)
    assert "for n in (20, 40, 100):" in code
    names = {"np": np, "rng": np.random.default_rng(0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPS", "1000")
        code = code.replace("(20, 40, 100)", "(20, 60)").replace("spots(4000)", "spots(1000)")
        exec(code.replace("hidden=64", "hidden=32"), names)
    return names["results"]


def test_an_autoencoder_memorises_a_few_images(results):
    training, new, _ = results[20, "autoencoder"]
    assert new > 50 * training


def test_noise_on_the_code_costs_training_error_and_does_not_replace_examples(results):
    own, (noisy_own, noisy_new, _) = results[20, "autoencoder"][0], results[20, "VAE"]
    assert noisy_own > 2 * own
    assert noisy_new > 10 * noisy_own
    for kind in ("autoencoder", "VAE"):
        assert results[60, kind][1] < 0.5 * results[20, kind][1]


def test_noise_on_the_code_fills_the_neighbourhood_of_a_code(results):
    for n in (20, 60):
        assert results[n, "VAE"][2] < 0.5 * results[n, "autoencoder"][2]
