"""Packages as the pages of earlier versions describe them, unchanged, against today's code.

`published/VERSION` has the examples of a version and what its pages write down. Nothing there is
edited: a name that moved keeps its old address for a minor version (docs/stable-names.md). A folder
goes when its names no longer have to hold. Each package is checked in a process of its own, as one
that pip installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packages import install_project

import ldmref

ROOT = Path(ldmref.__file__).parents[1]
PUBLISHED = Path(__file__).parent / "published"
PROJECTS = sorted(x.parent.relative_to(PUBLISHED) for x in PUBLISHED.glob("*/*/pyproject.toml"))
DIGESTS = {  # of all files of a version: `digest_of`
    "0.1.0": "28ffadd5479417417ec1ab9a010a6b5d261df409e3d9014310742a640fe5ff13",
}
# The checks that need the family alone and take seconds; those of `make slow` are in the examples.
FAMILY = """
from ldmref.testing import assert_family_conforms
checks = ["names", "presets", "batch", "padding", "modes", "traces", "folders"]
report = assert_family_conforms({name!r}, presets=[{name!r} + "-tiny"], only=checks)
assert len(report.holding) >= len(checks), report
"""
BACKEND = """
from ldmref.backends import get_backend
from ldmref.testing import assert_conforms
for dtype in ("float32", "float64"):
    assert_conforms(get_backend({name!r}, dtype=dtype))
"""
JAX = """
import numpy as np
from ldmref import random_model
states = [
    model.backend.to_numpy(model.encode_text(["a red cat"]))
    for model in (random_model("tiny", backend=name) for name in ("numpy", "jax"))
]
assert np.abs(states[0] - states[1]).max() < 1e-5 * np.abs(states[0]).max()
"""
IMAGES = """
import numpy as np
from ldmref import modes, random_model
model = random_model("tiny", seed=0)
request = {{"prompt": "cat", "seed": 1, "steps": 4}}
plain, own = (modes.txt2img(model, **request, **x) for x in ({{}}, {options!r}))
assert not np.array_equal(plain.latents, own.latents) and np.isfinite(own.latents).all()
"""
ORDER = """
import numpy as np
from ldmref.math import exponential_sigmas
from ldmref.samplers import get_sampler, sample
from ldmref.testing import three_modes
problem = three_modes()
rng = np.random.default_rng(0)
start = problem.sample(64, rng) + rng.standard_normal((64, 2))
def end(name, steps):
    make = get_sampler(name).make
    step = make() if not get_sampler(name).stochastic else make(eta=0.0)
    return [*sample(problem.denoise, start, exponential_sigmas(steps + 1, 0.1, 1.0), step)][-1].x
truth = end("rk4", 512)
errors = [np.abs(end({name!r}, steps) - truth).max() for steps in (64, 128, 256)]
order = -np.polyfit(np.log([64, 128, 256]), np.log(errors), 1)[0]
assert order > get_sampler({name!r}).order - 0.2, order
"""
KINDS = """
import numpy as np
from ldmref.backends import get_backend
from ldmref.families import find_autoencoder
from ldmref.models import flatten, unflatten
from ldmref.models.text_kind import find_text_encoder
from ldmref_mine_kinds.centred import CENTRED, CentredConfig
from ldmref_mine_kinds.table import TABLE, TableConfig
assert find_autoencoder("centred") is CENTRED
assert find_text_encoder("table") is TABLE
ops = get_backend("numpy", dtype="float64")
rng = np.random.default_rng(0)
def draw(spec):
    return unflatten({k: 0.1 * rng.standard_normal(x) for k, x in flatten(spec).items()})
vae = CentredConfig(latent_channels=4)
p = draw(CENTRED.spec(vae))
z = rng.standard_normal((1, 4, 2, 2))
latents = CENTRED.normalize(ops, p, vae, z)
assert np.allclose(CENTRED.denormalize(ops, p, vae, latents), z) and not np.allclose(latents, z)
assert CENTRED.decode(ops, p, vae, z).shape == (1, 3, 16, 16)
text = TableConfig(vocab_size=9, hidden_size=6)
ids = np.arange(4)[None]
states = TABLE.function(ops, draw(TABLE.spec(text)), text, ids)
assert states.shape == (1, 4, 6)
"""
CHECKS = {
    "ldmref-dit": FAMILY.format(name="dit"),
    "ldmref-pixart": FAMILY.format(name="pixart"),
    "ldmref-jax": JAX,
    "ldmref-mine-backend": BACKEND.format(name="mine"),
    "ldmref-sa-sampler": ORDER.format(name="sa_solver"),
    "ldmref-mine-sampler": ORDER.format(name="ab2")
    + IMAGES.format(options={"guidance": {"name": "fading", "knee": 2.0}, "schedule": "cubic"}),
    "ldmref-tangential": IMAGES.format(options={"guidance": "tcfg"}),
    "ldmref-mine-kinds": KINDS,
}
NEEDS = {"ldmref-jax": ("jax",), "ldmref-dit": ("torch",), "ldmref-pixart": ("torch",)}


def digest_of(folder: Path) -> str:
    """Return one digest of all files of a folder, by name and content."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(path.relative_to(folder).as_posix().encode() + b"\0")
            found.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return found.hexdigest()


def test_what_was_published_is_never_edited():
    found = {folder.name: digest_of(folder) for folder in PUBLISHED.iterdir() if folder.is_dir()}
    assert found == DIGESTS


def test_every_published_package_is_checked():
    assert {project.name for project in PROJECTS} == set(CHECKS)


@pytest.mark.parametrize("project", PROJECTS, ids=str)
def test_a_published_package_works(project, tmp_path):
    for module in NEEDS.get(project.name, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing")
    site = tmp_path / "site"
    install_project(PUBLISHED / project, site)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-W", "default::DeprecationWarning", "-c", CHECKS[project.name]]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
