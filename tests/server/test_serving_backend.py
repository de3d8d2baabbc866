"""The backend of `ldmref serve`: the fastest that is installed, unless one is configured."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from served_process import serving_process

import ldmref
from ldmref import modes
from ldmref.apps.cli.serve import load_models
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.server import backends
from ldmref.apps.server.backends import FASTEST, FASTEST_FIRST, ONLY, choose_backend
from ldmref.apps.server.served import Served
from ldmref.backends import available
from ldmref.errors import BackendUnavailable

FLAGS = dict.fromkeys(
    ["backend", "device", "dtype", "speed", "config", "max_memory", "max_seconds"]
)


@pytest.fixture
def installed(monkeypatch):
    """`installed({"onnx": None, "torch": "it is broken"})`: what each raises, if anything."""

    def install(errors):
        def get_backend(name):
            error = errors.get(name)
            if error:
                raise BackendUnavailable(error, code="E-BACKEND")
            return name

        packages = {FASTEST_FIRST[name] for name in errors}
        monkeypatch.setattr(backends, "is_installed", packages.__contains__)
        monkeypatch.setattr(backends, "get_backend", get_backend)

    return install


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"openvino": None, "onnx": None, "torch": None}, ("openvino", FASTEST)),
        ({"onnx": None, "torch": None}, ("onnx", FASTEST)),
        ({"torch": None}, ("torch", FASTEST)),
        ({}, ("numpy", ONLY)),
    ],
)
def test_the_fastest_that_is_installed_is_chosen(installed, errors, expected):
    installed(errors)
    assert choose_backend(pytest.fail) == expected


def test_a_broken_installation_is_named_and_left_out(installed):
    installed({"openvino": "no library\nfor this system", "onnx": "it is broken"})
    lines = []
    assert choose_backend(lines.append) == ("numpy", ONLY)
    assert len(lines) == 2 and not any("\n" in line for line in lines)
    assert "openvino" in lines[0] and "no library" in lines[0] and "onnx" in lines[1]


def test_packages_are_found_without_an_import():
    assert backends.is_installed("numpy") and not backends.is_installed("no_such_package_here")
    code = (
        "import sys; from ldmref.apps.server import backends\n"
        "backends.is_installed('onnxruntime'); backends.is_installed('torch')\n"
        "assert not {'onnxruntime', 'torch'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


@pytest.mark.parametrize(
    ("flags", "environ", "name", "reason"),
    [
        ({"backend": "numpy"}, {}, "numpy", "chosen by --backend"),
        ({"dtype": "float64"}, {}, "numpy", "chosen by --dtype"),
        ({}, {"LDMREF_BACKEND": "numpy"}, "numpy", "chosen by LDMREF_BACKEND"),
        ({}, {"LDMREF_SPEED": "exact"}, "numpy", "chosen by LDMREF_SPEED"),
    ],
)
def test_a_configured_backend_is_kept(monkeypatch, tmp_path, flags, environ, name, reason):
    monkeypatch.chdir(tmp_path)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    models, _, told = load_models(CommandSession(FLAGS | flags), ())
    assert (models["emoji"].backend.name, told) == (name, reason)


def test_a_backend_of_the_file_is_kept(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ldmref.toml").write_text('[backend]\nname = "numpy"\n')
    models, _, told = load_models(CommandSession(FLAGS), ())
    assert models["emoji"].backend.name == "numpy" and told.endswith("ldmref.toml")
    assert [*models] == ["emoji", "emoji-map"] and Served(models).find_flow_map(
        "emoji"
    ) == "emoji-map"


@pytest.mark.skipif(sys.platform != "linux", reason="the process is that of Linux' tests")
def test_a_served_image_is_numpys_image(tmp_path, monkeypatch):
    """On the backend that is chosen here, at most 1/255 apart, in every place where it is named."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LDMREF_")}
    monkeypatch.setattr("served_process.environment", lambda: kept)
    parameters = {"prompt": "a red heart", "seed": 5}
    folder = ldmref.io.find_model("emoji")
    usable = [name for name in (*FASTEST_FIRST, "numpy") if not available()[name]]
    with serving_process(folder, tmp_path) as served:
        (model,) = served.call("GET", "/v1/capabilities").json["models"]
        got = served.call("POST", "/v1/generate", {"parameters": parameters})
        text = served.log.read_text()
    assert model["backend"] == usable[0]
    assert model["backend_reason"] == (ONLY if usable == ["numpy"] else FASTEST)
    assert f"computing on {usable[0]}: {model['backend_reason']}" in text
    assert model["load"].get("backend", "numpy") == usable[0]
    image = Image.open(io.BytesIO(got.body))
    assert json.loads(image.info["ldmref"])["backend"]["name"] == usable[0]
    want = modes.txt2img(ldmref.load(backend="numpy"), **parameters).images[0]
    difference = np.abs(np.asarray(image, int) - np.asarray(want, int))
    assert difference.max() <= 1
