"""The backend of docs/write-a-backend.md, on a library that has the array API and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import Backend
from ldmref.errors import BackendUnavailable
from ldmref.testing import assert_conforms

pytest.importorskip("array_api_strict")
PAGE = Path(__file__).parents[2] / "docs" / "write-a-backend.md"
IMAGE = np.random.default_rng(0).random((16, 16, 3))


@pytest.fixture(scope="module")
def strict():
    """Return the page's class on array_api_strict, which refuses all that is not standard."""
    (code,) = re.findall(r"```python\n(# ldmref-mine/src/.*?)```", PAGE.read_text(), re.DOTALL)
    library = "import array_api_compat.numpy as xp"
    assert library in code
    names = {}
    exec(code.replace(library, "import array_api_strict as xp"), names)
    return names["MyBackend"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operation_conforms(strict, dtype):
    assert_conforms(strict(dtype=dtype))


RUNS = {
    "txt2img": {},
    "a multistep sampler": {"sampler": "dpmpp_2m"},
    "an ancestral sampler": {"sampler": "euler_a"},
    "UniPC": {"sampler": "unipc"},
    "APG": {"guidance": "apg"},
    "img2img": {"image": IMAGE},
    "inpaint": {"image": IMAGE, "mask": np.eye(16)},
}


@pytest.mark.parametrize("name", RUNS)
def test_images_are_those_of_numpy(strict, name):
    arguments = {"prompt": "a cat", "seed": 1, "steps": 2} | RUNS[name]
    mode = getattr(modes, name, modes.txt2img)
    images = []
    for backend in (strict(), "numpy"):
        result = mode(ldmref.random_model("tiny", backend=backend), **arguments)
        images.append(np.asarray(result.images[0], np.float64))
    assert np.abs(images[0] - images[1]).max() <= 1.0


@pytest.mark.parametrize("family", ["sdxl", "sd2-v"])
def test_other_networks_run(strict, family):
    """SDXL has two text encoders and embeds sizes."""
    from ldmref.cases.golden_models import golden_model

    text = [
        golden_model(family, backend).encode_text(["a cat", ""])
        for backend in (strict(), ldmref.backends.get_backend("numpy"))
    ]
    np.testing.assert_allclose(np.asarray(text[0]), text[1], atol=1e-4)
    result = modes.txt2img(
        golden_model(family, strict()), prompt="a cat", steps=1, height=16, width=16
    )
    assert np.ptp(np.asarray(result.images[0])) > 0


def test_an_operation_that_is_missing_is_named_in_one_line(strict):
    class Bare(strict):
        silu = Backend.silu

    with pytest.raises(
        BackendUnavailable, match=r"^the mine backend must provide silu\(x\)\n"
    ) as e:
        modes.txt2img(ldmref.random_model("tiny", backend=Bare()), prompt="a cat", steps=1)
    assert e.value.code == "E-BACKEND"
