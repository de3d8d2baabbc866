"""Data sets by name: ldmref's own entry points, plug-ins, and names that nothing has."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref.datasets import DataConfig, DatasetSource, check_data, dataset_names, load_dataset
from ldmref.datasets.base import Augmentation
from ldmref.datasets.registry import BUILT_IN, GROUP, find_source, is_dataset
from ldmref.errors import InputError, LdmrefError, UsageError
from ldmref.training import read_recipe

ROOT = Path(__file__).parents[2]
PLUGIN = """
import numpy as np
from ldmref.datasets import Augmentation, DatasetSource

class Noise:
    held_out = np.empty(0, np.int64)
    augmentation = Augmentation()

    def __init__(self, size):
        self.images = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), np.uint8)
        self.weights = np.ones(4)
        self.warnings = []
        self.classes = ["noise"] * 4

    def caption(self, i, rng):
        return f"noise {i}"

    def vocabulary(self):
        return ["noise 0 1 2 3"]

noise = DatasetSource(lambda config, cancel: Noise(config.size))
thing = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with a data set `noise` and an entry point `thing` that is none."""
    site = tmp_path / "site"
    metadata = site / "their_package-1.2.dist-info"
    metadata.mkdir(parents=True)
    (site / "their_data.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\nnoise = their_data:noise\nthing = their_data:thing\n"
        "missing = no_such_module:data\nemoji = their_data:noise\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("their_data", None)


def test_the_entry_points_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = project["entry-points"][GROUP]
    assert declared == {name: point.value for name, point in BUILT_IN.items()}
    assert all(isinstance(find_source(name), DatasetSource) for name in declared)


def test_a_plugin_is_listed_without_being_imported(package):
    assert dataset_names() == [
        "emoji",
        "missing",
        "mixture",
        "noise",
        "scenes",
        "small-emoji",
        "styles",
        "thing",
    ]
    assert is_dataset("noise") and not is_dataset("Noise") and not is_dataset("./noise")
    assert "their_data" not in sys.modules


def test_a_plugin_is_loaded_by_its_name(package):
    config = DataConfig("noise", 16, held_out=1, crop=8)
    check_data(config)
    data = load_dataset(config)
    assert data.images.shape == (4, 3, 16, 16) and data.augmentation == Augmentation(True, 8)
    assert len(data.held_out) == 1 and np.count_nonzero(data.weights) == 3


def test_a_built_in_name_stays_built_in(package):
    source = find_source("emoji")
    assert source is not None and source.load.__module__ == "ldmref.datasets.emoji"


@pytest.mark.parametrize(
    ("name", "message"),
    [("thing", "is of type int, not a DatasetSource"), ("missing", "cannot be imported")],
)
def test_a_plugin_that_is_no_data_set(package, name, message):
    for function in (check_data, load_dataset):
        with pytest.raises(UsageError, match=message) as caught:
            function(DataConfig(name, 16))
        assert caught.value.code == "E-PLUGIN" and "their-package 1.2" in str(caught.value)


def test_a_recipe_names_a_plugin_or_a_folder(package, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('[data]\nsource = "noise"\nsize = 16\n[model]\npreset = "tiny"\n')
    assert read_recipe(file).data.source == "noise"
    file.write_text('[data]\nsource = "./noise"\nsize = 16\n[model]\npreset = "tiny"\n')
    assert Path(read_recipe(file).data.source) == tmp_path / "noise"


def test_the_same_name_without_the_plugin_is_a_folder(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('[data]\nsource = "noise"\nsize = 16\n[model]\npreset = "tiny"\n')
    assert Path(read_recipe(file).data.source) == tmp_path / "noise"


@pytest.mark.parametrize(
    ("name", "close"), [("emojis", "emoji"), ("scene", "scenes"), ("nosie", "noise")]
)
def test_an_unknown_name_has_a_hint(package, name, close):
    with pytest.raises(InputError, match="does not exist") as caught:
        check_data(DataConfig(f"/no/such/folder/{name}", 16))
    assert caught.value.code == "E-DATA" and f"did you mean {close!r}?" in caught.value.hint


@pytest.mark.parametrize(
    ("images", "weights", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), np.ones(2), "shape (2, 3, 8, 8), not (n, 3, 16, 16)"),
        (np.zeros((0, 3, 16, 16), np.uint8), np.ones(0), "shape (0, 3, 16, 16), not"),
        (np.zeros((2, 3, 16, 16), np.uint8), np.ones(3), "3 weights for 2 images"),
    ],
)
def test_a_data_set_of_another_shape_is_refused(monkeypatch, images, weights, message):
    data = SimpleNamespace(images=images, weights=weights)
    source = DatasetSource(lambda config, cancel: data)
    monkeypatch.setattr("ldmref.datasets.loading.find_source", lambda name: source)
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig("theirs", 16))
    assert message in str(caught.value)


def test_two_plugins_of_one_name(monkeypatch):
    points = [importlib.metadata.EntryPoint("noise", f"{m}:noise", GROUP) for m in "ab"]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    with pytest.raises(LdmrefError, match="two plug-ins are called 'noise'"):
        load_dataset(DataConfig("noise", 16))


@pytest.mark.slow
def test_a_model_is_trained_on_a_plugin(package, tmp_path, monkeypatch):
    """`--data NAME`, from the command line to the model; resumed by the same command."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(package))
    command = [
        sys.executable,
        "-m",
        "ldmref",
        "train",
        "--preset",
        "tiny",
        "--data",
        "noise",
        "-o",
        "out",
    ]
    command += ["--steps", "1", "--autoencoder-steps", "1", "--batch", "2", "--size", "16"]
    for _ in range(2):
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    assert 'source = "noise"' in (tmp_path / "out" / "recipe.toml").read_text()
    assert ldmref.load(tmp_path / "out" / "model").config.name == "out"


def test_images_of_the_package_need_no_torch():
    code = (
        "import sys, ldmref.datasets, ldmref.datasets.emoji.scene_dataset\n"
        "wrong = [m for m in sys.modules if m in ('torch', 'ldmref.training', 'ldmref.models')]\n"
        "sys.exit(f'loaded {wrong}' if wrong else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_folder_is_read_as_before(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "cat.png")
    data = load_dataset(DataConfig(str(tmp_path), 16))
    assert data.images.shape == (1, 3, 16, 16) and data.caption(0, np.random.default_rng()) == "cat"
