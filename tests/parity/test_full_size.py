"""Stable Diffusion 1.5 in full size, random weights: from a file of 2 GB to 512 x 512 pixels."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from ldmref.io.compvis.keys import compvis_table
from ldmref.io.tensors.writer import TensorSource, write_tensors
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.testing.clip import small_vocabulary, write_tokenizer

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

MOST = 12e9  # bytes of resident memory, the file's mapped pages among them
DRAW = """
import json, resource, sys, time
import numpy as np
import ldmref
from ldmref import modes

path, tokenizer, backend, out = sys.argv[1:]
begin = time.monotonic()
model = ldmref.load(path, tokenizer=tokenizer, backend=backend)
loaded = time.monotonic()
r = modes.txt2img(model, "a photo of a red heart", seed=1, steps=2, sampler="ddim")
drawn = time.monotonic()
np.savez(out, latents=r.latents, pixels=np.asarray(r[0]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak *= 1 if sys.platform == "darwin" else 1024
facts = {"family": model.config.name, "peak": peak, "load": loaded - begin, "draw": drawn - loaded}
print(json.dumps(facts | {"torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Yield the file, made and written tensor by tensor, in float16."""
    path = tmp_path_factory.mktemp("sd15") / "v1-5.safetensors"

    def drawn(name, entry):
        tensor = flatten(init({name: entry.shape}))[name]
        # random layers fade: so the image would be grey, and any two images equal
        return tensor.reshape(entry.stored_shape) * (8 if ".conv_out." in name else 1)

    table = compvis_table(preset("sd15"))
    tensors = {
        entry.name: TensorSource("F16", entry.stored_shape, lambda n=name, e=entry: drawn(n, e))
        for name, entry in table.items()
    }
    write_tensors(path, tensors)
    write_tokenizer(path.parent / "tokenizer", small_vocabulary())
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def drawn(file):
    """Return (facts, latents, pixels) of an image from a separate process, by backend."""
    found = {}
    for backend in ("numpy", "torch"):
        out = file.parent / f"{backend}.npz"
        words = [str(file), str(file.parent / "tokenizer"), backend, str(out)]
        ran = subprocess.run([sys.executable, "-c", DRAW, *words], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        arrays = np.load(out)
        found[backend] = json.loads(ran.stdout), arrays["latents"], arrays["pixels"].astype(int)
        print(backend, found[backend][0])
    return found


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_it_is_recognised_and_drawn_in_12_gigabytes(drawn, backend):
    facts, latents, pixels = drawn[backend]
    assert facts["family"] == "sd15" and facts["torch"] == (backend == "torch")
    assert latents.shape == (1, 4, 64, 64) and pixels.shape == (512, 512, 3)
    assert facts["peak"] < MOST


def test_backends_draw_the_same_image(drawn):
    (_, a, first) = drawn["numpy"]
    (_, b, second) = drawn["torch"]
    assert np.abs(a - b).max() <= 1e-3 * np.abs(a).max()
    assert np.abs(first - second).max() <= 2
    assert first.std() > 20  # an image that can differ
